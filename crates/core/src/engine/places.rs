//! Places of concurrency limits: a store that has forgotten them is told of those that this node was given.

use alloc::vec::Vec;

use super::{Engine, Outcome};
use crate::{
    algorithm::Rule,
    check::plan::LabelBounds,
    guard::{Guard, Guarding},
    ids::StoreEpoch,
    policy::{Algorithm, PolicySet},
    store::{Action, Counts, HoldId, Lapse, Operation, StoreCommand, Terms},
    time::Mono,
};

/// Reservations whose places are told in one command; of a check's limits at most 16 are of places.
const TOLD_AT_ONCE: usize = 16;

/// What is told of places waits for this: give it back to [`Engine::handle_told`], exactly once.
#[derive(Debug)]
#[must_use = "what was not told is told again only if its ticket is given back"]
pub struct PlacesTicket {
    epoch: StoreEpoch,
    from: Option<HoldId>,
}

impl<G: Guarding> Engine<G> {
    /// What a store of a new epoch is told of places that are held, if there is anything: carry out the command, then
    /// call [`handle_told`](Self::handle_told). Call until `None`; bounded, and harmless when early.
    pub fn poll_places(
        &self,
        policies: &PolicySet,
        now: Mono,
    ) -> Option<(StoreCommand, PlacesTicket)> {
        let epoch = self.heal_status().epoch?;
        let shows = self.clock.with(|clock| clock.store_time(now))?;
        let clock = self.clock.with(|clock| clock.relation(now));
        loop {
            let (from, reservations) = self.reserved.with(|reserved| {
                let from = reserved.telling;
                (from, reserved.untold(epoch, TOLD_AT_ONCE))
            });
            let places = reservations.iter().flat_map(|reservation| {
                let charged = reservation.charged.iter();
                charged.map(move |charged| (reservation.id, reservation.ends, charged))
            });
            let operations = places.filter_map(|(id, ends, charged)| {
                let (_, limit) = policies.limit(charged.key.limit)?;
                let is_place = limit.algorithm == Algorithm::Concurrency && shows < ends;
                // A record's newest label is that of now.
                let label = limit.window.label_at(self.cluster_time(now));
                let bounds = LabelBounds::of(limit.window, label, clock);
                let (lasts, lapse) = (ends.since(shows), Lapse::GivenBack);
                is_place.then_some(Operation {
                    key: charged.key,
                    action: Action::Hold { amount: charged.cost },
                    label,
                    not_before: bounds.not_before,
                    not_after: bounds.not_after,
                    ceiling: 0,
                    floor: Counts::default(),
                    enforce: false,
                    expires: bounds.expires,
                    claim: None,
                    rule: Rule::Concurrency,
                    hold: Some(Terms { id, lasts, lapse }),
                })
            });
            let operations: Vec<_> = operations.collect();
            if !operations.is_empty() {
                return Some((StoreCommand::new(operations), PlacesTicket { epoch, from }));
            }
            if self.reserved.with(|reserved| reserved.telling.is_none()) {
                return None;
            }
        }
    }

    /// Takes what became of such a command. One that failed is tried again.
    #[expect(clippy::needless_pass_by_value, reason = "a ticket is given back once")]
    pub fn handle_told(&self, now: Mono, ticket: PlacesTicket, outcome: &Outcome) {
        if let Outcome::Reply(reply) = outcome {
            self.handle_epoch(now, reply.epoch());
            return;
        }
        self.reserved.with(|reserved| {
            if reserved.told == Some(ticket.epoch) {
                let from = ticket.from.unwrap_or(HoldId(0));
                reserved.telling = Some(reserved.telling.map_or(from, |at| at.min(from)));
            }
        });
    }
}
