//! Checks that ask the same records at the same time, in one command: it takes what all of them cost.
//!
//! If all of it has room, all are admitted, each as if they had come one after the other at that instant. If not, fewer
//! are asked for, down to one alone, whose refusal is that of all that ask for as much. So nobody is decided otherwise
//! than alone, and nothing is charged that was not admitted.

use alloc::{boxed::Box, collections::VecDeque, vec::Vec};

use super::{Action, COUNT_MAX, Operation, OperationReply, StoreCommand, StoreReply};
use crate::algorithm::{Bucket, Rule};

/// Commands that are asked together; what is answered is theirs in the order in which they came.
#[derive(Debug)]
pub struct Joint {
    waiting: VecDeque<StoreCommand>,
    /// How many of them are asked for next, 1 or more.
    size: usize,
    /// Whether the last that was asked for had no room.
    refused: bool,
}

impl Joint {
    /// Commands that wait together, at most.
    pub const COMMANDS_MAX: usize = 1_024;

    /// Whether a command may be asked together with others: it charges by limits that are enforced, each its own record,
    /// and holds nothing, has no name, and waits for nothing.
    pub fn may_be(command: &StoreCommand) -> bool {
        let may_join = |operation: &Operation| {
            let by_count = match operation.rule {
                Rule::Concurrency | Rule::Bucket(_, Bucket { shapes: true, .. }) => false,
                Rule::FixedWindow
                | Rule::SlidingWindow(_)
                | Rule::SlidingLog(_)
                | Rule::Bucket(..) => true,
            };
            let charges = matches!(operation.action, Action::Charge { .. });
            by_count && charges && operation.enforce && operation.hold.is_none()
        };
        let operations = &command.operations;
        let twice = |(at, one): (usize, &Operation)| {
            operations[..at].iter().any(|other| other.key == one.key)
        };
        command.once.is_none()
            && !operations.is_empty()
            && operations.iter().all(may_join)
            && !operations.iter().enumerate().any(twice)
    }

    /// Of one command that [may be](Self::may_be). `cautious`: the last one like it was refused, so that there is
    /// hardly room for many.
    pub fn new(command: StoreCommand, cautious: bool) -> Self {
        Self {
            waiting: [command].into(),
            size: if cautious { 1 } else { usize::MAX },
            refused: cautious,
        }
    }

    /// Takes one more that [may be](Self::may_be), unless it asks of other records or otherwise, or there are
    /// [`COMMANDS_MAX`](Self::COMMANDS_MAX).
    ///
    /// # Errors
    ///
    /// The command, which was not taken.
    pub fn join(&mut self, command: StoreCommand) -> Result<(), Box<StoreCommand>> {
        let like = |first: &StoreCommand| {
            let pairs = || first.operations.iter().zip(&command.operations);
            first.operations.len() == command.operations.len()
                && pairs().all(|(a, b)| a.key == b.key && a.label == b.label && is_like(a, b))
        };
        if self.waiting.len() < Self::COMMANDS_MAX && self.waiting.front().is_some_and(like) {
            self.waiting.push_back(command);
            Ok(())
        } else {
            Err(Box::new(command))
        }
    }

    /// Whether the last that was asked for had no room.
    pub const fn was_refused(&self) -> bool {
        self.refused
    }

    /// What is to be asked next; `None` if all are answered.
    pub fn to_ask(&mut self) -> Option<StoreCommand> {
        self.size = self.size.clamp(1, self.waiting.len().max(1));
        let asked = || self.waiting.iter().take(self.size);
        // The last one knows best how it stands.
        let mut joint = asked().next_back()?.clone();
        for (at, operation) in joint.operations.iter_mut().enumerate() {
            let each = || asked().filter_map(|command| command.operations.get(at));
            let cost = each().map(cost_of).sum::<u64>().min(COUNT_MAX);
            operation.action = Action::Charge { cost };
            operation.ceiling = each().map(|o| o.ceiling).min().unwrap_or(operation.ceiling);
            operation.floor = each().fold(operation.floor, |floor, o| floor.max(o.floor));
        }
        Some(joint)
    }

    /// Takes what was answered to that, and returns the answers of those that are answered by it, which wait no longer:
    /// perhaps of none.
    pub fn handle(&mut self, reply: &StoreReply) -> Vec<StoreReply> {
        let StoreReply::Done { admitted, operations, .. } = reply else {
            return self.waiting.drain(..).map(|_| reply.clone()).collect();
        };
        self.refused = !admitted;
        let room = self.room_beside(operations);
        if *admitted {
            let answered: Vec<_> =
                self.waiting.drain(..self.size.min(self.waiting.len())).collect();
            self.size = room;
            return in_turn(&answered, reply);
        }
        if self.size > 1 {
            self.size = room.min(self.size / 2);
            return Vec::new();
        }
        let Some(first) = self.waiting.pop_front() else { return Vec::new() };
        // Who asks for as much or more, by a ceiling that is no higher. Others than counts would say another time to
        // wait for.
        let as_much = |other: &StoreCommand| {
            let mut pairs = first.operations.iter().zip(&other.operations).zip(operations);
            pairs.all(|((a, b), reply)| {
                let more = cost_of(b) >= cost_of(a) && b.ceiling <= a.ceiling;
                let refused = a.rule == Rule::FixedWindow && !reply.passes && more;
                let same = cost_of(a) == cost_of(b) && a.ceiling == b.ceiling;
                (same || refused) && a.claim == b.claim
            })
        };
        let mut answers = Vec::from([reply.clone()]);
        while self.waiting.front().is_some_and(as_much) {
            self.waiting.pop_front();
            answers.push(reply.clone());
        }
        answers
    }

    /// No answer will come: all that wait, and do so no longer, are to be told. Returns how many.
    pub fn give_up(&mut self) -> usize {
        self.waiting.drain(..).count()
    }

    /// For how many of those behind the ones that were asked for there seems to be room.
    fn room_beside(&self, replies: &[OperationReply]) -> usize {
        let admitted = if self.refused { 0 } else { self.size };
        let left = || self.waiting.iter().skip(admitted);
        let rooms = replies.iter().enumerate().map(|(at, reply)| {
            let net = reply.counts.net();
            let each = || left().filter_map(move |command| command.operations.get(at));
            let most = each().map(|o| o.ceiling).min().unwrap_or(0);
            let room = match (&reply.holding, &reply.weighed) {
                (Some(holding), _) => holding.held().saturating_sub(net),
                (None, Some(weighed)) => most.saturating_sub(weighed.used),
                (None, None) => most.saturating_sub(net),
            };
            let mut sum = 0_u64;
            each()
                .take_while(|operation| {
                    sum = sum.saturating_add(cost_of(operation));
                    sum <= room
                })
                .count()
        });
        rooms.min().unwrap_or(0)
    }
}

/// Whether two operations on one record count by the same rule, and under rights up to the same bounds: each node sees
/// to it that what it is answered was its own to spend.
fn is_like(one: &Operation, other: &Operation) -> bool {
    match (&one.rule, &other.rule) {
        (Rule::SlidingWindow(a), Rule::SlidingWindow(b))
        | (Rule::SlidingLog(a), Rule::SlidingLog(b)) => a.length == b.length,
        (Rule::Bucket(a, one), Rule::Bucket(b, other)) => a.length == b.length && one == other,
        (Rule::FixedWindow, Rule::FixedWindow) => {
            let bounds =
                |o: &Operation| o.claim.as_ref().map(|claim| (claim.allowance, claim.bound));
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
