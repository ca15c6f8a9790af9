//! A breaker: whether a store that fails or is slow is asked at all.
//!
//! Closed, everything passes and is watched. Open, nothing passes, so that nobody waits for an answer that
//! will not come and the store is left alone. After a back-off it is half open: a few calls are let
//! through, and their fate closes it or opens it again, for longer.
//!
//! It is a machine without clock and lock: time is an argument, and so is chance at its making.
//!
//! ```
//! use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};
//! use tidegate_core::{
//!     breaker::{Breaker, Outcome, Settings, State},
//!     time::{Mono, Span},
//! };
//!
//! let random = Box::new(Xoshiro256PlusPlus::seed_from_u64(1));
//! let mut breaker = Breaker::new(Settings::default(), random);
//! breaker.handle_reachable(Mono(0), true);
//! for ms in (0..200).step_by(10) {
//!     let now = Mono(ms * 1_000);
//!     if let Some(call) = breaker.admit(now) {
//!         breaker.complete(now, call, Outcome::Failed);
//!     }
//! }
//! assert_eq!(breaker.state(Mono(200_000)), State::Open);
//! assert_eq!(breaker.state(Mono(0) + Span::secs(10)), State::HalfOpen);
//! ```

use alloc::boxed::Box;
use core::fmt;

use rand::Rng;

use crate::time::{Mono, Span};
use window::Window;

#[cfg(test)]
mod tests;
mod window;

/// Failures in a row that are over sooner are a hiccup: a fork of the store's process, a lost packet.
const ROW_MIN: Span = Span::millis(100);

/// When a breaker opens, and how it closes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// It opens when this many percent of the calls of a window fail: 1 to 100.
    pub failures_percent: u32,
    /// It opens when more than a twentieth of the calls of a window take longer, which is to say when
    /// their 95th percentile is above it. A call that failed to be answered in time counts as slower,
    /// whatever its deadline. `None`: slowness alone does not open it.
    pub p95: Option<Span>,
    /// Fewer calls in a window say nothing about it: 1 or more.
    pub calls_min: u32,
    /// It opens when so many calls fail one after the other, over 100 ms at least: 1 or more.
    pub in_a_row: u32,
    /// How far back calls count, judged ten times in that span.
    pub window: Span,
    /// How long it stays open the first time; twice as long each further time, with jitter.
    pub backoff: Span,
    /// The longest that it stays open.
    pub backoff_max: Span,
    /// Calls that it lets through when it is half open; all must be answered, and fast: 1 or more.
    pub probes: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            failures_percent: 50,
            p95: Some(Span::millis(50)),
            calls_min: 50,
            in_a_row: 5,
            window: Span::secs(10),
            backoff: Span::millis(250),
            backoff_max: Span::secs(5),
            probes: 3,
        }
    }
}

/// What a breaker does with calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// All pass.
    Closed,
    /// A few pass.
    HalfOpen,
    /// None passes.
    Open,
}

/// Why a breaker opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// Calls failed one after the other.
    InARow,
    /// Too large a share of the calls failed.
    Failures,
    /// The 95th percentile of the calls' times was too high.
    Slow,
    /// There was no connection.
    Unreachable,
    /// A call failed, or was slow, while the breaker was half open.
    Probe,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::InARow, Self::Failures, Self::Slow, Self::Unreachable, Self::Probe];

    /// A short name, for metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InARow => "in_a_row",
            Self::Failures => "failures",
            Self::Slow => "slow",
            Self::Unreachable => "unreachable",
            Self::Probe => "probe",
        }
    }
}

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The store answered, after so long; yes or no, also that it found fault with what was asked.
    Answered(Span),
    /// The store did not answer in time: it failed, and is slower than any bound.
    Unanswered,
    /// The store said that it can do nothing at present, or the connection broke.
    Failed,
    /// The store was not asked after all.
    NotAsked,
}

/// A change of state that people should hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It opened.
    Opened {
        /// Why.
        cause: Cause,
        /// After which it is half open; `None`: when there is a connection again.
        wait: Option<Span>,
    },
    /// It closed.
    Closed,
}

/// A call that was let through: give it back with its outcome, exactly once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a call that is never completed keeps a half-open breaker from deciding"]
pub struct Call {
    /// In which state of the breaker, counted: what became of calls of an earlier one says nothing now.
    turn: u64,
}

#[expect(clippy::large_enum_variant, reason = "there is one of it, and it is nearly always closed")]
enum Phase {
    Closed {
        since: Mono,
        window: Window,
        /// Failures since the last answer, and when the first of them was known.
        row: u32,
        row_since: Mono,
    },
    /// `until: None`: until there is a connection.
    Open {
        until: Option<Mono>,
    },
    HalfOpen {
        under_way: u32,
        answered: u32,
    },
}

/// The breaker of one store.
pub struct Breaker {
    settings: Settings,
    phase: Phase,
    turn: u64,
    /// Times that it opened without having been closed for a whole window in between.
    relapses: u32,
    /// By cause, in the order of [`Cause::ALL`].
    opened: [u64; Cause::ALL.len()],
    random: Box<dyn Rng + Send>,
}

impl Breaker {
    /// A breaker that is open until there is a connection: see
    /// [`handle_reachable`](Self::handle_reachable).
    pub fn new(settings: Settings, random: Box<dyn Rng + Send>) -> Self {
        let phase = Phase::Open { until: None };
        Self { settings, phase, turn: 0, relapses: 0, opened: [0; Cause::ALL.len()], random }
    }

    /// Lets a call through, or not.
    pub fn admit(&mut self, now: Mono) -> Option<Call> {
        if let Phase::Open { until } = self.phase {
            if until.is_none_or(|until| now < until) {
                return None;
            }
            self.turn_to(Phase::HalfOpen { under_way: 0, answered: 0 });
        }
        if let Phase::HalfOpen { under_way, answered } = &mut self.phase {
            if *under_way + *answered >= self.settings.probes {
                return None;
            }
            *under_way += 1;
        }
        Some(Call { turn: self.turn })
    }

    /// Takes note of what became of a call.
    pub fn complete(&mut self, now: Mono, call: Call, outcome: Outcome) -> Option<Change> {
        if call.turn != self.turn {
            return None;
        }
        let slow = match outcome {
            Outcome::Answered(took) => self.settings.p95.is_some_and(|bound| took > bound),
            Outcome::Unanswered => self.settings.p95.is_some(),
            Outcome::Failed | Outcome::NotAsked => false,
        };
        let failed = matches!(outcome, Outcome::Unanswered | Outcome::Failed);
        let asked = outcome != Outcome::NotAsked;
        match &mut self.phase {
            Phase::Closed { window, row, row_since, .. } if asked => {
                if !failed {
                    *row = 0;
                } else if *row == 0 {
                    (*row, *row_since) = (1, now);
                } else {
                    *row = row.saturating_add(1);
                }
                let cause = if *row >= self.settings.in_a_row && now.since(*row_since) >= ROW_MIN {
                    Some(Cause::InARow)
                } else {
                    window.note(&self.settings, now, failed, slow)
                };
                cause.map(|cause| self.open(now, cause))
            }
            Phase::HalfOpen { under_way, answered } => {
                *under_way -= 1;
                if asked && (failed || slow) {
                    return Some(self.open(now, Cause::Probe));
                }
                *answered += u32::from(asked);
                (*answered >= self.settings.probes).then(|| self.close(now))
            }
            // Nobody is let through while it is open, and calls of earlier turns are none of its own.
            Phase::Closed { .. } | Phase::Open { .. } => None,
        }
    }

    /// Takes note of whether there is a connection over which the store answers at all. Its loss needs
    /// no statistics, and its return no calls.
    pub fn handle_reachable(&mut self, now: Mono, reachable: bool) -> Option<Change> {
        match (&mut self.phase, reachable) {
            (Phase::Open { until: None }, true) => Some(self.close(now)),
            (Phase::Open { until }, false) => {
                *until = None;
                None
            }
            (Phase::Closed { .. } | Phase::HalfOpen { .. }, false) => {
                Some(self.open(now, Cause::Unreachable))
            }
            (_, true) => None,
        }
    }

    /// What it would do with a call now.
    pub fn state(&self, now: Mono) -> State {
        match self.phase {
            Phase::Closed { .. } => State::Closed,
            Phase::Open { until: Some(until) } if now >= until => State::HalfOpen,
            Phase::Open { .. } => State::Open,
            Phase::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// How often it has opened, by cause.
    pub fn opened(&self) -> [(Cause, u64); Cause::ALL.len()] {
        core::array::from_fn(|at| (Cause::ALL[at], self.opened[at]))
    }

    /// When and how it opens and closes.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    fn open(&mut self, now: Mono, cause: Cause) -> Change {
        if let Phase::Closed { since, .. } = self.phase
            && now.since(since) >= self.settings.window
        {
            self.relapses = 0;
        }
        let wait = (cause != Cause::Unreachable).then(|| self.next_wait());
        self.opened[cause as usize] += 1;
        self.turn_to(Phase::Open { until: wait.map(|wait| now + wait) });
        Change::Opened { cause, wait }
    }

    fn close(&mut self, now: Mono) -> Change {
        let window = Window::new(now);
        self.turn_to(Phase::Closed { since: now, window, row: 0, row_since: now });
        Change::Closed
    }

    fn turn_to(&mut self, phase: Phase) {
        self.turn += 1;
        self.phase = phase;
    }

    /// Between half of the back-off and the whole, so that nodes that opened together do not ask together.
    fn next_wait(&mut self) -> Span {
        let Settings { backoff, backoff_max, .. } = self.settings;
        let whole = backoff.times(1 << self.relapses.min(32)).min(backoff_max);
        self.relapses = self.relapses.saturating_add(1);
        let half = whole.divided_by(2);
        half + Span(self.random.next_u64() % (half.0 + 1))
    }
}

impl fmt::Debug for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = match self.phase {
            Phase::Closed { .. } => "closed",
            Phase::Open { .. } => "open",
            Phase::HalfOpen { .. } => "half open",
        };
        f.debug_struct("Breaker").field("phase", &phase).field("turn", &self.turn).finish()
    }
}
