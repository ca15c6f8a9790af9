//! Holds: what was charged for a while only, until somebody says what became of it or its time is over.
//!
//! A reservation is a charge with a hold: what of it is not settled in time is given back. The places of a
//! *concurrency* limit are holds and nothing else. A step over several servers leaves holds on each, and confirms
//! them when all had room.
//!
//! A hold ends by the store's clock, and the next step that meets its record sees to it: so nothing depends on
//! who made it.

use alloc::vec::Vec;

use crate::{
    memory,
    time::{Label, Span, StoreTime},
};

/// Holds of one record: each step that changes the record reads and writes them all.
pub const HOLDS_MAX: usize = 1_000;

/// Names a hold, 1 to [`COUNT_MAX`](super::COUNT_MAX); whoever makes one draws it at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HoldId(pub u64);

/// What becomes of what is held when its time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lapse {
    /// It is given back: its session has counted it, and gives it back too.
    GivenBack,
    /// It is as if it had never been charged: nobody has counted it.
    Undone,
}

/// Under which terms an operation holds what it charges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Terms {
    /// Which hold it is.
    pub id: HoldId,
    /// From the step on.
    pub lasts: Span,
    /// How it ends if nobody settles it.
    pub lapse: Lapse,
}

/// Something that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hold {
    /// Until just before then.
    pub ends: StoreTime,
    /// Which.
    pub id: HoldId,
    /// When it was made.
    pub made: StoreTime,
    /// In which label it was charged.
    pub label: Label,
    /// How much.
    pub amount: u64,
    /// How it ends.
    pub lapse: Lapse,
}

/// Holds of one record, those that end first at the front.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Holds(Vec<Hold>);

impl Holds {
    /// Those, which are sorted.
    pub fn from_sorted(holds: Vec<Hold>) -> Self {
        Self(holds)
    }

    /// All, those that end first at the front.
    pub fn all(&self) -> &[Hold] {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes held beside itself.
    pub(super) fn memory_bytes(&self) -> usize {
        memory::of_vec(&self.0)
    }

    /// When the last one ends.
    pub(super) fn last_ends(&self) -> Option<StoreTime> {
        self.0.last().map(|hold| hold.ends)
    }

    /// What is held of a label that nobody has counted.
    pub(super) fn uncounted(&self, label: Label) -> u64 {
        let of_label = |hold: &&Hold| hold.label == label && hold.lapse == Lapse::Undone;
        let held = self.0.iter().filter(of_label);
        held.fold(0, |sum, hold| sum.saturating_add(hold.amount))
    }

    pub(super) fn sum(&self) -> u64 {
        self.0.iter().fold(0, |sum, hold| sum.saturating_add(hold.amount))
    }

    /// Adds one; `false` if there are [`HOLDS_MAX`].
    pub(super) fn add(&mut self, hold: Hold) -> bool {
        if self.0.len() >= HOLDS_MAX {
            return false;
        }
        let place = self.0.partition_point(|known| *known < hold);
        self.0.insert(place, hold);
        true
    }

    /// Takes the first of this name out; of those only that may be undone, if `undone` says so.
    pub(super) fn take(&mut self, id: HoldId, undone: bool) -> Option<Hold> {
        let is_it = |hold: &Hold| hold.id == id && (!undone || hold.lapse == Lapse::Undone);
        let at = self.0.iter().position(is_it)?;
        Some(self.0.remove(at))
    }

    /// Takes those out whose time is over.
    pub(super) fn take_lapsed(&mut self, now: StoreTime) -> Vec<Hold> {
        let over = self.0.partition_point(|hold| hold.ends <= now);
        self.0.drain(..over).collect()
    }

    /// After which so many have ended that `cost` has room under `ceiling` beside the others, and that there is
    /// room for one more.
    pub(super) fn wait(&self, now: StoreTime, cost: u64, ceiling: u64) -> Span {
        let mut over = self.sum().saturating_add(cost).saturating_sub(ceiling);
        let mut too_many = (self.0.len() + 1).saturating_sub(HOLDS_MAX);
        let enough = self.0.iter().find(|hold| {
            over = over.saturating_sub(hold.amount);
            too_many = too_many.saturating_sub(1);
            over == 0 && too_many == 0
        });
        enough.map_or(Span::ZERO, |hold| hold.ends.since(now))
    }
}
