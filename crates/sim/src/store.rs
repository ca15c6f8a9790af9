//! A region's store: core's table behind a delay, and what may go wrong with its answers.

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
}

/// One region's store, shared by its nodes.
#[derive(Debug)]
pub struct RegionStore {
    table: Table,
    settings: StoreSettings,
    faults: Vec<StoreFault>,
    random: Stream,
}

impl RegionStore {
    /// An empty store with the faults of its region.
    pub fn new(settings: StoreSettings, faults: Vec<StoreFault>, random: Stream) -> Self {
        let table = Table::new(settings.records, StoreEpoch(1));
        Self { table, settings, faults, random }
    }

    /// Draws what becomes of a question asked now.
    pub fn fate(&mut self, now: Instant) -> Fate {
        let StoreSettings { delay, .. } = self.settings;
        let half = delay.divided_by(2);
        let good = Fate { step: Some(half), answers: [Some(delay), None] };
        let Some(fault) = self.faults.iter().find(|fault| fault.start <= now && now < fault.end)
        else {
            return good;
        };
        // Two draws whatever comes of them, so that another share shifts nothing behind it.
        let (drawn, stepped) = (self.random.fraction(), self.random.fraction() < 0.5);
        if drawn < fault.never {
            Fate { step: stepped.then_some(half), answers: [None, None] }
        } else if drawn < fault.never + fault.late {
            Fate { answers: [Some(delay + fault.late_by), None], ..good }
        } else if drawn < fault.never + fault.late + fault.twice {
            Fate { answers: [Some(delay), Some(delay + delay + Span::millis(1))], ..good }
        } else {
            good
        }
    }

    /// Carries out the step.
    pub fn apply(
        &mut self,
        command: &StoreCommand,
        now: StoreTime,
    ) -> Result<StoreReply, TableFull> {
        self.table.apply(command, now)
    }

    /// Forgets some of what has expired.
    pub fn sweep(&mut self, now: StoreTime, budget: usize) {
        self.table.sweep(now, budget);
    }

    /// Forgets everything, and begins a new epoch.
    pub fn lose_memory(&mut self) {
        let next = StoreEpoch(self.table.epoch().0 + 1);
        self.table = Table::new(self.settings.records, next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(late: f64, twice: f64, never: f64) -> RegionStore {
        let settings =
            StoreSettings { delay: Span::millis(2), timeout: Span::millis(30), records: 10 };
        let fault = StoreFault {
            region: 0,
            start: Instant(100),
            end: Instant(200),
            late,
            late_by: Span::millis(50),
            twice,
            never,
        };
        RegionStore::new(settings, vec![fault], Stream::new(7, "store", 0))
    }

    const GOOD: Fate = Fate { step: Some(Span::millis(1)), answers: [Some(Span::millis(2)), None] };

    #[test]
    fn outside_a_fault_all_is_well() {
        let mut store = store(0.0, 0.0, 1.0);
        assert_eq!(store.fate(Instant(99)), GOOD);
        assert_eq!(store.fate(Instant(200)), GOOD);
    }

    #[test]
    fn each_fault_does_what_it_says() {
        let late = store(1.0, 0.0, 0.0).fate(Instant(100));
        assert_eq!(late, Fate { answers: [Some(Span::millis(52)), None], ..GOOD });
        let twice = store(0.0, 1.0, 0.0).fate(Instant(100));
        assert_eq!(twice.answers, [Some(Span::millis(2)), Some(Span::millis(5))]);
        let mut never = store(0.0, 0.0, 1.0);
        let fates: Vec<_> = (0..1_000).map(|_| never.fate(Instant(100))).collect();
        assert!(fates.iter().all(|fate| fate.answers == [None, None]));
        let stepped = fates.iter().filter(|fate| fate.step.is_some()).count();
        assert!((430..570).contains(&stepped), "{stepped}");
    }

    #[test]
    fn faults_hit_their_shares() {
        let mut store = store(0.2, 0.3, 0.1);
        let fates: Vec<_> = (0..10_000).map(|_| store.fate(Instant(150))).collect();
        let share = |test: fn(&Fate) -> bool| fates.iter().filter(|f| test(f)).count();
        assert!((1_850..2_150).contains(&share(|f| f.answers[0] == Some(Span::millis(52)))));
        assert!((2_850..3_150).contains(&share(|f| f.answers[1].is_some())));
        assert!((900..1_100).contains(&share(|f| f.answers == [None, None])));
    }
}
