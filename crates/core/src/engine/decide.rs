//! Decisions: a plan becomes a command, a reply becomes an answer, and what is admitted is counted.

use alloc::vec::Vec;

use super::{Completion, Engine, Outcome, Plan, Views};
use crate::{
    check::{
        Decision, LimitVerdict, PlanError, Purpose, Reason, RegionUse, Subject, Ticket,
        plan::{self, Planned},
    },
    counts::{Asked, Tally, Tick},
    exchange::RegionView,
    guard::{Guard, Guarding},
    ids::{Key, RegionIndex, Secret},
    invariants::Invariant,
    policy::{OnStoreFailure, PolicySet, Scope},
    store::{Counts, OperationReply, StoreCommand, StoreReply},
    time::{Label, Mono, Span, StoreTime},
};

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
                    countable: true,
                }));
            }
        }
        if planned.len() > plan::LIMITS_MAX {
            return Err(PlanError::TooManyLimits { found: planned.len() });
        }
        if planned.is_empty() {
            return Ok(Plan::Unmatched);
        }
        let mut ticket = Ticket { purpose, planned, asked_at: now, relabelled: false };
        let command = self.label(&mut ticket, now, None);
        if purpose == Purpose::Charge {
            for plan in &mut ticket.planned {
                let (caller, shape, label) = (plan.key.caller, plan.shape(), plan.label);
                plan.countable =
                    self.with_shard(plan.key, |shard| shard.has_room(caller, shape, label));
            }
            if !ticket.planned.iter().all(|plan| plan.countable) {
                return Ok(Plan::Full(ticket));
            }
        }
        Ok(Plan::Ask(command, ticket))
    }

    /// Gives every planned limit the label of `now`, and makes the command of it. `reading`: what the
    /// store's clock has just shown.
    ///
    /// A call that was given up is answered without the store, and what it admits is told as a floor. If
    /// its step were carried out after such a floor it would be charged twice: so it must not come late.
    fn label(&self, ticket: &mut Ticket, now: Mono, reading: Option<StoreTime>) -> StoreCommand {
        let (cluster, clock, shows) =
            self.clock.with(|c| (c.cluster_time(now), c.relation(now), c.store_time(now)));
        ticket.asked_at = now;
        for plan in &mut ticket.planned {
            plan.label_at(cluster, |key, label| self.known(key, label));
        }
        let until = shows.max(reading).zip(self.settings.call_max).map(|(shows, max)| shows + max);
        let until = until.unwrap_or(StoreTime(u64::MAX));
        let operations = ticket.planned.iter().map(|p| p.operation(ticket.purpose, clock, until));
        StoreCommand { operations: operations.collect() }
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
        if let Outcome::Reply(reply) = &outcome {
            self.handle_epoch(now, reply.epoch());
        }
        match outcome {
            Outcome::Reply(StoreReply::Done { admitted, now: reading, operations, .. }) => {
                self.clock.with(|clock| {
                    clock.handle_store(ticket.asked_at, now, reading);
                    if ticket.purpose == Purpose::Charge {
                        clock.settle();
                    }
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
                    });
                if !believable {
                    return Completion::Decided(self.answer_without_store(
                        now,
                        &ticket,
                        Reason::StoreUnavailable,
                    ));
                }
                self.count(now, &ticket, admitted, operations.iter().map(|op| op.passes));
                let cluster = self.cluster_time(now);
                let verdicts = ticket
                    .planned
                    .iter()
                    .zip(&operations)
                    .map(|(plan, op)| plan.verdict(op.passes, op.counts, cluster));
                let limits = self.with_views(now, &ticket, verdicts.collect());
                Completion::Decided(plan::decision(admitted, limits, None))
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
            Outcome::Unknown | Outcome::Cancelled => Completion::Decided(
                self.answer_without_store(now, &ticket, Reason::StoreUnavailable),
            ),
            Outcome::Shed => {
                Completion::Decided(self.answer_without_store(now, &ticket, Reason::Overload))
            }
        }
    }

    /// Answers by the policies' `on_store_failure`. What is admitted is counted in this node's slot, and
    /// so the next command's floor charges it exactly once, also where the store had charged it after all.
    /// Only what `open` admits while there is no room for its key is not counted.
    fn answer_without_store(&self, now: Mono, ticket: &Ticket, reason: Reason) -> Decision {
        let live_nodes = self.views.with(|views| views.live_nodes);
        let known = |plan: &Planned| self.known(plan.key, plan.label).own_region();
        let (admitted, passes) = plan::decide_without_store(&ticket.planned, live_nodes, known);
        if ticket.purpose == Purpose::Charge && ticket.planned.iter().any(|plan| plan.countable) {
            self.clock.with(|clock| clock.handle_count(now));
        }
        self.count(now, ticket, admitted, passes.iter().copied());
        let cluster = self.cluster_time(now);
        let verdicts = ticket.planned.iter().zip(&passes).map(|(plan, passes)| {
            let mut verdict = plan.verdict(*passes, known(plan), cluster);
            if plan.policy.on_store_failure == OnStoreFailure::Closed {
                // It waits for the store, whose return nobody knows, not for its window's end.
                verdict.retry_after = None;
            }
            verdict
        });
        let limits = self.with_views(now, ticket, verdicts.collect());
        plan::decision(admitted, limits, Some(reason))
    }

    /// Adds what a check asked for, and what it was given, to this session's own slots; but not where a
    /// plan has found no room, lest a flood of new keys grows the tables without bound.
    fn count(
        &self,
        now: Mono,
        ticket: &Ticket,
        admitted: bool,
        passes: impl Iterator<Item = bool>,
    ) {
        if ticket.purpose != Purpose::Charge {
            return;
        }
        for (plan, passes) in ticket.planned.iter().zip(passes).filter(|(p, _)| p.countable) {
            let used = if admitted && passes { plan.cost } else { 0 };
            let add = Tally { counts: Counts { used, refunded: 0 }, offered: plan.cost };
            self.with_shard(plan.key, |shard| {
                shard.add_own(
                    &Asked {
                        caller: plan.key.caller,
                        shape: plan.shape(),
                        label: plan.label,
                        quantity: plan.limit().quantity,
                        add,
                        tell: used > 0,
                    },
                    Tick::of(now),
                );
            });
        }
    }

    /// Adds to verdicts how stale the other regions' part is and, for usage, what each region has.
    fn with_views(
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
                    verdict.worst_over_admission = (global(verdict) && views.complete).then(|| {
                        let (ages, cluster) = (views.ages(now), self.cluster_time(now));
                        let limit = (verdict.limit().window, verdict.limit().quantity);
                        self.with_shard(plan.key, |s| s.exposure(plan.key, limit, cluster, &ages))
                    });
                }
            }
        });
        limits
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
    let start = views.complete.then_some(Span::ZERO)?;
    views.regions.iter().try_fold(start, |oldest, view| Some(oldest.max(view.staleness(now)?)))
}
