//! Checkers: what must be true of every run, one property a file.
//!
//! A checker watches and never drives: it is told what the world saw, keeps its own books, and notes
//! what must not have been. None of them asks an engine anything.

use std::fmt::Display;

use tidegate_core::{
    breaker::{Change, Outcome},
    counts::Tally,
    invariants::Invariant,
    store::Counts,
    time::{ClusterTime, Label, Span},
};

pub use book::{Book, Facts, LastStep, LifeFacts, Weighed, WindowBook};
pub use breaker::Breaker;
pub use clocks::Clocks;
pub use conservation::Conservation;
pub use convergence::{Convergence, Losses};
pub use gate::Gate;
pub use invariants::Invariants;
pub use liveness::Liveness;
pub use merge_laws::MergeLaws;
pub use plain_bound::PlainBound;
pub use reunion::Reunion;
pub use rights_bound::RightsBound;

use crate::{queue::Instant, store::Server};

mod book;
mod breaker;
mod clocks;
mod conservation;
mod convergence;
mod gate;
mod invariants;
mod liveness;
mod merge_laws;
mod plain_bound;
mod reunion;
mod rights_bound;
#[cfg(test)]
mod testing;

/// So many violations are told in words; all are counted.
const TOLD_MAX: usize = 5;

/// Units of one key taken in one window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charge {
    /// Which key.
    pub key: usize,
    /// In which window.
    pub label: Label,
    /// How much.
    pub cost: u64,
}

/// One operation of a step that a store carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Which key.
    pub key: usize,
    /// In which window.
    pub label: Label,
    /// How much was charged; 0 if nothing was.
    pub cost: u64,
    /// What the store said that its record holds afterwards.
    pub holds: u64,
}

/// One slot in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotSeen {
    /// The run of a node whose slot it is.
    pub life: usize,
    /// Which key.
    pub key: usize,
    /// In which window.
    pub label: Label,
    /// How much.
    pub tally: Tally,
    /// Whether it is told by hearsay.
    pub hearsay: bool,
}

/// Something that the world saw. A *life* is one run of one node, numbered from 0.
#[derive(Debug, Clone, Copy)]
pub enum Seen<'a> {
    /// A node runs. Lives start in the order of their numbers.
    Started(LifeFacts),
    /// A node died.
    Stopped {
        /// Whose life ended.
        life: usize,
    },
    /// A store's memory was copied, for a loss to come.
    StoreSaved {
        /// Whose.
        region: usize,
        /// For which loss.
        loss: usize,
    },
    /// A store lost its memory.
    StoreLost {
        /// Whose.
        region: usize,
        /// It holds again what was copied for this loss; `None`: nothing.
        kept: Option<usize>,
    },
    /// A store's clock was set forward: what any of its servers remembered may have expired.
    StoreExpired {
        /// Whose.
        region: usize,
    },
    /// A node sent a frame.
    Sent {
        /// Who.
        from: usize,
        /// For which node.
        to: usize,
        /// What it told.
        slots: &'a [SlotSeen],
    },
    /// A frame spoke of sessions or keys that never were, or was none.
    Strange {
        /// Who sent it.
        from: usize,
    },
    /// A node took a frame in.
    Delivered {
        /// Who sent it.
        from: usize,
        /// Who took it.
        to: usize,
        /// What it told.
        slots: &'a [SlotSeen],
    },
    /// A node will not listen any more to a peer, which never lies.
    Quarantined {
        /// Who.
        life: usize,
        /// To whom.
        peer: usize,
    },
    /// A node took a frame whose bytes were not those that had been sent.
    CorruptTaken {
        /// Who took it.
        to: usize,
    },
    /// A store carried out a command.
    Stepped {
        /// Who had asked.
        life: usize,
        /// The [`Book::mark`] at the time it planned.
        planned: u64,
        /// Which of the region's servers.
        server: Server,
        /// Its operations.
        steps: &'a [Step],
    },
    /// A request was answered.
    Answered {
        /// Who answered.
        life: usize,
        /// The [`Book::mark`] at the time it planned.
        planned: u64,
        /// What the store had said, if it was asked and answered in time.
        store: Option<bool>,
        /// Whether it may pass.
        allowed: bool,
        /// What it is charged for.
        charges: &'a [Charge],
    },
    /// A node gave back what it had admitted; its store is told next.
    Refunded {
        /// Who.
        life: usize,
        /// What.
        charges: &'a [Charge],
    },
    /// What a node's cluster time shows.
    Clock {
        /// Whose.
        life: usize,
        /// The time that its labels are cut from.
        shows: ClusterTime,
    },
    /// A node's guard let a call to the store through. A life's calls are numbered from 1.
    Called {
        /// Whose.
        life: usize,
    },
    /// A node's guard let no further call through, because too many were waiting.
    Shed {
        /// Whose.
        life: usize,
    },
    /// A call that was let through is over.
    CallEnded {
        /// Whose.
        life: usize,
        /// Which of its calls.
        call: u64,
        /// What the breaker was told of it.
        outcome: Outcome,
    },
    /// A node found its connection to the store again, or lost it.
    Connection {
        /// Whose.
        life: usize,
        /// Whether there is one.
        reachable: bool,
    },
    /// A node's breaker opened or closed.
    Breaker {
        /// Whose.
        life: usize,
        /// What it did.
        change: Change,
    },
    /// Two nodes are connected, perhaps again.
    Linked {
        /// Their lives.
        lives: [usize; 2],
    },
    /// A request had no living node to answer it.
    Unanswered {
        /// Where it came.
        region: usize,
    },
    /// What a node knows of a key.
    Viewed {
        /// Who.
        life: usize,
        /// Which key.
        key: usize,
        /// The window that is current for it.
        label: Label,
        /// By region.
        regions: &'a [Counts],
    },
    /// An engine's own invariants, as it counted them by the end of its life.
    Broken {
        /// Whose.
        life: usize,
        /// Which.
        invariant: Invariant,
        /// How often.
        times: u64,
    },
    /// The last fault has ended.
    Healed,
    /// The load has ended, and nothing is broken any more.
    Quiet,
    /// All nodes were viewed once more.
    Sampled {
        /// Nodes that are down, stand still or are not ready, and links that are down.
        unfit: usize,
    },
}

/// What a checker found wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Violations {
    /// How often.
    pub count: u64,
    /// The first few, for people.
    pub told: Vec<String>,
}

impl Violations {
    fn note(&mut self, at: Instant, what: impl Display) {
        self.count += 1;
        if self.told.len() < TOLD_MAX {
            self.told.push(format!("at {:.3} s: {what}", at.0 as f64 / 1e6));
        }
    }
}

/// One property.
pub trait Checker {
    /// What it is called in reports.
    fn name(&self) -> &'static str;

    /// Something was seen; `book` knows it already.
    fn see(&mut self, book: &Book, at: Instant, seen: &Seen<'_>);

    /// A window is over for good: nothing will be admitted in it any more.
    fn close(&mut self, _book: &Book, _at: Instant, _window: &WindowBook) {}

    /// The run is over; windows are closed after this.
    fn finish(&mut self, _book: &Book, _at: Instant) {}

    /// What was found wrong so far.
    fn violations(&self) -> &Violations;
}

/// All checkers of a run, and the book that they share.
pub struct Panel {
    book: Book,
    merge_laws: MergeLaws,
    conservation: Conservation,
    gate: Gate,
    plain_bound: PlainBound,
    rights_bound: RightsBound,
    liveness: Liveness,
    convergence: Convergence,
    invariants: Invariants,
    breaker: Breaker,
    reunion: Reunion,
}

impl Panel {
    /// A panel with an empty book.
    pub fn new(book: Book) -> Self {
        let convergence = Convergence::new(&book);
        Self {
            book,
            merge_laws: MergeLaws::new(Tally::merge),
            conservation: Conservation::default(),
            gate: Gate::default(),
            plain_bound: PlainBound::default(),
            rights_bound: RightsBound::default(),
            liveness: Liveness::default(),
            convergence,
            invariants: Invariants::default(),
            breaker: Breaker::default(),
            reunion: Reunion::default(),
        }
    }

    /// What is known so far.
    pub const fn book(&self) -> &Book {
        &self.book
    }

    /// From the end of the load until every node knew the same exact sums; `None` if they never did.
    pub fn converged_after(&self) -> Option<Span> {
        self.convergence.after()
    }

    /// From the end of the last fault until all was as if there had been none; `None` if there was no
    /// fault, or that never came.
    pub fn normal_after(&self) -> Option<Span> {
        self.liveness.normal_after(&self.book)
    }

    /// What admissions nobody knows of at the end, and which of them somebody should.
    pub const fn losses(&self) -> Losses {
        self.convergence.losses()
    }

    /// From the end of the last fault until every node had heard of every other again; `None` if there was
    /// no fault, or some had not.
    pub fn reunited_after(&self) -> Option<Span> {
        self.reunion.after(&self.book)
    }

    /// What was admitted beyond what its mode allows.
    pub const fn wrongly_admitted(&self) -> u64 {
        self.plain_bound.excess() + self.rights_bound.excess()
    }

    /// The book, and every checker to tell from it.
    fn parts(&mut self) -> (&mut Book, [&mut dyn Checker; 9]) {
        let Self {
            book,
            merge_laws,
            conservation,
            gate,
            plain_bound,
            rights_bound,
            liveness,
            convergence,
            invariants,
            breaker,
            reunion: _,
        } = self;
        let checkers: [&mut dyn Checker; 9] = [
            merge_laws,
            conservation,
            gate,
            plain_bound,
            rights_bound,
            liveness,
            convergence,
            invariants,
            breaker,
        ];
        (book, checkers)
    }

    /// Writes down what was seen and tells every checker.
    pub fn see(&mut self, at: Instant, seen: &Seen<'_>) {
        let (book, checkers) = self.parts();
        let closed = book.take(at, seen);
        if !closed.is_empty() {
            for checker in checkers {
                closed.iter().for_each(|window| checker.close(book, at, window));
            }
        }
        // What every request brings is told by name to those that look at it: most look away from most.
        let book = &self.book;
        match seen {
            Seen::Clock { .. } | Seen::Refunded { .. } => return,
            Seen::Stepped { .. } => return self.gate.see(book, at, seen),
            Seen::Called { .. } | Seen::CallEnded { .. } => {
                return self.breaker.see(book, at, seen);
            }
            Seen::Answered { .. } => {
                self.conservation.see(book, at, seen);
                self.gate.see(book, at, seen);
                self.rights_bound.see(book, at, seen);
                return self.liveness.see(book, at, seen);
            }
            _ => {}
        }
        self.merge_laws.see(book, at, seen);
        self.conservation.see(book, at, seen);
        self.gate.see(book, at, seen);
        self.plain_bound.see(book, at, seen);
        self.rights_bound.see(book, at, seen);
        self.liveness.see(book, at, seen);
        self.convergence.see(book, at, seen);
        self.invariants.see(book, at, seen);
        self.breaker.see(book, at, seen);
        self.reunion.see(book, at, seen);
    }

    /// The run is over: finishes every checker and closes every window.
    pub fn finish(&mut self, at: Instant) {
        let (book, mut checkers) = self.parts();
        checkers.iter_mut().for_each(|checker| checker.finish(book, at));
        let closed = book.take_all();
        for checker in checkers {
            closed.iter().for_each(|window| checker.close(book, at, window));
        }
    }

    /// Every checker's name and what it found.
    pub fn results(&mut self) -> Vec<(&'static str, Violations)> {
        let (_, checkers) = self.parts();
        checkers.iter().map(|checker| (checker.name(), checker.violations().clone())).collect()
    }
}
