//! Refunds: what a check was charged and did not need is given back, in the window that it was charged in.
//!
//! The session that admitted gives back, in its own slot, and no more than it has admitted: so a slot has one
//! writer here too, and peers hear of it like of any change, whether they knew of the admission or not. The store
//! does it in a step of its own: floors bring no refunds, for nodes know different parts of what was given back.
//! A step whose answer is lost is not repeated, lest it be carried out twice: then the region has less than it
//! could have, until the window ends.
//!
//! Rights never travel by refunds: what is given back is what the region holds and has not spent.

use alloc::vec::Vec;

use super::{Engine, Outcome};
use crate::{
    check::{
        Charged,
        plan::{self, LabelBounds},
    },
    counts::Tick,
    guard::{Guard, Guarding},
    ids::Key,
    policy::{Algorithm, Limit, PolicySet},
    store::{Action, CallerBucket, Counts, Operation, StoreCommand, StoreReply},
    time::{Label, Mono},
};

/// What a refunding command waits for: give it back to [`Engine::handle_refunded`], exactly once.
#[derive(Debug)]
#[must_use = "a refunding command's ticket must be given back, or what was lost is not counted"]
pub struct RefundTicket {
    asked_at: Mono,
    /// Which of the store's buckets its callers are in.
    bucket: CallerBucket,
    /// What is given back, in the order of the command's operations.
    amounts: Vec<u64>,
}

/// Refunds since the start, in units of cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RefundStats {
    /// Given back.
    pub given: u64,
    /// Not given back: the window is over and the one after it too, or this session has not admitted so much in it.
    pub late: u64,
    /// Given back in the counts, while the store did not say that it had heard of it: the own region cannot spend
    /// it again in this window.
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
        let (mut given, mut operations, mut amounts) = (Vec::new(), Vec::new(), Vec::new());
        let cluster = self.cluster_time(now);
        for Charged { key, label, cost } in charged.iter().copied() {
            let found = policies.limit(key.limit);
            let current = found.map(|(_, limit)| limit.window.label_at(cluster));
            let Some((policy, limit)) = found.filter(|_| current <= Some(label.next())) else {
                given.push(0);
                continue;
            };
            let known = self.known(key, label);
            let amount = self.refund_slot(now, key, label, cost);
            given.push(amount);
            // Of a label that is over nothing could be spent again, unless it still counts.
            let counts = limit.algorithm != Algorithm::FixedWindow || current <= Some(label);
            if amount > 0 && counts {
                let floor = plan::floor(policy, limit, &known);
                operations.push(self.refunding(now, limit, (key, label), floor, amount));
                amounts.push(amount);
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
        let first = operations.first();
        let bucket = first.map_or(CallerBucket::ALL, |first| self.bucket_of(first.key.caller));
        let ticket = RefundTicket { asked_at: now, bucket, amounts };
        let told = !operations.is_empty();
        (given, told.then(|| (self.command_with_claims(now, operations), ticket)))
    }

    /// Gives back in this session's slot, as far as it has admitted as much. Returns how much.
    pub(super) fn refund_slot(&self, now: Mono, key: Key, label: Label, amount: u64) -> u64 {
        self.with_shard(key, |shard| {
            let given = shard.refund_own(key, label, amount, Tick::of(now));
            if let Some(forecast) = shard.watched.touch(&key, now) {
                forecast.handle_refund(label, given);
            }
            given
        })
    }

    /// What the store is told of a refund. `floor` is of before.
    pub(super) fn refunding(
        &self,
        now: Mono,
        limit: &Limit,
        (key, label): (Key, Label),
        floor: Counts,
        amount: u64,
    ) -> Operation {
        let (clock, shows) = self.clock.with(|clock| (clock.relation(now), clock.store_time(now)));
        let bounds = LabelBounds::of(limit.window, label, clock).of_limit(limit);
        let claim = limit.has_rights().then(|| {
            let config = self.config_sight(now);
            self.with_shard(key, |shard| self.claim(shard, key, limit, label, &config)).into()
        });
        Operation {
            key,
            action: Action::Refund { amount },
            label,
            not_before: bounds.not_before,
            not_after: bounds.not_after.min(self.call_ends(shows)),
            ceiling: 0,
            floor,
            enforce: false,
            expires: bounds.expires,
            claim,
            rule: limit.rule(bounds.starts, 0),
            hold: None,
        }
    }

    /// Takes what became of a refunding command.
    #[expect(clippy::needless_pass_by_value, reason = "a ticket is given back once")]
    pub fn handle_refunded(&self, now: Mono, ticket: RefundTicket, outcome: &Outcome) {
        let heard = |at: usize| {
            let Outcome::Reply(StoreReply::Done { operations, .. }) = outcome else { return false };
            operations.get(at).is_some_and(|operation| operation.passes)
        };
        let amounts = ticket.amounts.iter().enumerate();
        let lost: u64 = amounts.filter(|(at, _)| !heard(*at)).map(|(_, amount)| *amount).sum();
        self.upkeep.with(|upkeep| upkeep.refunds.lost += lost);
        let Outcome::Reply(reply) = outcome else { return };
        self.handle_epoch(now, ticket.bucket, reply.epoch());
        if let StoreReply::Done { adopted, now: reading, .. } = reply {
            self.handle_adopted(now, adopted.as_ref());
            self.clock.with(|clock| clock.handle_store(ticket.asked_at, now, *reading));
        }
    }
}
