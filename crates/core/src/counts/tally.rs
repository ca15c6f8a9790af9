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

/// A sound tally in 20 bytes: no count has more than 53 bits.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Packed {
    /// The lower 32 bits of used, refunded and offered.
    low: [u32; 3],
    /// The upper 21 bits of each, the first lowest.
    high: [u32; 2],
}

impl Packed {
    pub(super) fn new(tally: Tally) -> Self {
        debug_assert!(tally.is_sound(), "INV-3");
        let Tally { counts: Counts { used, refunded }, offered } = tally;
        let high = (used >> 32) | (refunded >> 32 << 21) | (offered >> 32 << 42);
        Self {
            low: [used, refunded, offered].map(|count| count as u32),
            high: [high as u32, (high >> 32) as u32],
        }
    }

    pub(super) fn tally(self) -> Tally {
        let high = u64::from(self.high[0]) | (u64::from(self.high[1]) << 32);
        let count = |at: usize| {
            let upper = (high >> (21 * at)) & (COUNT_MAX >> 32);
            u64::from(self.low[at]) | (upper << 32)
        };
        Tally { counts: Counts { used: count(0), refunded: count(1) }, offered: count(2) }
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
        fn nothing_of_a_tally_is_lost_when_it_is_packed(tally in tally()) {
            prop_assert_eq!(Packed::new(tally).tally(), tally);
        }

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
