//! What other regions have told of themselves, as far as it is held.

use alloc::vec::Vec;

use crate::{
    ids::{RegionNumber, StoreEpoch},
    memory,
    store::COUNT_MAX,
};

/// What another region has told of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Received {
    /// Who says so.
    pub from: RegionNumber,
    /// The epoch of its store that says so.
    pub epoch: StoreEpoch,
    /// What it has granted to this region in the label so far.
    pub amount: u64,
    /// It spends no more in the label than this and one block, until somebody holds a higher one.
    pub ceiling: u64,
}

impl Received {
    /// Nothing, told in `epoch`.
    pub const fn nothing(from: RegionNumber, epoch: StoreEpoch) -> Self {
        Self { from, epoch, amount: 0, ceiling: 0 }
    }
}

/// The newest that each region has told, by region.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Receipts(Vec<Received>);

impl Receipts {
    /// Nobody has told anything.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// What a region has told.
    pub fn of(&self, region: RegionNumber) -> Option<Received> {
        self.find(region).ok().map(|at| self.0[at])
    }

    /// All of it, by region.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Received> {
        self.0.iter().copied()
    }

    /// Bytes held beside itself.
    pub(crate) fn memory_bytes(&self) -> usize {
        memory::of_vec(&self.0)
    }

    /// Whether nobody has told anything.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was granted by all, at most [`COUNT_MAX`].
    pub fn sum(&self) -> u64 {
        self.iter().fold(0_u64, |sum, told| sum.saturating_add(told.amount)).min(COUNT_MAX)
    }

    /// Takes note of what a region tells of itself: of an epoch that is no older than the one known, the
    /// larger numbers. Returns whether anything changed.
    ///
    /// Amounts stay where a later epoch tells less: what came has come.
    pub fn receive(&mut self, told: Received) -> bool {
        match self.find(told.from) {
            Ok(at) => {
                let known = &mut self.0[at];
                let before = *known;
                if told.epoch >= known.epoch {
                    known.epoch = told.epoch;
                    known.amount = known.amount.max(told.amount);
                    known.ceiling = known.ceiling.max(told.ceiling);
                }
                *known != before
            }
            Err(at) => {
                self.0.insert(at, told);
                true
            }
        }
    }

    /// Takes note of all that another has been told. Returns whether anything changed.
    pub fn merge(&mut self, other: &Self) -> bool {
        other.iter().fold(false, |changed, told| self.receive(told) | changed)
    }

    fn find(&self, region: RegionNumber) -> Result<usize, usize> {
        self.0.binary_search_by_key(&region, |told| told.from)
    }
}

impl FromIterator<Received> for Receipts {
    fn from_iter<I: IntoIterator<Item = Received>>(all: I) -> Self {
        let mut receipts = Self::new();
        all.into_iter().for_each(|told| {
            receipts.receive(told);
        });
        receipts
    }
}
