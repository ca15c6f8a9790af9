//! The bound of limits under rights: no window holds more than its quantity and what may be overdrawn.
//!
//! > strict: Σ admitted ≤ L;   bounded: Σ admitted ≤ L + Σ over regions of ⌊ε · wᵢ · L⌋
//!
//! whatever fails: links, stores, nodes, clocks. It is asked of labels, as the promise is, and of all that
//! was charged: by steps that were answered and by those whose answer was lost, for who asked may have been
//! let through by another way. A region's part is the larger of what its store agreed to and what its nodes
//! answered with the store's consent.
//!
//! It is what INV-12 to INV-16 come to: who breaks one of them, and spends what comes of it, is over here.
//!
//! What a policy admits without its store has no place under rights: each such unit is beyond the bound.
//!
//! What was given back may be spent again: then the bound is asked of what stores had agreed to and nobody had
//! given back, at every step.

use tidegate_core::policy::Consistency;

use super::{Book, Checker, Seen, Violations, WindowBook};
use crate::queue::Instant;

/// See the module.
#[derive(Debug, Default)]
pub struct RightsBound {
    violations: Violations,
    excess: u64,
}

impl RightsBound {
    /// What was admitted beyond the bound, over all windows.
    pub const fn excess(&self) -> u64 {
        self.excess
    }
}

/// What all regions together may overdraw: each its part of the quantity, rounded down by itself; where they
/// were reconfigured, by the configuration that allows most.
pub(super) fn overdrafts(book: &Book, quantity: u64, per_million: u32) -> u64 {
    let of = |weights: &Vec<u32>| -> u64 {
        let total: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
        let of = |weight: &u32| {
            let part = u128::from(quantity) * u128::from(per_million) * u128::from(*weight);
            (part / (total * 1_000_000).max(1)) as u64
        };
        weights.iter().map(of).sum()
    };
    book.facts.weights.iter().map(of).max().unwrap_or_default()
}

impl Checker for RightsBound {
    fn name(&self) -> &'static str {
        "rights-bound"
    }

    fn see(&mut self, book: &Book, at: Instant, seen: &Seen<'_>) {
        let Seen::Answered { store: None, allowed: true, charges, .. } = *seen else { return };
        for charge in charges {
            let facts = &book.keys[charge.key];
            if facts.enforced && facts.has_rights() {
                self.excess += charge.cost;
                let of = facts.show(charge.label);
                let what = format_args!("{of}: {} admitted without the store", charge.cost);
                self.violations.note(at, what);
            }
        }
    }

    fn close(&mut self, book: &Book, at: Instant, window: &WindowBook) {
        let facts = &book.keys[window.key];
        // An account that is there keeps its base until its label ends.
        let quantity = facts.most(window.label);
        // The parts of two quantities are rounded apart.
        let rounded =
            if facts.least(window.label) == quantity { 0 } else { book.regions as u64 - 1 };
        let overdraft = match facts.consistency {
            Consistency::Strict => 0,
            Consistency::Bounded { overdraft_per_million } => {
                overdrafts(book, quantity, overdraft_per_million)
            }
            Consistency::Plain | Consistency::Eventual => return,
        };
        // What was admitted without a store is told already.
        let answered = window.net().saturating_sub(window.without_store);
        let admitted = window.charged().max(answered);
        let bound = quantity + overdraft + rounded;
        if facts.enforced && admitted > bound {
            let of = facts.show(window.label);
            self.excess += admitted - bound;
            self.violations
                .note(at, format_args!("{of}: {admitted} charged, at most {bound} may ever be"));
        }
    }

    fn violations(&self) -> &Violations {
        &self.violations
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};

    fn bench(consistency: Consistency) -> Bench<RightsBound> {
        let mut book = book();
        book.keys[0].consistency = consistency;
        Bench::new(book, RightsBound::default())
    }

    /// In the book's two regions of one weight: 2 of 10 for each.
    const BOUNDED: Consistency = Consistency::Bounded { overdraft_per_million: 450_000 };

    #[test]
    fn strict_is_the_quantity_and_not_one_more() {
        let admitted = |second: u64| {
            let mut bench = bench(Consistency::Strict);
            bench.admit(0, 6);
            // Region 1 has heard nothing: that is no excuse here.
            bench.admit(1, second);
            bench.finish()
        };
        assert_eq!((admitted(4), admitted(5)), (0, 1));
    }

    #[test]
    fn bounded_may_overdraw_what_is_left_of_each_part_rounded_down() {
        let admitted = |second: u64| {
            let mut bench = bench(BOUNDED);
            bench.admit(0, 6);
            bench.admit(1, second);
            bench.finish()
        };
        // 0.45 of half of 10 is 2.25.
        assert_eq!((admitted(8), admitted(9)), (0, 1));
    }

    #[test]
    fn parts_follow_the_weights() {
        let mut book = book();
        book.facts.weights = vec![vec![9, 1]];
        assert_eq!(overdrafts(&book, 10, 450_000), 4, "4.05 and 0.45");
        book.facts.weights = vec![vec![1, 0]];
        assert_eq!(overdrafts(&book, 10, 450_000), 4);
        assert_eq!(overdrafts(&book, u64::MAX, 1_000_000), u64::MAX);
    }

    #[test]
    fn a_step_whose_answer_was_lost_counts() {
        let mut bench = bench(Consistency::Strict);
        bench.admit(0, 6);
        let planned = bench.book.mark();
        bench.step(1, planned, 5);
        assert_eq!(bench.finish(), 1);
    }

    /// INV-15 broken: a store that spends on in a label of which it has forgotten what was spent.
    #[test]
    fn a_store_that_forgets_gives_nothing_again() {
        let mut bench = bench(Consistency::Strict);
        bench.admit(0, 10);
        bench.see(Seen::StoreLost { region: 0, kept: None });
        bench.admit(0, 1);
        assert_eq!(bench.finish(), 1);
    }

    #[test]
    fn nothing_is_admitted_without_the_store() {
        let mut bench = bench(BOUNDED);
        bench.admit_without_store(0, 1);
        assert_eq!(bench.checker.excess(), 1);
        assert_eq!(bench.finish(), 1);
    }

    #[test]
    fn limits_without_rights_and_in_shadow_are_not_asked() {
        for consistency in [Consistency::Plain, Consistency::Eventual] {
            let mut bench = bench(consistency);
            bench.admit(0, 11);
            bench.admit_without_store(0, 5);
            assert_eq!(bench.finish(), 0);
        }
        let mut bench = bench(Consistency::Strict);
        bench.book.keys[0].enforced = false;
        bench.admit(0, 11);
        bench.admit_without_store(0, 5);
        assert_eq!(bench.finish(), 0);
    }
}
