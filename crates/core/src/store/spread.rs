//! A command whose records do not lie in one place: it becomes one step for each place, in a fixed order, each of
//! which leaves a hold; then all are confirmed, or undone.
//!
//! A hold that is neither confirmed nor undone, since who made it is gone or cannot reach its store, ends by itself, as
//! if it had never been charged. Until it does, others may be refused who would have had room: never is anything
//! admitted for which there is none. What is admitted is counted when all places have confirmed it, so that no floor
//! speaks of what is only held: see how a record is lifted.

use alloc::{boxed::Box, vec, vec::Vec};

use super::{
    Action, Counts, HoldId, Lapse, Once, Operation, OperationReply, Remembered, StoreCommand,
    StoreReply, Terms,
};
use crate::{
    ids::{Key, StoreEpoch},
    time::{Label, Span, StoreTime},
};

/// How a spread command goes on.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Have the place of this key carry out a command; then call [`Spread::handle`].
    Ask(Key, StoreCommand),
    /// Have all these places confirm what they hold. Only if [each has](is_confirmed), this is the answer; else nobody
    /// knows.
    Confirm(StoreReply, Vec<(Key, StoreCommand)>),
    /// This is the answer, and this is to be undone: at each place by itself, and if one does not answer, what it holds
    /// ends without that.
    Undo(StoreReply, Vec<(Key, StoreCommand)>),
}

/// Whether a place has confirmed what it was to.
pub fn is_confirmed(reply: &StoreReply) -> bool {
    let passes = |operations: &[OperationReply]| operations.iter().all(|one| one.passes);
    matches!(reply, StoreReply::Done { operations, .. } if passes(operations))
}

/// A command on its way over several places.
#[derive(Debug)]
pub struct Spread {
    /// In the order in which they are asked: which operations of the command each has.
    parts: Vec<Part>,
    operations: Vec<Operation>,
    /// The name of holds that have none of their own.
    id: HoldId,
    /// How many have answered.
    asked: usize,
    refused: bool,
    replies: Vec<Option<OperationReply>>,
    /// The clock and the epoch of the place of the first operation, which the whole answer has.
    first: Option<(StoreTime, StoreEpoch)>,
    /// What each place is to carry out once; only of commands that charge nothing.
    once: Option<Once>,
    /// What some place was asked before.
    remembered: Option<Box<Remembered>>,
}

/// A command that is to be carried out once, and charges: whether it was, no place knows by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamedCharge;

#[derive(Debug)]
struct Part {
    place: u64,
    operations: Vec<usize>,
    /// Whether it holds what it was to charge.
    holds: bool,
}

impl Spread {
    /// How long a hold waits to be confirmed: longer than any call of a store may take.
    pub const HOLDS_FOR: Span = Span::secs(10);

    /// Spreads a command over the places that its keys have; `None` if that is one. `id` is a name that no other
    /// hold has. What charges nothing is carried out at each place by itself.
    pub fn new(
        command: &StoreCommand,
        place_of: impl Fn(&Key) -> u64,
        id: HoldId,
    ) -> Result<Option<Self>, NamedCharge> {
        let mut parts: Vec<Part> = Vec::new();
        for (at, operation) in command.operations.iter().enumerate() {
            let place = place_of(&operation.key);
            match parts.iter_mut().find(|part| part.place == place) {
                Some(part) => part.operations.push(at),
                None => parts.push(Part { place, operations: vec![at], holds: false }),
            }
        }
        if parts.len() < 2 {
            return Ok(None);
        }
        let charges = command.operations.iter().any(|o| matches!(o.action, Action::Charge { .. }));
        if charges && command.once.is_some() {
            return Err(NamedCharge);
        }
        // In one order for all: two commands over the same places do not take each other's room away.
        parts.sort_by_key(|part| part.place);
        let operations = command.operations.clone();
        let replies = vec![None; operations.len()];
        Ok(Some(Self {
            parts,
            operations,
            id,
            asked: 0,
            refused: false,
            replies,
            first: None,
            once: command.once,
            remembered: None,
        }))
    }

    /// What is to be asked first.
    pub fn begin(&mut self) -> Next {
        self.next()
    }

    /// Takes the answer of the place that was asked.
    pub fn handle(&mut self, reply: StoreReply) -> Next {
        let part = &mut self.parts[self.asked];
        match reply {
            StoreReply::Done { admitted, now, epoch, operations, .. } => {
                if part.operations[0] == 0 {
                    self.first = Some((now, epoch));
                }
                part.holds = admitted;
                self.refused |= !admitted;
                for (at, reply) in part.operations.iter().zip(operations) {
                    self.replies[*at] = Some(reply);
                }
                self.asked += 1;
                self.next()
            }
            StoreReply::Relabel { now, epoch, newest } => {
                let mut all = vec![Label(0); self.operations.len()];
                for (at, label) in part.operations.iter().zip(newest) {
                    all[*at] = label;
                }
                let epoch = self.epoch_beside(epoch);
                Next::Undo(StoreReply::Relabel { now, epoch, newest: all }, self.ends(false))
            }
            StoreReply::Repeated { now, epoch, first } => {
                if part.operations[0] == 0 {
                    self.first = Some((now, epoch));
                }
                // What was said first holds everywhere.
                for operation in &mut self.operations {
                    if let Action::Settle { keep } = &mut operation.action {
                        *keep = first.says;
                    }
                }
                self.remembered.get_or_insert(first);
                self.asked += 1;
                self.next()
            }
            StoreReply::OtherRequest { now, epoch } => {
                let epoch = self.epoch_beside(epoch);
                Next::Undo(StoreReply::OtherRequest { now, epoch }, self.ends(false))
            }
        }
    }

    /// The epoch of the place of the first operation, if the place that was asked has this one: of another place's
    /// epoch the whole answer must not speak. 0 where it is not known.
    fn epoch_beside(&self, epoch: StoreEpoch) -> StoreEpoch {
        let is_first = self.parts[self.asked].operations[0] == 0;
        let known = self.first.map_or(StoreEpoch(0), |(_, epoch)| epoch);
        if is_first { epoch } else { known }
    }

    /// Whether something was carried out that is not undone by what [`fail`](Self::fail) says.
    pub fn has_done(&self) -> bool {
        let charges = |o: &Operation| matches!(o.action, Action::Charge { .. });
        self.asked > 0 && !self.operations.iter().any(charges)
    }

    /// The place that was asked has not answered: what is to be undone, as with [`Next::Undo`]. What that place may
    /// have done nobody needs to undo.
    pub fn fail(self) -> Vec<(Key, StoreCommand)> {
        self.ends(false)
    }

    fn next(&mut self) -> Next {
        if let Some(part) = self.parts.get(self.asked) {
            let operations = part.operations.iter().map(|at| self.held(&self.operations[*at]));
            let command = StoreCommand::new(operations.collect());
            return Next::Ask(self.key(part), StoreCommand { once: self.once, ..command });
        }
        let (now, epoch) = self.first.unwrap_or((StoreTime(0), StoreEpoch(0)));
        let admitted = !self.refused;
        let holding = self.parts.iter().filter(|part| part.holds);
        let holding: Vec<usize> = holding.flat_map(|part| part.operations.clone()).collect();
        let answered = self.replies.iter().zip(&self.operations).enumerate();
        let replies = answered.filter_map(|(at, (reply, operation))| {
            let (reply, holds) = (reply.clone()?, holding.contains(&at));
            let Action::Charge { cost } = operation.action else { return Some(reply) };
            let is_held = reply.passes && holds;
            let taken = if is_held && !admitted { cost } else { 0 };
            Some(without(reply, taken))
        });
        let replies = replies.collect();
        if let Some(first) = self.remembered.take() {
            return Next::Undo(StoreReply::Repeated { now, epoch, first }, Vec::new());
        }
        let done = StoreReply::Done { admitted, now, epoch, adopted: None, operations: replies };
        let ends = self.ends(admitted);
        if admitted { Next::Confirm(done, ends) } else { Next::Undo(done, ends) }
    }

    fn key(&self, part: &Part) -> Key {
        self.operations[part.operations[0]].key
    }

    /// An operation whose charge is held until the whole is decided.
    fn held(&self, operation: &Operation) -> Operation {
        let Action::Charge { .. } = operation.action else { return operation.clone() };
        let id = operation.hold.map_or(self.id, |terms| terms.id);
        let terms = Terms { id, lasts: Self::HOLDS_FOR, lapse: Lapse::Undone };
        Operation { hold: Some(terms), ..operation.clone() }
    }

    /// How what is held ends, at each place that holds something.
    fn ends(&self, admitted: bool) -> Vec<(Key, StoreCommand)> {
        let of = |part: &Part| {
            let charged = part.operations.iter().filter(|at| {
                let passed = self.replies[**at].as_ref().is_some_and(|reply| reply.passes);
                passed && matches!(self.operations[**at].action, Action::Charge { .. })
            });
            let end = |at: &usize| {
                let operation = &self.operations[*at];
                let (id, lapse) = (self.id, Lapse::Undone);
                let terms = operation.hold.unwrap_or(Terms { id, lasts: Span::ZERO, lapse });
                Operation {
                    action: if admitted { Action::Confirm } else { Action::Settle { keep: 0 } },
                    enforce: false,
                    hold: Some(terms),
                    // The record may have moved on; what is known of a label by now is another's.
                    floor: Counts::default(),
                    rule: operation.rule.without_floor(),
                    ..operation.clone()
                }
            };
            let operations: Vec<_> = charged.map(end).collect();
            (!operations.is_empty()).then(|| (self.key(part), StoreCommand::new(operations)))
        };
        self.parts.iter().filter(|part| part.holds).filter_map(of).collect()
    }
}

/// How a limit stands without what was taken and is to be undone.
fn without(mut reply: OperationReply, taken: u64) -> OperationReply {
    reply.counts.used = reply.counts.used.saturating_sub(taken).max(reply.counts.refunded);
    if let Some(weighed) = &mut reply.weighed {
        weighed.used = weighed.used.saturating_sub(taken);
    }
    reply
}
