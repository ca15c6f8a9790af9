//! Decisions: a plan becomes a command, a reply becomes an answer, and what is admitted is counted.

use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::{mem, sync::atomic::Ordering};

use super::{
    Completion, Engine, Outcome, Plan, Sighted, Views,
    grants::{Seen, tell_beside},
    named::{Recalled, as_of, named},
};
use crate::{
    check::{
        Decision, LimitVerdict, Manner, PlanError, Purpose, Reason, RegionUse, RightsUse, Subject,
        Ticket,
        plan::{self, Planned},
    },
    counts::{Asked, Known, Shard, Tally, Tick},
    exchange::RegionView,
    forecast::{Answered, Ceiling, Question, Urgency, Whose},
    guard::{Guard, Guarding},
    ids::{Key, RegionIndex, RegionNumber, Secret, StoreEpoch},
    invariants::Invariant,
    policy::{Algorithm, Limit, PolicySet, Scope},
    store::{
        CallerBucket, Counts, Once, Opening, Operation, OperationReply, StoreCommand, StoreReply,
        Terms,
    },
    time::{ClusterTime, Label, Mono, Span, StoreTime, Window},
};

/// Of a key that has used less nobody forecasts anything, unless that is a quarter of its limit.
const WATCHED_FROM: u64 = 8;
/// How old the news of another region is at most, where all is well.
const STALENESS_MAX: Span = Span::millis(500);
/// Among more regions nobody waits for evidence that others have not surged as well: it comes too late.
const EVIDENCE_REGIONS_MAX: usize = 5;

/// A store that began no further than this from when its cluster was founded has forgotten nothing.
const FOUNDING: Span = Span::secs(5);

/// Whether more than one unit of a limit may be on its way at a time, if it is asked for as much as it
/// allows: else `eventual` is `plain`.
fn may_be_under_way(quantity: u64, window: Window) -> bool {
    u128::from(quantity) * u128::from(STALENESS_MAX.0) >= u128::from(window.usual_length().0)
}

impl<G: Guarding> Engine<G> {
    /// Plans one all-or-nothing command over every limit of every policy that applies to a subject.
    pub fn plan(
        &self,
        policies: &PolicySet,
        secret: &Secret,
        now: Mono,
        subjects: &[Subject<'_>],
        purpose: Purpose,
    ) -> Result<Plan, PlanError> {
        self.plan_in(policies, secret, now, subjects, purpose, &Manner::default())
    }

    /// The same in a manner of its own, which matters where it charges.
    pub fn plan_in(
        &self,
        policies: &PolicySet,
        secret: &Secret,
        now: Mono,
        subjects: &[Subject<'_>],
        purpose: Purpose,
        manner: &Manner<'_>,
    ) -> Result<Plan, PlanError> {
        let mut planned = Vec::new();
        for subject in subjects {
            for policy in policies.matching(subject.attributes) {
                let caller = policy.caller(secret, subject.attributes);
                planned.extend(policy.limits.iter().enumerate().map(|(index, limit)| Planned {
                    policy: policy.clone(),
                    index,
                    cost: subject.cost,
                    key: Key { caller, limit: limit.id },
                    label: Label(0),
                    others: 0,
                    floor: Counts::default(),
                    before: 0,
                    ceiling: Ceiling::default(),
                    claim: None,
                    countable: true,
                    suspended: false,
                    hold: None,
                }));
            }
        }
        if planned.len() > plan::LIMITS_MAX {
            return Err(PlanError::TooManyLimits { found: planned.len() });
        }
        if planned.is_empty() {
            return Ok(Plan::Unmatched);
        }
        let mut ticket = Ticket {
            purpose,
            planned,
            asked_at: now,
            relabelled: false,
            reserve: manner.reserve,
            once: None,
            unanswered: false,
        };
        if let Some(name) = manner.name {
            let says = ticket.reserve.map_or_else(|| self.hold_id(), |reserve| reserve.id);
            let once = named(name, says.0, secret, subjects, &ticket);
            ticket.once = Some(once);
            match self.recall_answered(now, &once) {
                Some(Recalled::Same(decision)) => return Ok(Plan::Known(Box::new(decision))),
                Some(Recalled::Other) => return Ok(Plan::OtherRequest),
                None => {}
            }
        }
        let named = ticket.once.filter(|_| ticket.reserve.is_none());
        for (at, plan) in ticket.planned.iter_mut().enumerate() {
            let terms = self.terms(plan, ticket.reserve);
            let id = named.map(|once| Once::hold(once.says, at));
            plan.hold = terms.map(|terms| Terms { id: id.unwrap_or(terms.id), ..terms });
        }
        let command = self.label(&mut ticket, now, None);
        if ticket.planned.iter().all(|plan| plan.countable) {
            Ok(Plan::Ask(command, ticket))
        } else {
            Ok(Plan::Full(ticket))
        }
    }

    /// Gives every planned limit the label of `now`, and makes the command of it; the first time it also looks
    /// whether there is room to count what is charged. `reading`: what the store's clock has just shown.
    ///
    /// A call that was given up is answered without the store, and what it admits is told as a floor. If
    /// its step were carried out after such a floor it would be charged twice: so it must not come late.
    fn label(&self, ticket: &mut Ticket, now: Mono, reading: Option<StoreTime>) -> StoreCommand {
        let (cluster, clock, shows) =
            self.clock.with(|c| (c.cluster_time(now), c.relation(now), c.store_time(now)));
        ticket.asked_at = now;
        let sighted = self.sighted_for(ticket, now);
        let with_rights = ticket.planned.iter().any(Planned::has_rights);
        let config = with_rights.then(|| self.config_sight(now));
        let again = ticket.relabelled;
        let charges = ticket.purpose == Purpose::Charge;
        let suspended = charges && with_rights && self.rights_are_suspended(now);
        for plan in &mut ticket.planned {
            self.with_shard(plan.key, |shard| {
                if again && let Some(forecast) = shard.watched.touch(&plan.key, now) {
                    forecast.give_back(plan.label, plan.ceiling);
                }
                plan.label = plan.limit().window.label_at(cluster);
                let known = shard.known(plan.key, plan.label);
                plan.know(&known);
                if plan.limit().algorithm != Algorithm::FixedWindow {
                    let before = shard.known(plan.key, plan.label.previous());
                    plan.before = plan::floor(&plan.policy, plan.limit(), &before).used;
                }
                plan.suspended = suspended && plan.has_rights();
                if let Some(sighted) = sighted.as_ref().filter(|_| plan.has_forecast()) {
                    self.forecast(shard, plan, &known, sighted, again);
                }
                if let Some(config) = config.as_ref().filter(|_| plan.has_rights()) {
                    let claim = self.claim(shard, plan.key, plan.limit(), plan.label, config);
                    plan.claim = Some(claim.into());
                }
                // What is held at the moment is no count.
                if charges && !again && plan.limit().algorithm != Algorithm::Concurrency {
                    plan.countable = shard.has_room(plan.key.caller, plan.shape(), plan.label);
                }
            });
        }
        let until = self.call_ends(shows.max(reading));
        let operations = ticket.planned.iter().map(|p| p.operation(ticket.purpose, clock, until));
        let operations: Vec<_> = operations.collect();
        let claims = operations.iter().any(|operation| operation.claim.is_some());
        let command = if claims {
            self.command_with_claims(now, operations)
        } else {
            StoreCommand::new(operations)
        };
        StoreCommand { once: ticket.once, ..command }
    }

    /// Until when a command that is made now may be carried out, if the store's clock shows that.
    pub(super) fn call_ends(&self, shows: Option<StoreTime>) -> StoreTime {
        let until = shows.zip(self.settings.call_max).map(|(shows, max)| shows + max);
        until.unwrap_or(StoreTime(u64::MAX))
    }

    /// What is known of the others now.
    pub(super) fn sighted(&self, now: Mono) -> Sighted {
        let (cluster, config) = (self.cluster_time(now), self.config_sight(now));
        let waits = now.since(self.began) < self.settings.reclaim_after;
        self.views.with(|views| Sighted {
            apart: if waits { Arc::clone(&views.apart) } else { Arc::default() },
            now,
            cluster,
            participants: Arc::clone(&views.participants),
            regions: Arc::clone(&views.numbers),
            fingerprint: views.fingerprint,
            config,
        })
    }

    /// The same, if a ticket needs it.
    fn sighted_for(&self, ticket: &Ticket, now: Mono) -> Option<Sighted> {
        let charges = ticket.purpose == Purpose::Charge;
        (charges && ticket.planned.iter().any(Planned::has_forecast)).then(|| self.sighted(now))
    }

    /// A command of operations some of which are claims: with what the store is told besides.
    pub(super) fn command_with_claims(
        &self,
        now: Mono,
        operations: Vec<Operation>,
    ) -> StoreCommand {
        let callers = operations.iter().map(|operation| self.bucket_of(operation.key.caller));
        let mut buckets: Vec<_> = callers.collect();
        if buckets.is_empty() {
            buckets.push(CallerBucket::ALL);
        }
        buckets.sort_unstable();
        buckets.dedup();
        // Configurations are proposed to stores of one bucket.
        let proposed = self.proposed(now, self.unused(now, buckets[0]));
        let of = |bucket| Some((bucket, self.opening(now, bucket)?));
        let openings = buckets.into_iter().filter_map(of).collect();
        StoreCommand { openings, proposed, ..StoreCommand::new(operations) }
    }

    /// Labels that begin then or later nobody has used yet: a fence after the furthest that any region is
    /// known to use; and so late that it is still true when the command is carried out, and for siblings whose
    /// clocks are a little ahead. Not known while the own clock may still be set back, or while a node that has just begun
    /// knows of no other region's labels.
    fn unused(&self, now: Mono, bucket: CallerBucket) -> Option<ClusterTime> {
        // Who has seen an earlier epoch of its store knows which labels its region has used.
        let alone = self.regions.is_one() || self.has_begun_anew(bucket);
        let furthest = self.clock.with(|clock| clock.furthest(now, alone))?;
        let late = self.settings.call_max.map_or(Span::ZERO, |max| Span(2 * max.0));
        Some(furthest + self.settings.fence.max(late))
    }

    /// What the store is told of when the labels of a bucket are whole. Nothing before its epoch was first heard of.
    pub(super) fn opening(&self, now: Mono, bucket: CallerBucket) -> Option<Opening> {
        let epoch = self.epoch_of(bucket)?;
        if self.is_outdated(now) {
            return None;
        }
        let founding = self.is_founding(bucket, epoch);
        let opens = if founding { Some(ClusterTime(0)) } else { self.unused(now, bucket) };
        Some(Opening { epoch, opens: opens? })
    }

    /// The own region's part of a whole by its weight; an equal one of all that are known, if none are
    /// configured.
    fn share(&self, sighted: &Sighted) -> f64 {
        if self.regions.is_one() {
            return 1.0 / (1 + sighted.regions.len()) as f64;
        }
        self.regions.share(self.own_region, sighted.config.acting)
    }

    /// What a node that has just begun leaves to regions that have not told it all they know, and perhaps
    /// cannot be reached: their parts by weight, less what is known of them. Where nothing is known, it has left
    /// its own region's part.
    fn kept_for_apart(
        &self,
        shard: &Shard,
        plan: &Planned,
        label: Label,
        sighted: &Sighted,
    ) -> u64 {
        if sighted.apart.is_empty() {
            return 0;
        }
        let known = shard.by_region(plan.key, label);
        let used = |region: Option<RegionIndex>| {
            let found = known.iter().find(|(index, _)| Some(*index) == region);
            found.map_or(0, |(_, tally)| tally.counts.net())
        };
        let (quantity, acting) = (plan.limit().quantity, sighted.config.acting);
        let part = |region: RegionNumber| self.regions.bases(quantity, region, acting).now;
        let kept = sighted.apart.iter();
        kept.map(|(region, index)| part(*region).saturating_sub(used(*index))).sum()
    }

    /// Whether nothing may be spent by rights now: the clock of the store is further from the other regions'
    /// than [`Settings::clock_error`](super::Settings::clock_error), a peer has another configuration of
    /// regions under the same number, or [`suspend_rights`](Self::suspend_rights) said so.
    pub fn rights_are_suspended(&self, now: Mono) -> bool {
        self.suspended.load(Ordering::Relaxed)
            || self.configured_otherwise.load(Ordering::Relaxed)
            || !self.clock.with(|clock| clock.is_trusted(now))
    }

    /// Says whether the store is set up so that it may lose what was spent by rights without telling: then
    /// nothing is spent by them.
    pub fn suspend_rights(&self, suspended: bool) {
        self.suspended.store(suspended, Ordering::Relaxed);
    }

    /// Whether a store's epoch is its first: nothing can have been forgotten. It is if it began when the
    /// cluster was founded, this node has seen no earlier one, and no region knows better: all have told what
    /// they knew, and nothing of an earlier run of a node of ours.
    ///
    /// An epoch is numbered by the store's clock. One that began long before the founding has been wiped since,
    /// under a clock that was set back.
    fn is_founding(&self, bucket: CallerBucket, epoch: StoreEpoch) -> bool {
        let began = self.settings.founded;
        let near = |founded: ClusterTime| {
            ((founded - FOUNDING).0..=(founded + FOUNDING).0).contains(&epoch.0)
        };
        began.is_some_and(near)
            && !self.has_begun_anew(bucket)
            && (self.regions.is_one() || self.views.with(|views| views.all_have_answered))
    }

    /// Lowers the ceiling of a planned limit by what the other regions are expected to use meanwhile.
    fn forecast(
        &self,
        shard: &mut Shard,
        plan: &mut Planned,
        known: &Known,
        sighted: &Sighted,
        again: bool,
    ) {
        let Limit { window, quantity, consistency, .. } = *plan.limit();
        let (label, now) = (plan.label, sighted.now);
        let elapsed = sighted.cluster.since(window.start(label));
        let used = plan.others.saturating_add(known.own_region());
        let rights = plan.has_rights();
        let kept = if rights { 0 } else { self.kept_for_apart(shard, plan, label, sighted) };
        plan.ceiling = Ceiling::certain(plan.ceiling.net.saturating_sub(kept));
        let worth_it = used >= WATCHED_FROM.min(quantity / 4)
            && (rights || may_be_under_way(quantity, window));
        if worth_it && shard.watched.get(&plan.key).is_none() {
            shard.watch(&plan.key, window, label, now, elapsed, Whose::Own);
        }
        self.has_rights.fetch_or(rights, Ordering::Relaxed);
        let Some(forecast) = shard.watched.touch(&plan.key, now) else { return };
        if !again && plan.cost <= quantity && !plan.suspended {
            let urgency = forecast.handle_asked(now, label, plan.cost);
            self.pace.note(now, self.settings.gossip, urgency);
        }
        let regions = 1 + sighted.regions.len();
        let held = if rights {
            self.held(shard, &plan.key, plan.limit(), label, &sighted.config)
        } else {
            0
        };
        let Some(forecast) = shard.watched.touch(&plan.key, now) else { return };
        let question = Question {
            label,
            elapsed,
            left: window.end(label).since(sighted.cluster),
            cost: plan.cost,
            quantity,
            others: plan.others.saturating_add(kept),
            own_region: known.own_region(),
            own_session: known.own_session,
            share: self.share(sighted),
            evidence: regions <= EVIDENCE_REGIONS_MAX,
            chance: self.chance(),
        };
        let sight = sighted.sight(self);
        let urgency = if rights {
            forecast.note_rights();
            forecast.note_quantity(quantity);
            if consistency.overdraft() > 0 {
                plan.ceiling = Ceiling::certain(forecast.expected(&question, &sight));
            }
            let used = question.own_region.max(forecast.region_net(label));
            let dry = forecast.runs_dry(held.saturating_sub(used), &sight);
            if dry { Urgency::Now } else { Urgency::None }
        } else {
            let (ceiling, urgency) = forecast.ceiling(&question, &sight);
            plan.ceiling = ceiling;
            urgency
        };
        self.pace.note(now, self.settings.gossip, urgency);
    }

    /// A number that no other decision has: a step of the generator SplitMix64.
    pub(super) fn chance(&self) -> u64 {
        let step = 0x9e37_79b9_7f4a_7c15_u64;
        let mut z = self.chance.fetch_add(step, Ordering::Relaxed).wrapping_add(step);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The labels did not fit: the store's clock was set, or the region is further than this node knew.
    fn learn_labels(&self, now: Mono, ticket: &Ticket, reading: StoreTime, newest: &[Label]) {
        self.clock.with(|clock| {
            clock.handle_store(ticket.asked_at, now, reading);
            for (plan, label) in ticket.planned.iter().zip(newest) {
                clock.handle_seen(now, plan.limit().window.start(*label));
            }
        });
    }

    /// Turns a store call's outcome into the decision, and counts what was admitted (INV-1).
    pub fn complete(&self, now: Mono, mut ticket: Ticket, outcome: Outcome) -> Completion {
        if let Outcome::Reply(reply) = &outcome
            && let Some(plan) = ticket.planned.first()
        {
            self.handle_epoch(now, self.bucket_of(plan.key.caller), reply.epoch());
        }
        match outcome {
            Outcome::Reply(StoreReply::Done {
                admitted,
                now: reading,
                epoch,
                adopted,
                operations,
            }) => {
                self.handle_adopted(now, adopted.as_ref());
                let cluster = self.clock.with(|clock| {
                    clock.handle_store(ticket.asked_at, now, reading);
                    if ticket.purpose == Purpose::Charge {
                        clock.settle();
                    }
                    clock.cluster_time(now)
                });
                let believable = operations.len() == ticket.planned.len()
                    && self.holds(Invariant::AllOrNothing, {
                        let enforced = |(plan, op): (&Planned, &OperationReply)| {
                            op.passes || plan.policy.shadow
                        };
                        admitted == ticket.planned.iter().zip(&operations).all(enforced)
                    })
                    && ticket.planned.iter().zip(&operations).all(|(plan, op)| {
                        let floored = op.counts.max(plan.floor) == op.counts;
                        self.holds(Invariant::Floored, floored)
                            && self.holds(Invariant::Sound, op.counts.refunded <= op.counts.used)
                            && (ticket.purpose != Purpose::Charge || self.is_rightful(plan, op))
                    });
                if !believable {
                    return Completion::Decided(self.answer_without_store(
                        now,
                        &ticket,
                        Reason::StoreUnavailable,
                    ));
                }
                let passes = operations.iter().map(|op| (op.passes, Some(op.counts)));
                self.count(now, &ticket, admitted, passes);
                self.note_holdings(now, &ticket, &operations);
                let passed = operations.iter().map(|op| op.passes);
                let reservation = self.reservation(&ticket, reading, passed);
                let reservation = reservation.filter(|_| admitted);
                if admitted {
                    let passed = operations.iter().map(|op| op.passes);
                    let reserved = reservation.as_ref();
                    self.note_reserved(now, (reading, epoch), &ticket, reserved, passed);
                }
                let verdicts = ticket
                    .planned
                    .iter()
                    .zip(&operations)
                    .map(|(plan, op)| plan.verdict(op.passes, op.counts, op.weighed, cluster));
                let mut limits = self.with_views(now, &ticket, verdicts.collect());
                if ticket.purpose == Purpose::Usage {
                    self.add_rights(now, &ticket, &operations, &mut limits);
                }
                // Not what was spent speaks against it then, but a store that cannot be relied on.
                let refuses = |plan: &Planned| plan.suspended && !plan.policy.shadow;
                let suspended = !admitted && ticket.planned.iter().any(refuses);
                let unanswered = suspended.then_some(Reason::StoreUnavailable);
                let decision = plan::decision(admitted, limits, unanswered);
                Completion::Decided(Decision { reservation, ..decision })
            }
            // The policies have changed since: another number of limits applies.
            Outcome::Reply(StoreReply::Repeated { first, .. })
                if first.answer.operations.len() != ticket.planned.len() =>
            {
                self.let_go(now, &mut ticket);
                Completion::OtherRequest
            }
            Outcome::Reply(StoreReply::Repeated { now: reading, epoch, first }) => {
                Completion::Decided(self.answer_again(now, ticket, epoch, &as_of(&first, reading)))
            }
            Outcome::Reply(StoreReply::OtherRequest { .. }) => {
                self.let_go(now, &mut ticket);
                Completion::OtherRequest
            }
            Outcome::Reply(StoreReply::Relabel { now: reading, newest, .. }) => {
                self.learn_labels(now, &ticket, reading, &newest);
                if ticket.relabelled {
                    let why = Reason::StoreUnavailable;
                    return Completion::Decided(self.answer_without_store(now, &ticket, why));
                }
                self.upkeep.with(|upkeep| upkeep.relabelled += 1);
                ticket.relabelled = true;
                let command = self.label(&mut ticket, now, Some(reading));
                Completion::Again(command, ticket)
            }
            Outcome::Unknown => {
                let why = Reason::StoreUnavailable;
                let decision = self.answer_without_store(now, &ticket, why);
                if decision.allowed {
                    self.note_unanswered(now, &ticket);
                }
                Completion::Decided(decision)
            }
            Outcome::Cancelled => Completion::Decided(self.answer_without_store(
                now,
                &ticket,
                Reason::StoreUnavailable,
            )),
            Outcome::Shed => {
                Completion::Decided(self.answer_without_store(now, &ticket, Reason::Overload))
            }
        }
    }

    /// Adds what a check asked for, and what it was given, to this session's own slots; but not where a
    /// plan has found no room, lest a flood of new keys grows the tables without bound. Of each limit
    /// `passes` says whether it had room by itself, and what the store says that the region has used.
    pub(super) fn count(
        &self,
        now: Mono,
        ticket: &Ticket,
        admitted: bool,
        passes: impl Iterator<Item = (bool, Option<Counts>)>,
    ) {
        if ticket.purpose != Purpose::Charge {
            return;
        }
        for (plan, (passes, region)) in ticket.planned.iter().zip(passes) {
            if !plan.countable || plan.limit().algorithm == Algorithm::Concurrency {
                continue;
            }
            let used = if admitted && passes { plan.cost } else { 0 };
            // Of a label that is over for this node its slot may be forgotten. Nothing is no reason to begin it
            // anew, below what others were told of it (INV-2).
            let is_over =
                || plan.label < plan.limit().window.label_at(self.cluster_time(now)).previous();
            if used == 0 && is_over() {
                continue;
            }
            // What can never pass is no demand: nobody would have to keep anything free for it.
            let can_pass = plan.cost <= plan.limit().capacity() && !plan.suspended;
            let offered = if can_pass { plan.cost } else { used };
            let add = Tally { counts: Counts { used, refunded: 0 }, offered };
            let urgency = self.with_shard(plan.key, |shard| {
                if region.is_some() {
                    let has_bucket = plan.limit().bucket().is_some();
                    let place = (plan.key, plan.label);
                    shard.degraded.handle_answer(now, place, has_bucket, self.settling_time());
                }
                let watched = shard.watched.get(&plan.key).is_some();
                shard.add_own(
                    &Asked {
                        caller: plan.key.caller,
                        shape: plan.shape(),
                        label: plan.label,
                        quantity: plan.limit().quantity,
                        add,
                        // What others are asked for, too, is forecast of a watched key.
                        tell: used > 0 || watched,
                    },
                    Tick::of(now),
                );
                let own = if watched { shard.known(plan.key, plan.label).own_session } else { 0 };
                let forecast = shard.watched.touch(&plan.key, now).filter(|_| !plan.suspended)?;
                let answered = Answered { cost: plan.cost, passes, own_session: own, region };
                Some(forecast.handle_answer(now, plan.label, plan.ceiling, &answered))
            });
            match urgency {
                Some(Urgency::Now) => self.pace.note(now, self.settings.gossip, Urgency::Now),
                Some(_) => {}
                None => self.pace.note_change(now, self.settings.gossip),
            }
        }
    }

    /// Gives back what a plan holds of the own caps: nothing comes of it.
    pub(super) fn let_go(&self, now: Mono, ticket: &mut Ticket) {
        for plan in ticket.planned.iter_mut().filter(|plan| plan.has_forecast()) {
            let certain = Ceiling::certain(plan.ceiling.net);
            let held = mem::replace(&mut plan.ceiling, certain);
            self.with_shard(plan.key, |shard| {
                if let Some(forecast) = shard.watched.touch(&plan.key, now) {
                    forecast.give_back(plan.label, held);
                }
            });
        }
    }

    /// Whether the store has spent no more of a limit under rights than the region has (INV-13, INV-15, INV-16).
    fn is_rightful(&self, plan: &Planned, reply: &OperationReply) -> bool {
        let Some((claim, holding)) = plan.claim.as_ref().zip(reply.holding.as_ref()) else {
            return true;
        };
        if !reply.passes {
            return true;
        }
        let net = reply.counts.net();
        let covered = net <= holding.held().saturating_add(claim.allowance);
        let recoverable = claim.bound.is_none_or(|bound| net <= bound.most(holding.epoch));
        self.holds(Invariant::Forfeited, holding.open)
            && self.holds(Invariant::Covered, covered)
            && self.holds(Invariant::Recovered, recoverable)
    }

    /// Takes the store's word of the own region's rights: whoever granted of them may be gone. Ceilings that
    /// others have to hold before more can be spent are told at once.
    fn note_holdings(&self, now: Mono, ticket: &Ticket, replies: &[OperationReply]) {
        if replies.iter().all(|reply| reply.holding.is_none()) {
            return;
        }
        let cluster = self.cluster_time(now);
        for (plan, reply) in ticket.planned.iter().zip(replies) {
            let Some(holding) = &reply.holding else { continue };
            // Who only looks asks nobody else.
            if !holding.open && (ticket.purpose == Purpose::Usage || !plan.countable) {
                continue;
            }
            self.handle_epoch(now, self.bucket_of(plan.key.caller), holding.epoch);
            let window = plan.limit().window;
            let allowance = plan.claim.as_ref().map_or(0, |claim| claim.allowance);
            // It may be refused for want of a ceiling that others hold, although the region has the rights.
            let most = holding.held().saturating_add(allowance);
            let waits = !reply.passes && reply.counts.net().saturating_add(plan.cost) <= most;
            let seen = Seen {
                key: plan.key,
                label: plan.label,
                window,
                holding,
                net: reply.counts.net(),
                allowance,
                refused: if waits { plan.cost } else { 0 },
            };
            let news = self.with_shard(plan.key, |shard| {
                let news = self.note_holding(shard, now, &seen);
                let long = self.block(holding.base, window).is_some();
                if news && long {
                    let (caller, quantity) = (plan.key.caller, plan.limit().quantity);
                    tell_beside(shard, now, cluster, (caller, plan.shape(), plan.label, quantity));
                }
                news && long
            });
            if news {
                self.pace.note(now, self.settings.gossip, Urgency::Now);
            }
        }
    }

    /// Adds to verdicts how stale the other regions' part is and, for usage, what each region has.
    pub(super) fn with_views(
        &self,
        now: Mono,
        ticket: &Ticket,
        mut limits: Vec<LimitVerdict>,
    ) -> Vec<LimitVerdict> {
        let global = |verdict: &LimitVerdict| verdict.limit().scope == Scope::Global;
        if !limits.iter().any(global) && ticket.purpose == Purpose::Charge {
            return limits;
        }
        self.views.with(|views| {
            let stalest = stalest(views, now);
            for (verdict, plan) in limits.iter_mut().zip(&ticket.planned) {
                if global(verdict) {
                    verdict.staleness = stalest;
                }
                if ticket.purpose == Purpose::Usage {
                    verdict.regions = self.regions_used(now, plan, verdict, &views.regions);
                    let known = global(verdict) && views.know_the_others();
                    verdict.worst_over_admission = known.then(|| {
                        let (ages, cluster) = (views.ages(now), self.cluster_time(now));
                        let limit = (verdict.limit().window, verdict.limit().quantity);
                        let exposure = self.with_shard(plan.key, |shard| {
                            shard.exposure(plan.key, limit, cluster, &ages)
                        });
                        self.possible(verdict.limit(), exposure)
                    });
                }
            }
        });
        limits
    }

    /// By how much all regions may exceed a limit at most: if what is under way is `exposure`, by that; under
    /// rights by what they may overdraw, whatever is known, since who has rights spends them without a look at
    /// what others have used.
    pub fn possible(&self, limit: &Limit, exposure: u64) -> u64 {
        if !limit.has_rights() {
            return exposure;
        }
        self.regions.overdrafts(limit.quantity, limit.consistency.overdraft())
    }

    /// Adds to verdicts how the region stands with its rights.
    fn add_rights(
        &self,
        now: Mono,
        ticket: &Ticket,
        replies: &[OperationReply],
        limits: &mut [LimitVerdict],
    ) {
        let sighted = self.sighted(now);
        for ((plan, reply), verdict) in ticket.planned.iter().zip(replies).zip(limits) {
            let Some(holding) = &reply.holding else { continue };
            verdict.rights = Some(RightsUse {
                held: if holding.open { holding.held() } else { 0 },
                granted: holding.given.sum(),
                stranded: self.with_shard(plan.key, |shard| {
                    self.stranded(shard, &plan.key, plan.limit(), plan.label, &sighted)
                }),
            });
        }
    }

    fn regions_used(
        &self,
        now: Mono,
        plan: &Planned,
        verdict: &LimitVerdict,
        views: &[RegionView],
    ) -> Vec<RegionUse> {
        let known = self.with_shard(plan.key, |shard| shard.by_region(plan.key, plan.label));
        let of = |region: RegionIndex| {
            known.iter().find(|(r, _)| *r == region).map_or(Counts::default(), |(_, t)| t.counts)
        };
        let own = self.settings.session.id.region.clone();
        // The store's record is exact for the own region; its refunds are what the slots know of them.
        let refunded = of(RegionIndex::OWN).refunded;
        let net = verdict.used.saturating_sub(plan.others);
        let counts = Counts { used: net.saturating_add(refunded), refunded };
        let mut uses = Vec::from([RegionUse { region: own, counts, staleness: Some(Span::ZERO) }]);
        if verdict.limit().scope == Scope::Global {
            uses.extend(views.iter().map(|view| RegionUse {
                region: view.name.clone(),
                counts: of(view.region),
                staleness: view.staleness(now),
            }));
        }
        uses
    }

    pub(super) fn holds(&self, invariant: Invariant, condition: bool) -> bool {
        if !condition {
            assert!(!self.settings.strict_invariants, "{invariant} is broken");
            self.upkeep.with(|upkeep| *upkeep.broken.entry(invariant).or_default() += 1);
        }
        condition
    }
}

/// The age of the oldest view of another region: zero without any, `None` while one is unheard.
fn stalest(views: &Views, now: Mono) -> Option<Span> {
    let start = (views.complete && views.unmet == 0).then_some(Span::ZERO)?;
    views.regions.iter().try_fold(start, |oldest, view| Some(oldest.max(view.staleness(now)?)))
}
