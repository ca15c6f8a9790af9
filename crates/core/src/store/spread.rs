//! A command whose records do not lie in one place: it becomes one step for each place, in a fixed order, each of
//! which leaves a hold; then all are confirmed, or undone.
//!
//! A hold that is neither confirmed nor undone, since who made it is gone or cannot reach its store, ends by itself, as
//! if it had never been charged. Until it does, others may be refused who would have had room: never is anything
//! admitted for which there is none. What is admitted is counted when all places have confirmed it, so that no floor
//! speaks of what is only held: see how a record is lifted.
//!
//! Whether a charge with a name was carried out before, the place of the first operation knows, its *home*: there the
//! whole is decided when all places have answered, by one step that confirms what it holds itself and remembers the
//! whole answer. What another place confirms it remembers as well. Who finds the name decided sees to it that all have
//! confirmed; where the hold has ended meanwhile, it is charged if there is room, once, and refused for good if there
//! is none: nobody has been told that it was admitted.

use alloc::{boxed::Box, vec, vec::Vec};

use super::{
    Action, Answer, CallerBucket, Counts, HoldId, Lapse, Once, Opening, Operation, OperationReply,
    Remembered, StoreCommand, StoreReply, Terms,
};
use crate::{
    ids::{Key, StoreEpoch},
    rights::Proposed,
    time::{Label, Span, StoreTime},
};

/// How a spread command goes on.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Have the place of this key carry out a command; then call [`Spread::handle`].
    Ask(Key, StoreCommand),
    /// Have the places of these keys carry out a command each, side by side; then call [`Spread::handle_all`].
    AskAll(Vec<(Key, StoreCommand)>),
    /// This is the answer, and this is to be undone: at each place by itself, and if one does not answer, what it holds
    /// ends without that.
    Answer(StoreReply, Vec<(Key, StoreCommand)>),
    /// Nobody knows whether it was carried out, and this is to be undone.
    Unknown(Vec<(Key, StoreCommand)>),
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
    /// What each place is told besides, if any operation is a claim.
    openings: Vec<(CallerBucket, Opening)>,
    proposed: Proposed,
    once: Option<Once>,
    /// What some place was asked before, of commands that charge nothing.
    remembered: Option<Box<Remembered>>,
    stage: Stage,
}

#[derive(Debug)]
struct Part {
    place: u64,
    operations: Vec<usize>,
    /// Whether it holds what it was to charge.
    holds: bool,
}

/// How far a spread command is.
#[derive(Debug)]
enum Stage {
    /// One place after the other is asked to hold its part, or of what charges nothing to carry it out.
    Asking,
    /// The home of a name is asked to remember this answer.
    Deciding(StoreReply),
    /// All places are asked to keep what they hold.
    Ending(Ending),
}

/// What is known by when all places are asked to keep what they hold.
#[derive(Debug)]
struct Ending {
    /// The answer, if all do.
    reply: StoreReply,
    /// The parts that are asked, in order.
    asked: Vec<usize>,
    /// Whether they charge anew what they do not hold any more.
    charges: bool,
    /// What is to be undone in the end.
    undo: Vec<(Key, StoreCommand)>,
}

impl Spread {
    /// How long a hold waits to be confirmed: as long as all calls until then may take. Who confirms later finds none.
    pub const HOLDS_FOR: Span = Span::secs(10);

    /// Spreads a command over the places that its keys have; `None` if that is one. `id` is a name that no other
    /// hold has. What charges nothing is carried out at each place by itself.
    pub fn new(command: &StoreCommand, place_of: impl Fn(&Key) -> u64, id: HoldId) -> Option<Self> {
        let mut parts: Vec<Part> = Vec::new();
        for (at, operation) in command.operations.iter().enumerate() {
            let place = place_of(&operation.key);
            match parts.iter_mut().find(|part| part.place == place) {
                Some(part) => part.operations.push(at),
                None => parts.push(Part { place, operations: vec![at], holds: false }),
            }
        }
        if parts.len() < 2 {
            return None;
        }
        // In one order for all: two commands over the same places do not take each other's room away.
        parts.sort_by_key(|part| part.place);
        let operations = command.operations.clone();
        let replies = vec![None; operations.len()];
        // Whoever asks again under a name finds the holds of whom the name is of.
        let id = command.once.map_or(id, |once| HoldId(once.says));
        Some(Self {
            parts,
            operations,
            id,
            asked: 0,
            refused: false,
            replies,
            first: None,
            openings: command.openings.clone(),
            proposed: command.proposed,
            once: command.once,
            remembered: None,
            stage: Stage::Asking,
        })
    }

    /// What is to be asked first.
    pub fn begin(&mut self) -> Next {
        self.next()
    }

    /// Takes the answer of the place that was asked.
    pub fn handle(&mut self, reply: StoreReply) -> Next {
        match core::mem::replace(&mut self.stage, Stage::Asking) {
            Stage::Asking => self.asked(reply),
            Stage::Deciding(whole) => self.decided(whole, reply),
            // Of many that are asked none answers alone.
            ending @ Stage::Ending(_) => {
                self.stage = ending;
                Next::Unknown(Vec::new())
            }
        }
    }

    fn asked(&mut self, reply: StoreReply) -> Next {
        let charges = self.charges();
        let before = self.undone_first().len();
        let part = &mut self.parts[self.asked];
        match reply {
            StoreReply::Done { admitted, now, epoch, operations, .. } => {
                if part.operations[0] == 0 {
                    self.first = Some((now, epoch));
                }
                part.holds = admitted;
                self.refused |= !admitted;
                for (at, reply) in part.operations.iter().zip(operations.into_iter().skip(before)) {
                    self.replies[*at] = Some(reply);
                }
                self.asked += 1;
                self.next()
            }
            StoreReply::Relabel { now, epoch, newest } => {
                let mut all = vec![Label(0); self.operations.len()];
                for (at, label) in part.operations.iter().zip(newest.into_iter().skip(before)) {
                    all[*at] = label;
                }
                let epoch = self.epoch_beside(epoch);
                Next::Answer(StoreReply::Relabel { now, epoch, newest: all }, self.undo())
            }
            reply @ StoreReply::Repeated { .. } if charges => self.repeated(reply),
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
                Next::Answer(StoreReply::OtherRequest { now, epoch }, self.undo())
            }
        }
    }

    /// The home of the name has decided on an answer, or somebody else's command was before.
    fn decided(&mut self, whole: StoreReply, reply: StoreReply) -> Next {
        match reply {
            // What it held is kept, or undone.
            StoreReply::Done { admitted: true, .. } => {
                for part in self.parts.iter_mut().filter(|part| part.operations[0] == 0) {
                    part.holds = false;
                }
                if self.refused {
                    return Next::Answer(whole, self.undo());
                }
                self.end(whole, Vec::new())
            }
            reply @ StoreReply::Repeated { .. } => self.repeated(reply),
            reply @ StoreReply::OtherRequest { .. } => Next::Answer(reply, self.undo()),
            // It has lost what it held.
            StoreReply::Done { .. } | StoreReply::Relabel { .. } => Next::Unknown(self.undo()),
        }
    }

    /// A charge under this name was decided on before: what is held for this one is undone.
    fn repeated(&mut self, reply: StoreReply) -> Next {
        let undo = self.undo();
        let StoreReply::Repeated { first, .. } = &reply else { return Next::Unknown(undo) };
        let of_other_limits = first.answer.operations.len() != self.operations.len();
        if !first.answer.admitted || of_other_limits {
            return Next::Answer(reply, undo);
        }
        let (mine, theirs) = (self.id, HoldId(first.says));
        self.id = theirs;
        for (at, (_, reply)) in first.answer.operations.iter().enumerate() {
            if let Some(terms) = &mut self.operations[at].hold {
                let is_whole = terms.id == mine;
                terms.id = if is_whole { theirs } else { Once::hold(theirs.0, at) };
            }
            self.replies[at] = Some(reply.clone());
        }
        for part in &mut self.parts {
            part.holds = part.operations[0] != 0;
        }
        self.end(reply, undo)
    }

    /// Has all places that hold something keep it.
    fn end(&mut self, reply: StoreReply, undo: Vec<(Key, StoreCommand)>) -> Next {
        let once = self.elsewhere(false);
        let confirms = |(at, part): (usize, &Part)| {
            let operations = self.ends(part, true);
            let command = |operations| self.command(part, once, operations);
            (!operations.is_empty()).then(|| (at, (self.key(part), command(operations))))
        };
        let holding = self.parts.iter().enumerate().filter(|(_, part)| part.holds);
        let (asked, commands) = holding.filter_map(confirms).unzip();
        self.stage = Stage::Ending(Ending { reply, asked, charges: false, undo });
        Next::AskAll(commands)
    }

    /// Takes the answers of all places that were asked side by side, in their order: `None` of one that has not
    /// answered.
    pub fn handle_all(&mut self, answers: Vec<Option<StoreReply>>) -> Next {
        let Stage::Ending(mut ending) = core::mem::replace(&mut self.stage, Stage::Asking) else {
            return Next::Unknown(Vec::new());
        };
        let (mut known, mut lost) = (answers.len() == ending.asked.len(), Vec::new());
        for (part, answer) in ending.asked.iter().zip(answers) {
            let operations = match answer {
                Some(StoreReply::Done { admitted: true, .. }) => continue,
                Some(StoreReply::Done { .. }) if self.once.is_some() && !ending.charges => {
                    lost.push(*part);
                    continue;
                }
                Some(StoreReply::Done { operations, .. }) if ending.charges => operations,
                Some(StoreReply::Repeated { first, .. }) if first.answer.admitted => continue,
                Some(StoreReply::Repeated { first, .. }) => {
                    first.answer.operations.into_iter().map(|(_, reply)| reply).collect()
                }
                // Who asks again does so by other labels and in time.
                _ => {
                    known = false;
                    continue;
                }
            };
            let charged: Vec<usize> = self.charged(&self.parts[*part]).collect();
            // Before them stand those that were undone.
            let of_charges = operations.len().saturating_sub(charged.len());
            let replies = charged.into_iter().zip(operations.into_iter().skip(of_charges));
            refuse(&mut ending.reply, replies);
        }
        if !known {
            return Next::Unknown(ending.undo);
        }
        if lost.is_empty() {
            return Next::Answer(ending.reply, ending.undo);
        }
        let once = self.elsewhere(true);
        let charge = |at: &usize| {
            let part = &self.parts[*at];
            let key = self.key(part);
            // What is held for this one would be in the way; to undo it twice does nothing.
            let held = ending.undo.iter().filter(|(of, _)| *of == key);
            let mut operations: Vec<_> =
                held.flat_map(|(_, command)| command.operations.clone()).collect();
            operations.extend(self.charged(part).map(|at| self.operations[at].clone()));
            (key, self.command(part, once, operations))
        };
        let commands = lost.iter().map(charge).collect();
        self.stage = Stage::Ending(Ending { asked: lost, charges: true, ..ending });
        Next::AskAll(commands)
    }

    /// What precedes the operations of the place that is asked next. A command with a name may be sent again when no
    /// answer came: what it held then would be in its own way.
    fn undone_first(&self) -> Vec<Operation> {
        let named = self.once.is_some() && self.charges();
        let part = self.parts.get(self.asked).filter(|_| named);
        let operations = part.into_iter().flat_map(|part| &part.operations);
        operations.map(|at| self.ended(*at, false)).collect()
    }

    /// By what other places than its home remember a name that was decided on.
    fn elsewhere(&self, refusals: bool) -> Option<Once> {
        self.once.map(|once| Once { refusals, ..once.elsewhere(self.id.0) })
    }

    /// Whether it charges anything, which is held until the whole is decided.
    fn charges(&self) -> bool {
        self.operations.iter().any(|o| matches!(o.action, Action::Charge { .. }))
    }

    /// The epoch of the place of the first operation, if the place that was asked has this one: of another place's
    /// epoch the whole answer must not speak. 0 where it is not known.
    fn epoch_beside(&self, epoch: StoreEpoch) -> StoreEpoch {
        let is_first = self.parts[self.asked].operations[0] == 0;
        let known = self.first.map_or(StoreEpoch(0), |(_, epoch)| epoch);
        if is_first { epoch } else { known }
    }

    /// The place that was asked has not answered; `done`: it may have carried out what it was asked. Returns whether
    /// something was carried out, or may have been, that is not undone by what is to be undone, and that, as with
    /// [`Next::Answer`]. What that place may hold nobody needs to undo.
    pub fn fail(self, done: bool) -> (bool, Vec<(Key, StoreCommand)>) {
        match self.stage {
            Stage::Asking => (self.asked > 0 && !self.charges(), self.undo()),
            Stage::Deciding(_) if !done => (false, self.undo()),
            // It may have been decided, and who asks again finds what is held.
            Stage::Deciding(_) | Stage::Ending(_) => (true, Vec::new()),
        }
    }

    fn next(&mut self) -> Next {
        if let Some(part) = self.parts.get(self.asked) {
            let mut operations = self.undone_first();
            operations.extend(part.operations.iter().map(|at| self.held(&self.operations[*at])));
            let command = self.telling(operations);
            let is_home = part.operations[0] == 0;
            // Its home is asked whether a charge was decided on before, and is told when it is.
            let once = match self.once {
                Some(once) if self.charges() => {
                    is_home.then_some(Once { kept: Span::ZERO, ..once })
                }
                once => once,
            };
            return Next::Ask(self.key(part), StoreCommand { once, ..command });
        }
        let (now, epoch) = self.first.unwrap_or((StoreTime(0), StoreEpoch(0)));
        if let Some(first) = self.remembered.take() {
            return Next::Answer(StoreReply::Repeated { now, epoch, first }, Vec::new());
        }
        let admitted = !self.refused;
        let operations = self.answered();
        let answer = Answer { admitted, operations: self.labelled(&operations) };
        let done = StoreReply::Done { admitted, now, epoch, adopted: None, operations };
        if !self.charges() {
            return Next::Answer(done, Vec::new());
        }
        match self.once.filter(|once| admitted || once.refusals) {
            Some(once) => self.decide(done, once, answer),
            None if admitted => self.end(done, Vec::new()),
            None => Next::Answer(done, self.undo()),
        }
    }

    /// Has the home of the name end what it holds, and remember the whole answer.
    fn decide(&mut self, whole: StoreReply, once: Once, answer: Answer) -> Next {
        let home = self.parts.iter().find(|part| part.operations[0] == 0);
        let Some(home) = home else { return Next::Unknown(self.undo()) };
        let operations = self.ends(home, answer.admitted);
        // That it has lost what it held is not remembered as an answer.
        let once = Some(Once { refusals: false, ..once });
        let command = self.command(home, once, operations);
        let command = StoreCommand { answer: Some(Box::new(answer)), ..command };
        let key = self.key(home);
        self.stage = Stage::Deciding(whole);
        Next::Ask(key, command)
    }

    /// What each operation is answered, when all places have answered.
    fn answered(&self) -> Vec<OperationReply> {
        let holding = self.parts.iter().filter(|part| part.holds);
        let holding: Vec<usize> = holding.flat_map(|part| part.operations.clone()).collect();
        let answered = self.replies.iter().zip(&self.operations).enumerate();
        let replies = answered.filter_map(|(at, (reply, operation))| {
            let (reply, holds) = (reply.clone()?, holding.contains(&at));
            let Action::Charge { cost } = operation.action else { return Some(reply) };
            let is_held = reply.passes && holds;
            let taken = if is_held && self.refused { cost } else { 0 };
            Some(without(reply, taken))
        });
        replies.collect()
    }

    /// The same, as it is remembered.
    fn labelled(&self, replies: &[OperationReply]) -> Vec<(Label, OperationReply)> {
        let each = self.operations.iter().zip(replies);
        each.map(|(o, reply)| (o.label, OperationReply { holding: None, ..reply.clone() }))
            .collect()
    }

    /// A command of operations that may be claims.
    fn telling(&self, operations: Vec<Operation>) -> StoreCommand {
        let (openings, proposed) = (self.openings.clone(), self.proposed);
        StoreCommand { openings, proposed, ..StoreCommand::new(operations) }
    }

    /// What a place is asked to carry out, once; a name is remembered beside the part's first operation.
    fn command(
        &self,
        part: &Part,
        once: Option<Once>,
        mut operations: Vec<Operation>,
    ) -> StoreCommand {
        let is_first = |operation: &Operation| operation.key == self.key(part);
        if once.is_some() && !operations.first().is_some_and(is_first) {
            // It holds nothing, and so nothing is done.
            operations.insert(0, self.ended(part.operations[0], false));
        }
        StoreCommand { once, ..self.telling(operations) }
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

    /// Which operations of a part have charged something.
    fn charged(&self, part: &Part) -> impl Iterator<Item = usize> {
        part.operations.iter().copied().filter(|at| {
            let passed = self.replies[*at].as_ref().is_some_and(|reply| reply.passes);
            passed && matches!(self.operations[*at].action, Action::Charge { .. })
        })
    }

    /// How what a part holds ends.
    fn ends(&self, part: &Part, confirmed: bool) -> Vec<Operation> {
        self.charged(part).map(|at| self.ended(at, confirmed)).collect()
    }

    /// How what an operation holds ends.
    fn ended(&self, at: usize, confirmed: bool) -> Operation {
        let operation = &self.operations[at];
        let (id, lapse) = (self.id, Lapse::Undone);
        let terms = operation.hold.unwrap_or(Terms { id, lasts: Span::ZERO, lapse });
        let undone = Terms { lapse, ..terms };
        Operation {
            action: if confirmed { Action::Confirm } else { Action::Settle { keep: 0 } },
            enforce: confirmed,
            hold: Some(if confirmed { terms } else { undone }),
            // The record may have moved on; what is known of a label by now is another's.
            floor: Counts::default(),
            rule: operation.rule.without_floor(),
            claim: None,
            ..operation.clone()
        }
    }

    /// What is undone at each place that holds something.
    fn undo(&self) -> Vec<(Key, StoreCommand)> {
        let of = |part: &Part| {
            let operations = self.ends(part, false);
            (!operations.is_empty()).then(|| (self.key(part), StoreCommand::new(operations)))
        };
        self.parts.iter().filter(|part| part.holds).filter_map(of).collect()
    }
}

/// Turns an answer into a refusal by operations that have had no room when they were charged anew.
fn refuse(answer: &mut StoreReply, replies: impl Iterator<Item = (usize, OperationReply)>) {
    match answer {
        StoreReply::Done { admitted, operations, .. } => {
            *admitted = false;
            replies.for_each(|(at, reply)| operations[at] = reply);
        }
        StoreReply::Repeated { first, .. } => {
            first.answer.admitted = false;
            replies.for_each(|(at, reply)| first.answer.operations[at].1 = reply);
        }
        StoreReply::Relabel { .. } | StoreReply::OtherRequest { .. } => {}
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
