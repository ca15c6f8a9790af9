//! How many calls may wait for a store at a time.
//!
//! What a call waits is what stands before it, divided by what the store serves: more calls than the
//! store answers within the deadline are more calls that wait in vain. How many that are nobody knows
//! beforehand, since the store is shared and may be slow today; so the limit is found.
//!
//! It begins low and grows quickly, by one for each timely answer, until answers take half as long as
//! would be late. (A call is answered one queue's length after it began, and in that time the limit at
//! most doubles: so the calls that began last are not late either.) From then on it grows by one for each
//! limit's worth of timely answers, and shrinks by a quarter when an answer was late, at most once per
//! deadline, since that long it takes for a change to show.

use crate::time::{Mono, Span};

/// However late answers are, so many calls may wait, which is also what a limit begins with: a store that is
/// far away needs some at least. Two nodes that share a store which serves 8,000 calls a second have theirs
/// answered within 16 ms; one that answers in half a millisecond serves 128,000 a second with them.
const LEAST: u32 = 64;

/// The limit of one store's calls.
#[derive(Debug, Clone)]
pub(super) struct Congestion {
    most: u32,
    /// Answers that take longer are late: three quarters of the deadline, so that the limit shrinks
    /// before calls go unanswered.
    late: Span,
    deadline: Span,
    limit: u32,
    /// Whether it still grows with each timely answer.
    quick: bool,
    /// Timely answers since the limit last changed.
    timely: u32,
    shrunk: Option<Mono>,
    under_way: u32,
}

impl Congestion {
    /// A limit that never exceeds `most`, for calls that are given up after `deadline`.
    pub(super) fn new(most: u32, deadline: Span) -> Self {
        Self {
            most,
            late: Span(deadline.0 - deadline.0 / 4),
            deadline,
            limit: LEAST.min(most),
            quick: true,
            timely: 0,
            shrunk: None,
            under_way: 0,
        }
    }

    /// Begins a call, if one more may wait: end it by [`end`](Self::end), exactly once.
    #[must_use]
    pub(super) const fn begin(&mut self) -> bool {
        let fits = self.under_way < self.limit;
        self.under_way += fits as u32;
        fits
    }

    /// Ends a call. `took`: how long its answer took, up to the deadline if none came; `None` if that
    /// says nothing.
    pub(super) fn end(&mut self, now: Mono, took: Option<Span>) {
        let was_full = self.under_way.saturating_mul(2) >= self.limit;
        self.under_way = self.under_way.saturating_sub(1);
        let Some(took) = took else { return };
        if took > self.late {
            let seen = self.shrunk.is_none_or(|at| now.since(at) >= self.deadline);
            if seen {
                self.shrunk = Some(now);
                self.limit = (self.limit - self.limit / 4).max(LEAST.min(self.most));
            }
            (self.timely, self.quick) = (0, false);
        } else if was_full {
            // A limit that is not felt must not grow: it would be no limit when it is needed.
            self.timely += 1;
            self.quick &= took <= self.late.divided_by(2);
            if self.quick || self.timely >= self.limit {
                self.timely = 0;
                self.limit = self.limit.saturating_add(1).min(self.most);
            }
        }
    }

    /// How many calls may wait.
    pub(super) const fn limit(&self) -> u32 {
        self.limit
    }

    /// How many wait.
    pub(super) const fn under_way(&self) -> u32 {
        self.under_way
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const DEADLINE: Span = Span::millis(30);

    #[test]
    fn no_more_begin_than_may_wait() {
        let mut congestion = Congestion::new(3, DEADLINE);
        assert_eq!([0; 5].map(|_| congestion.begin()), [true, true, true, false, false]);
        congestion.end(Mono(1), None);
        assert_eq!((congestion.begin(), congestion.begin()), (true, false));
        assert_eq!((congestion.limit(), congestion.under_way()), (3, 3));
    }

    #[test]
    fn late_answers_shrink_it_once_per_deadline_and_not_below_the_least() {
        let mut congestion = Congestion { limit: 128, ..Congestion::new(1_000, DEADLINE) };
        let late = |congestion: &mut Congestion, ms: u64| {
            assert!(congestion.begin());
            congestion.end(Mono(ms * 1_000), Some(Span::millis(23)));
            congestion.limit()
        };
        assert_eq!(late(&mut congestion, 0), 96);
        assert_eq!(late(&mut congestion, 29), 96);
        assert_eq!(late(&mut congestion, 30), 72);
        for round in 2..50 {
            late(&mut congestion, round * 30);
        }
        assert_eq!(congestion.limit(), LEAST);
    }

    #[test]
    fn it_grows_only_while_it_is_felt() {
        let mut congestion = Congestion { quick: false, ..Congestion::new(64, DEADLINE) };
        congestion.most = 100;
        for _ in 0..1_000 {
            assert!(congestion.begin());
            congestion.end(Mono(0), Some(Span::millis(1)));
        }
        assert_eq!(congestion.limit(), 64);
        while congestion.begin() {}
        for _ in 0..64 {
            congestion.end(Mono(0), Some(Span::millis(1)));
            assert!(congestion.begin());
        }
        assert_eq!(congestion.limit(), 65);
    }

    /// Fills it, and lets so many be answered after `took`, each followed by another.
    fn answered(congestion: &mut Congestion, calls: u32, took: Span) -> u32 {
        while congestion.begin() {}
        for _ in 0..calls {
            congestion.end(Mono(0), Some(took));
            while congestion.begin() {}
        }
        congestion.limit()
    }

    #[test]
    fn it_begins_low_and_doubles_while_answers_are_quick() {
        let mut congestion = Congestion::new(8_192, DEADLINE);
        assert_eq!(congestion.limit(), 64);
        assert_eq!(answered(&mut congestion, 64, Span::millis(11)), 128);
        assert_eq!(answered(&mut congestion, 128, Span::millis(1)), 256);
        // Timely, but half as long as is late: from now on it grows by one per limit's worth.
        assert_eq!(answered(&mut congestion, 1, Span::millis(12)), 256);
        assert_eq!(answered(&mut congestion, 255, Span::millis(1)), 257);
        assert_eq!(answered(&mut congestion, 257, Span::millis(1)), 258);
        assert_eq!(answered(&mut Congestion::new(200, DEADLINE), 500, Span::millis(1)), 200);
    }

    #[test]
    fn a_late_answer_ends_quick_growth() {
        let mut congestion = Congestion { limit: 128, ..Congestion::new(8_192, DEADLINE) };
        assert_eq!(answered(&mut congestion, 1, Span::millis(23)), 96);
        congestion.under_way = 0;
        assert_eq!(answered(&mut congestion, 95, Span::millis(1)), 96);
        assert_eq!(answered(&mut congestion, 1, Span::millis(1)), 97);
    }

    /// A store that serves one call after the other, asked by three times more than it can serve: of the
    /// calls that began after `from`, the share that are answered in time, and the limit at the end.
    fn in_time(per_ms: u64, from: Mono, mut congestion: Congestion) -> (f64, u32) {
        let mut queue: VecDeque<Mono> = VecDeque::new();
        let (mut good, mut late) = (0_u64, 0_u64);
        for us in 0..5_000_000_u64 {
            let now = Mono(us);
            if us % (1_000 / (3 * per_ms)) == 0 && congestion.begin() {
                queue.push_back(now);
            }
            if us % (1_000 / per_ms) == 0
                && let Some(began) = queue.pop_front()
            {
                let took = now.since(began);
                good += u64::from(began >= from && took <= DEADLINE);
                late += u64::from(began >= from && took > DEADLINE);
                congestion.end(now, Some(took.min(DEADLINE)));
            }
        }
        (good as f64 / (good + late) as f64, congestion.limit())
    }

    #[test]
    fn of_a_store_asked_three_times_too_much_nobody_waits_in_vain_from_the_first_call_on() {
        for per_ms in [8, 20, 50] {
            let (found, limit) = in_time(per_ms, Mono(0), Congestion::new(8_192, DEADLINE));
            assert!(found > 0.999, "{per_ms} per ms: {found}");
            // Nor is it idle: it is given at least what it serves in a third of the deadline.
            assert!(u64::from(limit) >= 10 * per_ms, "{per_ms} per ms: {limit}");
        }
        // One that serves still less is too slow for what it begins with, but not for long.
        let (found, _) = in_time(3, Mono(500_000), Congestion::new(8_192, DEADLINE));
        assert!(found > 0.999, "{found}");
    }

    #[test]
    fn what_it_is_for() {
        // A limit that nobody shrinks lets nearly all of them wait in vain,
        let fixed =
            Congestion { late: Span::secs(1), limit: 8_192, ..Congestion::new(8_192, DEADLINE) };
        let (blind, _) = in_time(20, Mono(2_000_000), fixed);
        assert!(blind < 0.01, "{blind}");
        // and one that begins high does so at first.
        let high = Congestion { limit: 1_024, quick: false, ..Congestion::new(8_192, DEADLINE) };
        let (first, _) = in_time(8, Mono(0), high.clone());
        let low = in_time(8, Mono(0), Congestion::new(8_192, DEADLINE)).0;
        assert!(first < low, "{first} {low}");
    }
}
