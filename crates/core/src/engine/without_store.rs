//! Checks that the store does not decide: the policies' `on_store_failure` answers them.

use alloc::vec::Vec;

use super::Engine;
use crate::{
    algorithm::{Rule, sliding_window},
    check::{
        Decision, Purpose, Reason, Ticket,
        plan::{self, Planned},
    },
    counts::Wanted,
    guard::{Guard, Guarding},
    policy::OnStoreFailure,
    store::Counts,
    time::Mono,
};

impl<G: Guarding> Engine<G> {
    /// Answers by the policies' `on_store_failure`. What is admitted is counted in this node's slot, and
    /// so the next command's floor charges it exactly once, also where the store had charged it after all.
    /// Only what `open` admits while there is no room for its key is not counted.
    pub(super) fn answer_without_store(
        &self,
        now: Mono,
        ticket: &Ticket,
        reason: Reason,
    ) -> Decision {
        self.answer_by_name(now, ticket, || self.answer_anew(now, ticket, reason))
    }

    fn answer_anew(&self, now: Mono, ticket: &Ticket, reason: Reason) -> Decision {
        let charges = ticket.purpose == Purpose::Charge;
        let known = |plan: &Planned| {
            let used = self.known(plan.key, plan.label).own_region();
            Counts { used, refunded: 0 }
        };
        let nodes = self.views.with(|views| views.live_nodes);
        let cluster = self.cluster_time(now);
        let wanted = |plan: &Planned| Wanted {
            key: plan.key,
            label: plan.label,
            ends: plan.limit().window.end(plan.label),
            cost: plan.cost,
            ceiling: self.ceiling_without_store(plan, now),
            nodes,
            bucket: plan.limit().bucket().map(|bucket| (bucket, plan.before)),
        };
        let mut taken = Vec::new();
        let (admitted, passes) = plan::decide_without_store(&ticket.planned, |plan| {
            let wanted = wanted(plan);
            let took = self.with_shard(plan.key, |shard| {
                let used = shard.known(plan.key, plan.label).own_region();
                shard.degraded.take(now, cluster, &wanted, used)
            });
            if took {
                taken.push(wanted);
            }
            took
        });
        if !(admitted && charges) {
            for wanted in taken {
                self.with_shard(wanted.key, |shard| shard.degraded.give_back(&wanted));
            }
        }
        if charges && ticket.planned.iter().any(|plan| plan.countable) {
            self.clock.with(|clock| clock.handle_count(now));
        }
        self.count(now, ticket, admitted, passes.iter().map(|passes| (*passes, None)));
        let verdicts = ticket.planned.iter().zip(&passes).map(|(plan, passes)| {
            let mut verdict = plan.verdict(*passes, known(plan), None, cluster);
            if plan.policy.on_store_failure == OnStoreFailure::Closed {
                // It waits for the store, whose return nobody knows, not for its window's end.
                verdict.retry_after = None;
            }
            verdict
        });
        let limits = self.with_views(now, ticket, verdicts.collect());
        plan::decision(admitted, limits, Some(reason))
    }

    /// What the own region may have used in a label as far as is known without its store: of what was used in the
    /// label before, the part that still counts is not there.
    fn ceiling_without_store(&self, plan: &Planned, now: Mono) -> u64 {
        let clock = self.clock.with(|clock| clock.relation(now));
        let limit = plan.limit();
        let starts = clock.store_time_of(limit.window.start(plan.label));
        let shows = clock.store_time_of(self.cluster_time(now));
        let counts = match limit.rule(starts, 0) {
            Rule::FixedWindow | Rule::Bucket(..) | Rule::Concurrency => 0,
            Rule::SlidingWindow(label) => sliding_window::weight(plan.before, label, shows),
            Rule::SlidingLog(_) => plan.before,
        };
        plan.ceiling.net.saturating_sub(counts)
    }
}
