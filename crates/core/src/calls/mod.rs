//! What stands between checks and a store that may fail or be slow: a [`Breaker`], a bound on the calls
//! that wait, and whether there is a connection.
//!
//! Who wants to ask the store asks here first, and is answered by `on_store_failure` at once if not let
//! through. Every call that is let through is given back by [`Calls::end`], with what was noted of it.
//!
//! ```
//! use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};
//! use tidegate_core::{
//!     calls::{Calls, NotLetThrough, Settings},
//!     time::{Mono, Span},
//! };
//!
//! let random = Box::new(Xoshiro256PlusPlus::seed_from_u64(1));
//! let mut calls = Calls::new(Settings::default(), random);
//! assert_eq!(calls.admit(Mono(0)), Err(NotLetThrough::Unreachable));
//! calls.learn(Mono(0), true);
//! let mut call = calls.admit(Mono(0)).expect("there is a connection");
//! call.note(Span::millis(1), Ok(()));
//! calls.end(Mono(1_000), call);
//! ```

use alloc::boxed::Box;
use core::fmt;

use rand::Rng;

use crate::{
    breaker::{self, Breaker, Cause, Change},
    time::{Mono, Span},
};

use congestion::Congestion;

pub use failure::{Failure, NotLetThrough};

mod congestion;
mod failure;
#[cfg(test)]
mod tests;

/// When calls are let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// When the breaker opens and closes.
    pub breaker: breaker::Settings,
    /// Calls that may wait at a time, at most; fewer while answers are late. 1 or more.
    pub calls_max: u32,
    /// After which a call is given up.
    pub timeout: Span,
}

impl Default for Settings {
    fn default() -> Self {
        let breaker = breaker::Settings::default();
        Self { breaker, calls_max: 8_192, timeout: Span::millis(30) }
    }
}

/// How the way to a store stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// What the breaker does with calls now.
    pub state: breaker::State,
    /// How often it has opened, by cause.
    pub opened: [(Cause, u64); Cause::ALL.len()],
    /// Calls that wait for the store now.
    pub calls: u32,
    /// Calls that may wait for it now.
    pub calls_limit: u32,
}

/// A call that was let through: give it back by [`Calls::end`], exactly once. It was not made if nothing
/// was [`note`](Self::note)d.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a call that is never ended is taken to wait for ever"]
pub struct Call {
    call: breaker::Call,
    outcome: breaker::Outcome,
    /// How long the answer took, where that says something.
    took: Option<Span>,
}

impl Call {
    /// Takes note of what the store answered, and how long that took: also a refusal by a limit, or that
    /// a label does not fit, is `Ok`. Of a call that is made twice the second answer counts.
    pub const fn note(&mut self, took: Span, answer: Result<(), Failure>) {
        (self.outcome, self.took) = match answer {
            Ok(()) => (breaker::Outcome::Answered(took), Some(took)),
            Err(failure) => failure.noted(took),
        };
    }

    /// What it came to.
    pub const fn outcome(&self) -> breaker::Outcome {
        self.outcome
    }
}

/// Decides which calls of one store are made.
pub struct Calls {
    breaker: Breaker,
    congestion: Congestion,
    reachable: bool,
}

impl Calls {
    /// For a store that has not been reached yet.
    pub fn new(settings: Settings, random: Box<dyn Rng + Send>) -> Self {
        Self {
            breaker: Breaker::new(settings.breaker, random),
            congestion: Congestion::new(settings.calls_max, settings.timeout),
            reachable: false,
        }
    }

    // -- inputs

    /// Takes note of whether there is a connection over which the store answers at all.
    pub fn learn(&mut self, now: Mono, reachable: bool) -> Option<Change> {
        if self.reachable == reachable {
            return None;
        }
        self.reachable = reachable;
        self.breaker.handle_reachable(now, reachable)
    }

    /// Lets a call through or says why not.
    pub fn admit(&mut self, now: Mono) -> Result<Call, NotLetThrough> {
        if !self.reachable {
            return Err(NotLetThrough::Unreachable);
        }
        let call = self.breaker.admit(now).ok_or(NotLetThrough::Open)?;
        let outcome = breaker::Outcome::NotAsked;
        if !self.congestion.begin() {
            // While it is closed or half open, what was not asked changes nothing.
            self.breaker.complete(now, call, outcome);
            return Err(NotLetThrough::Overload);
        }
        Ok(Call { call, outcome, took: None })
    }

    /// A call is over.
    pub fn end(&mut self, now: Mono, call: Call) -> Option<Change> {
        self.congestion.end(now, call.took);
        self.breaker.complete(now, call.call, call.outcome)
    }

    /// A call is over, and another takes its place, if it is let through.
    pub fn follow(
        &mut self,
        now: Mono,
        call: Call,
    ) -> (Option<Change>, Result<Call, NotLetThrough>) {
        (self.end(now, call), self.admit(now))
    }

    // -- getters

    /// Whether there was a connection when it last heard.
    pub const fn is_reachable(&self) -> bool {
        self.reachable
    }

    /// How it stands.
    pub fn state(&self, now: Mono) -> State {
        State {
            state: self.breaker.state(now),
            opened: self.breaker.opened(),
            calls: self.congestion.under_way(),
            calls_limit: self.congestion.limit(),
        }
    }
}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { breaker, congestion, reachable } = self;
        f.debug_struct("Calls")
            .field("breaker", breaker)
            .field("congestion", congestion)
            .field("reachable", reachable)
            .finish()
    }
}
