//! The node's idea of the store's clock, and of cluster time.
//!
//! Labels are cut from cluster time, which all nodes of a region take from their store: so they agree on
//! the label without asking, as well as a round trip to the store lets them.

use crate::time::{ClusterTime, Mono, Span, StoreTime};

/// Maps monotonic time to the store's.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    /// An instant and what the store's clock is believed to have shown then.
    at: Mono,
    shows: StoreTime,
    /// The latest cluster time given out: it never steps back once the store was read.
    latest: ClusterTime,
    /// Whether the store was read yet; until then the node's own clock is a guess.
    was_read: bool,
}

/// A difference beyond which the store's clock is taken as it is, instead of being approached.
const STEP: Span = Span::millis(100);

impl Clock {
    /// A clock that shows `clock` at `now`, until the store says otherwise.
    pub(crate) fn new(now: Mono, clock: ClusterTime) -> Self {
        Self { at: now, shows: StoreTime(clock.0), latest: clock, was_read: false }
    }

    fn store_time(&self, now: Mono) -> StoreTime {
        if now >= self.at {
            self.shows + now.since(self.at)
        } else {
            self.shows - self.at.since(now)
        }
    }

    /// What time labels are cut from.
    pub(crate) fn cluster_time(&mut self, now: Mono) -> ClusterTime {
        self.latest = self.latest.max(ClusterTime(self.store_time(now).0));
        self.latest
    }

    /// What the store's clock shows, once it was read.
    pub(crate) fn shows(&self, now: Mono) -> Option<StoreTime> {
        self.was_read.then(|| self.store_time(now))
    }

    /// When the store's clock shows a cluster time.
    pub(crate) const fn store_time_of(&self, time: ClusterTime) -> StoreTime {
        StoreTime(time.0)
    }

    /// Takes a reading that the store made between `asked` and `now`.
    pub(crate) fn handle_reading(&mut self, asked: Mono, now: Mono, reading: StoreTime) {
        let middle = asked + now.since(asked).divided_by(2);
        let believed = self.store_time(middle);
        if !self.was_read {
            // A guess that was ahead must not hold the labels there until the store has caught up.
            self.was_read = true;
            self.shows = reading + now.since(middle);
            self.at = now;
            self.latest = ClusterTime(self.shows.0);
            return;
        }
        let (ahead, behind) = (reading.since(believed), believed.since(reading));
        let off = ahead.max(behind);
        // Within half the round trip the reading proves nothing.
        if off <= now.since(asked).divided_by(2) {
            return;
        }
        let part = |span: Span| if off > STEP { span } else { span.divided_by(8) };
        self.shows = self.store_time(now) + part(ahead) - part(behind);
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock that was read once.
    fn clock() -> Clock {
        let mut clock = Clock::new(Mono(1_000), ClusterTime(50_000_000));
        clock.handle_reading(Mono(1_000), Mono(1_000), StoreTime(50_000_000));
        clock
    }

    #[test]
    fn it_runs_with_monotonic_time() {
        assert_eq!(clock().cluster_time(Mono(2_000)), ClusterTime(50_001_000));
    }

    #[test]
    fn a_far_store_clock_is_taken_at_once_and_a_near_one_is_approached() {
        let mut far = clock();
        far.handle_reading(Mono(1_000), Mono(1_200), StoreTime(90_000_100));
        assert_eq!(far.cluster_time(Mono(1_200)), ClusterTime(90_000_200));

        let mut near = clock();
        near.handle_reading(Mono(1_000), Mono(1_000), StoreTime(50_008_000));
        assert_eq!(near.cluster_time(Mono(1_000)), ClusterTime(50_001_000));
    }

    #[test]
    fn the_first_reading_replaces_the_guess_even_backwards() {
        let mut clock = Clock::new(Mono(1_000), ClusterTime(50_000_000));
        clock.cluster_time(Mono(9_000));
        clock.handle_reading(Mono(8_800), Mono(9_000), StoreTime(40_000_000));
        assert_eq!(clock.cluster_time(Mono(9_000)), ClusterTime(40_000_100));
    }

    #[test]
    fn it_never_steps_back() {
        let mut clock = clock();
        clock.cluster_time(Mono(1_000));
        clock.handle_reading(Mono(1_000), Mono(1_000), StoreTime(40_000_000));
        assert_eq!(clock.cluster_time(Mono(1_001)), ClusterTime(50_000_000));
        assert_eq!(clock.cluster_time(Mono(11_001_000)), ClusterTime(51_000_000));
    }

    #[test]
    fn a_reading_within_the_round_trip_changes_nothing() {
        let mut clock = clock();
        clock.handle_reading(Mono(1_000), Mono(3_000), StoreTime(50_001_900));
        assert_eq!(clock.cluster_time(Mono(3_000)), ClusterTime(50_002_000));
    }
}
