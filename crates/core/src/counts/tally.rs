//! What one session has of a key in one label, and its merge.

use crate::store::{COUNT_MAX, Counts};

/// A session's slot of a key in one label. Every field only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Tally {
    /// Admitted and given back; `refunded <= used` (INV-3).
    pub counts: Counts,
    /// Asked for, admitted or not: `offered >= used`.
    pub offered: u64,
}

impl Tally {
    /// Field by field the larger: commutative, associative, idempotent, and never below either (INV-2).
    pub fn merge(self, other: Self) -> Self {
        Self { counts: self.counts.max(other.counts), offered: self.offered.max(other.offered) }
    }

    /// Whether the fields stand in the relations that their session keeps, and are counts at all (INV-3).
    pub const fn is_sound(&self) -> bool {
        self.counts.refunded <= self.counts.used
            && self.counts.used <= self.offered
            && self.offered <= COUNT_MAX
    }

    /// Field by field the sum, at most [`COUNT_MAX`].
    pub fn plus(self, other: Self) -> Self {
        Self {
            counts: self.counts.plus(other.counts),
            offered: self.offered.saturating_add(other.offered).min(COUNT_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tally() -> impl Strategy<Value = Tally> {
        (0..=COUNT_MAX, 0..=COUNT_MAX, 0..=COUNT_MAX).prop_map(|(a, b, c)| {
            let mut sorted = [a, b, c];
            sorted.sort_unstable();
            let [refunded, used, offered] = sorted;
            Tally { counts: Counts { used, refunded }, offered }
        })
    }

    proptest! {
        #[test]
        fn merge_is_a_least_upper_bound(a in tally(), b in tally(), c in tally()) {
            prop_assert_eq!(a.merge(b), b.merge(a));
            prop_assert_eq!(a.merge(b).merge(c), a.merge(b.merge(c)));
            prop_assert_eq!(a.merge(a), a);
            prop_assert_eq!(a.merge(b).merge(a), a.merge(b));
            prop_assert!(a.merge(b).is_sound());
        }
    }
}
