//! Healing: when the store has begun a new epoch, what this node knows is written into it.
//!
//! The floors of checks heal a store too, but each only its own key, and only by what the asking node
//! knows. A walk over all live labels brings the rest, so that a node which knows nothing finds the sum in
//! the store. It is done twice: at once, and when the nodes of the region have heard each other's last
//! admissions.
//!
//! A store on several servers has an epoch for each bucket of callers, and each bucket that begins one has a
//! walk of its own over its cells: one that cannot be healed, since its server is gone, holds up no other.

use alloc::{collections::BTreeMap, vec::Vec};
use core::{
    ops::Bound,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use self::walk::{Failure, Walk};
use super::{Engine, Outcome};
use crate::{
    algorithm::Rule,
    check::plan::{self, LabelBounds},
    counts::Live,
    guard::{Guard, Guarding},
    ids::{Caller, StoreEpoch},
    invariants::Invariant,
    policy::PolicySet,
    store::{Action, CallerBucket, Counts, Operation, OperationReply, StoreCommand, StoreReply},
    time::{ClusterTime, Mono, Span},
};

mod walk;

/// Operations in one healing command.
const OPERATIONS_MAX: usize = 64;
/// Healing commands that may be under way at a time.
const IN_FLIGHT_MAX: usize = 4;
/// The least time between two healing commands: 32,000 records a second, so that checks have their share.
const EVERY: Span = Span::millis(2);
/// Places of the tables that one call of [`Engine::poll_heal`] looks at.
const PLACES_MAX: u32 = 4_096;
/// The shortest time between the beginnings of the two passes; and in gossip periods.
const SETTLE: Span = Span::secs(1);
const SETTLE_PERIODS: u64 = 10;

/// What a healing command waits for: give it back to [`Engine::handle_healed`], exactly once.
#[derive(Debug)]
#[must_use = "a healing command's ticket must be given back, or the walk waits for it for ever"]
pub struct HealTicket {
    bucket: CallerBucket,
    epoch: StoreEpoch,
    last_pass: bool,
    from: Place,
    to: Place,
    floors: Vec<Counts>,
}

/// How a node stands with the epochs of its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HealStatus {
    /// The newest that was seen, of any bucket; `None` before the store's first answer.
    pub epoch: Option<StoreEpoch>,
    /// How often a newer one was met, of each bucket the first not counted.
    pub epochs: u64,
    /// Answers under an older epoch than the newest: of a primary that lags behind.
    pub old_answers: u64,
    /// Records written into new epochs, both passes counted.
    pub healed: u64,
    /// Records that the store took in none of their tries; the floors of checks are left to heal them.
    pub left_out: u64,
    /// Whether a walk is under way.
    pub running: bool,
    /// Buckets that are healed.
    pub walks: usize,
}

/// The newest epoch of a bucket, 0 before the first, and when it was first met in µs: read by every check
/// without a guard, written under that of [`Heal`].
#[derive(Debug, Default)]
pub(super) struct EpochSeen {
    epoch: AtomicU64,
    met: AtomicU64,
    /// Whether it is not the first.
    anew: AtomicBool,
    /// The one that the store was told of when its labels are whole, by [`Engine::poll_openings`].
    pub(super) opened: AtomicU64,
}

/// A place in the tables: shard, and place in it.
type Place = (usize, u32);

#[derive(Debug, Default)]
pub(super) struct Heal {
    status: HealStatus,
    walks: BTreeMap<CallerBucket, Walk>,
    /// The bucket that was looked at last.
    turn: CallerBucket,
    /// Commands under way, of walks that are over too.
    in_flight: usize,
    /// The next look at tables.
    not_before: Mono,
}

impl<G: Guarding> Engine<G> {
    /// How this node stands with the epochs of its store.
    pub fn heal_status(&self) -> HealStatus {
        self.heal.with(|heal| {
            let walks = heal.walks.len();
            HealStatus { running: walks > 0, walks, ..heal.status }
        })
    }

    /// Which of the store's buckets a caller is in.
    pub(super) fn bucket_of(&self, caller: Caller) -> CallerBucket {
        CallerBucket::of(caller, self.epochs.len())
    }

    /// The newest epoch of a bucket.
    pub(super) fn epoch_of(&self, bucket: CallerBucket) -> Option<StoreEpoch> {
        let epoch = self.epochs.get(bucket.index())?.epoch.load(Ordering::Acquire);
        (epoch > 0).then_some(StoreEpoch(epoch))
    }

    /// Takes note of the epoch of an answer of the store to a command of callers of one bucket. A newer one than
    /// all before begins a walk over that bucket, in place of one that is under way. The first one seen begins
    /// none: a node that starts has just been told what its peers know, and its own checks carry it as floors.
    pub fn handle_epoch(&self, now: Mono, bucket: CallerBucket, epoch: StoreEpoch) {
        let Some(seen) = self.epochs.get(bucket.index()).filter(|_| epoch.0 > 0) else { return };
        if seen.epoch.load(Ordering::Acquire) == epoch.0 {
            return;
        }
        self.heal.with(|heal| {
            let (status, newest) = (&mut heal.status, seen.epoch.load(Ordering::Relaxed));
            if epoch.0 < newest {
                status.old_answers += 1;
            } else if epoch.0 > newest {
                if newest > 0 {
                    seen.anew.store(true, Ordering::Release);
                    status.epochs += 1;
                    heal.walks.insert(bucket, Walk::new(epoch, now, self.first_place(bucket)));
                }
                status.epoch = status.epoch.max(Some(epoch));
                // In this order: who knows the epoch knows when it was met.
                seen.met.store(now.0, Ordering::Relaxed);
                seen.epoch.store(epoch.0, Ordering::Release);
            }
        });
    }

    /// Whether this is the newest epoch of a caller's bucket, and no server of an earlier one goes on any more: it
    /// knows by now that it was replaced.
    pub(super) fn is_past_the_fence(&self, caller: Caller, epoch: StoreEpoch, now: Mono) -> bool {
        let Some(seen) = self.epochs.get(self.bucket_of(caller).index()) else { return false };
        let is_newest = seen.epoch.load(Ordering::Acquire) == epoch.0;
        let met = Mono(seen.met.load(Ordering::Relaxed));
        is_newest && now.since(met) >= self.settings.fence
    }

    /// Whether a bucket has begun another epoch since this run began.
    pub(super) fn has_begun_anew(&self, bucket: CallerBucket) -> bool {
        self.epochs.get(bucket.index()).is_some_and(|seen| seen.anew.load(Ordering::Acquire))
    }

    /// Where a walk over a bucket begins.
    fn first_place(&self, bucket: CallerBucket) -> Place {
        (bucket.shards(self.epochs.len(), self.shards.len()).next().unwrap_or_default(), 0)
    }

    /// The next healing command, if one is due: have the store carry it out, then call
    /// [`handle_healed`](Self::handle_healed). Its callers are of one bucket. Call until `None`; bounded, and
    /// harmless when early.
    ///
    /// `policies` say what counts of siblings may weigh: no more than a limit's quantity, as in the floors of
    /// checks.
    pub fn poll_heal(&self, policies: &PolicySet, now: Mono) -> Option<(StoreCommand, HealTicket)> {
        let (cluster, clock) = self.clock.with(|c| (c.cluster_time(now), c.relation(now)));
        let (live, ticket) = self.heal.with(|heal| {
            if now < heal.not_before || heal.in_flight >= IN_FLIGHT_MAX {
                return None;
            }
            let mut places = PLACES_MAX;
            for _ in 0..heal.walks.len() {
                let bucket = heal.next_turn()?;
                let found = self.look(heal, bucket, (policies, cluster), now, &mut places);
                if found.is_some() || places < PLACES_MAX {
                    heal.not_before = now + EVERY;
                }
                if found.is_some() || places == 0 {
                    return found;
                }
            }
            None
        })?;
        let operation = |(floor, live): (Counts, Live)| {
            let limit = policies.limit(live.key.limit).map(|(_, limit)| limit);
            let bounds = LabelBounds::of(live.shape.window, live.label, clock);
            let bounds = limit.map_or(bounds, |limit| bounds.of_limit(limit));
            // The label before the current one is asked for no more, but still weighed.
            let weighed = LabelBounds::of(live.shape.window, live.label.next(), clock);
            Operation {
                key: live.key,
                action: Action::Heal,
                label: live.label,
                not_before: bounds.not_before,
                not_after: weighed.not_after,
                ceiling: 0,
                floor,
                enforce: false,
                expires: bounds.expires,
                claim: None,
                rule: limit.map_or_else(Rule::default, |limit| limit.rule(bounds.starts, 0)),
                hold: None,
            }
        };
        Some((StoreCommand::new(live.into_iter().map(operation).collect()), ticket))
    }

    /// Takes what became of a healing command. One that failed is tried again, record by record: that may be
    /// done any number of times, since a floor is a fact. A record that the store refuses is left out after 4
    /// tries; one to which no answer came ([`Outcome::Unknown`]) after 32, some eight seconds, since that may
    /// be the store's fault; and what the store was not asked ([`Outcome::Shed`]) is asked again for as long
    /// as it takes.
    #[expect(clippy::needless_pass_by_value, reason = "a ticket is given back once")]
    pub fn handle_healed(&self, now: Mono, ticket: HealTicket, outcome: &Outcome) {
        if let Outcome::Reply(reply) = outcome {
            self.handle_epoch(now, ticket.bucket, reply.epoch());
        }
        let healed = match outcome {
            Outcome::Reply(reply) if reply.epoch() != ticket.epoch => Err(Failure::Unanswered),
            Outcome::Reply(StoreReply::Done { operations, .. })
                if self.is_healed(&ticket, operations) =>
            {
                Ok(operations.iter().filter(|operation| operation.passes).count() as u64)
            }
            Outcome::Reply(_) | Outcome::Cancelled => Err(Failure::Refused),
            Outcome::Unknown => Err(Failure::Unanswered),
            Outcome::Shed => Err(Failure::NotAsked),
        };
        self.heal.with(|heal| {
            heal.in_flight = heal.in_flight.saturating_sub(1);
            heal.status.healed += healed.unwrap_or(0);
            let same =
                |walk: &&mut Walk| walk.epoch == ticket.epoch && walk.last_pass == ticket.last_pass;
            let Some(walk) = heal.walks.get_mut(&ticket.bucket).filter(same) else { return };
            walk.in_flight = walk.in_flight.saturating_sub(1);
            match healed {
                Ok(_) => walk.progress(),
                Err(failure) => heal.status.left_out += walk.rewind(now, &ticket, failure),
            }
            self.advance(heal, ticket.bucket, now);
        });
    }

    /// When to call [`poll_heal`](Self::poll_heal) again; `None` while there is nothing to heal.
    pub fn next_heal(&self, now: Mono) -> Option<Mono> {
        self.heal.with(|heal| {
            let first = heal.walks.values().map(|walk| walk.not_before).min()?;
            // With commands under way their answers come first, and are followed by another look.
            let rest = if heal.in_flight > 0 { now + EVERY } else { now };
            Some(first.max(heal.not_before).max(rest))
        })
    }

    /// Goes on with the walk over a bucket until there is enough for a command, or nothing more to be looked at
    /// now.
    fn look(
        &self,
        heal: &mut Heal,
        bucket: CallerBucket,
        (policies, cluster): (&PolicySet, ClusterTime),
        now: Mono,
        places: &mut u32,
    ) -> Option<(Vec<(Counts, Live)>, HealTicket)> {
        let walk = heal.walks.get_mut(&bucket)?;
        let careful = walk.careful_until.is_some();
        let operations_max = if careful { 1 } else { OPERATIONS_MAX };
        if now < walk.not_before || (careful && walk.in_flight > 0) {
            return None;
        }
        let (from, mut live) = (walk.at, Vec::new());
        let is_of_bucket = |caller: Caller| self.bucket_of(caller) == bucket;
        while walk.at.0 < self.shards.len() && *places > 0 && live.len() < operations_max {
            let (shard, place) = walk.at;
            let next = self.shards[shard].with(|shard| {
                let full = operations_max;
                shard.collect_live((place, &mut *places), cluster, is_of_bucket, full, &mut live)
            });
            walk.at = next.map_or((shard + self.epochs.len(), 0), |place| (shard, place));
        }
        let with_floor = |live: Live| Some((floor_of(policies, &live)?, live));
        let live: Vec<_> = live.into_iter().filter_map(with_floor).collect();
        if live.is_empty() {
            self.advance(heal, bucket, now);
            return None;
        }
        let floors = live.iter().map(|(floor, _)| *floor).collect();
        let (epoch, last_pass, to) = (walk.epoch, walk.last_pass, walk.at);
        walk.in_flight += 1;
        heal.in_flight += 1;
        Some((live, HealTicket { bucket, epoch, last_pass, from, to, floors }))
    }

    /// Ends what is over of a bucket's healing: the careful part, a pass, the walk.
    fn advance(&self, heal: &mut Heal, bucket: CallerBucket, now: Mono) {
        let Some(walk) = heal.walks.get_mut(&bucket) else { return };
        if walk.in_flight > 0 {
            return;
        }
        if walk.careful_until.is_some_and(|until| walk.at >= until) {
            walk.careful_until = None;
            walk.progress();
        }
        if walk.at.0 < self.shards.len() {
            return;
        }
        if walk.last_pass {
            heal.walks.remove(&bucket);
        } else {
            let not_before = now.max(walk.began() + self.settling_time());
            *walk = Walk::last_pass(walk.epoch, not_before, self.first_place(bucket));
        }
    }

    /// Whether the store's answer to a healing command says that it knows what it was told (INV-11).
    fn is_healed(&self, ticket: &HealTicket, operations: &[OperationReply]) -> bool {
        let lifted = |(operation, floor): (&OperationReply, &Counts)| {
            !operation.passes || operation.counts.max(*floor) == operation.counts
        };
        operations.len() == ticket.floors.len()
            && self.holds(Invariant::Healed, operations.iter().zip(&ticket.floors).all(lifted))
    }

    /// By when nodes of a region have heard what the others admitted.
    pub(super) fn settling_time(&self) -> Span {
        SETTLE.max(self.settings.gossip.times(SETTLE_PERIODS))
    }
}

/// What is to be written of a key: what this node has admitted itself, and what it was told of its siblings
/// as far as checks believe it. That is nothing where the policies do not have the limit, or not as it was
/// told.
fn floor_of(policies: &PolicySet, live: &Live) -> Option<Counts> {
    let known = policies
        .limit(live.key.limit)
        .filter(|(_, limit)| limit.window == live.shape.window && limit.scope == live.shape.scope);
    let own = Counts { used: live.known.own_session, refunded: 0 };
    let floor = known.map_or(own, |(policy, limit)| plan::floor(policy, limit, &live.known));
    (floor != Counts::default()).then_some(floor)
}

impl Heal {
    /// The next bucket that is healed, one after the other and round again.
    fn next_turn(&mut self) -> Option<CallerBucket> {
        let behind = (Bound::Excluded(self.turn), Bound::Unbounded);
        let next = self.walks.range(behind).next().or_else(|| self.walks.iter().next());
        self.turn = *next?.0;
        Some(self.turn)
    }
}
