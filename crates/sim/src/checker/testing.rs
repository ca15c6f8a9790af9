//! A small world for the checkers' own tests: two regions, one node each, one global limit of 10 a second.

use tidegate_core::{
    counts::Tally,
    ids::{Caller, Key, LimitId},
    policy::{Consistency, OnStoreFailure},
    store::Counts,
    time::{ClusterTime, Label, Span, Window},
};

use super::{Book, Charge, Checker, Facts, LifeFacts, Seen, SlotSeen, Step};
use crate::{
    queue::Instant,
    scenario::{Schedule, StoreSettings},
    store::Server,
    subjects::KeyFacts,
};

pub(super) const AT: Instant = Instant(2_500_000);
pub(super) const QUANTITY: u64 = 10;

/// The window that is current at [`AT`].
pub(super) const LABEL: Label = Label(102);

pub(super) fn book() -> Book {
    let window = Window::new(Span::secs(1)).expect("in range");
    let key = KeyFacts {
        key: Key { caller: Caller([1, 2]), limit: LimitId(3) },
        limit: "api/second".into(),
        caller: "everyone".into(),
        quantity: QUANTITY,
        later: Vec::new(),
        window,
        region: None,
        consistency: Consistency::Plain,
        enforced: true,
        on_store_failure: OnStoreFailure::Degrade,
    };
    let schedule = Schedule {
        window,
        load_start: Instant(2_000_000),
        measured_from: Instant(2_000_000),
        measured_to: Instant(3_000_000),
        load_end: Instant(3_500_000),
        end: Instant(3_900_000),
        epoch: ClusterTime(100_000_000),
    };
    let facts = Facts {
        schedule,
        disturbed: Vec::new(),
        faulty: false,
        healed: schedule.load_start,
        recover_within: Span::secs(8),
        roomy: true,
        store: StoreSettings::default(),
        weights: vec![vec![1; 2]],
        reclaim_after: Span::secs(30),
    };
    Book::new(vec![key], 2, facts)
}

/// Feeds a checker as the panel does, from two lives that have started.
pub(super) struct Bench<C> {
    pub(super) book: Book,
    pub(super) checker: C,
    charged: [u64; 2],
}

impl<C: Checker> Bench<C> {
    pub(super) fn new(book: Book, checker: C) -> Self {
        let mut bench = Self { book, checker, charged: [0; 2] };
        bench.see(Seen::Started(LifeFacts { node: 0, region: 0, since: Instant(0) }));
        bench.see(Seen::Started(LifeFacts { node: 1, region: 1, since: Instant(0) }));
        bench
    }

    pub(super) fn see(&mut self, seen: Seen<'_>) {
        self.see_at(AT, seen);
    }

    pub(super) fn see_at(&mut self, at: Instant, seen: Seen<'_>) {
        for window in self.book.take(at, &seen) {
            self.checker.close(&self.book, at, &window);
        }
        self.checker.see(&self.book, at, &seen);
    }

    /// A node admits with its store's consent.
    pub(super) fn admit(&mut self, life: usize, cost: u64) {
        let charges = [Charge { key: 0, label: LABEL, cost }];
        let planned = self.book.mark();
        self.step(life, planned, cost);
        let store = Some(true);
        self.see(Seen::Answered { life, planned, store, allowed: true, charges: &charges });
    }

    /// A node admits by itself.
    pub(super) fn admit_without_store(&mut self, life: usize, cost: u64) {
        let charges = [Charge { key: 0, label: LABEL, cost }];
        let planned = self.book.mark();
        self.see(Seen::Answered { life, planned, store: None, allowed: true, charges: &charges });
    }

    /// A store charges, as one does that knows nothing but its charges.
    pub(super) fn step(&mut self, life: usize, planned: u64, cost: u64) {
        let region = self.book.lives[life].region;
        self.charged[region] += cost;
        self.step_at(Server::Current, life, planned, (cost, self.charged[region]));
    }

    /// A server charges, and holds so much then.
    pub(super) fn step_at(
        &mut self,
        server: Server,
        life: usize,
        planned: u64,
        (cost, holds): (u64, u64),
    ) {
        let steps = [Step { key: 0, label: LABEL, cost, holds }];
        self.see(Seen::Stepped { life, planned, server, steps: &steps });
    }

    /// A node tells the other its own count.
    pub(super) fn tell(&mut self, from: usize, to: usize, used: u64) {
        self.tell_of(from, from, to, used);
    }

    /// A node tells the other a life's count.
    pub(super) fn tell_of(&mut self, of: usize, from: usize, to: usize, used: u64) {
        let slots = [slot(of, used)];
        self.see(Seen::Sent { from, to, slots: &slots });
        self.see(Seen::Delivered { from, to, slots: &slots });
    }

    pub(super) fn view(&mut self, at: Instant, life: usize, used: [u64; 2]) {
        let regions = used.map(|used| Counts { used, refunded: 0 });
        self.see_at(at, Seen::Viewed { life, key: 0, label: LABEL, regions: &regions });
    }

    /// Ends the run and counts the violations.
    pub(super) fn finish(mut self) -> u64 {
        let end = self.book.facts.schedule.end;
        self.checker.finish(&self.book, end);
        for window in self.book.take_all() {
            self.checker.close(&self.book, end, &window);
        }
        self.checker.violations().count
    }
}

pub(super) fn slot(life: usize, used: u64) -> SlotSeen {
    let counts = Counts { used, refunded: 0 };
    SlotSeen { life, key: 0, label: LABEL, tally: Tally { counts, offered: used }, hearsay: false }
}
