//! The sliding window log: when what was used, for one window's length. It is exact at every instant, and costs
//! an entry for each instant at which something was admitted.
//!
//! ```text
//! used := Σ cost of entries within (now - length, now]
//! ```

use alloc::vec::Vec;

use crate::{
    memory,
    time::{Span, StoreTime},
};

/// The largest quantity that may be logged: a record never has more entries than that, and one more for each floor
/// that lifted it.
pub(crate) const QUANTITY_MAX: u64 = 1_000;

/// Times and costs, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Log(Vec<(StoreTime, u64)>);

impl Log {
    /// Times and costs, the oldest first.
    pub fn entries(&self) -> &[(StoreTime, u64)] {
        &self.0
    }

    /// A log of these entries, which are sorted.
    pub fn from_entries(entries: Vec<(StoreTime, u64)>) -> Self {
        Self(entries)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        memory::of_vec(&self.0)
    }

    /// Lets go of what is a window old.
    pub(super) fn forget(&mut self, at: StoreTime, length: Span) {
        let old = self.0.partition_point(|(used, _)| *used + length <= at);
        self.0.drain(..old);
    }

    /// Adds what was used at an instant.
    pub(super) fn add(&mut self, at: StoreTime, cost: u64) {
        let place = self.0.partition_point(|(used, _)| *used < at);
        match self.0.get_mut(place) {
            Some((used, known)) if *used == at => *known = known.saturating_add(cost),
            _ => self.0.insert(place, (at, cost)),
        }
    }

    pub(super) fn sum(&self) -> u64 {
        self.0.iter().fold(0, |sum, (_, cost)| sum.saturating_add(*cost))
    }

    /// Takes back what was used first: it would have been free the soonest.
    pub(super) fn refund(&mut self, mut amount: u64) {
        self.0.retain_mut(|(_, cost)| {
            let less = amount.min(*cost);
            amount -= less;
            *cost -= less;
            *cost > 0
        });
    }

    pub(super) fn wait(&self, at: StoreTime, length: Span, cost: u64, ceiling: u64) -> Span {
        let mut over = self.sum().saturating_add(cost).saturating_sub(ceiling);
        if over == 0 {
            return Span::ZERO;
        }
        let enough = self.0.iter().find(|(_, cost)| {
            over = over.saturating_sub(*cost);
            over == 0
        });
        enough.map_or(Span::ZERO, |(used, _)| (*used + length).since(at))
    }

    pub(super) fn reset(&self, at: StoreTime, length: Span) -> Span {
        self.0.last().map_or(Span::ZERO, |(used, _)| (*used + length).since(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Span = Span(100);

    fn log(entries: &[(u64, u64)]) -> Log {
        let mut log = Log::default();
        entries.iter().for_each(|(at, cost)| log.add(StoreTime(*at), *cost));
        log
    }

    #[test]
    fn what_is_a_window_old_counts_no_more() {
        let mut log = log(&[(10, 1), (20, 2), (20, 3), (30, 4)]);
        assert_eq!((log.entries().len(), log.sum()), (3, 10));
        log.forget(StoreTime(110), LENGTH);
        assert_eq!(log.sum(), 9);
        log.forget(StoreTime(119), LENGTH);
        assert_eq!(log.sum(), 9);
        log.forget(StoreTime(200), LENGTH);
        assert_eq!((log.sum(), log.reset(StoreTime(200), LENGTH)), (0, Span::ZERO));
    }

    #[test]
    fn who_waits_passes_when_enough_is_a_window_old() {
        let log = log(&[(10, 1), (20, 5), (30, 4)]);
        let wait = |cost| log.wait(StoreTime(40), LENGTH, cost, 10);
        assert_eq!([1, 2, 6, 7, 10].map(wait), [70, 80, 80, 90, 90].map(Span));
        assert_eq!(log.wait(StoreTime(40), LENGTH, 1, 11), Span::ZERO);
        assert_eq!(log.reset(StoreTime(40), LENGTH), Span(90));
    }

    #[test]
    fn the_oldest_is_given_back_first() {
        let mut log = log(&[(10, 1), (20, 5), (30, 4)]);
        log.refund(3);
        assert_eq!(log.entries(), [(StoreTime(20), 3), (StoreTime(30), 4)]);
        log.refund(9);
        assert_eq!(log.entries(), []);
    }
}
