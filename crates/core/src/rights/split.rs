//! How a quantity is split among the configured regions: the base of each.

use alloc::{boxed::Box, vec::Vec};

use crate::ids::RegionNumber;

/// Regions that a configuration may name.
pub const REGIONS_MAX: usize = 32;
/// The largest weight.
pub const WEIGHT_MAX: u32 = 1_000_000;

/// Why regions and weights cannot be a split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// None, or more than [`REGIONS_MAX`].
    #[error("names {found} regions, not 1 to {REGIONS_MAX}")]
    Regions {
        /// How many.
        found: usize,
    },
    /// Twice the same number.
    #[error("two regions have the same number: rename one of them")]
    Twice,
    /// A weight that is none.
    #[error("the weight {weight} is not within 0 and {WEIGHT_MAX}, or all are 0")]
    Weight {
        /// Which.
        weight: u32,
    },
}

/// Configured regions and their weights.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Split {
    /// By number.
    weights: Box<[(RegionNumber, u32)]>,
    total: u64,
}

impl Split {
    /// Checks regions and their weights. A region of weight 0 has a base of 0 and lives on grants.
    pub fn new(regions: &[(RegionNumber, u32)]) -> Result<Self, SplitError> {
        if regions.is_empty() || regions.len() > REGIONS_MAX {
            return Err(SplitError::Regions { found: regions.len() });
        }
        let mut weights = regions.to_vec();
        weights.sort_unstable();
        if weights.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(SplitError::Twice);
        }
        let heaviest = weights.iter().map(|(_, weight)| *weight).max().unwrap_or_default();
        if heaviest == 0 || heaviest > WEIGHT_MAX {
            return Err(SplitError::Weight { weight: heaviest });
        }
        let total = weights.iter().map(|(_, weight)| u64::from(*weight)).sum();
        Ok(Self { weights: weights.into(), total })
    }

    /// All of the same weight.
    pub fn even(regions: &[RegionNumber]) -> Result<Self, SplitError> {
        Self::new(&regions.iter().map(|region| (*region, 1)).collect::<Vec<_>>())
    }

    /// The configured regions, by number.
    pub fn regions(&self) -> impl ExactSizeIterator<Item = RegionNumber> {
        self.weights.iter().map(|(region, _)| *region)
    }

    /// Whether a region is configured.
    pub fn has(&self, region: RegionNumber) -> bool {
        self.weights.binary_search_by_key(&region, |(region, _)| *region).is_ok()
    }

    /// The part of a region in the whole, 0 to 1; 0 for one that is not configured.
    pub fn share(&self, region: RegionNumber) -> f64 {
        f64::from(self.weight(region)) / self.total as f64
    }

    /// All numbers that it is made of.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.weights.iter().map(|(region, weight)| u64::from(region.0) << 32 | u64::from(*weight))
    }

    /// The weight of a region; 0 for one that is not configured.
    pub fn weight(&self, region: RegionNumber) -> u32 {
        let at = self.weights.binary_search_by_key(&region, |(region, _)| *region);
        at.map_or(0, |at| self.weights[at].1)
    }

    /// The base of a region: its part of `quantity`, rounded down, and one more for the first regions by
    /// number that have a weight, until the sum over all regions is `quantity` exactly (INV-12).
    pub fn base(&self, quantity: u64, region: RegionNumber) -> u64 {
        let floor = |weight: u64| {
            (u128::from(quantity) * u128::from(weight) / u128::from(self.total)) as u64
        };
        let own = u64::from(self.weight(region));
        if own == 0 {
            return 0;
        }
        let given: u64 = self.weights.iter().map(|(_, weight)| floor(u64::from(*weight))).sum();
        let weighted = self.weights.iter().filter(|(_, weight)| *weight > 0);
        let before = weighted.take_while(|(other, _)| *other != region).count() as u64;
        floor(own) + u64::from(before < quantity - given)
    }

    /// The overdraft of a region: `per_million` of its part of `quantity`, rounded down; may be 0.
    pub fn overdraft(&self, quantity: u64, per_million: u32, region: RegionNumber) -> u64 {
        let part = u128::from(quantity) * u128::from(self.weight(region)) * u128::from(per_million);
        (part / (u128::from(self.total) * 1_000_000)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::COUNT_MAX;
    use proptest::prelude::*;

    #[test]
    fn a_split_must_be_one() {
        assert_eq!(Split::new(&[]), Err(SplitError::Regions { found: 0 }));
        let same = [(RegionNumber(1), 1), (RegionNumber(1), 2)];
        assert_eq!(Split::new(&same), Err(SplitError::Twice));
        assert_eq!(Split::new(&[(RegionNumber(1), 0)]), Err(SplitError::Weight { weight: 0 }));
        let heavy = [(RegionNumber(1), WEIGHT_MAX + 1)];
        assert!(matches!(Split::new(&heavy), Err(SplitError::Weight { .. })));
    }

    #[test]
    fn what_cannot_be_divided_goes_to_the_first() {
        let split =
            Split::even(&[RegionNumber(3), RegionNumber(1), RegionNumber(2)]).expect("fine");
        let bases = [1, 2, 3].map(|n| split.base(8, RegionNumber(n)));
        assert_eq!(bases, [3, 3, 2]);
        assert_eq!(split.base(8, RegionNumber(9)), 0, "not configured");
    }

    proptest! {
        /// INV-12: the bases add up to the quantity exactly, and the overdrafts to no more than theirs.
        #[test]
        fn bases_add_up(
            weights in prop::collection::vec(0..=WEIGHT_MAX, 1..=REGIONS_MAX),
            quantity in 1..=COUNT_MAX,
            per_million in 0..=1_000_000_u32,
        ) {
            prop_assume!(weights.iter().any(|weight| *weight > 0));
            let regions: Vec<_> =
                weights.iter().enumerate().map(|(i, w)| (RegionNumber(i as u32), *w)).collect();
            let split = Split::new(&regions).expect("fine");
            let sum: u64 = split.regions().map(|r| split.base(quantity, r)).sum();
            prop_assert_eq!(sum, quantity);
            let over: u128 = split
                .regions()
                .map(|r| u128::from(split.overdraft(quantity, per_million, r)))
                .sum();
            prop_assert!(over * 1_000_000 <= u128::from(quantity) * u128::from(per_million));
        }
    }
}
