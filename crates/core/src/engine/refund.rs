//! Refunds: what a check was charged and did not need is given back, in the window that it was charged in.
//!
//! The session that admitted gives back, in its own slot, and no more than it has admitted: so a slot has one
//! writer here too, and peers hear of it like of any change, whether they knew of the admission or not. What
//! the store is told depends on what decides there. Of most limits that is a floor, which may be told any number
//! of times. What is spent by rights only a step of the store can give back: floors of several nodes do not add
//! up to what was given back, and one that is larger than it should be would be spent again. A step whose answer
//! is lost is not repeated: then the region has less than it could have.
//!
//! Rights never travel by refunds: what is given back is what the region holds and has not spent.

use alloc::{boxed::Box, vec::Vec};

use super::{Engine, Outcome};
use crate::{
    check::plan::LabelBounds,
    counts::Tick,
    guard::{Guard, Guarding},
    ids::Key,
    policy::{Limit, PolicySet},
    store::{Action, Operation, StoreCommand, StoreReply},
    time::{Label, Mono},
};

/// What a check of this node was charged of one limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charged {
    /// Of whom, by which limit.
    pub key: Key,
    /// In which window.
    pub label: Label,
    /// How much of it is given back.
    pub cost: u64,
}

/// What a refunding command waits for: give it back to [`Engine::handle_refunded`], exactly once.
#[derive(Debug)]
#[must_use = "a refunding command's ticket must be given back, or what was lost is not counted"]
pub struct RefundTicket {
    asked_at: Mono,
    /// What only the step gives back, in the order of the command's operations.
    steps: Vec<u64>,
}

/// Refunds since the start, in units of cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RefundStats {
    /// Given back.
    pub given: u64,
    /// Not given back: the window is forgotten, or this session has not admitted so much in it.
    pub late: u64,
    /// Given back in the counts, while the store of a limit under rights did not say that it had heard of it:
    /// the region cannot spend it again in this window.
    pub lost: u64,
}

impl<G: Guarding> Engine<G> {
    /// Gives back what checks of this node were charged, and returns how much of each: no more than this session
    /// has admitted of it, and nothing of a label before the previous one. It counts from then on; have the store
    /// carry out the command, if there is one, then call [`handle_refunded`](Self::handle_refunded).
    pub fn refund(
        &self,
        policies: &PolicySet,
        now: Mono,
        charged: &[Charged],
    ) -> (Vec<u64>, Option<(StoreCommand, RefundTicket)>) {
        let (mut given, mut operations, mut steps) = (Vec::new(), Vec::new(), Vec::new());
        let cluster = self.cluster_time(now);
        for charged in charged {
            let Charged { key, label, cost } = *charged;
            let amount =
                self.with_shard(key, |shard| shard.refund_own(key, label, cost, Tick::of(now)));
            given.push(amount);
            let limit = policies.limit(key.limit).map(|(_, limit)| limit);
            let Some(limit) = limit.filter(|_| amount > 0) else { continue };
            // Rights end with their label: of one that is over nothing could be spent again.
            if !limit.has_rights() || label >= limit.window.label_at(cluster) {
                operations.push(self.refunding(now, limit, key, label, amount));
                steps.push(if limit.has_rights() { amount } else { 0 });
            }
        }
        let wanted: u64 = charged.iter().map(|charged| charged.cost).sum();
        let sum = given.iter().sum();
        self.upkeep.with(|upkeep| {
            upkeep.refunds.given += sum;
            upkeep.refunds.late += wanted.saturating_sub(sum);
        });
        if sum > 0 {
            self.pace.note_change(now, self.settings.gossip);
        }
        let ticket = RefundTicket { asked_at: now, steps };
        let told = !operations.is_empty();
        (given, told.then(|| (self.command_with_claims(now, operations), ticket)))
    }

    /// What the store is told of a refund.
    fn refunding(
        &self,
        now: Mono,
        limit: &Limit,
        key: Key,
        label: Label,
        amount: u64,
    ) -> Operation {
        let clock = self.clock.with(|clock| clock.relation(now));
        let shows = self.clock.with(|clock| clock.store_time(now));
        let bounds = |label: Label| {
            LabelBounds::of(limit.window, label, clock).with_rights(limit.has_rights())
        };
        // Of the label before nothing is spent any more, but what was used of it is still told.
        let (own, next) = (bounds(label), bounds(label.next()));
        let mut operation = Operation {
            key,
            action: Action::Heal,
            label,
            not_before: own.not_before,
            not_after: next.not_after,
            ceiling: 0,
            floor: self.known(key, label).own_region(),
            enforce: false,
            expires: own.expires,
            claim: None,
        };
        if limit.has_rights() {
            let config = self.config_sight(now);
            let claim = self.with_shard(key, |shard| self.claim(shard, key, limit, label, &config));
            operation.action = Action::Refund { amount };
            operation.floor.refunded = 0;
            operation.not_after = own.not_after.min(self.call_ends(shows));
            operation.claim = Some(Box::new(claim));
        }
        operation
    }

    /// Takes what became of a refunding command.
    #[expect(clippy::needless_pass_by_value, reason = "a ticket is given back once")]
    pub fn handle_refunded(&self, now: Mono, ticket: RefundTicket, outcome: &Outcome) {
        let heard = |at: usize| {
            let Outcome::Reply(StoreReply::Done { operations, .. }) = outcome else { return false };
            operations.get(at).is_some_and(|operation| operation.passes)
        };
        let steps = ticket.steps.iter().enumerate();
        let lost: u64 = steps.filter(|(at, _)| !heard(*at)).map(|(_, amount)| *amount).sum();
        self.upkeep.with(|upkeep| upkeep.refunds.lost += lost);
        let Outcome::Reply(reply) = outcome else { return };
        self.handle_epoch(now, reply.epoch());
        if let StoreReply::Done { adopted, now: reading, .. } = reply {
            self.handle_adopted(now, adopted.as_ref());
            self.clock.with(|clock| clock.handle_store(ticket.asked_at, now, *reading));
        }
    }
}
