//! How many calls may wait for a store at a time.
//!
//! What a call waits is what stands before it, divided by what the store serves: more calls than the
//! store answers within the deadline are more calls that wait in vain. How many that are nobody knows
//! beforehand, since the store is shared and may be slow today; so the limit is found. It grows by one
//! for each limit's worth of timely answers, and shrinks by a quarter when an answer was late, at most
//! once per deadline, since that long it takes for a change to show.

use crate::time::{Mono, Span};

/// However late answers are, so many calls may wait: a store that is far away needs some at least.
const LEAST: u32 = 64;
/// What a limit begins with.
const FIRST: u32 = 1_024;

/// The limit of one store's calls.
#[derive(Debug, Clone)]
pub(super) struct Congestion {
    most: u32,
    /// Answers that take longer are late: three quarters of the deadline, so that the limit shrinks
    /// before calls go unanswered.
    late: Span,
    deadline: Span,
    limit: u32,
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
            limit: FIRST.min(most),
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
            self.timely = 0;
        } else if was_full {
            // A limit that is not felt must not grow: it would be no limit when it is needed.
            self.timely += 1;
            if self.timely >= self.limit {
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
        let mut congestion = Congestion::new(1_000, DEADLINE);
        let late = |congestion: &mut Congestion, ms: u64| {
            assert!(congestion.begin());
            congestion.end(Mono(ms * 1_000), Some(Span::millis(23)));
            congestion.limit()
        };
        assert_eq!(late(&mut congestion, 0), 750);
        assert_eq!(late(&mut congestion, 29), 750);
        assert_eq!(late(&mut congestion, 30), 563);
        for round in 2..50 {
            late(&mut congestion, round * 30);
        }
        assert_eq!(congestion.limit(), LEAST);
    }

    #[test]
    fn it_grows_only_while_it_is_felt() {
        let mut congestion = Congestion::new(100, DEADLINE);
        congestion.limit = 64;
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

    /// A store that serves one call after the other, asked by more than it can serve: the share of calls
    /// that are answered in time, of those that began.
    fn in_time(per_ms: u64, mut congestion: Congestion) -> f64 {
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
                let measured = us > 2_000_000;
                good += u64::from(measured && took <= DEADLINE);
                late += u64::from(measured && took > DEADLINE);
                congestion.end(now, Some(took.min(DEADLINE)));
            }
        }
        good as f64 / (good + late) as f64
    }

    #[test]
    fn a_store_asked_three_times_too_much_answers_nearly_all_that_it_is_asked_in_time() {
        let fixed =
            |limit| Congestion { limit, late: DEADLINE, ..Congestion::new(limit, DEADLINE) };
        for per_ms in [5, 20, 50] {
            let found = in_time(per_ms, Congestion::new(8_192, DEADLINE));
            assert!(found > 0.999, "{per_ms} per ms: {found}");
        }
        // What it is for: a limit that nobody shrinks lets nearly all of them wait in vain.
        let blind = in_time(20, Congestion { late: Span::secs(1), ..fixed(8_192) });
        assert!(blind < 0.01, "{blind}");
    }
}
