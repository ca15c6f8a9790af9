//! What peers tell of their clocks: where each region's store clock stands, and how far siblings are.

use alloc::{collections::BTreeMap, vec::Vec};

use crate::{
    clock::{Estimate, Reading, TIME_MAX},
    ids::RegionIndex,
    memory,
    time::{ClusterTime, Mono, Span},
    wire::{ClockReading, StoreClock},
};

/// Stamps and what they are held by are rounded to 100 µs: a round trip may be so much longer.
const ROUNDING: Span = Span::micros(200);
/// Without a reading from anybody the news are made up anew this often, so that what is old is dropped.
const REVIEW: Span = Span::secs(10);

/// What is new about the clocks of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClockNews {
    /// Every other region's store clock minus monotonic time, in µs.
    pub(crate) others: Vec<i64>,
    /// The latest cluster time that a node of this region was heard to have labels of.
    pub(crate) sibling: Option<ClusterTime>,
    /// The furthest cluster time, minus monotonic time, in µs, at which another region was heard to have
    /// labels of.
    pub(crate) furthest: Option<i64>,
}

/// Where the store clocks of the other regions stand; one estimate for each, since the nodes of a region
/// share a store. The table of sessions bounds the regions.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    regions: BTreeMap<RegionIndex, Estimate>,
    sibling: Option<ClusterTime>,
    /// Of all that was ever heard.
    furthest: Option<i64>,
    /// When there is something to be told, or to be dropped.
    due: Mono,
}

impl Clocks {
    /// Takes a reading that has just come from a node of `region`; `trip` is the round trip that the same
    /// frame measured.
    pub(super) fn handle_reading(
        &mut self,
        now: Mono,
        region: RegionIndex,
        reading: &ClockReading,
        trip: Option<Span>,
    ) {
        if region == RegionIndex::OWN {
            // Its time has gone on since, but nobody knows by how much: whoever took that for granted
            // would drive its siblings ahead, and they it.
            if reading.settled {
                self.sibling = self.sibling.max(Some(ClusterTime(reading.cluster)));
                self.due = now;
            }
            return;
        }
        if reading.settled && reading.cluster < TIME_MAX {
            // It has gone on since it was told: later than this is told it is not.
            let offset = reading.cluster as i64 - now.0 as i64;
            if self.furthest.is_none_or(|furthest| furthest < offset) {
                self.furthest = Some(offset);
                self.due = now;
            }
        }
        let (Some(trip), Some(store)) = (trip, reading.store) else { return };
        // The way here took no time at least, and the whole round trip at most.
        let way = trip + ROUNDING;
        let earliest = store.shows.saturating_sub(store.error);
        let latest = store.shows.saturating_add(store.error).saturating_add(way.0);
        let Some(new) = Estimate::new(now - way, now, earliest, latest) else { return };
        self.regions.entry(region).and_modify(|known| known.update(new)).or_insert(new);
        self.due = now;
    }

    pub(super) fn memory_bytes(&self) -> usize {
        memory::of_tree(&self.regions)
    }

    /// What is new, if something is.
    pub(super) fn poll(&mut self, now: Mono) -> Option<ClockNews> {
        if now < self.due {
            return None;
        }
        self.due = now + REVIEW;
        self.regions.retain(|_, estimate| !estimate.is_old(now));
        let others = self.regions.values().map(Estimate::offset).collect();
        Some(ClockNews { others, sibling: self.sibling.take(), furthest: self.furthest })
    }
}

/// A reading, as it is told.
pub(super) fn told(reading: Reading) -> ClockReading {
    ClockReading {
        cluster: reading.cluster.0,
        settled: reading.settled,
        store: reading.store.map(|(shows, error)| StoreClock { shows: shows.0, error: error.0 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    const US: RegionIndex = RegionIndex(1);

    fn reading(shows: u64) -> ClockReading {
        let store = Some(StoreClock { shows, error: 100 });
        ClockReading { cluster: 7, settled: true, store }
    }

    #[test]
    fn the_nodes_of_a_region_narrow_one_estimate() {
        let mut clocks = Clocks::default();
        let now = Mono(10_000_000);
        clocks.handle_reading(now, US, &reading(50_000_000), Some(Span::millis(80)));
        assert_eq!(clocks.poll(now).map(|news| news.others), Some(vec![40_040_100]));
        assert_eq!(clocks.poll(now), None, "told once");
        clocks.handle_reading(now, US, &reading(50_042_000), Some(Span::millis(2)));
        assert_eq!(clocks.poll(now).map(|news| news.others), Some(vec![40_043_100]));
        assert_eq!(clocks.poll(now + REVIEW).map(|news| news.others), Some(vec![40_043_100]));
        let later = now + Span::secs(3_601);
        assert_eq!(clocks.poll(later).map(|news| news.others), Some(vec![]), "old");
    }

    #[test]
    fn what_cannot_be_measured_or_be_a_time_is_passed_over() {
        let mut clocks = Clocks::default();
        let now = Mono(10_000_000);
        clocks.handle_reading(now, US, &reading(50_000_000), None);
        clocks.handle_reading(now, US, &reading(u64::MAX), Some(Span::ZERO));
        clocks.handle_reading(
            now,
            US,
            &ClockReading { store: None, ..reading(0) },
            Some(Span::ZERO),
        );
        let news = clocks.poll(now).expect("due at the start");
        assert!(news.others.is_empty());
    }

    #[test]
    fn the_furthest_labels_that_others_use_are_remembered() {
        let mut clocks = Clocks::default();
        let at = |cluster: u64, settled| ClockReading { cluster, settled, store: None };
        let furthest = |clocks: &mut Clocks, now| clocks.poll(now).and_then(|news| news.furthest);
        clocks.handle_reading(Mono(100), US, &at(5_000, true), None);
        clocks.handle_reading(Mono(100), US, &at(9_000, false), None);
        clocks.handle_reading(Mono(100), US, &at(u64::MAX, true), None);
        clocks.handle_reading(Mono(100), RegionIndex::OWN, &at(9_000, true), None);
        assert_eq!(furthest(&mut clocks, Mono(100)), Some(4_900));
        // A clock that is slewed back, and one whose news took long, are no further.
        clocks.handle_reading(Mono(1_000), RegionIndex(2), &at(5_500, true), None);
        assert_eq!(furthest(&mut clocks, Mono(1_000) + REVIEW), Some(4_900));
    }

    #[test]
    fn a_sibling_is_followed_once_its_labels_are_in_use() {
        let mut clocks = Clocks::default();
        let guess = ClockReading { settled: false, cluster: 9, ..reading(5) };
        clocks.handle_reading(Mono(0), RegionIndex::OWN, &guess, None);
        clocks.handle_reading(Mono(0), RegionIndex::OWN, &reading(5), None);
        let news = clocks.poll(Mono(0)).expect("something new");
        assert_eq!(
            news,
            ClockNews { others: vec![], sibling: Some(ClusterTime(7)), furthest: None }
        );
    }
}
