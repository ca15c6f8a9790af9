//! What an operation on a limit under rights says beside the rest, and what it is answered.

use alloc::vec::Vec;

use crate::{
    ids::{RegionNumber, StoreEpoch},
    rights::{Account, Bases, Receipts, Received, Reopening, Row, Statement},
    store::COUNT_MAX,
    time::ClusterTime,
};

/// What a node tells its store of a key's rights in the operation's label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Claim {
    /// The region's bases: one of them is what an account begins with that is not there yet.
    pub bases: Bases,
    /// What may be spent beyond what is held, where the net use stays within the operation's ceiling.
    pub allowance: u64,
    /// When the label begins.
    pub label_start: ClusterTime,
    /// Of a long label: up to where it may be spent.
    pub bound: Option<Bound>,
    /// What a store that has forgotten the label may go on with.
    pub reopening: Option<Reopening>,
    /// What the node knows the region to have granted, and in which epoch of its store: a floor. A record
    /// that expired since the store's clock was set forward is made good by it.
    pub granted: Option<(StoreEpoch, Row)>,
    /// What other regions have told of themselves.
    pub received: Vec<Received>,
    /// What to grant to whom, as far as it is held and not spent.
    pub grants: Vec<(RegionNumber, u64)>,
}

/// Up to where a long label may be spent: so that others know enough of it when the store has forgotten it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bound {
    /// Units beyond the ceiling.
    pub block: u64,
    /// The highest ceiling that another region's store holds …
    pub ceiling: u64,
    /// … of this epoch: in others it is nothing.
    pub epoch: StoreEpoch,
}

impl Bound {
    /// What the net use in `epoch` may come to.
    pub fn most(&self, epoch: StoreEpoch) -> u64 {
        let ceiling = if epoch == self.epoch { self.ceiling } else { 0 };
        ceiling.saturating_add(self.block)
    }
}

/// How a key's account stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Holding {
    /// Of which epoch of the store, or of the key's bucket.
    pub epoch: StoreEpoch,
    /// Whether the store, in its epoch, knows all that was done in the label: else nothing is spent.
    pub open: bool,
    /// The region's base.
    pub base: u64,
    /// What was granted to each region.
    pub given: Row,
    /// What each region has told of itself.
    pub received: Receipts,
}

impl Holding {
    /// Of an account that is not there, and is not opened.
    pub(crate) fn none(epoch: StoreEpoch, open: bool) -> Self {
        Self { epoch, open, ..Self::default() }
    }

    pub(crate) fn of(account: &Account, epoch: StoreEpoch, open: bool) -> Self {
        let (given, received) = (account.given().clone(), account.received().clone());
        Self { epoch, open, base: account.base(), given, received }
    }

    /// What the region `from` tells everybody of it, by its store in this epoch, with the `ceiling` it asks them to
    /// hold; only in labels that are `long` also what it has heard of others. Nothing as long as the store may
    /// have forgotten some of it: what a replica that lags has granted may be more than what its epoch will
    /// have granted when it is open.
    pub fn statement(&self, from: RegionNumber, ceiling: u64, long: bool) -> Option<Statement> {
        let heard = if long { self.received.clone() } else { Receipts::new() };
        let (epoch, given) = (self.epoch, self.given.clone());
        let statement = Statement { from, epoch, given, ceiling, heard };
        self.open.then_some(statement)
    }

    /// What may be spent and granted in all.
    pub fn held(&self) -> u64 {
        let sum = self.base.saturating_add(self.received.sum()).min(COUNT_MAX);
        sum.saturating_sub(self.given.sum())
    }
}
