//! What a node asks its store beside checks: to take what it lost, and for its clock.

use tidegate_core::{
    calls::{Failure, NotLetThrough},
    engine,
    store::StoreCommand,
    time::{Mono, Span},
};

use super::World;
use crate::{guard::Answer, queue::Instant};

/// How often a node asks its store for its clock, and how soon again if it does not answer.
const READ_EVERY: Span = Span::secs(1);
const READ_AGAIN: Span = Span::millis(50);

impl World<'_> {
    /// Has a node ask its store for its clock, if it is time to.
    pub(super) fn read_clock(&mut self, now: Instant, node: usize) {
        let region = self.nodes[node].region;
        if self.nodes[node].life.as_ref().is_none_or(|life| now < life.read_clock_at) {
            return;
        }
        let fate = self.stores[region].fate(now);
        let reading = self.store_time(region, now);
        let answer = fate.answers[0].filter(|after| *after <= self.scenario.store.timeout);
        let Some(life) = &mut self.nodes[node].life else { return };
        let took = answer.filter(|_| fate.step.is_some());
        life.read_clock_at = now + if took.is_some() { READ_EVERY } else { READ_AGAIN };
        if let Some(took) = took {
            let mono = life.mono(now);
            // As if it had been asked so long ago: an answer that comes later would say the same.
            life.engine.handle_store_clock(Mono(mono.0 - took.0), mono, reading);
        }
    }

    /// Has the store carry out the healing commands of a node that are due. They take no time of their
    /// own, but meet the guard and the store's faults as a check does.
    pub(super) fn heal(&mut self, now: Instant, node: usize) {
        let region = self.nodes[node].region;
        // A store that cannot be asked would only count as one that has failed.
        while self.stores[region].is_reachable(now)
            && let Some(life) = &self.nodes[node].life
            && let Some((command, ticket)) =
                life.engine.poll_heal(self.policies(now, node), life.mono(now))
        {
            self.note(20, node as u64, command.operations.len() as u64);
            let outcome = self.outcome_of(now, node, &command);
            let Some(life) = &self.nodes[node].life else { return };
            life.engine.handle_healed(life.mono(now), ticket, &outcome);
        }
    }

    /// Has the store carry out the granting commands of a node that are due, in the same way.
    pub(super) fn grant(&mut self, now: Instant, node: usize) {
        let region = self.nodes[node].region;
        while self.stores[region].is_reachable(now)
            && let Some(life) = &self.nodes[node].life
            && let Some((command, ticket)) =
                life.engine.poll_grants(self.policies(now, node), life.mono(now))
        {
            self.note(21, node as u64, command.operations.len() as u64);
            let outcome = self.outcome_of(now, node, &command);
            let Some(life) = &self.nodes[node].life else { return };
            life.engine.handle_granted(life.mono(now), ticket, &outcome);
        }
    }

    /// What becomes of a command that is no check.
    pub(super) fn outcome_of(
        &mut self,
        now: Instant,
        node: usize,
        command: &StoreCommand,
    ) -> engine::Outcome {
        let answer = match self.admit(now, node) {
            Ok(mut permit) => {
                let (took, answer) = self.carry_out(now, node, command);
                permit.note(took, &answer);
                self.end_call(now, node, &permit);
                answer
            }
            Err(why) => Err(why.into()),
        };
        answer.map_or_else(Failure::of_heal, engine::Outcome::Reply)
    }

    /// What the store says to a command that is no check, and after how long it would.
    fn carry_out(&mut self, now: Instant, node: usize, command: &StoreCommand) -> (Span, Answer) {
        let (region, server) = (self.nodes[node].region, self.server_of(now, node));
        let fate = self.stores[region].fate(now);
        let time = self.store_time(region, now);
        let reply = fate.step.map(|_| self.stores[region].apply(server, command, time));
        let timeout = self.scenario.store.timeout;
        let took = fate.answers[0].filter(|after| *after <= timeout);
        match (reply, fate.refused) {
            (Some(Ok(reply)), _) if took.is_some() => (took.unwrap_or(timeout), Ok(reply)),
            (Some(Err(_)), _) => (took.unwrap_or(timeout), Err(Failure::Record)),
            (None, Some(Span::ZERO)) => (Span::ZERO, Err(NotLetThrough::Unreachable.into())),
            (None, Some(after)) => (after, Err(Failure::Refused)),
            _ => (timeout, Err(Failure::Timeout)),
        }
    }
}
