//! The bound of `plain` limits: no window holds more than its quantity and what was on the way.
//!
//! Take the last admission of a region *k* in a window. Its store then held less than the quantity less
//! what the asking node had been told of the others. So all regions together admitted at most
//!
//! > L + Σ over the other regions *j* of what *j* admitted and had not told that node,
//!
//! where the sum is what *j* admitted within the true staleness of that node's knowledge, and at most L
//! each. This holds for every region that admitted; the tightest of them is the bound that is checked.
//! Beside it stands what no store had agreed to (a policy's answer to a failed store), and what *k*'s
//! store had agreed to and had forgotten, with nobody who asked it knowing better. For a regional limit
//! nobody else counts, and the bound is L itself.
//!
//! An `eventual` limit is held to it too: its nodes leave more room, never less. A `bounded` one is not:
//! what others have overdrawn takes nothing away from the rights in a region's hand, even where it is known.

use tidegate_core::policy::Consistency;

use super::{Book, Checker, LastStep, Seen, Violations, WindowBook};
use crate::queue::Instant;

/// See the module.
#[derive(Debug, Default)]
pub struct PlainBound {
    violations: Violations,
    excess: u64,
}

impl PlainBound {
    /// What was admitted beyond the bound, over all windows.
    pub const fn excess(&self) -> u64 {
        self.excess
    }
}

/// The most that the plain rule may admit in a window.
fn bound(book: &Book, window: &WindowBook) -> u64 {
    let facts = &book.keys[window.key];
    let quantity = facts.most(window.label);
    let over = |asking: usize, last: &LastStep| -> u64 {
        let others = (0..book.regions).filter(|region| *region != asking);
        let untold =
            |region: usize| book.counts_in(window, region).net().saturating_sub(last.told[region]);
        let untold: u64 = if facts.region.is_some() { 0 } else { others.map(untold).sum() };
        untold + last.forgotten
    };
    let last_steps = window.last_step.iter().enumerate();
    let tightest = last_steps.filter_map(|(k, last)| Some(over(k, last.as_ref()?))).min();
    quantity + tightest.unwrap_or(0) + window.without_store
}

impl Checker for PlainBound {
    fn name(&self) -> &'static str {
        "plain-bound"
    }

    fn see(&mut self, _book: &Book, _at: Instant, _seen: &Seen<'_>) {}

    fn close(&mut self, book: &Book, at: Instant, window: &WindowBook) {
        let facts = &book.keys[window.key];
        let admitted = window.net();
        let bound = bound(book, window);
        let overdrawn = matches!(facts.consistency, Consistency::Bounded { .. });
        if facts.enforced && !overdrawn && admitted > bound {
            let of = facts.show(window.label);
            self.excess += admitted - bound;
            self.violations
                .note(at, format_args!("{of}: {admitted} admitted, at most {bound} may be"));
        }
    }

    fn violations(&self) -> &Violations {
        &self.violations
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Charge, testing::*},
        *,
    };

    fn bench() -> Bench<PlainBound> {
        Bench::new(book(), PlainBound::default())
    }

    #[test]
    fn what_was_on_the_way_may_be_over() {
        let mut bench = bench();
        bench.admit(0, 6);
        bench.tell(0, 1, 4);
        bench.admit(1, 6);
        assert_eq!(bench.finish(), 0, "12 of 10, but 2 were not told");
    }

    #[test]
    fn more_than_what_was_on_the_way_is_found() {
        let mut bench = bench();
        bench.admit(0, 6);
        bench.tell(0, 1, 6);
        // Region 1 knows of all 6, and admits 5.
        bench.admit(1, 5);
        assert_eq!(bench.finish(), 1);
    }

    #[test]
    fn a_region_that_alone_exceeds_the_limit_is_found() {
        let mut bench = bench();
        bench.admit(0, 11);
        assert_eq!(bench.finish(), 1);
    }

    #[test]
    fn what_was_told_after_the_plan_does_not_tighten_the_bound() {
        let charges = [Charge { key: 0, label: LABEL, cost: 6 }];
        let mut bench = bench();
        bench.admit(0, 6);
        let planned = bench.book.mark();
        bench.tell(0, 1, 6);
        bench.step(1, planned, 6);
        let store = Some(true);
        bench.see(Seen::Answered { life: 1, planned, store, allowed: true, charges: &charges });
        assert_eq!(bench.finish(), 0);
    }

    #[test]
    fn what_no_store_agreed_to_is_set_apart() {
        let mut bench = bench();
        bench.admit(0, 10);
        bench.admit_without_store(0, 5);
        assert_eq!(bench.finish(), 0);
    }

    #[test]
    fn a_lost_store_may_give_again_what_the_asking_node_cannot_know() {
        let again = |told: u64, again: u64| {
            let mut bench = bench();
            bench.admit(0, 10);
            bench.tell(0, 1, 8);
            bench.see(Seen::Stopped { life: 0 });
            bench.see(Seen::StoreLost { region: 0, kept: None });
            bench.see(Seen::Started(super::super::LifeFacts {
                node: 0,
                region: 0,
                since: Instant(0),
            }));
            bench.tell_of(0, 1, 2, told);
            bench.admit(2, again);
            bench.finish()
        };
        assert_eq!(again(7, 3), 0);
        assert_eq!(again(7, 4), 1, "7 were known, and 4 more are 11");
        assert_eq!(again(0, 10), 0, "it had heard from nobody");
    }

    #[test]
    fn a_bounded_limit_has_a_bound_of_its_own_and_an_eventual_one_this() {
        let admitted = |consistency| {
            let mut bench = bench();
            bench.book.keys[0].consistency = consistency;
            bench.admit(0, 11);
            bench.finish()
        };
        assert_eq!(admitted(Consistency::Bounded { overdraft_per_million: 1 }), 0);
        assert_eq!(admitted(Consistency::Eventual), 1);
        assert_eq!(admitted(Consistency::Strict), 1);
    }

    #[test]
    fn a_shadow_limit_binds_nobody() {
        let mut bench = bench();
        bench.book.keys[0].enforced = false;
        bench.admit(0, 50);
        assert_eq!(bench.finish(), 0);
    }
}
