//! A request's way: arrival, plan, the store's step, answer, decision.

use tidegate_core::{
    check::{Decision, Ticket},
    engine::{Completion, Outcome, Plan},
    store::{StoreCommand, StoreReply},
    time::Span,
};

use super::{Call, Event, Request, World};
use crate::{
    checker::{Charge, Seen, Step},
    node::Node,
    queue::Instant,
};

/// A command whose label did not fit is asked once more, and no more.
const ASKED_MAX: u8 = 2;

impl World<'_> {
    pub(super) fn next_arrival(&mut self, source: usize) {
        let schedule = &self.scenario.schedule;
        let at = self.sources[source].next(schedule.load_start);
        if at < schedule.load_end {
            self.queue.push(at, Event::Arrival { source });
        }
    }

    pub(super) fn arrive(&mut self, now: Instant, source: usize) {
        let (subject, region) = (self.sources[source].subject(), self.sources[source].region);
        self.next_arrival(source);
        self.note(1, subject as u64, region as u64);
        self.counts[region].offered += 1;

        let true_time = self.scenario.schedule.cluster_time(now);
        let Self { central, subjects, ledger, .. } = self;
        central.offer(subjects, subject, region, true_time, |key, label, cost| {
            ledger.central(key, label, cost);
        });

        let alive = |node: &&Node| node.region == region && node.life.is_some();
        let count = self.nodes.iter().filter(alive).count();
        // One draw per request, so that a node's death does not shift who gets later ones.
        let drawn = self.balance.below(count.max(1) as u64) as usize;
        let chosen = self
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| alive(node))
            .map(|(n, _)| n)
            .nth(drawn);
        match chosen.and_then(|node| Some((node, self.nodes[node].life.as_ref()?.number))) {
            // A process that stands still is asked all the same, and answers later.
            Some((node, life)) => self.handle(now, Event::Ask { node, life, subject }),
            None => self.leave_unanswered(now, region),
        }
    }

    /// A request has no node to answer it.
    fn leave_unanswered(&mut self, now: Instant, region: usize) {
        self.counts[region].unanswered += 1;
        self.panel.see(now, &Seen::Unanswered { region });
    }

    pub(super) fn ask(&mut self, now: Instant, node: usize, life: usize, subject: usize) {
        let peers = self.nodes.len() - 1;
        let asked = &mut self.nodes[node];
        let region = asked.region;
        let Some(life) = asked.life.as_mut().filter(|here| here.number == life) else {
            return self.leave_unanswered(now, region);
        };
        let planned = self.panel.book().mark();
        let request = Request { subject, node, life: life.number, region, planned };
        let ready = life.is_ready(now, peers);
        match life.plan(&self.scenario.policies, &self.subjects.all[subject], now) {
            Plan::Unmatched => self.counts[region].admitted += 1,
            Plan::Ask(command, ticket) if ready => {
                self.submit(now, request, command, ticket, 1);
            }
            Plan::Ask(_, ticket) | Plan::Full(ticket) => {
                self.complete(now, request, ticket, Outcome::Cancelled, 1);
            }
        }
    }

    /// Puts a command on its way to the region's store.
    pub(super) fn submit(
        &mut self,
        now: Instant,
        request: Request,
        command: StoreCommand,
        ticket: Ticket,
        asked: u8,
    ) {
        let request = Request { planned: self.panel.book().mark(), ..request };
        let fate = self.stores[request.region].fate(now);
        if fate.refused == Some(Span::ZERO) {
            self.complete(now, request, ticket, Outcome::Cancelled, asked);
            return;
        }
        if fate.answers == [Some(Span::ZERO), None] && fate.step == Some(Span::ZERO) {
            let outcome = self.apply(now, request, &command);
            self.complete(now, request, ticket, outcome, asked);
            return;
        }
        let timeout = self.scenario.store.timeout;
        // A refusal is an answer to a question that was not stepped.
        let first = fate.answers[0].or(fate.refused);
        let in_time = first.is_some_and(|after| after <= timeout);
        let due = [
            fate.step.map(|after| (after, 0)),
            first.map(|after| (after, 1)),
            fate.answers[1].map(|after| (after, 1)),
            (!in_time).then_some((timeout, 2)),
        ];
        let events = due.iter().flatten().count() as u8;
        let ticket = Some(ticket);
        let reply = fate.refused.map(|_| Outcome::Cancelled);
        let call = Call { request, command, ticket, reply, asked, events };
        let call = self.calls.insert(call);
        for (after, kind) in due.into_iter().flatten() {
            let event = match kind {
                0 => Event::Step { call },
                1 => Event::Answer { call },
                _ => Event::Deadline { call },
            };
            self.queue.push(now + after, event);
        }
    }

    /// The store's step, for a command that is there now.
    pub(super) fn apply(
        &mut self,
        now: Instant,
        request: Request,
        command: &StoreCommand,
    ) -> Outcome {
        let time = self.store_time(request.region, now);
        let Ok(reply) = self.stores[request.region].apply(command, time) else {
            return Outcome::Cancelled;
        };
        if let StoreReply::Done { admitted, operations, .. } = &reply {
            self.note(2, request.subject as u64, u64::from(*admitted));
            let subject = &self.subjects.all[request.subject];
            let met = subject.met.iter().zip(&command.operations).zip(operations);
            let steps = met.map(|((met, operation), reply)| Step {
                key: met.key_in(request.region),
                label: operation.label,
                cost: if *admitted && reply.passes { subject.cost } else { 0 },
                holds: reply.counts.net(),
            });
            let steps: Vec<Step> = steps.collect();
            let Request { life, planned, .. } = request;
            self.panel.see(now, &Seen::Stepped { life, planned, steps: &steps });
        }
        Outcome::Reply(reply)
    }

    /// One event less that names the call; frees it after the last.
    pub(super) fn release(&mut self, call: usize) {
        if let Some(named) = self.calls.get_mut(call) {
            named.events -= 1;
            if named.events == 0 {
                self.calls.remove(call);
            }
        }
    }

    pub(super) fn step(&mut self, now: Instant, call: usize) {
        if let Some(Call { request, command, .. }) = self.calls.get_mut(call) {
            let request = *request;
            let command = std::mem::take(command);
            let outcome = self.apply(now, request, &command);
            if let Some(call) = self.calls.get_mut(call) {
                call.reply = Some(outcome);
            }
        }
        self.release(call);
    }

    pub(super) fn answer(&mut self, now: Instant, call: usize) {
        // A second answer, or one after the deadline, finds the ticket gone and is ignored.
        let taken = self.calls.get_mut(call).and_then(|call| {
            let outcome = call.reply.take()?;
            Some((call.request, call.asked, call.ticket.take()?, outcome))
        });
        self.release(call);
        if let Some((request, asked, ticket, outcome)) = taken {
            self.complete(now, request, ticket, outcome, asked);
        }
    }

    pub(super) fn give_up(&mut self, now: Instant, call: usize) {
        let taken = self
            .calls
            .get_mut(call)
            .and_then(|call| Some((call.request, call.asked, call.ticket.take()?)));
        self.release(call);
        if let Some((request, asked, ticket)) = taken {
            self.complete(now, request, ticket, Outcome::Unknown, asked);
        }
    }

    pub(super) fn complete(
        &mut self,
        now: Instant,
        request: Request,
        ticket: Ticket,
        outcome: Outcome,
        asked: u8,
    ) {
        let life = self.nodes[request.node].life.as_ref().filter(|l| l.number == request.life);
        let Some(life) = life else {
            // The node died with its question: nobody is answered.
            return self.leave_unanswered(now, request.region);
        };
        let store = match &outcome {
            Outcome::Reply(StoreReply::Done { admitted, .. }) => Some(*admitted),
            _ => None,
        };
        match life.engine.complete(life.mono(now), ticket, outcome) {
            Completion::Decided(decision) => self.decide(now, request, store, &decision),
            Completion::Again(command, ticket) if asked < ASKED_MAX => {
                self.submit(now, request, command, ticket, asked + 1);
            }
            Completion::Again(_, ticket) => {
                self.complete(now, request, ticket, Outcome::Cancelled, asked + 1);
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
        let Request { subject, life, region, node, planned } = request;
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
        let charges: Vec<Charge> = charged.collect();
        let first = charges.first().map_or(0, |charge| charge.label.0);
        self.note(3, (node as u64) << 1 | u64::from(decision.allowed), first);
        for charge in &charges {
            self.ledger.admitted(charge.key, charge.label, charge.cost);
        }
        let count = &mut self.counts[region];
        count.admitted += u64::from(decision.allowed);
        count.refused += u64::from(!decision.allowed);
        count.without_store += u64::from(store.is_none());
        let allowed = decision.allowed;
        let seen = Seen::Answered { life, planned, store, allowed, charges: &charges };
        self.panel.see(now, &seen);
        self.schedule_wake(now, node);
    }
}
