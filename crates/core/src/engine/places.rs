//! Places of concurrency limits: a store that has forgotten them is told of those that this node was given.

use alloc::vec::Vec;
use core::ops::Bound;

use super::{
    Engine, Outcome,
    reserve::{Open, RETRY_AFTER},
};
use crate::{
    algorithm::Rule,
    check::plan::LabelBounds,
    clock::Relation,
    guard::{Guard, Guarding},
    ids::StoreEpoch,
    policy::{Algorithm, PolicySet},
    store::{Action, Counts, HoldId, Lapse, Once, Operation, StoreCommand, StoreReply, Terms},
    time::{ClusterTime, Mono, Span, StoreTime},
};

/// Reservations that one call looks at.
const LOOKED_AT_ONCE: usize = 4_096;

/// What is told of places waits for this: give it back to [`Engine::handle_told`], exactly once.
#[derive(Debug)]
#[must_use = "what was not told is told again only if its ticket is given back"]
pub struct PlacesTicket {
    id: HoldId,
    /// In which epochs the places were before.
    before: Vec<Option<StoreEpoch>>,
}

impl<G: Guarding> Engine<G> {
    /// What a store that has begun a new epoch is told of places that are held, if there is anything: carry out the
    /// command, then call [`handle_told`](Self::handle_told). Call until `None`; bounded, and harmless when early.
    pub fn poll_places(
        &self,
        policies: &PolicySet,
        now: Mono,
    ) -> Option<(StoreCommand, PlacesTicket)> {
        let begun = self.heal_status().epochs;
        let (clock, shows) = self.clock.with(|clock| (clock.relation(now), clock.store_time(now)));
        let (shows, cluster) = (shows?, self.cluster_time(now));
        self.reserved.with(|reserved| {
            if reserved.looked != begun {
                (reserved.looked, reserved.another) = (begun, Some(now));
            }
            if reserved.looking_at.is_none() && reserved.another.is_some_and(|from| from <= now) {
                (reserved.looking_at, reserved.another) = (Some(HoldId(0)), None);
            }
            for _ in 0..LOOKED_AT_ONCE {
                let from = Bound::Excluded(reserved.looking_at?);
                let next = reserved.by_id.range_mut((from, Bound::Unbounded)).next();
                let Some((id, open)) = next else {
                    reserved.looking_at = None;
                    return None;
                };
                reserved.looking_at = Some(*id);
                let (id, in_force) = (*id, self.epochs_of(&open.reservation));
                let (before, mut operations) = (open.epochs.clone(), Vec::new());
                for (at, now) in in_force.into_iter().enumerate() {
                    // What is counted is brought back by floors, and cannot be settled any more.
                    if open.epochs[at] < now
                        && let Some(told) = place(policies, open, at, (clock, shows, cluster))
                    {
                        operations.push(told);
                        open.epochs[at] = now;
                    }
                }
                if !operations.is_empty() {
                    // One that was given back elsewhere is not held again.
                    let once = Once {
                        id: open.reservation.settling(),
                        of: 0,
                        says: 0,
                        kept: Span::ZERO,
                        refusals: false,
                    };
                    let command =
                        StoreCommand { once: Some(once), ..StoreCommand::new(operations) };
                    return Some((command, PlacesTicket { id, before }));
                }
            }
            None
        })
    }

    /// Takes what became of such a command. One that failed is tried again.
    pub fn handle_told(&self, now: Mono, ticket: PlacesTicket, outcome: &Outcome) {
        let is_told = match outcome {
            Outcome::Reply(StoreReply::Done { operations, .. }) => {
                operations.iter().all(|operation| operation.passes)
            }
            // It was given back elsewhere.
            Outcome::Reply(StoreReply::Repeated { .. }) => true,
            _ => false,
        };
        if is_told {
            return;
        }
        self.reserved.with(|reserved| {
            if let Some(open) = reserved.by_id.get_mut(&ticket.id) {
                open.epochs = ticket.before;
                // In another round: others are not to wait for this one.
                reserved.another = Some(reserved.another.unwrap_or(now + RETRY_AFTER));
            }
        });
    }
}

/// What the store is told of a place; `None` if it is none, or is over.
fn place(
    policies: &PolicySet,
    open: &Open,
    at: usize,
    (clock, shows, cluster): (Relation, StoreTime, ClusterTime),
) -> Option<Operation> {
    let charged = open.reservation.charged.get(at)?;
    let (_, limit) = policies.limit(charged.key.limit)?;
    let id = open.reservation.id;
    // A place lasts as long as its limit says at most.
    let ends = open.reservation.ends.min(open.made + limit.window.usual_length());
    if limit.algorithm != Algorithm::Concurrency || ends <= shows {
        return None;
    }
    // A record's newest label is that of now.
    let label = limit.window.label_at(cluster);
    let bounds = LabelBounds::of(limit.window, label, clock);
    let lasts = ends.since(shows);
    Some(Operation {
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
        hold: Some(Terms { id, lasts, lapse: Lapse::GivenBack }),
    })
}
