//! A clock that runs on monotonic time and is drawn towards a target, never back and never slower than half
//! its speed once it is in use.

use super::offset;
use crate::time::{ClusterTime, Mono, Span};

/// A lag beyond this is made up for by a step: it is more than what measurements scatter by, and well
/// below what a label's bounds tolerate. Anything else is approached by running fast or slow.
const STEP: Span = Span::millis(100);
/// While it approaches, the clock gains or loses one part in so many: it runs at 1.5 or 0.5 times its speed.
const SLEW: u64 = 2;

#[derive(Debug, Clone, Copy)]
pub(super) struct Hand {
    /// An instant, and what it showed then.
    at: Mono,
    shows: ClusterTime,
    /// Where it is drawn to, minus monotonic time.
    target: i64,
}

impl Hand {
    /// Shows `time` at `now`, and runs on from there.
    pub(super) fn new(now: Mono, time: ClusterTime) -> Self {
        Self { at: now, shows: time, target: offset(time, now) }
    }

    pub(super) const fn target(&self) -> i64 {
        self.target
    }

    pub(super) fn time(&self, now: Mono) -> ClusterTime {
        let elapsed = now.since(self.at);
        let most = (elapsed.0 / SLEW) as i64;
        let gap = self.target - offset(self.shows, self.at);
        ClusterTime((self.shows + elapsed).0.saturating_add_signed(gap.clamp(-most, most)))
    }

    /// Draws it to `target`, if there is one; a hand that is not `in_use` goes there at once.
    pub(super) fn aim(&mut self, now: Mono, target: Option<i64>, in_use: bool) {
        // Threads race each other by a little, but the clock does not go back for one of them.
        let now = now.max(self.at);
        self.set(now, self.time(now));
        self.target = target.unwrap_or(self.target);
        let goal = ClusterTime(now.0.saturating_add_signed(self.target));
        if !in_use || goal.since(self.shows) > STEP {
            self.set(now, goal);
        }
    }

    pub(super) fn set(&mut self, now: Mono, time: ClusterTime) {
        self.at = self.at.max(now);
        self.shows = time;
    }

    /// As [`set`](Self::set), and nothing draws it elsewhere.
    pub(super) fn rest_at(&mut self, now: Mono, time: ClusterTime) {
        self.set(now, time);
        self.target = offset(time, self.at);
    }
}
