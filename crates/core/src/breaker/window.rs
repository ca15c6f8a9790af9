//! What became of the calls of the last while, in ten parts of which the oldest falls out.

use super::{Cause, Settings};
use crate::time::{Mono, Span};

/// Parts of a window.
const PARTS: usize = 10;
/// Of so many calls one may be slow: a 95th percentile is above a bound just when more than a twentieth
/// of the values are.
const SLOW_ONE_IN: u64 = 20;

#[derive(Clone, Copy, Default)]
struct Part {
    calls: u64,
    failed: u64,
    slow: u64,
}

/// Calls of the last window.
pub(super) struct Window {
    parts: [Part; PARTS],
    at: usize,
    /// When the current part began.
    began: Mono,
}

impl Window {
    pub(super) fn new(now: Mono) -> Self {
        Self { parts: [Part::default(); PARTS], at: 0, began: now }
    }

    /// Counts a call. When a part is over, the whole is judged: so a hiccup that is shorter than a part
    /// weighs no more than its share, however few calls came before it.
    pub(super) fn note(
        &mut self,
        settings: &Settings,
        now: Mono,
        failed: bool,
        slow: bool,
    ) -> Option<Cause> {
        let length = Span(settings.window.divided_by(PARTS as u64).0.max(1));
        let over = now.since(self.began).0 / length.0;
        let mut cause = None;
        if over > 0 {
            // After a silence, what is older than the window does not count.
            self.turn((over - 1).min(PARTS as u64));
            cause = self.judge(settings);
            self.turn(1);
        }
        self.began += length.times(over);
        let part = &mut self.parts[self.at];
        part.calls += 1;
        part.failed += u64::from(failed);
        part.slow += u64::from(slow);
        cause
    }

    /// Forgets so many of the oldest parts, in whose place new ones begin.
    fn turn(&mut self, parts: u64) {
        for _ in 0..parts {
            self.at = (self.at + 1) % PARTS;
            self.parts[self.at] = Part::default();
        }
    }

    fn judge(&self, settings: &Settings) -> Option<Cause> {
        let sum = |count: fn(&Part) -> u64| self.parts.iter().map(count).sum::<u64>();
        let (calls, failed, slow) = (sum(|p| p.calls), sum(|p| p.failed), sum(|p| p.slow));
        if calls < u64::from(settings.calls_min) {
            None
        } else if failed * 100 >= calls * u64::from(settings.failures_percent) {
            Some(Cause::Failures)
        } else if slow * SLOW_ONE_IN > calls {
            Some(Cause::Slow)
        } else {
            None
        }
    }
}
