//! A region's store: core's table behind a delay, and what may go wrong with its answers and its memory.

use std::collections::BTreeMap;

use tidegate_core::{
    ids::StoreEpoch,
    store::{Records, StoreCommand, StoreReply, Table, TableFull},
    time::{Span, StoreTime},
};

use crate::{
    queue::Instant,
    rng::Stream,
    scenario::{StoreFault, StoreSettings},
};

/// What becomes of one question, as times from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fate {
    /// When the step is carried out; `None`: never.
    pub step: Option<Span>,
    /// When answers come. A question that is not stepped has none.
    pub answers: [Option<Span>; 2],
    /// When the node learns instead that the step will not be carried out.
    pub refused: Option<Span>,
}

/// Which of a region's servers a node asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// The one that is the region's store.
    Current,
    /// The one that it has taken the place of, and that goes on for a while.
    Replaced,
}

/// One region's store, shared by its nodes.
#[derive(Debug)]
pub struct RegionStore {
    table: Table,
    /// A server that was replaced and goes on, and until when.
    replaced: Option<(Table, Instant)>,
    settings: StoreSettings,
    faults: Vec<StoreFault>,
    /// Copies that a coming loss will bring back.
    saved: BTreeMap<usize, Table>,
    /// Until when it carries out calls that came before, if it carries out one after the other.
    busy_until: Instant,
    random: Stream,
}

impl RegionStore {
    /// An empty store with the faults of its region.
    ///
    /// Its epoch is numbered by the time of its making, `now`.
    pub fn new(
        settings: StoreSettings,
        faults: Vec<StoreFault>,
        now: StoreTime,
        random: Stream,
    ) -> Self {
        let table = Table::new(settings.records, StoreEpoch(now.0));
        let (saved, busy_until) = (BTreeMap::new(), Instant(0));
        Self { table, replaced: None, settings, faults, saved, busy_until, random }
    }

    fn fault(&self, now: Instant) -> Option<&StoreFault> {
        self.faults.iter().find(|fault| fault.start <= now && now < fault.end)
    }

    /// Whether there is a connection: not while nothing at all can be sent.
    pub fn is_reachable(&self, now: Instant) -> bool {
        self.fault(now).is_none_or(|fault| fault.gone < 1.0)
    }

    /// Draws what becomes of a question asked now.
    pub fn fate(&mut self, now: Instant) -> Fate {
        let fate = self.draw(now);
        let (Some(step), Some(per_second)) = (fate.step, self.settings.per_second) else {
            return fate;
        };
        // It waits for what came before it, and then takes its time.
        self.busy_until = self.busy_until.max(now + step) + Span(1_000_000 / u64::from(per_second));
        let longer = self.busy_until.since(now + step);
        let answers = fate.answers.map(|after| Some(after? + longer));
        Fate { step: Some(step + longer), answers, ..fate }
    }

    fn draw(&mut self, now: Instant) -> Fate {
        let StoreSettings { delay, .. } = self.settings;
        let half = delay.divided_by(2);
        let good = Fate { step: Some(half), answers: [Some(delay), None], refused: None };
        let none = Fate { step: None, answers: [None, None], refused: None };
        let Some(fault) = self.fault(now).copied() else { return good };
        // As many draws whatever comes of them, so that another share shifts nothing behind it.
        let (mut drawn, stepped) = (self.random.fraction(), self.random.fraction() < 0.5);
        let longer = Span(self.random.exponential(fault.slow_by.0 as f64) as u64);
        let mut is = |share: f64| {
            drawn -= share;
            drawn < 0.0
        };
        if is(fault.never) {
            Fate { step: stepped.then_some(half), ..none }
        } else if is(fault.late) {
            Fate { answers: [Some(delay + fault.late_by), None], ..good }
        } else if is(fault.twice) {
            Fate { answers: [Some(delay), Some(delay + delay + Span::millis(1))], ..good }
        } else if is(fault.slow) {
            let step = half + longer.divided_by(2);
            Fate { step: Some(step), answers: [Some(delay + longer), None], ..none }
        } else if is(fault.gone) {
            Fate { refused: Some(Span::ZERO), ..none }
        } else if is(fault.refuse) {
            Fate { refused: Some(delay), ..none }
        } else {
            good
        }
    }

    /// Which server a node asks; `is_slow`: whether it is the last to hear of a replacement.
    pub fn server(&self, now: Instant, is_slow: impl FnOnce() -> bool) -> Server {
        match &self.replaced {
            Some((_, until)) if now < *until && is_slow() => Server::Replaced,
            _ => Server::Current,
        }
    }

    /// Has a server carry out the step.
    pub fn apply(
        &mut self,
        server: Server,
        command: &StoreCommand,
        now: StoreTime,
    ) -> Result<StoreReply, TableFull> {
        let table = match (&mut self.replaced, server) {
            (Some((replaced, _)), Server::Replaced) => replaced,
            _ => &mut self.table,
        };
        table.apply(command, now)
    }

    /// Forgets some of what has expired.
    pub fn sweep(&mut self, now: StoreTime, budget: usize) {
        self.table.sweep(now, budget);
    }

    /// Keeps a copy of all records, for a failover to a replica that is as old.
    pub fn save(&mut self, loss: usize) {
        self.saved.insert(loss, self.table.clone());
    }

    /// The epoch of the current server.
    pub fn epoch(&self) -> StoreEpoch {
        self.table.epoch()
    }

    /// Becomes what was saved for this loss, or forgets everything; and begins a new epoch. What it was goes on
    /// as a server beside it until the given instant, if one is given; one that did so already ends.
    pub fn lose_memory(&mut self, loss: Option<usize>, now: StoreTime, lingers: Option<Instant>) {
        let next = self.table.epoch().next_at(now);
        let saved = loss.and_then(|loss| self.saved.remove(&loss));
        let mut table = saved.unwrap_or_else(|| Table::new(self.settings.records, next));
        table.begin_epoch(next);
        let replaced = std::mem::replace(&mut self.table, table);
        self.replaced = lingers.map(|until| (replaced, until));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAULT: StoreFault = StoreFault {
        region: 0,
        start: Instant(100),
        end: Instant(200),
        late: 0.0,
        late_by: Span::millis(50),
        twice: 0.0,
        never: 0.0,
        slow: 0.0,
        slow_by: Span::millis(20),
        gone: 0.0,
        refuse: 0.0,
    };

    fn store(fault: StoreFault) -> RegionStore {
        let delay = Span::millis(2);
        let settings = StoreSettings { delay, records: 10, ..StoreSettings::default() };
        RegionStore::new(settings, vec![fault], StoreTime(1), Stream::new(7, "store", 0))
    }

    const GOOD: Fate =
        Fate { step: Some(Span::millis(1)), answers: [Some(Span::millis(2)), None], refused: None };

    #[test]
    fn outside_a_fault_all_is_well() {
        let mut store = store(StoreFault { never: 1.0, ..FAULT });
        assert_eq!(store.fate(Instant(99)), GOOD);
        assert_eq!(store.fate(Instant(200)), GOOD);
    }

    #[test]
    fn each_fault_does_what_it_says() {
        let fate = |fault| store(fault).fate(Instant(100));
        let late = fate(StoreFault { late: 1.0, ..FAULT });
        assert_eq!(late, Fate { answers: [Some(Span::millis(52)), None], ..GOOD });
        let twice = fate(StoreFault { twice: 1.0, ..FAULT });
        assert_eq!(twice.answers, [Some(Span::millis(2)), Some(Span::millis(5))]);
        let none = Fate { step: None, answers: [None, None], refused: None };
        let gone = fate(StoreFault { gone: 1.0, ..FAULT });
        assert_eq!(gone, Fate { refused: Some(Span::ZERO), ..none });
        let refuse = fate(StoreFault { refuse: 1.0, ..FAULT });
        assert_eq!(refuse, Fate { refused: Some(Span::millis(2)), ..none });

        let mut never = store(StoreFault { never: 1.0, ..FAULT });
        let fates: Vec<_> = (0..1_000).map(|_| never.fate(Instant(100))).collect();
        assert!(fates.iter().all(|fate| fate.answers == [None, None]));
        let stepped = fates.iter().filter(|fate| fate.step.is_some()).count();
        assert!((430..570).contains(&stepped), "{stepped}");

        let mut slow = store(StoreFault { slow: 1.0, ..FAULT });
        let fates: Vec<_> = (0..1_000).map(|_| slow.fate(Instant(100))).collect();
        assert!(fates.iter().all(|fate| fate.step < fate.answers[0]));
        let too_slow = fates.iter().filter(|f| f.answers[0] > Some(Span::millis(30))).count();
        assert!((180..320).contains(&too_slow), "a quarter is beyond the deadline: {too_slow}");
    }

    #[test]
    fn a_store_that_carries_out_one_call_after_the_other_has_a_queue() {
        let mut store = store(StoreFault { never: 1.0, ..FAULT });
        store.settings.per_second = Some(1_000);
        let waits = |store: &mut RegionStore, now| {
            store.fate(Instant(now)).answers[0].map(|after| after.as_millis())
        };
        let first: Vec<_> = (0..3).map(|_| waits(&mut store, 300)).collect();
        assert_eq!(first, [Some(3), Some(4), Some(5)]);
        assert_eq!(waits(&mut store, 2_300), Some(4), "two of them are over");
        assert_eq!(waits(&mut store, 60_000), Some(3));
    }

    #[test]
    fn a_server_that_was_replaced_goes_on_beside_the_new_one_for_a_while() {
        let mut store = store(FAULT);
        let epoch = |store: &mut RegionStore, server| match store.apply(
            server,
            &StoreCommand::new(Vec::new()),
            StoreTime(5),
        ) {
            Ok(StoreReply::Done { epoch, .. }) => epoch,
            other => panic!("{other:?}"),
        };
        assert_eq!(store.server(Instant(0), || true), Server::Current);
        store.lose_memory(None, StoreTime(7), Some(Instant(1_000)));
        assert_eq!(store.server(Instant(999), || true), Server::Replaced);
        assert_eq!(store.server(Instant(999), || false), Server::Current);
        assert_eq!(store.server(Instant(1_000), || true), Server::Current);
        assert_eq!(epoch(&mut store, Server::Replaced), StoreEpoch(1));
        assert_eq!(epoch(&mut store, Server::Current), StoreEpoch(1).next_at(StoreTime(7)));
        store.lose_memory(None, StoreTime(9), None);
        assert_eq!(store.server(Instant(999), || true), Server::Current);
    }

    #[test]
    fn there_is_no_connection_while_nothing_can_be_sent() {
        let reachable = |gone, at| store(StoreFault { gone, ..FAULT }).is_reachable(Instant(at));
        assert_eq!([99, 100, 199, 200].map(|at| reachable(1.0, at)), [true, false, false, true]);
        assert!(reachable(0.9, 100), "some calls pass");
    }

    #[test]
    fn faults_hit_their_shares() {
        let mut store = store(StoreFault { late: 0.2, twice: 0.3, never: 0.1, ..FAULT });
        let fates: Vec<_> = (0..10_000).map(|_| store.fate(Instant(150))).collect();
        let share = |test: fn(&Fate) -> bool| fates.iter().filter(|f| test(f)).count();
        assert!((1_850..2_150).contains(&share(|f| f.answers[0] == Some(Span::millis(52)))));
        assert!((2_850..3_150).contains(&share(|f| f.answers[1].is_some())));
        assert!((900..1_100).contains(&share(|f| f.answers == [None, None])));
    }
}
