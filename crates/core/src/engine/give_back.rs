//! What callers give back of a check without a reservation: they say who they are, how much, and in which window.
//!
//! Any node takes it. The store gives it back as far as the region has used as much; this session's slot only as far
//! as this session has admitted it, since a slot has one writer. Other regions hear of no more than that.

use alloc::vec::Vec;

use super::{Engine, Outcome, Settled};
use crate::{
    check::{Charged, Subject, plan},
    guard::{Guard, Guarding},
    ids::{CallerHasher, Key, RequestName, Secret},
    policy::{Algorithm, PolicySet},
    store::{Once, StoreCommand, StoreReply},
    time::{Label, Mono, Span},
};

/// What such a command waits for: give it back to [`Engine::handle_given_back`], exactly once.
#[derive(Debug)]
#[must_use = "what the store gave back is told to others only if the ticket is given back"]
pub struct GiveBackTicket {
    asked_at: Mono,
    charged: Vec<Charged>,
}

impl<G: Guarding> Engine<G> {
    /// Plans to give back what a subject was charged in a window, under every limit that calls it so and still knows
    /// it: the current one or the one before. `name` is as in [`Manner`](crate::check::Manner). `None` if there is no
    /// such limit; nothing is to be done then.
    pub fn plan_give_back(
        &self,
        policies: &PolicySet,
        secret: &Secret,
        now: Mono,
        subject: &Subject<'_>,
        label: Label,
        name: Option<(&str, Span)>,
    ) -> Option<(StoreCommand, GiveBackTicket)> {
        let cluster = self.cluster_time(now);
        let cost = subject.cost;
        let (mut charged, mut operations) = (Vec::new(), Vec::new());
        for policy in policies.matching(subject.attributes) {
            let caller = policy.caller(secret, subject.attributes);
            for limit in &policy.limits {
                let current = limit.window.label_at(cluster);
                let is_known = current == label || current == label.next();
                if !is_known || limit.algorithm == Algorithm::Concurrency {
                    continue;
                }
                let key = Key { caller, limit: limit.id };
                let known = self.with_shard(key, |shard| shard.known(key, label));
                let floor = plan::floor(policy, limit, &known);
                operations.push(self.refunding(now, limit, (key, label), floor, cost));
                charged.push(Charged { key, label, cost });
            }
        }
        let first = charged.first()?.key.caller;
        operations.truncate(plan::LIMITS_MAX);
        charged.truncate(plan::LIMITS_MAX);
        let once = name.map(|(name, kept)| {
            let hasher = CallerHasher::new(secret).part("what is given back");
            let of = hasher.numbers(&[cost, label.0]).finish();
            let id = RequestName::of(secret, name, first);
            Once { id, of: of.0[0] >> 11, says: 0, kept, refusals: true }
        });
        let command = StoreCommand { once, ..self.command_with_claims(now, operations) };
        Some((command, GiveBackTicket { asked_at: now, charged }))
    }

    /// Takes what became of it.
    #[expect(clippy::needless_pass_by_value, reason = "a ticket is given back once")]
    pub fn handle_given_back(
        &self,
        now: Mono,
        ticket: GiveBackTicket,
        outcome: &Outcome,
    ) -> GivenBack {
        let Outcome::Reply(reply) = outcome else {
            return GivenBack::Settled(Settled::Unanswered);
        };
        if let Some(first) = ticket.charged.first() {
            self.handle_epoch(now, self.bucket_of(first.key.caller), reply.epoch());
        }
        match reply {
            StoreReply::Done { operations, adopted, now: reading, .. } => {
                self.handle_adopted(now, adopted.as_ref());
                self.clock.with(|clock| clock.handle_store(ticket.asked_at, now, *reading));
                let done = ticket.charged.iter().zip(operations).filter(|(_, reply)| reply.passes);
                let done: Vec<_> = done.map(|(charged, _)| *charged).collect();
                for Charged { key, label, cost } in &done {
                    let amount = self.refund_slot(now, *key, *label, *cost);
                    self.upkeep.with(|upkeep| upkeep.refunds.given += amount);
                }
                self.pace.note_change(now, self.settings.gossip);
                let none = done.is_empty();
                GivenBack::Settled(if none { Settled::Unknown } else { Settled::Charged(0) })
            }
            StoreReply::Repeated { .. } => GivenBack::Settled(Settled::Charged(0)),
            StoreReply::Relabel { .. } => GivenBack::Settled(Settled::Unknown),
            StoreReply::OtherRequest { .. } => GivenBack::OtherRequest,
        }
    }
}

/// What became of giving back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenBack {
    /// As with a reservation.
    Settled(Settled),
    /// Something else was asked for under its name.
    OtherRequest,
}
