//! What a node writes into a store that has begun a new epoch.

use tidegate_core::{engine::Outcome, time::Span};

use super::World;
use crate::queue::Instant;

impl World<'_> {
    /// Has the store carry out the healing commands of a node that are due. They take no time of their
    /// own, but meet the store's faults as a check does.
    pub(super) fn heal(&mut self, now: Instant, node: usize) {
        let region = self.nodes[node].region;
        while let Some(life) = &self.nodes[node].life
            && let Some((command, ticket)) = life.engine.poll_heal(life.mono(now))
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
