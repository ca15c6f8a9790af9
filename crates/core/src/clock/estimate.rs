//! Where another clock stands, as an interval that narrows with every reading.

use crate::time::{Mono, Span};

/// How fast two sound clocks may drift apart: 500 µs per second, twice what a poor crystal does.
const DRIFT_PER: u64 = 2_000;
/// An estimate that no reading has renewed for so long has no weight any more: it is 1.8 s wide on either
/// side by then.
pub(crate) const OLD: Span = Span::secs(3_600);
/// No clock shows a time from here on (the year 2255): Redis' Lua could not count it.
pub(crate) const TIME_MAX: u64 = 1 << 53;

/// Where a clock stands against this node's monotonic one: `clock - monotonic` lies between two offsets,
/// if the readings were honest and both clocks sound.
///
/// A step of this node's *store* clock therefore moves nobody else's estimate, and a reading that fits
/// none of what was known says that the clock was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Estimate {
    low: i64,
    high: i64,
    /// As of when; at most a few milliseconds before the newest reading.
    at: Mono,
    /// When it was asked for: the clock showed what it says at or after this instant.
    asked: Mono,
}

impl Estimate {
    /// The clock shows between `earliest` and `latest` at `now`, as a reading says that was made at
    /// `asked` or later. `None` if no clock shows that.
    pub(crate) fn new(asked: Mono, now: Mono, earliest: u64, latest: u64) -> Option<Self> {
        if latest >= TIME_MAX || now.0 >= TIME_MAX || earliest > latest {
            return None;
        }
        // All of them are below 2^53.
        let offset = |shows: u64| shows as i64 - now.0 as i64;
        Some(Self { low: offset(earliest), high: offset(latest), at: now, asked })
    }

    /// The best guess at `clock - monotonic`, in µs.
    pub(crate) const fn offset(&self) -> i64 {
        self.low + (self.high - self.low) / 2
    }

    /// How wrong [`offset`](Self::offset) may be.
    pub(crate) fn error(&self, now: Mono) -> Span {
        let half = ((self.high - self.low) as u64).div_ceil(2);
        Span(half) + Span(self.drift(now))
    }

    /// Whether it has no weight any more.
    pub(crate) fn is_old(&self, now: Mono) -> bool {
        now.since(self.at) >= OLD
    }

    /// By how much it has widened since `at`, in whole µs.
    fn drift(&self, now: Mono) -> u64 {
        now.since(self.at).0 / DRIFT_PER
    }

    /// Takes a newer reading: what both allow, or, if that is nothing, the newer alone.
    pub(crate) fn update(&mut self, new: Self) {
        let drift = self.drift(new.at);
        let wider = drift as i64;
        let (low, high) = (new.low.max(self.low - wider), new.high.min(self.high + wider));
        if low <= high {
            // Parts of a microsecond add up when readings are frequent.
            let at = self.at + Span(drift * DRIFT_PER);
            *self = Self { low, high, at, asked: self.asked.max(new.asked) };
        } else if new.asked >= self.asked {
            // The clock was set. A reading that overlapped with the last one may be from before that.
            *self = new;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn estimate(now: u64, earliest: u64, latest: u64) -> Estimate {
        Estimate::new(Mono(now), Mono(now), earliest, latest).expect("a time")
    }

    #[test]
    fn readings_narrow_it_and_time_widens_it() {
        let mut known = estimate(1_000, 51_000, 53_000);
        assert_eq!((known.offset(), known.error(Mono(1_000))), (51_000, Span(1_000)));
        assert_eq!(known.error(Mono(2_001_000)), Span(2_000));
        known.update(estimate(1_000, 52_500, 60_000));
        assert_eq!((known.offset(), known.error(Mono(1_000))), (51_750, Span(250)));
        // Two seconds later it may have drifted by a millisecond.
        known.update(estimate(2_001_000, 2_001_000 + 40_000, 2_001_000 + 90_000));
        assert_eq!(known.error(Mono(2_001_000)), Span(1_250));
    }

    #[test]
    fn a_clock_that_was_set_is_believed_at_once_and_a_late_reading_of_before_is_not() {
        let reading = |asked: u64, now: u64, shows: u64| {
            Estimate::new(Mono(asked), Mono(now), shows, shows + now - asked).expect("a time")
        };
        let mut known = reading(0, 100, 50_000);
        known.update(reading(1_000, 1_200, 9_000_000));
        assert_eq!(known.offset(), 8_998_900);
        known.update(reading(900, 1_300, 50_950));
        assert_eq!(known.offset(), 8_998_900, "it was made before the clock was set");
        known.update(reading(1_100, 1_400, 51_150));
        assert_eq!(known.offset(), 49_900, "it was set back");
    }

    #[test]
    fn impossible_times_are_no_readings_and_old_ones_have_no_weight() {
        assert_eq!(Estimate::new(Mono(0), Mono(0), 0, u64::MAX), None);
        assert_eq!(Estimate::new(Mono(0), Mono(0), 2, 1), None);
        let known = estimate(0, 5, 5);
        assert!(!known.is_old(Mono(OLD.0 - 1)) && known.is_old(Mono(OLD.0)));
    }

    proptest! {
        /// However readings travel: while the clocks are sound, the truth lies within the stated error.
        #[test]
        fn the_truth_is_within_the_stated_error(
            start in 400_000_000_u64..1 << 52,
            ppm in -400_i64..=400,
            readings in prop::collection::vec((0_u64..5_000_000, 0_u64..200_000, 0_u64..200_000), 1..40),
        ) {
            let truth = |mono: u64| (start as i64 + mono as i64 + mono as i64 * ppm / 1_000_000) as u64;
            let (mut now, mut known): (u64, Option<Estimate>) = (0, None);
            for (pause, there, back) in readings {
                let asked = now + pause;
                now = asked + there + back;
                let shows = truth(asked + there);
                let new = Estimate::new(Mono(asked), Mono(now), shows, shows + (now - asked));
                let new = new.expect("a time");
                match &mut known {
                    Some(known) => known.update(new),
                    None => known = Some(new),
                }
                let known = known.expect("just read");
                let off = (truth(now) as i64 - now as i64) - known.offset();
                // A reading's way back is not corrected for drift: 0.4 s of it, and rounding.
                prop_assert!(off.unsigned_abs() <= known.error(Mono(now)).0 + 170, "{off} {known:?}");
            }
        }
    }
}
