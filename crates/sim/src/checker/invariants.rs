//! The engine's own invariants: what production counts as broken must not be broken here either.
//!
//! Debug builds of the engine stop at the first; other builds count them and answer like a failed store,
//! which no other checker would notice.

use super::{Book, Checker, Seen, Violations};
use crate::queue::Instant;

/// See the module.
#[derive(Debug, Default)]
pub struct Invariants {
    violations: Violations,
}

impl Checker for Invariants {
    fn name(&self) -> &'static str {
        "invariants"
    }

    fn see(&mut self, book: &Book, at: Instant, seen: &Seen<'_>) {
        match *seen {
            Seen::Broken { life, invariant, times } => {
                let node = book.lives[life].node;
                for _ in 0..times {
                    self.violations.note(at, format_args!("{invariant} was broken on node {node}"));
                }
            }
            Seen::Quarantined { life, peer } => {
                let [node, peer] = [life, peer].map(|life| book.lives[life].node);
                let what = format_args!("node {node} quarantined node {peer}, which never lies");
                self.violations.note(at, what);
            }
            _ => {}
        }
    }

    fn violations(&self) -> &Violations {
        &self.violations
    }
}

#[cfg(test)]
mod tests {
    use tidegate_core::invariants::Invariant;

    use super::{super::testing::*, *};

    #[test]
    fn every_broken_invariant_is_found() {
        let mut bench = Bench::new(book(), Invariants::default());
        bench.see(Seen::Broken { life: 1, invariant: Invariant::Floored, times: 3 });
        assert_eq!(bench.finish(), 3);
    }

    #[test]
    fn an_honest_peer_is_not_quarantined() {
        let mut bench = Bench::new(book(), Invariants::default());
        bench.see(Seen::Quarantined { life: 1, peer: 0 });
        assert_eq!(bench.finish(), 1);
    }

    #[test]
    fn none_is_none() {
        assert_eq!(Bench::new(book(), Invariants::default()).finish(), 0);
    }
}
