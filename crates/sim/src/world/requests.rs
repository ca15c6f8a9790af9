//! A request's way through its node: arrival, plan, decision. What it asks its store is a call.

use tidegate_core::{
    calls::{Failure, NotLetThrough},
    check::{Decision, LimitVerdict, Ticket},
    engine::{Completion, Plan},
};

use super::{Asked, Event, Pending, Request, World};
use crate::{
    checker::{Charge, Seen},
    node::Node,
    queue::Instant,
    workload::Arrival,
};

impl World<'_> {
    pub(super) fn next_arrival(&mut self, source: usize) {
        let schedule = &self.scenario.schedule;
        let at = self.sources[source].next(schedule.load_start);
        if let Some(at) = at.filter(|at| *at < schedule.load_end) {
            self.queue.push(at, Event::Arrival { source });
        }
    }

    pub(super) fn arrive(&mut self, now: Instant, source: usize) {
        let arrival = self.sources[source].arrival();
        let Arrival { region, subject, cost } = arrival;
        self.next_arrival(source);
        self.note(1, (subject as u64) << 32 | cost, region as u64);
        self.counts[region].offered += 1;

        let true_time = self.scenario.schedule.cluster_time(now);
        let refunded = self.draw_refund();
        let Self { central, subjects, ledger, .. } = self;
        let measured = ledger.offered(region, now);
        let mut charged = Vec::new();
        central.offer(subjects, arrival, true_time, |key, label, cost| {
            ledger.central(key, label, cost);
            if refunded > 0 {
                charged.push(Charge { key, label, cost });
            }
        });
        self.refund_later(now, refunded, None, charged);

        let alive = |node: &&Node| node.region == region && node.life.is_some();
        let count = self.nodes.iter().filter(alive).count();
        // One draw per request, so that a node's death does not shift who gets later ones.
        let drawn = self.balance.below(count.max(1) as u64) as usize;
        let here = self.nodes.iter().enumerate().filter(|(_, node)| alive(node));
        let chosen = here.map(|(n, _)| n).nth(drawn);
        match chosen.and_then(|node| Some((node, self.nodes[node].life.as_ref()?.number))) {
            // A process that stands still is asked all the same, and answers later.
            Some((node, life)) => {
                // A subject and a cost fit: a scenario bounds both.
                let asked =
                    Asked { subject: subject as u32, cost: cost as u32, measured, refunded };
                self.handle(now, Event::Ask { node, life, asked });
            }
            None => self.leave_unanswered(now, region),
        }
    }

    /// A request has no node to answer it.
    pub(super) fn leave_unanswered(&mut self, now: Instant, region: usize) {
        self.counts[region].unanswered += 1;
        self.panel.see(now, &Seen::Unanswered { region });
    }

    pub(super) fn ask(&mut self, now: Instant, node: usize, life: usize, what: Asked) {
        let peers = self.nodes.len() - 1;
        let policies = self.policies(now, node);
        let asked = &mut self.nodes[node];
        let region = asked.region;
        let Some(life) = asked.life.as_mut().filter(|here| here.number == life) else {
            return self.leave_unanswered(now, region);
        };
        let planned = self.panel.book().mark();
        let (subject, cost) = (what.subject as usize, u64::from(what.cost));
        let request = Request {
            subject,
            cost,
            measured: what.measured,
            node,
            life: life.number,
            region,
            planned,
            refunded: what.refunded,
        };
        let ready = life.is_ready(now, peers);
        match life.plan(policies, &self.subjects.all[subject], cost, now) {
            Plan::Unmatched => self.count_answer(&request, true),
            Plan::Ask(command, ticket) if ready => match self.admit(now, node) {
                Ok(permit) => {
                    let pending = Pending { ticket, permit, asked: now };
                    self.submit(now, request, command, pending);
                }
                Err(why) => {
                    self.counts[region].shed += u64::from(why == NotLetThrough::Overload);
                    self.answer_without_store(now, request, ticket, why.into());
                }
            },
            Plan::Ask(_, ticket) => {
                self.answer_without_store(now, request, ticket, NotLetThrough::Unreachable.into());
            }
            Plan::Full(ticket) => self.answer_without_store(now, request, ticket, Failure::Record),
            Plan::Known(_) | Plan::OtherRequest => unreachable!("requests here have no names"),
        }
    }

    /// A check whose store was not asked, for this reason.
    fn answer_without_store(
        &mut self,
        now: Instant,
        request: Request,
        ticket: Ticket,
        why: Failure,
    ) {
        let Some(life) = &self.nodes[request.node].life else {
            return self.leave_unanswered(now, request.region);
        };
        match life.engine.complete(life.mono(now), ticket, why.of_check()) {
            Completion::Decided(decision) => self.decide(now, request, None, &decision),
            Completion::Again(..) | Completion::OtherRequest => {
                unreachable!("only a store says so")
            }
        }
    }

    pub(super) fn decide(
        &mut self,
        now: Instant,
        request: Request,
        store: Option<bool>,
        decision: &Decision,
    ) {
        let Request { subject, life, region, node, planned, .. } = request;
        let met = &self.subjects.all[subject].met;
        let charged = met
            .iter()
            .zip(&decision.limits)
            .filter(|(_, verdict)| decision.allowed && verdict.allowed)
            .map(|(met, verdict)| Charge {
                key: met.key_in(region),
                label: verdict.label,
                cost: verdict.cost,
            });
        let mut charges = std::mem::take(&mut self.charges);
        charges.extend(charged);
        let first = charges.first().map_or(0, |charge| charge.label.0);
        self.note(3, (node as u64) << 1 | u64::from(decision.allowed), first);
        for charge in &charges {
            self.ledger.admitted(charge.key, charge.label, charge.cost);
        }
        if !decision.allowed {
            self.weigh_refusal(&request, decision);
        }
        self.count_answer(&request, decision.allowed);
        self.counts[region].without_store += u64::from(store.is_none());
        let allowed = decision.allowed;
        let seen = Seen::Answered { life, planned, store, allowed, charges: &charges };
        self.panel.see(now, &seen);
        if request.refunded > 0 {
            self.refund_later(now, request.refunded, Some((node, life)), charges.clone());
        }
        charges.clear();
        self.charges = charges;
        self.schedule_wake(now, node);
    }

    fn count_answer(&mut self, request: &Request, allowed: bool) {
        let count = &mut self.counts[request.region];
        count.admitted += u64::from(allowed);
        count.refused += u64::from(!allowed);
        if allowed && request.measured {
            self.ledger.passed(request.region);
        }
    }

    /// Whether a request was refused that a limiter would have admitted that knew what was admitted.
    fn weigh_refusal(&mut self, request: &Request, decision: &Decision) {
        let Self { subjects, ledger, .. } = self;
        let met = subjects.all[request.subject].met.iter().zip(&decision.limits);
        let enforced = met
            .map(|(met, verdict)| (met.key_in(request.region), verdict))
            .filter(|(key, _)| subjects.keys[*key].enforced);
        let has_room = |key: usize, verdict: &LimitVerdict| {
            let truth = ledger.admitted_so_far(key, verdict.label);
            // Of a window that is not measured nobody knows better than the node.
            let quantity = subjects.keys[key].least(verdict.label);
            truth.map_or(verdict.allowed, |used| used + request.cost <= quantity)
        };
        if enforced.clone().all(|(key, verdict)| has_room(key, verdict)) {
            for (key, verdict) in enforced.filter(|(_, verdict)| !verdict.allowed) {
                ledger.needless(key, verdict.label, request.cost);
            }
        }
    }
}
