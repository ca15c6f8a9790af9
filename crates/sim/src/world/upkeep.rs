//! What a node asks its store beside checks: to take what it lost, and for its clock.

use tidegate_core::{
    engine::Outcome,
    time::{Mono, Span},
};

use super::World;
use crate::queue::Instant;

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
    /// own, but meet the store's faults as a check does.
    pub(super) fn heal(&mut self, now: Instant, node: usize) {
        let region = self.nodes[node].region;
        while let Some(life) = &self.nodes[node].life
            && let Some((command, ticket)) =
                life.engine.poll_heal(&self.scenario.policies, life.mono(now))
        {
            let fate = self.stores[region].fate(now);
            let time = self.store_time(region, now);
            let reply = fate.step.map(|_| self.stores[region].apply(&command, time));
            let in_time = |after: Span| after <= self.scenario.store.timeout;
            let outcome = match reply {
                Some(Ok(reply)) if fate.answers[0].is_some_and(in_time) => Outcome::Reply(reply),
                Some(Err(_)) => Outcome::Cancelled,
                None if fate.refused.is_some() => Outcome::Cancelled,
                _ => Outcome::Unknown,
            };
            self.note(20, node as u64, command.operations.len() as u64);
            let Some(life) = &self.nodes[node].life else { return };
            life.engine.handle_healed(life.mono(now), ticket, &outcome);
        }
    }
}
