//! What a store's record holds of a key's rights in one label, and all that may be done to it.
//!
//! An account belongs to one region's store, is changed by its atomic step only, and lives and dies with
//! its label. What is promised of limits under rights rests on this file:
//!
//! - what is spent, what was granted away and what is granted now never add up to more than the base and
//!   what was received, and the overdraft for what is spent (INV-13);
//! - a grant is counted here before anybody hears of it, and counts elsewhere only when it was heard of
//!   (INV-14);
//! - a store that may have lost memory spends nothing in labels of which it may have forgotten something
//!   (INV-15).

use super::{Receipts, Received, Reopening, Row};
use crate::{
    ids::{RegionNumber, StoreEpoch},
    store::COUNT_MAX,
    time::ClusterTime,
};

/// When an operation's label began, and from when on a store's epoch knows labels whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fence {
    /// The first instant of the label.
    pub label_start: ClusterTime,
    /// The cluster time after the epoch began, and longer after it than a server can go on without knowing
    /// that another has taken its place; `None` as long as nobody has said it to the store.
    pub opens: Option<ClusterTime>,
}

impl Fence {
    /// Whether a store knows all that was ever done in the label: it began so long after the epoch that
    /// nobody else can have acted in it.
    pub fn is_behind(self) -> bool {
        self.opens.is_some_and(|opens| self.label_start >= opens)
    }
}

/// A region's rights to a key in one label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Account {
    base: u64,
    given: Row,
    received: Receipts,
    /// The epoch that has recovered this label although it began before.
    reopened: Option<StoreEpoch>,
}

impl Account {
    /// An account with nothing given and nothing received. The base stays what it is until the label ends,
    /// or is recovered.
    pub const fn new(base: u64) -> Self {
        Self { base, given: Row::new(), received: Receipts::new(), reopened: None }
    }

    /// The region's part of the quantity, of which it may grant.
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// Lowers the base, where it cannot be told by which configuration it was found before.
    pub(crate) fn lower_base(&mut self, most: u64) {
        self.base = self.base.min(most);
    }

    /// What was granted to each region.
    pub const fn given(&self) -> &Row {
        &self.given
    }

    /// What each region has told, as far as it has been heard of.
    pub const fn received(&self) -> &Receipts {
        &self.received
    }

    /// Bytes held beside itself.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.given.memory_bytes() + self.received.memory_bytes()
    }

    /// Whether the store, in this epoch, knows all that was done in the label.
    pub fn is_open(&self, epoch: StoreEpoch, fence: Fence) -> bool {
        fence.is_behind() || self.reopened == Some(epoch)
    }

    /// What the region may spend and grant in all: base and received, less what is given.
    pub fn held(&self) -> u64 {
        let sum = self.base.saturating_add(self.received.sum());
        sum.min(COUNT_MAX).saturating_sub(self.given.sum())
    }

    /// Takes note of what another region tells of itself, unless an epoch tells it that is older than what
    /// is known. Returns whether anything changed.
    ///
    /// So [nothing](Received::nothing) in a region's new epoch ends what older ones may still tell.
    pub fn receive(&mut self, told: Received) -> bool {
        self.received.receive(told)
    }

    /// Lifts what was granted to what somebody knows of it, in the epoch of this account.
    pub fn lift_given(&mut self, known: &Row) {
        self.given.merge(known);
    }

    /// Whether `cost` may be spent when `net` has been: beyond what is held only up to `allowance`.
    pub fn allows(&self, net: u64, cost: u64, allowance: u64) -> bool {
        net.saturating_add(cost) <= self.held().saturating_add(allowance)
    }

    /// Grants up to `amount` of what is held and not spent to a region, and returns how much.
    pub fn grant(&mut self, net: u64, to: RegionNumber, amount: u64) -> u64 {
        let granted = amount.min(self.held().saturating_sub(net));
        self.given.add(to, granted);
        granted
    }

    /// Makes good what was forgotten, if `epoch` is the store's; what was spent is to be lifted beside.
    /// What a replica still knows of given and received is dropped where the answers say otherwise: of what
    /// was given, what has not come never will, and what was received has not fallen.
    ///
    /// Nothing is made good of an account that is open: what it has granted may be on its way.
    pub fn reopen(&mut self, epoch: StoreEpoch, fence: Fence, reopening: &Reopening) -> bool {
        if reopening.epoch != epoch || self.is_open(epoch, fence) {
            return false;
        }
        self.given = reopening.given.clone();
        for told in &reopening.received {
            self.receive(*told);
        }
        self.reopened = Some(epoch);
        true
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    const A: RegionNumber = RegionNumber(1);
    const B: RegionNumber = RegionNumber(2);

    fn from(from: RegionNumber, epoch: u64, amount: u64) -> Received {
        Received { from, epoch: StoreEpoch(epoch), amount, ceiling: 0 }
    }

    /// INV-13: what was granted is neither spent nor granted again.
    #[test]
    fn what_is_granted_can_no_longer_be_spent() {
        let mut account = Account::new(10);
        assert!(account.allows(4, 6, 0) && !account.allows(4, 7, 0));
        assert_eq!(account.grant(4, B, 5), 5);
        assert!(account.allows(4, 1, 0) && !account.allows(4, 2, 0));
        assert_eq!(account.grant(4, B, 5), 1, "no more than is left");
        assert_eq!(account.grant(4, B, 5), 0);
        assert_eq!((account.given().of(B), account.held()), (6, 4));
    }

    /// INV-14, the receiver's side: telling again makes no more of what was given.
    #[test]
    fn what_is_received_counts_once_however_often_it_is_told() {
        let mut account = Account::new(3);
        assert!(account.receive(from(A, 1, 4)));
        assert!(!account.receive(from(A, 1, 4)));
        assert!(!account.receive(from(A, 1, 2)));
        assert!(account.receive(from(B, 1, 1)));
        assert_eq!(account.held(), 8);
        assert_eq!(account.grant(0, B, 100), 8, "what was received may be passed on");
    }

    /// INV-13: the allowance is for what is spent alone.
    #[test]
    fn an_overdraft_is_spent_and_never_granted() {
        let mut account = Account::new(10);
        assert!(account.allows(10, 2, 2) && !account.allows(10, 3, 2));
        assert_eq!(account.grant(11, B, 1), 0);
        account.receive(from(A, 1, 5));
        assert_eq!(account.grant(12, B, 9), 3, "what comes pays the overdraft first");
    }

    /// INV-16: who has told what had come takes no more of it, or the recovered would spend it as well.
    #[test]
    fn what_an_older_epoch_grants_counts_no_more_after_it_was_frozen() {
        let mut account = Account::new(0);
        account.receive(from(A, 1, 4));
        account.receive(Received::nothing(A, StoreEpoch(2)));
        assert_eq!(account.received().of(A).map(|told| told.amount), Some(4));
        assert!(!account.receive(from(A, 1, 7)));
        assert_eq!(account.held(), 4);
        assert!(account.receive(from(A, 2, 5)));
        assert_eq!(account.held(), 5);
        // Nothing had come: nothing will.
        account.receive(Received::nothing(B, StoreEpoch(9)));
        assert!(!account.receive(from(B, 8, 3)));
    }

    /// INV-15, and its exception: a label that was recovered, once and in the epoch that asked for it.
    #[test]
    fn a_new_epoch_spends_in_labels_that_began_behind_its_fence_or_were_recovered() {
        let fence =
            |start| Fence { label_start: ClusterTime(start), opens: Some(ClusterTime(110)) };
        let mut account = Account::new(5);
        assert!(!account.is_open(StoreEpoch(100), fence(109)));
        assert!(account.is_open(StoreEpoch(100), fence(110)));
        let unsaid = Fence { label_start: ClusterTime(110), opens: None };
        assert!(!account.is_open(StoreEpoch(100), unsaid));
        let given = Row::from_iter([(B, 2)]);
        let received = Vec::from([from(A, 1, 1)]);
        let reopening = Reopening { epoch: StoreEpoch(100), used: 0, given, received };
        assert!(!account.reopen(StoreEpoch(101), fence(0), &reopening), "another epoch's");
        assert!(!account.reopen(StoreEpoch(100), fence(110), &reopening), "it is open");
        assert!(account.reopen(StoreEpoch(100), fence(0), &reopening));
        assert!(!account.reopen(StoreEpoch(100), fence(0), &reopening), "once");
        assert!(account.is_open(StoreEpoch(100), fence(0)));
        assert!(!account.is_open(StoreEpoch(101), fence(0)));
        assert_eq!(account.held(), 4);
    }
}
