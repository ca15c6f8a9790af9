//! Amounts by region: what was granted to each, or received from each.

use alloc::vec::Vec;

use crate::{ids::RegionNumber, memory, store::COUNT_MAX};

/// Cumulative amounts by region. Each only grows, so that rows are merged by maximum.
///
/// Regions without an amount are not listed, so that two rows that say the same are equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Row(Vec<(RegionNumber, u64)>);

impl Row {
    /// A row of nothing.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// The amount of one region.
    pub fn of(&self, region: RegionNumber) -> u64 {
        self.find(region).map_or(0, |at| self.0[at].1)
    }

    /// The sum over all regions, at most [`COUNT_MAX`].
    pub fn sum(&self) -> u64 {
        self.0.iter().fold(0_u64, |sum, (_, n)| sum.saturating_add(*n)).min(COUNT_MAX)
    }

    /// The sum over all regions but one, however large.
    pub fn sum_but(&self, region: RegionNumber) -> u64 {
        let others = self.0.iter().filter(|(other, _)| *other != region);
        others.fold(0_u64, |sum, (_, n)| sum.saturating_add(*n))
    }

    /// Regions and their amounts, by number; none of them is zero.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (RegionNumber, u64)> {
        self.0.iter().copied()
    }

    /// Whether no region has anything.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes held beside itself.
    pub(crate) fn memory_bytes(&self) -> usize {
        memory::of_vec(&self.0)
    }

    /// Adds to a region's amount, up to [`COUNT_MAX`].
    pub fn add(&mut self, region: RegionNumber, amount: u64) {
        self.lift(region, self.of(region).saturating_add(amount).min(COUNT_MAX));
    }

    /// Lifts a region's amount to at least `amount`. Returns whether it grew.
    pub fn lift(&mut self, region: RegionNumber, amount: u64) -> bool {
        match self.find(region) {
            Ok(at) if self.0[at].1 < amount => self.0[at].1 = amount,
            Err(at) if amount > 0 => self.0.insert(at, (region, amount)),
            _ => return false,
        }
        true
    }

    /// Field by field the larger. Returns whether anything grew.
    pub fn merge(&mut self, other: &Self) -> bool {
        other.iter().fold(false, |grew, (region, amount)| self.lift(region, amount) || grew)
    }

    fn find(&self, region: RegionNumber) -> Result<usize, usize> {
        self.0.binary_search_by_key(&region, |(region, _)| *region)
    }
}

impl FromIterator<(RegionNumber, u64)> for Row {
    fn from_iter<I: IntoIterator<Item = (RegionNumber, u64)>>(amounts: I) -> Self {
        let mut row = Self::new();
        for (region, amount) in amounts {
            row.lift(region, amount);
        }
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: RegionNumber = RegionNumber(1);
    const B: RegionNumber = RegionNumber(2);

    #[test]
    fn a_row_is_merged_by_maximum_and_never_falls() {
        let mut row = Row::from_iter([(B, 5), (A, 2)]);
        assert!(row.merge(&Row::from_iter([(A, 3), (B, 4)])));
        assert_eq!((row.of(A), row.of(B), row.sum()), (3, 5, 8));
        assert!(!row.merge(&Row::from_iter([(A, 1)])), "nothing grew");
    }

    #[test]
    fn what_says_the_same_is_equal() {
        let mut row = Row::new();
        row.add(B, 1);
        row.add(A, 0);
        row.add(B, 1);
        assert_eq!(row, Row::from_iter([(B, 2)]));
        assert_eq!(row.of(A), 0);
    }

    #[test]
    fn amounts_stop_where_counting_does() {
        let mut row = Row::from_iter([(A, COUNT_MAX), (B, COUNT_MAX)]);
        row.add(A, 1);
        assert_eq!((row.of(A), row.sum()), (COUNT_MAX, COUNT_MAX));
    }
}
