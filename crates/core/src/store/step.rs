//! The store's step: the one place where a region decides, as a pure function.
//!
//! The memory store and the simulator call it; the Redis script is its translation and is held equal to
//! it by a differential test. So what is shown for this function holds for what runs.

use alloc::vec::Vec;

use super::{Action, Counts, Operation, OperationReply, StoreCommand, StoreReply};
use crate::{
    ids::Key,
    time::{Label, StoreTime},
};

/// What the store holds of a key: the counts of a label and of the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// The newest label that was charged or lifted.
    pub label: Label,
    /// Counts of `label`.
    pub current: Counts,
    /// Counts of the label before it.
    pub previous: Counts,
    /// May be forgotten from then on.
    pub expires: StoreTime,
}

impl Record {
    const fn fresh(label: Label, expires: StoreTime) -> Self {
        let none = Counts { used: 0, refunded: 0 };
        Self { label, current: none, previous: none, expires }
    }

    /// The record with `label` as its current or previous one; `None` if `label` is older than both.
    fn turned_to(self, label: Label) -> Option<Self> {
        let none = Counts::default();
        if label == self.label || label.next() == self.label {
            Some(self)
        } else if label == self.label.next() {
            Some(Self { label, previous: self.current, current: none, ..self })
        } else if label > self.label {
            Some(Self { label, previous: none, current: none, ..self })
        } else {
            None
        }
    }

    fn counts_of(&mut self, label: Label) -> &mut Counts {
        if label == self.label { &mut self.current } else { &mut self.previous }
    }
}

/// The records that a step reads and writes.
pub trait Records {
    /// The record of `key`, unless it has expired at `now`.
    fn get(&self, key: &Key, now: StoreTime) -> Option<Record>;
    /// Whether `more` keys that are not there yet would fit.
    fn has_room(&self, more: usize) -> bool;
    /// Writes the record of `key`.
    fn put(&mut self, key: &Key, record: Record);
}

/// No room for the keys of a command; nothing was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the store's table is full: raise the number of records it may hold, or add nodes")]
pub struct TableFull;

/// A record while the step works on it.
struct Draft {
    key: Key,
    /// As it was found; `None` if there was none.
    found: Option<Record>,
    /// Turned to the label and lifted to the floors: what is written if the command is refused.
    lifted: Record,
    /// Also charged: what is written if it is admitted.
    charged: Record,
}

/// Carries out `command` at `now`: all enforced operations pass, or nothing is charged (INV-4).
///
/// Records are lifted to the command's floors whether it is admitted or not, since a floor is a fact
/// and not a request. A command of peeks alone writes nothing, but is answered as if it had lifted them.
pub fn step<R: Records>(
    records: &mut R,
    command: &StoreCommand,
    now: StoreTime,
) -> Result<StoreReply, TableFull> {
    let mut drafts: Vec<Draft> = Vec::with_capacity(command.operations.len());
    let mut replies = Vec::with_capacity(command.operations.len());
    let mut admitted = true;

    for operation in &command.operations {
        let Some(draft) = draft_for(&mut drafts, records, operation, now) else {
            return Ok(relabel(records, command, now));
        };
        draft.lifted.expires = draft.lifted.expires.max(operation.expires);
        draft.charged.expires = draft.lifted.expires;
        let lifted = draft.lifted.counts_of(operation.label);
        *lifted = lifted.max(operation.floor);
        let charged = draft.charged.counts_of(operation.label);
        *charged = charged.max(operation.floor);

        let passes = match operation.action {
            Action::Peek => true,
            Action::Charge { cost } => {
                let fits = charged.net().saturating_add(cost) <= operation.ceiling;
                if fits {
                    charged.used = charged.used.saturating_add(cost);
                }
                fits
            }
        };
        admitted &= passes || !operation.enforce;
        replies.push(OperationReply { passes, counts: Counts::default() });
    }

    let charges = command.operations.iter().any(|o| !matches!(o.action, Action::Peek));
    let fresh = drafts.iter().filter(|draft| draft.found.is_none()).count();
    if charges && fresh > 0 && !records.has_room(fresh) {
        return Err(TableFull);
    }
    for draft in &mut drafts {
        let outcome = if admitted { draft.charged } else { draft.lifted };
        draft.lifted = outcome;
        // A refusal that taught nothing is not worth a write, nor a key that was not there before.
        let nothing_new = match draft.found {
            Some(found) => outcome == found,
            None => outcome.current == Counts::default() && outcome.previous == Counts::default(),
        };
        if charges && !nothing_new {
            records.put(&draft.key, outcome);
        }
    }
    for (operation, reply) in command.operations.iter().zip(&mut replies) {
        let draft = drafts.iter_mut().find(|draft| draft.key == operation.key);
        reply.counts = draft.map(|d| *d.lifted.counts_of(operation.label)).unwrap_or_default();
    }
    Ok(StoreReply::Done { admitted, now, operations: replies })
}

/// The answer to labels that do not fit: it says how far the records are, so that a node whose clock is
/// behind its region's need not ask twice.
fn relabel<R: Records>(records: &R, command: &StoreCommand, now: StoreTime) -> StoreReply {
    let newest = |o: &Operation| records.get(&o.key, now).map_or(Label(0), |record| record.label);
    StoreReply::Relabel { now, newest: command.operations.iter().map(newest).collect() }
}

/// The draft of an operation's record, turned to its label; `None` if the label does not fit the
/// store's clock or the record has moved on.
fn draft_for<'a, R: Records>(
    drafts: &'a mut Vec<Draft>,
    records: &R,
    operation: &Operation,
    now: StoreTime,
) -> Option<&'a mut Draft> {
    if now < operation.not_before || now >= operation.not_after {
        return None;
    }
    let at = match drafts.iter().position(|draft| draft.key == operation.key) {
        Some(at) => at,
        None => {
            let found = records.get(&operation.key, now);
            let fresh = Record::fresh(operation.label, operation.expires);
            let start = found.unwrap_or(fresh);
            drafts.push(Draft { key: operation.key, found, lifted: start, charged: start });
            drafts.len() - 1
        }
    };
    let draft = &mut drafts[at];
    draft.lifted = draft.lifted.turned_to(operation.label)?;
    draft.charged = draft.charged.turned_to(operation.label)?;
    Some(draft)
}
