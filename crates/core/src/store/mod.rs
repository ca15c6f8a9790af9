//! What a regional store is asked, and what it answers.
//!
//! A command is a list of operations that one atomic step carries out: all enforced limits pass, or
//! nothing is charged. [`step`] is that step as a pure function; the Redis script is its translation.

use alloc::vec::Vec;

use crate::{
    ids::Key,
    time::{Label, StoreTime},
};

pub use step::{Record, Records, TableFull, step};
pub use table::Table;

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
}

/// What one atomic step of the store is asked to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoreCommand {
    /// In order; two operations on one key see each other.
    pub operations: Vec<Operation>,
}

/// What became of one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OperationReply {
    /// Whether this limit by itself had room.
    pub passes: bool,
    /// The record's counts of the operation's label after the step.
    pub counts: Counts,
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
        /// One for each operation, in order.
        operations: Vec<OperationReply>,
    },
    /// A label does not fit the store's clock or the records, or the command comes too late; nothing was
    /// done.
    Relabel {
        /// The store's clock at the step.
        now: StoreTime,
        /// The newest label of each operation's record, in order; 0 where there is none.
        newest: Vec<Label>,
    },
}
