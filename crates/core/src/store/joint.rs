//! Checks that ask the same records at the same time, in one command: it takes what all of them cost.
//!
//! If all of it has room, all are admitted, each as if they had come one after the other at that instant. If not, those
//! are refused of whom the answer says that there is no room for them alone, and of the others as many are asked for as
//! there seems to be room for. So each is decided as if all had come at that time in some order, and nothing is charged
//! that was not admitted.

use alloc::{boxed::Box, collections::VecDeque, vec::Vec};

use super::{Action, COUNT_MAX, Counts, Operation, OperationReply, StoreCommand, StoreReply};
use crate::algorithm::{Bucket, Rule};

/// Commands that are asked together, each with what whoever waits for it is known by.
#[derive(Debug)]
pub struct Joint<T> {
    waiting: VecDeque<(StoreCommand, T)>,
    /// How many of them are asked for next, 1 or more.
    size: usize,
    /// How often was asked.
    calls: usize,
    /// Whether the last that was asked for had no room.
    refused: bool,
}

impl<T> Joint<T> {
    /// Commands that wait together, at most.
    pub const COMMANDS_MAX: usize = 1_024;
    /// How often is asked for them at most; usually once or twice. Only others than fixed windows, asked for at
    /// different costs while they are used up, need more: each cost has another time to wait for.
    pub const CALLS_MAX: usize = 16;

    /// Of one command that [may be](may_be_joint) asked with others. `cautious`: the last one like it was refused, so
    /// that there is hardly room for many.
    pub fn new(command: StoreCommand, tag: T, cautious: bool) -> Self {
        let size = if cautious { 1 } else { usize::MAX };
        Self { waiting: [(command, tag)].into(), size, calls: 0, refused: cautious }
    }

    /// Takes one more that [may be](may_be_joint), unless it asks of other records or otherwise, or there are
    /// [`COMMANDS_MAX`](Self::COMMANDS_MAX).
    ///
    /// # Errors
    ///
    /// The command, which was not taken.
    pub fn join(&mut self, command: StoreCommand, tag: T) -> Result<(), Box<(StoreCommand, T)>> {
        let like = |(first, _): &(StoreCommand, T)| {
            let pairs = || first.operations.iter().zip(&command.operations);
            first.operations.len() == command.operations.len()
                && pairs().all(|(a, b)| a.key == b.key && a.label == b.label && is_like(a, b))
        };
        if self.waiting.len() < Self::COMMANDS_MAX && self.waiting.front().is_some_and(like) {
            self.waiting.push_back((command, tag));
            Ok(())
        } else {
            Err(Box::new((command, tag)))
        }
    }

    /// How many are not answered yet.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether all are answered.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether the last that was asked for had no room.
    pub const fn was_refused(&self) -> bool {
        self.refused
    }

    /// What is to be asked next; `None` if all are answered, or [`CALLS_MAX`](Self::CALLS_MAX) calls were not enough:
    /// then [`rest`](Self::rest) has the others.
    pub fn to_ask(&mut self) -> Option<StoreCommand> {
        if self.calls >= Self::CALLS_MAX {
            return None;
        }
        self.calls += 1;
        self.size = self.size.clamp(1, self.waiting.len().max(1));
        let all = || self.waiting.iter().map(|(command, _)| command);
        // The last one was planned last, or nearly so.
        let mut joint = all().take(self.size).next_back()?.clone();
        for (at, operation) in joint.operations.iter_mut().enumerate() {
            let each = || all().filter_map(|command| command.operations.get(at));
            let asked = || each().take(self.size);
            let cost = asked().map(cost_of).sum::<u64>().min(COUNT_MAX);
            operation.action = Action::Charge { cost };
            operation.ceiling = asked().map(|o| o.ceiling).min().unwrap_or(operation.ceiling);
            // What any of them knows is a fact, also where it is not asked for now.
            operation.floor = each().fold(Counts::default(), |floor, o| floor.max(o.floor));
            let before = each().filter_map(|o| o.rule.label().map(|label| label.before)).max();
            operation.rule = operation.rule.with_floor(before.unwrap_or(0));
            operation.expires = each().fold(operation.expires, |at, o| at.max(o.expires));
            // Whoever was planned last is waited for the longest.
            operation.not_after = each().fold(operation.not_after, |at, o| at.max(o.not_after));
        }
        Some(joint)
    }

    /// Takes what was answered to that, and returns those that are answered by it, which wait no longer: perhaps none.
    pub fn handle(&mut self, reply: &StoreReply) -> Vec<(T, StoreReply)> {
        let StoreReply::Done { admitted, operations, .. } = reply else {
            return self.waiting.drain(..).map(|(_, tag)| (tag, reply.clone())).collect();
        };
        self.refused = !admitted;
        let mut answers = Vec::new();
        if *admitted {
            let asked = self.size.min(self.waiting.len());
            let (commands, tags): (Vec<_>, Vec<_>) = self.waiting.drain(..asked).unzip();
            answers.extend(tags.into_iter().zip(in_turn(&commands, reply)));
        }
        let refusal: &dyn Fn(&StoreCommand) -> Option<StoreReply>;
        let (by_counts, as_first);
        if self.waiting.iter().all(|(command, _)| is_by_counts(command)) {
            by_counts = |command: &StoreCommand| refused_by_counts(command, reply);
            refusal = &by_counts;
        } else if !admitted && self.size == 1 {
            let first = self.waiting.front().map(|(command, _)| command.clone());
            as_first = move |command: &StoreCommand| {
                first.as_ref().filter(|first| asks_as_much(first, command)).map(|_| reply.clone())
            };
            refusal = &as_first;
        } else {
            refusal = &|_| None;
        }
        let mut left = VecDeque::with_capacity(self.waiting.len());
        for (command, tag) in self.waiting.drain(..) {
            match refusal(&command) {
                Some(refused) => answers.push((tag, refused)),
                None => left.push_back((command, tag)),
            }
        }
        self.waiting = left;
        let fitting = self.put_first_what_fits(operations);
        self.size = if *admitted { fitting } else { fitting.min(self.size / 2) };
        answers
    }

    /// No answer will come: all that wait, and do so no longer, are to be told.
    pub fn give_up(&mut self) -> Vec<T> {
        self.waiting.drain(..).map(|(_, tag)| tag).collect()
    }

    /// Those that are to be asked otherwise.
    pub fn rest(self) -> impl Iterator<Item = (StoreCommand, T)> {
        self.waiting.into_iter()
    }

    /// Puts those first for whom there seems to be room together, as limits were answered to stand: one after the other,
    /// without those for whom there is none beside the ones before. Returns how many they are.
    fn put_first_what_fits(&mut self, replies: &[OperationReply]) -> usize {
        // Of each limit: what is used, and the lowest ceiling so far.
        let mut stands: Vec<(u64, u64)> = replies.iter().map(|r| (used(r), u64::MAX)).collect();
        let mut fits = |command: &StoreCommand| {
            let each = command.operations.iter().zip(replies).zip(&stands);
            let after = each.map(|((operation, reply), (used, lowest))| {
                let used = used.saturating_add(cost_of(operation));
                (used, most(operation, reply).min(*lowest))
            });
            let after: Vec<_> = after.collect();
            let has_room = after.iter().all(|(used, lowest)| used <= lowest);
            if has_room {
                stands = after;
            }
            has_room
        };
        let (first, others): (VecDeque<_>, VecDeque<_>) =
            self.waiting.drain(..).partition(|(command, _)| fits(command));
        let count = first.len();
        self.waiting = first;
        self.waiting.extend(others);
        count
    }
}

/// Whether a command may be asked together with others: it charges by limits that are enforced, each its own record, and
/// holds nothing, has no name, and waits for nothing.
pub fn may_be_joint(command: &StoreCommand) -> bool {
    let may_join = |operation: &Operation| {
        let by_count = match operation.rule {
            Rule::Concurrency | Rule::Bucket(_, Bucket { shapes: true, .. }) => false,
            Rule::FixedWindow | Rule::SlidingWindow(_) | Rule::SlidingLog(_) | Rule::Bucket(..) => {
                true
            }
        };
        let charges = matches!(operation.action, Action::Charge { .. });
        by_count && charges && operation.enforce && operation.hold.is_none()
    };
    let operations = &command.operations;
    let twice =
        |(at, one): (usize, &Operation)| operations[..at].iter().any(|other| other.key == one.key);
    command.once.is_none()
        && !operations.is_empty()
        && operations.iter().all(may_join)
        && !operations.iter().enumerate().any(twice)
}

/// Whether two operations on one record count by the same rule, and under rights up to the same bounds: each node sees
/// to it that what it is answered was its own to spend.
fn is_like(one: &Operation, other: &Operation) -> bool {
    match (&one.rule, &other.rule) {
        (Rule::SlidingWindow(a), Rule::SlidingWindow(b))
        | (Rule::SlidingLog(a), Rule::SlidingLog(b)) => a.length == b.length,
        (Rule::Bucket(a, one), Rule::Bucket(b, other)) => a.length == b.length && one == other,
        (Rule::FixedWindow, Rule::FixedWindow) => {
            let bounds = |o: &Operation| o.claim.as_ref().map(|c| (c.allowance, c.bound));
            bounds(one) == bounds(other)
        }
        _ => false,
    }
}

fn cost_of(operation: &Operation) -> u64 {
    match operation.action {
        Action::Charge { cost } => cost,
        _ => 0,
    }
}

/// What counts as used, as a limit was answered to stand.
fn used(reply: &OperationReply) -> u64 {
    reply.weighed.map_or(reply.counts.net(), |weighed| weighed.used)
}

/// Up to where it may be used.
fn most(operation: &Operation, reply: &OperationReply) -> u64 {
    match (&reply.holding, &operation.claim) {
        (Some(holding), Some(claim)) => holding.held().saturating_add(claim.allowance),
        _ => operation.ceiling,
    }
}

/// Whether counts and ceilings alone decide.
fn is_by_counts(command: &StoreCommand) -> bool {
    command.operations.iter().all(|o| o.rule == Rule::FixedWindow && o.claim.is_none())
}

/// What a command is answered for which there is no room as limits stand, if so; of limits that counts alone decide.
fn refused_by_counts(command: &StoreCommand, stands: &StoreReply) -> Option<StoreReply> {
    let mut reply = stands.clone();
    let StoreReply::Done { admitted, operations, .. } = &mut reply else { return None };
    for (operation, reply) in command.operations.iter().zip(operations.iter_mut()) {
        let after = reply.counts.net().saturating_add(cost_of(operation));
        reply.passes = after <= operation.ceiling;
    }
    *admitted = false;
    operations.iter().any(|reply| !reply.passes).then_some(reply)
}

/// Whether a command has no room for the same reason as another, and as long.
fn asks_as_much(first: &StoreCommand, other: &StoreCommand) -> bool {
    let mut pairs = first.operations.iter().zip(&other.operations);
    pairs.all(|(a, b)| cost_of(a) == cost_of(b) && a.ceiling == b.ceiling && a.claim == b.claim)
}

/// What each of them would have been answered, had they come one after the other. Only until nothing counts any more
/// is said as after the last.
fn in_turn(answered: &[StoreCommand], all: &StoreReply) -> Vec<StoreReply> {
    let mut replies: Vec<_> = answered.iter().map(|_| all.clone()).collect();
    let mut later: Vec<u64> = Vec::new();
    for (command, reply) in answered.iter().zip(&mut replies).rev() {
        let StoreReply::Done { operations, .. } = reply else { continue };
        later.resize(operations.len(), 0);
        for ((operation, reply), later) in command.operations.iter().zip(operations).zip(&mut later)
        {
            reply.counts.used = reply.counts.used.saturating_sub(*later);
            if let Some(weighed) = &mut reply.weighed {
                weighed.used = weighed.used.saturating_sub(*later);
            }
            *later += cost_of(operation);
        }
    }
    replies
}
