//! What is given back of what was admitted, by nodes and by the central limiter alike.

use tidegate_core::check::Charged;

use super::{Event, Refund, World};
use crate::{
    checker::{Charge, Seen},
    queue::Instant,
    scenario::Refunds,
};

impl World<'_> {
    /// After how many microseconds a request is given back, if it is admitted; 0: never.
    pub(super) fn draw_refund(&mut self) -> u32 {
        let Some(Refunds { share, after }) = self.scenario.refunds else { return 0 };
        if !self.refunding.chance(share) {
            return 0;
        }
        let after = self.refunding.exponential(after.0 as f64);
        after.clamp(1.0, f64::from(u32::MAX)) as u32
    }

    /// Has what was charged given back in a while, unless the load is over by then: all is still then.
    pub(super) fn refund_later(
        &mut self,
        now: Instant,
        after: u32,
        by: Option<(usize, usize)>,
        charges: Vec<Charge>,
    ) {
        let at = Instant(now.0 + u64::from(after));
        if after > 0 && !charges.is_empty() && at < self.scenario.schedule.load_end {
            let refund = self.refunds.insert(Refund { by, charges });
            self.queue.push(at, Event::Refund { refund });
        }
    }

    pub(super) fn refund(&mut self, now: Instant, refund: usize) {
        let Some(Refund { by, mut charges }) = self.refunds.remove(refund) else { return };
        let Some((node, life)) = by else {
            for charge in &charges {
                self.central.refund(charge);
                self.ledger.central_refunded(charge.key, charge.label, charge.cost);
            }
            return;
        };
        // Nobody gives back what a dead node has admitted.
        let Some(here) = self.nodes[node].life.as_ref().filter(|here| here.number == life) else {
            return;
        };
        let charged = charges.iter().map(|charge| Charged {
            key: self.subjects.keys[charge.key].key,
            label: charge.label,
            cost: charge.cost,
        });
        let charged: Vec<_> = charged.collect();
        let policies = self.policies(now, node);
        let (given, told) = here.engine.refund(policies, here.mono(now), &charged);
        charges.iter_mut().zip(given).for_each(|(charge, given)| charge.cost = given);
        charges.retain(|charge| charge.cost > 0);
        for charge in &charges {
            self.ledger.refunded(charge.key, charge.label, charge.cost);
            self.refunded += charge.cost;
        }
        self.note(22, node as u64, charges.len() as u64);
        self.panel.see(now, &Seen::Refunded { life, charges: &charges });
        if let Some((command, ticket)) = told {
            let outcome = self.outcome_of(now, node, &command);
            let Some(here) = &self.nodes[node].life else { return };
            here.engine.handle_refunded(here.mono(now), ticket, &outcome);
        }
        self.schedule_wake(now, node);
    }
}
