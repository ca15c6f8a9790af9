//! Policies whose quantities are changed while they are in use: nodes read them one after the other.

use std::sync::Arc;

use tidegate_core::{
    policy::{Policy, PolicySet},
    time::Span,
};

use crate::queue::Instant;

/// Other policies, from an instant on.
#[derive(Debug, Clone)]
pub struct Reload {
    /// When the first node has them.
    pub at: Instant,
    /// How much later the last one has.
    pub over: Span,
    /// The same as before, but for quantities.
    pub policies: PolicySet,
}

impl Reload {
    /// When one of so many nodes has them.
    fn reaches(&self, node: usize, nodes: usize) -> Instant {
        let steps = nodes.saturating_sub(1).max(1) as u64;
        self.at + Span(self.over.0 * node as u64 / steps)
    }

    /// The policies that a node has then, if they are not the first.
    pub fn of(reloads: &[Self], node: usize, nodes: usize, now: Instant) -> Option<&PolicySet> {
        let read = reloads.iter().rev().find(|reload| reload.reaches(node, nodes) <= now);
        read.map(|reload| &reload.policies)
    }
}

/// Whether two sets differ in quantities only: whatever else changes is another limit, or another caller.
pub(super) fn differ_in_quantities(a: &PolicySet, b: &PolicySet) -> bool {
    let alike = |a: &Arc<Policy>, b: &Arc<Policy>| {
        let mut b = Policy::clone(b);
        b.limits.iter_mut().zip(&a.limits).for_each(|(b, a)| b.quantity = a.quantity);
        **a == b
    };
    a.policies.len() == b.policies.len()
        && a.policies.iter().zip(&b.policies).all(|(a, b)| alike(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policies(lines: &str) -> PolicySet {
        let text = format!(
            "[[policy]]\nname = \"a\"\nkey = [\"k\"]\n[[policy.limit]]\nname = \"l\"\nalgorithm = \"fixed-window\"\nscope = \"global\"\nconsistency = \"strict\"\n{lines}"
        );
        PolicySet::parse(&text).expect("policies")
    }

    #[test]
    fn only_quantities_may_differ() {
        let first = policies("quantity = 10\nwindow = \"1s\"");
        assert!(differ_in_quantities(&first, &policies("quantity = 7\nwindow = \"1s\"")));
        assert!(!differ_in_quantities(&first, &policies("quantity = 10\nwindow = \"2s\"")));
        assert!(!differ_in_quantities(&first, &PolicySet::default()));
    }

    #[test]
    fn nodes_read_them_one_after_the_other() {
        let policies = policies("quantity = 7\nwindow = \"1s\"");
        let reloads = [Reload { at: Instant(100), over: Span(40), policies }];
        let has = |node, now| Reload::of(&reloads, node, 3, Instant(now)).is_some();
        assert_eq!([has(0, 99), has(0, 100), has(1, 119), has(1, 120)], [false, true, false, true]);
        assert_eq!([has(2, 139), has(2, 140)], [false, true]);
    }
}
