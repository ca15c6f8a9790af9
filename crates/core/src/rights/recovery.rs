//! How a store that has lost memory in the middle of a label may spend in it once more.
//!
//! Only worth it where the label is long. Every configured region answers for itself and from its own
//! store: what of the asker's grants had come (and no more of them ever will), what it has granted to the
//! asker, and the highest ceiling that it holds. A region that cannot tell, because its own store has
//! forgotten the label, does not answer, and the label stays closed.
//!
//! The asker's store has spent no more than the highest ceiling that anybody holds and one block: beyond, it
//! had to wait until somebody held a higher one. So it is taken to have spent that much (INV-16).

use alloc::vec::Vec;

use super::{Account, Fence, Received, Row, Split};
use crate::{
    ids::{RegionNumber, StoreEpoch},
    store::COUNT_MAX,
};

/// What a region answers to a store that has lost memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Answer {
    /// The epoch that asked: answers to an earlier one are not for this.
    pub to: StoreEpoch,
    /// What had come of what the asker's earlier epochs told, ceiling included.
    pub frozen: Received,
    /// What the answering region has told of itself to the asker.
    pub granted: Received,
}

/// Answers the question that `asker` asks in epoch `asked_in`, from the account of region `own` in epoch
/// `epoch`; or not, if that cannot tell.
pub fn answer(
    account: &mut Account,
    (own, epoch, fence): (RegionNumber, StoreEpoch, Fence),
    (asker, asked_in): (RegionNumber, StoreEpoch),
) -> Option<Answer> {
    if !account.is_open(epoch, fence) {
        return None;
    }
    let frozen = account.freeze(asker, asked_in);
    // Somebody has asked in a later epoch already.
    if frozen.epoch != asked_in {
        return None;
    }
    let granted = Received { amount: account.given().of(asker), ..Received::nothing(own, epoch) };
    Some(Answer { to: asked_in, frozen, granted })
}

/// The answers of all configured regions to one store's question, as they come.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Recovery {
    epoch: StoreEpoch,
    missing: Vec<RegionNumber>,
    given: Row,
    received: Vec<Received>,
    ceiling: u64,
}

/// What a store's account is reopened with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reopening {
    /// Only a store of this epoch.
    pub epoch: StoreEpoch,
    /// What the region is taken to have spent.
    pub used: u64,
    /// What of its grants has come.
    pub given: Row,
    /// What it was granted.
    pub received: Vec<Received>,
}

impl Recovery {
    /// A question of region `own`, in the epoch of its store, to all other regions of the split.
    pub fn new(own: RegionNumber, epoch: StoreEpoch, split: &Split) -> Self {
        let missing = split.regions().filter(|region| *region != own).collect();
        Self { epoch, missing, given: Row::new(), received: Vec::new(), ceiling: 0 }
    }

    /// The regions that have not answered.
    pub fn missing(&self) -> &[RegionNumber] {
        &self.missing
    }

    /// Takes an answer, once from each region.
    pub fn handle_answer(&mut self, answer: &Answer) {
        let from = answer.granted.from;
        let Some(at) = self.missing.iter().position(|region| *region == from) else { return };
        if answer.to != self.epoch {
            return;
        }
        self.missing.remove(at);
        self.given.lift(from, answer.frozen.amount);
        self.received.push(answer.granted);
        self.ceiling = self.ceiling.max(answer.frozen.ceiling);
    }

    /// What the store may be reopened with, when all have answered: `block` is what a store may spend
    /// beyond the ceiling that somebody holds.
    pub fn reopening(&self, block: u64) -> Option<Reopening> {
        self.missing.is_empty().then(|| Reopening {
            epoch: self.epoch,
            used: self.ceiling.saturating_add(block).min(COUNT_MAX),
            given: self.given.clone(),
            received: self.received.clone(),
        })
    }
}
