//! How much is asked for per second, from counts that only grow.
//!
//! Rates are exponentially weighted: what was seen a time constant ago weighs a third of what is seen now.
//! A rate that has not been watched for long is corrected for that, so that a sudden demand is not taken
//! for a small one: `rate = Σ units · weight / Σ time · weight`.

use crate::time::{Mono, Span, Window};

/// How long rates remember.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    /// Of the rate that forecasts go by: an eighth of the window, 150 ms to 2 s.
    pub(super) usual: Span,
    /// Of the rate that shares go by: half of the window, 500 ms to 5 s.
    pub(super) slow: Span,
}

impl Memory {
    /// As is right for limits of this window.
    pub(super) fn of(window: Window) -> Self {
        let part = |n, least, most| window.usual_length().divided_by(n).max(least).min(most);
        Self {
            usual: part(8, Span::millis(150), Span::secs(2)),
            slow: part(2, Span::millis(500), Span::secs(5)),
        }
    }
}

/// How far back a surge is looked for.
pub(super) const FAST: Span = Span::millis(40);
/// So much more than usual is a surge.
pub(super) const SURGE_FACTOR: f64 = 1.6;

/// An exponentially weighted rate.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Rate {
    per_second: f64,
    /// Of the weight of all time before now, the part that was watched: 0 to 1.
    watched: f64,
}

impl Rate {
    /// Takes `units` more that came within the last `over`, which is taken note of already.
    fn add(&mut self, units: f64, over: Span, memory: Span) {
        if over > Span::ZERO {
            let news = 1.0 - libm::exp(-seconds(over) / seconds(memory));
            self.per_second += units / seconds(over) * news;
        }
    }

    /// Takes `units` that came within the last `over`.
    pub(super) fn observe(&mut self, units: f64, over: Span, memory: Span) {
        if over == Span::ZERO {
            return;
        }
        let news = 1.0 - libm::exp(-seconds(over) / seconds(memory));
        self.per_second += (units / seconds(over) - self.per_second) * news;
        self.watched += (1.0 - self.watched) * news;
    }

    /// Units per second, as if there had been none before it was watched.
    pub(super) const fn unwatched_as_none(&self) -> f64 {
        self.per_second
    }

    /// Units per second.
    pub(super) fn per_second(&self) -> f64 {
        if self.watched > 0.0 { self.per_second / self.watched } else { 0.0 }
    }
}

pub(super) fn seconds(span: Span) -> f64 {
    span.0 as f64 / 1e6
}

/// What one place asks for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Demand {
    /// Over the last moments.
    fast: Rate,
    usual: Rate,
    slow: Rate,
    /// Of the squares of costs: what tells heavy requests from many.
    squares: Rate,
    /// As of when.
    at: Mono,
}

impl Demand {
    /// Nothing seen yet, watched from `now` on.
    pub(super) const fn new(now: Mono) -> Self {
        const NONE: Rate = Rate { per_second: 0.0, watched: 0.0 };
        Self { fast: NONE, usual: NONE, slow: NONE, squares: NONE, at: now }
    }

    /// Takes what was asked for between `since` and `now`, and nothing between what was known and `since`.
    /// Of one time it may be told in parts: a frame tells of two labels when one follows the other.
    pub(super) fn observe(
        &mut self,
        units: f64,
        squares: f64,
        since: Mono,
        now: Mono,
        memory: Memory,
    ) {
        if now == self.at {
            let over = now.since(since);
            self.fast.add(units, over, FAST);
            self.usual.add(units, over, memory.usual);
            self.slow.add(units, over, memory.slow);
            self.squares.add(squares, over, memory.usual);
            return;
        }
        for (units, squares, until) in [(0.0, 0.0, since), (units, squares, now)] {
            let over = until.since(self.at);
            self.fast.observe(units, over, FAST);
            self.usual.observe(units, over, memory.usual);
            self.slow.observe(units, over, memory.slow);
            self.squares.observe(squares, over, memory.usual);
            self.at = self.at.max(until);
        }
    }

    /// Takes no more for true than so many units per second, and so much for one of them.
    pub(super) fn believe(&mut self, most: Option<(f64, f64)>) {
        let Some((units, cost)) = most else { return };
        for rate in [&mut self.fast, &mut self.usual, &mut self.slow] {
            rate.per_second = rate.per_second.min(units);
        }
        self.squares.per_second = self.squares.per_second.min(self.usual.per_second * cost);
    }

    /// As of when it is known.
    pub(super) const fn at(&self) -> Mono {
        self.at
    }

    /// Units per second.
    pub(super) fn usual(&self) -> f64 {
        self.usual.per_second()
    }

    /// What is left of units and squares per second when nothing more was asked for until `now`. A demand
    /// that has just surged is taken for what it is in the last moments.
    pub(super) fn fading(&self, now: Mono, memory: Memory) -> (f64, f64) {
        let silent = seconds(now.since(self.at));
        let left = libm::exp(-silent / seconds(memory.usual));
        let usual = (self.usual() * left, self.squares() * left);
        let fast = self.fast.unwatched_as_none() * libm::exp(-silent / seconds(FAST));
        if fast > SURGE_FACTOR * usual.0 && usual.0 > 0.0 {
            (fast, usual.1 * fast / usual.0)
        } else {
            usual
        }
    }

    /// Units per second, as if there had been none before it was watched.
    pub(super) const fn unwatched_as_none(&self) -> f64 {
        self.usual.unwatched_as_none()
    }

    /// Units per second, over a longer time.
    pub(super) fn slow(&self) -> f64 {
        self.slow.per_second()
    }

    /// Squares of costs per second: the variance of what comes in a second, if requests come by chance.
    pub(super) fn squares(&self) -> f64 {
        self.squares.per_second()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: Memory = Memory { usual: Span::millis(150), slow: Span::millis(500) };

    const fn ms(ms: u64) -> Mono {
        Mono(ms * 1_000)
    }

    #[test]
    fn memory_follows_the_window_within_bounds() {
        let of = |millis| Memory::of(Window::new(Span::millis(millis)).expect("in range"));
        assert_eq!(of(1_000), MEMORY);
        assert_eq!((of(4_000).usual, of(4_000).slow), (Span::millis(500), Span::secs(2)));
        assert_eq!((of(60_000).usual, of(60_000).slow), (Span::secs(2), Span::secs(5)));
    }

    #[test]
    fn a_steady_demand_is_known_from_its_first_moment_on() {
        let mut demand = Demand::new(ms(0));
        for n in 0..20 {
            demand.observe(50.0, 100.0, ms(n * 50), ms(n * 50 + 50), MEMORY);
            assert!((demand.usual() - 1_000.0).abs() < 1e-6, "{}", demand.usual());
            assert!((demand.slow() - 1_000.0).abs() < 1e-6);
            assert!((demand.squares() - 2_000.0).abs() < 1e-6);
        }
        assert_eq!(demand.at(), ms(1_000));
    }

    #[test]
    fn it_follows_a_change_within_its_memory() {
        let mut demand = Demand::new(ms(0));
        demand.observe(1_000.0, 1_000.0, ms(0), ms(1_000), MEMORY);
        // Silence for one time constant leaves a third.
        demand.observe(0.0, 0.0, ms(1_150), ms(1_150), MEMORY);
        assert!(
            (demand.usual() - 1_000.0 / core::f64::consts::E).abs() < 2.0,
            "{}",
            demand.usual()
        );
        assert!(demand.slow() > 700.0);
        // All of it came just now: a rate is what came over the time that it came in.
        demand.observe(100.0, 100.0, ms(1_250), ms(1_300), MEMORY);
        assert!(demand.usual() > 600.0);
    }

    #[test]
    fn what_is_told_in_parts_adds_up() {
        let (mut whole, mut parts) = (Demand::new(ms(0)), Demand::new(ms(0)));
        whole.observe(50.0, 50.0, ms(0), ms(50), MEMORY);
        parts.observe(20.0, 20.0, ms(0), ms(50), MEMORY);
        parts.observe(30.0, 30.0, ms(0), ms(50), MEMORY);
        assert!((whole.usual() - parts.usual()).abs() < 1e-6);
        assert!((whole.slow() - parts.slow()).abs() < 1e-6);
    }

    #[test]
    fn no_time_teaches_nothing() {
        let mut demand = Demand::new(ms(5));
        demand.observe(7.0, 7.0, ms(5), ms(5), MEMORY);
        demand.observe(7.0, 7.0, ms(3), ms(4), MEMORY);
        assert_eq!((demand.usual(), demand.at()), (0.0, ms(5)));
    }
}
