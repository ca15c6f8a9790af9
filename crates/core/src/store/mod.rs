//! What a regional store is asked, and what it answers.
//!
//! A command is a list of operations that one atomic step carries out: all enforced limits pass, or
//! nothing is charged. [`step`] is that step as a pure function; the Redis script is its translation.

use alloc::{boxed::Box, vec::Vec};

use crate::{
    algorithm::{Rule, Weighed},
    ids::{Key, StoreEpoch},
    rights::{Adopted, Proposed},
    time::{ClusterTime, Label, StoreTime},
};

pub use buckets::{BUCKETS, CallerBucket};
pub use claim::{Bound, Claim, Holding};
pub use hold::{HOLDS_MAX, Hold, HoldId, Holds, Lapse, Terms};
pub use joint::{Joint, may_be_joint};
pub use marker::Marker;
pub use once::{Answer, Once, Remembered, RequestId};
pub use record::Record;
pub use spread::{Next, Spread};
pub use step::{Records, TableFull, step};
pub use table::Table;

mod buckets;
mod claim;
mod hold;
#[cfg(test)]
mod hold_tests;
mod joint;
#[cfg(test)]
mod joint_tests;
mod marker;
mod once;
mod record;
mod spread;
#[cfg(test)]
mod spread_tests;
mod step;
pub(crate) mod table;
#[cfg(test)]
mod tests;

/// The largest count: 2^53 - 1, the end of what Redis' Lua, which knows doubles only, counts exactly.
pub const COUNT_MAX: u64 = (1 << 53) - 1;

/// What one key of one label has seen: both numbers only grow, and `refunded <= used`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Counts {
    /// Admitted.
    pub used: u64,
    /// Given back.
    pub refunded: u64,
}

impl Counts {
    /// What is used and was not given back.
    pub const fn net(self) -> u64 {
        self.used.saturating_sub(self.refunded)
    }

    /// Field by field the larger: the least pair that knows what both know.
    pub fn max(self, other: Self) -> Self {
        Self { used: self.used.max(other.used), refunded: self.refunded.max(other.refunded) }
    }

    /// Field by field the sum, at most [`COUNT_MAX`].
    pub fn plus(self, other: Self) -> Self {
        let sum = |a: u64, b: u64| a.saturating_add(b).min(COUNT_MAX);
        Self { used: sum(self.used, other.used), refunded: sum(self.refunded, other.refunded) }
    }
}

/// What an operation does to its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Take `cost` if the ceiling leaves room for it.
    Charge {
        /// 1 or more.
        cost: u64,
    },
    /// Look only.
    Peek,
    /// Under rights: take note of what others told, and grant of what is left.
    Grant,
    /// Give back what was charged, of what is used; under rights of the record's newest label only. Where the
    /// label does not fit, it is left out, as in healing.
    Refund {
        /// 1 or more.
        amount: u64,
    },
    /// Lift the record to the floor only. Where the label does not fit the store's clock, or the record
    /// has moved on, it is left out and the rest of the command is carried out.
    Heal,
    /// End the hold that the operation's [`Terms`] name, and give back what of it is not kept, in the label that it
    /// was charged in; only one that may be undone, if the terms say so. It passes if there is such a hold, whatever
    /// the operation's label and its bounds.
    Settle {
        /// How much of it stays charged; all, if it is more.
        keep: u64,
    },
    /// Hold so much by the operation's terms, without a charge and whatever the limit says: it is held already, and
    /// the store has forgotten it. Where there is such a hold, or no room for it, nothing is done.
    Hold {
        /// 1 or more.
        amount: u64,
    },
    /// Keep all of the hold that the operation's terms name and that may be undone: it ends, or if they say that it is
    /// given back some day, it goes on under them. It passes if there is such a hold, whatever the operation's label
    /// and its bounds.
    Confirm,
}

impl Action {
    /// Whether it is of a hold that is there already, whatever label that is in.
    pub(crate) const fn is_of_a_hold(self) -> bool {
        matches!(self, Self::Settle { .. } | Self::Confirm)
    }

    /// Whether it is left out where its label does not fit, and the rest of the command carried out.
    pub(crate) const fn may_be_left_out(self) -> bool {
        matches!(self, Self::Heal | Self::Refund { .. } | Self::Hold { .. })
    }
}

/// One operation on one key, within a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Which record.
    pub key: Key,
    /// What to do.
    pub action: Action,
    /// In which window.
    pub label: Label,
    /// The label is right from this instant of the store's clock …
    pub not_before: StoreTime,
    /// … until just before this one, or nobody waits for the answer any more; outside, the answer is [`StoreReply::Relabel`].
    pub not_after: StoreTime,
    /// Net use of this region that must not be exceeded.
    pub ceiling: u64,
    /// What the asking node knows the region to have used; the record is lifted to it first.
    pub floor: Counts,
    /// Whether a refusal of this limit refuses the command (false: shadow).
    pub enforce: bool,
    /// The record may be forgotten from this instant on.
    pub expires: StoreTime,
    /// What the limit is spent by, if that is rights: then the ceiling only says up to where the overdraft
    /// may be used.
    pub claim: Option<Box<Claim>>,
    /// By which algorithm the limit counts; with a claim, by fixed windows.
    pub rule: Rule,
    /// What is charged is held under these terms, if there are any; what else an action does by them it says.
    pub hold: Option<Terms>,
}

/// A node's word of when the labels of a store's epoch are whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Opening {
    /// The epoch that the node has seen begin, or later.
    pub epoch: StoreEpoch,
    /// Labels that begin from then on are known whole. The first word that an epoch is told of it counts.
    pub opens: ClusterTime,
}

/// What one atomic step of the store is asked to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoreCommand {
    /// In order; two operations on one key see each other.
    pub operations: Vec<Operation>,
    /// With operations that are claims: of each of the store's buckets that they are in.
    pub openings: Vec<(CallerBucket, Opening)>,
    /// By which configuration of regions the claims are made.
    pub proposed: Proposed,
    /// If it is to be carried out once only, however often it comes. It is remembered beside the first operation's
    /// key.
    pub once: Option<Once>,
    /// What is remembered as its answer, if that is not its own: it decides for a whole that it is a part of.
    pub answer: Option<Box<Answer>>,
}

impl StoreCommand {
    /// A command of operations without claims.
    pub fn new(operations: Vec<Operation>) -> Self {
        Self { operations, ..Self::default() }
    }

    /// Whether what the store remembers beside its records matters to it.
    pub fn speaks_of_rights(&self) -> bool {
        !self.openings.is_empty()
            || self.proposed != Proposed::default()
            || self.operations.iter().any(|operation| operation.claim.is_some())
    }
}

/// What became of one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationReply {
    /// Whether this limit by itself had room; of a healing operation, whether it was carried out.
    pub passes: bool,
    /// The record's counts of the operation's label after the step.
    pub counts: Counts,
    /// How the account stands after the step, of an operation with a claim.
    pub holding: Option<Box<Holding>>,
    /// How the limit stands after the step, unless the counts alone say it.
    pub weighed: Option<Weighed>,
}

impl OperationReply {
    /// The answer to an operation without a claim.
    pub const fn new(passes: bool, counts: Counts) -> Self {
        Self { passes, counts, holding: None, weighed: None }
    }
}

/// What the store answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreReply {
    /// The step was carried out.
    Done {
        /// All enforced limits had room; what passed was charged.
        admitted: bool,
        /// The store's clock at the step.
        now: StoreTime,
        /// Which of its histories the store was in.
        epoch: StoreEpoch,
        /// How far it has come with configurations, if the command [speaks of rights](StoreCommand::speaks_of_rights).
        adopted: Option<Adopted>,
        /// One for each operation, in order.
        operations: Vec<OperationReply>,
    },
    /// A label does not fit the store's clock or the records, or the command comes too late; nothing was
    /// done.
    Relabel {
        /// The store's clock at the step.
        now: StoreTime,
        /// Which of its histories the store was in.
        epoch: StoreEpoch,
        /// The newest label of each operation's record, in order; 0 where there is none.
        newest: Vec<Label>,
    },
    /// The command was carried out before; nothing was done.
    Repeated {
        /// The store's clock at the step.
        now: StoreTime,
        /// Which of its histories the store was in.
        epoch: StoreEpoch,
        /// What it was answered then.
        first: Box<Remembered>,
    },
    /// Another command was carried out under this name; nothing was done.
    OtherRequest {
        /// The store's clock at the step.
        now: StoreTime,
        /// Which of its histories the store was in.
        epoch: StoreEpoch,
    },
}

impl StoreReply {
    /// Which of its histories the store was in.
    pub const fn epoch(&self) -> StoreEpoch {
        match self {
            Self::Done { epoch, .. }
            | Self::Relabel { epoch, .. }
            | Self::Repeated { epoch, .. }
            | Self::OtherRequest { epoch, .. } => *epoch,
        }
    }
}
