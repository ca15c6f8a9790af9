//! A call to a region's store: let through by its node's guard, carried out, answered or given up.

use tidegate_core::{
    calls::{Failure, NotLetThrough},
    engine::{self, Completion},
    store::{StoreCommand, StoreReply},
    time::Span,
};

use super::{Call, Event, Pending, Request, World};
use crate::{
    checker::{Seen, Step},
    guard::{Answer, Permit},
    queue::Instant,
    store::Server,
};

impl World<'_> {
    /// Asks a node's guard whether its store may be asked.
    pub(super) fn admit(&mut self, now: Instant, node: usize) -> Result<Permit, NotLetThrough> {
        let region = self.nodes[node].region;
        let reachable = self.stores[region].is_reachable(now);
        let Some(life) = &mut self.nodes[node].life else {
            return Err(NotLetThrough::Unreachable);
        };
        let (mono, number) = (life.mono(now), life.number);
        let news = life.guard.calls().is_reachable() != reachable;
        let change = life.guard.learn(mono, reachable);
        let admitted = life.guard.admit(mono);
        if news {
            self.panel.see(now, &Seen::Connection { life: number, reachable });
        }
        if let Some(change) = change {
            self.panel.see(now, &Seen::Breaker { life: number, change });
        }
        match &admitted {
            Ok(_) => self.panel.see(now, &Seen::Called { life: number }),
            Err(NotLetThrough::Overload) => self.panel.see(now, &Seen::Shed { life: number }),
            Err(_) => {}
        }
        self.note(15, node as u64, u64::from(admitted.is_ok()));
        admitted
    }

    /// Gives a node's guard back what it let through.
    pub(super) fn end_call(&mut self, now: Instant, node: usize, permit: &Permit) {
        let Some(life) = &mut self.nodes[node].life else { return };
        let number = life.number;
        let change = life.guard.end(life.mono(now), permit);
        let outcome = permit.outcome();
        self.panel.see(now, &Seen::CallEnded { life: number, call: permit.number(), outcome });
        if let Some(change) = change {
            self.note(16, node as u64, number as u64);
            self.panel.see(now, &Seen::Breaker { life: number, change });
        }
    }

    /// Puts a command on its way to the region's store.
    pub(super) fn submit(
        &mut self,
        now: Instant,
        request: Request,
        command: StoreCommand,
        pending: Pending,
    ) {
        let request = Request { planned: self.panel.book().mark(), ..request };
        let pending = Pending { asked: now, ..pending };
        let fate = self.stores[request.region].fate(now);
        if fate.refused == Some(Span::ZERO) {
            return self.complete(now, request, pending, Err(NotLetThrough::Unreachable.into()));
        }
        if fate.answers == [Some(Span::ZERO), None] && fate.step == Some(Span::ZERO) {
            let answer = self.apply(now, request, &command);
            return self.complete(now, request, pending, answer);
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
        let answer = fate.refused.map(|_| Err(Failure::Refused));
        let call = Call { request, command, pending: Some(pending), answer, events };
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
    fn apply(&mut self, now: Instant, request: Request, command: &StoreCommand) -> Answer {
        let time = self.store_time(request.region, now);
        let server = self.server_of(now, request.node);
        self.by_replaced += u64::from(server == Server::Replaced);
        let Ok(reply) = self.stores[request.region].apply(server, command, time) else {
            return Err(Failure::Record);
        };
        if let StoreReply::Done { admitted, operations, .. } = &reply {
            self.note(2, request.subject as u64, u64::from(*admitted));
            let subject = &self.subjects.all[request.subject];
            let met = subject.met.iter().zip(&command.operations).zip(operations);
            let steps = met.map(|((met, operation), reply)| Step {
                key: met.key_in(request.region),
                label: operation.label,
                cost: if *admitted && reply.passes { request.cost } else { 0 },
                holds: reply.counts.net(),
            });
            let mut list = std::mem::take(&mut self.steps);
            list.extend(steps);
            let Request { life, planned, .. } = request;
            self.panel.see(now, &Seen::Stepped { life, planned, server, steps: &list });
            list.clear();
            self.steps = list;
        }
        Ok(reply)
    }

    /// One event less that names the call; frees it after the last.
    fn release(&mut self, call: usize) {
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
            let answer = self.apply(now, request, &command);
            if let Some(call) = self.calls.get_mut(call) {
                call.answer = Some(answer);
            }
        }
        self.release(call);
    }

    pub(super) fn answer(&mut self, now: Instant, call: usize) {
        // A second answer, or one after the deadline, finds nobody waiting and is ignored.
        let taken = self.calls.get_mut(call).and_then(|call| {
            let answer = call.answer.take()?;
            Some((call.request, call.pending.take()?, answer))
        });
        self.release(call);
        if let Some((request, pending, answer)) = taken {
            self.complete(now, request, pending, answer);
        }
    }

    pub(super) fn give_up(&mut self, now: Instant, call: usize) {
        let taken =
            self.calls.get_mut(call).and_then(|call| Some((call.request, call.pending.take()?)));
        self.release(call);
        if let Some((request, pending)) = taken {
            self.complete(now, request, pending, Err(Failure::Timeout));
        }
    }

    /// A call is answered: the guard is told how it went, and the engine what was said. A command whose
    /// label did not fit is asked once more, by the same permit.
    fn complete(&mut self, now: Instant, request: Request, pending: Pending, answer: Answer) {
        let Pending { ticket, mut permit, asked } = pending;
        let life = self.nodes[request.node].life.as_ref().filter(|l| l.number == request.life);
        let Some(life) = life else {
            // The node died with its question: nobody is answered.
            return self.leave_unanswered(now, request.region);
        };
        let mono = life.mono(now);
        permit.note(mono.since(life.mono(asked)), &answer);
        let store = match &answer {
            Ok(StoreReply::Done { admitted, .. }) => Some(*admitted),
            _ => None,
        };
        let outcome = answer.map_or_else(Failure::of_check, engine::Outcome::Reply);
        match life.engine.complete(mono, ticket, outcome) {
            Completion::Decided(decision) => {
                self.decide(now, request, store, &decision);
                self.end_call(now, request.node, &permit);
            }
            Completion::Again(command, ticket) => {
                self.submit(now, request, command, Pending { ticket, permit, asked });
            }
            Completion::OtherRequest => unreachable!("requests here have no names"),
        }
    }
}
