//! What stands between checks and Redis: a breaker, and a bound on the calls that wait.
//!
//! A call asks here first, and says here what came of it. Whoever is not let through is answered by
//! `on_store_failure` at once. The machine is the core's ([`Calls`]); this file gives it a lock, the clock,
//! and words for people.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;
use rand::Rng;
use tidegate_core::{
    breaker::{Cause, Change},
    calls::{Call, Calls, Settings, State},
    store::StoreReply,
    time::Span,
};
use tracing::{info, warn};

use super::StoreError;
use crate::clock::{self, Clock};

/// Decides which calls are made. Each of its methods holds a lock for a few arithmetic operations.
pub struct StoreGuard {
    calls: Mutex<Calls>,
    clock: Clock,
    /// Which of the store's servers it stands before, for the log, if there are several.
    server: Option<String>,
}

/// A call that may be made; it is over when this is dropped, and was not made if nothing was
/// [`note`](Self::note)d.
#[must_use = "a call that is let through is made"]
pub struct Permit {
    guard: Arc<StoreGuard>,
    /// Absent when it is over.
    call: Option<Call>,
    /// What the store said, if it was no answer.
    failure: Option<String>,
}

impl StoreGuard {
    /// A guard of a store that has not been reached yet.
    pub fn new(settings: Settings, clock: Clock, random: Box<dyn Rng + Send>) -> Self {
        Self { calls: Mutex::new(Calls::new(settings, random)), clock, server: None }
    }

    /// The same, before one of several servers.
    pub fn of_server(self, server: String) -> Self {
        Self { server: Some(server), ..self }
    }

    /// Lets a call through or says why not. `reachable`: whether there is a connection.
    pub fn admit(self: &Arc<Self>, reachable: bool) -> Result<Permit, StoreError> {
        let now = self.clock.now();
        let (change, admitted) = {
            let mut calls = self.calls.lock();
            (calls.learn(now, reachable), calls.admit(now))
        };
        self.tell(change, None);
        Ok(Permit { guard: Arc::clone(self), call: Some(admitted?), failure: None })
    }

    /// The same in the place of a call that is over, so that there is room for it; of another guard's as if there had
    /// been none.
    pub fn admit_after(
        self: &Arc<Self>,
        permit: Option<Permit>,
        reachable: bool,
    ) -> Result<Permit, StoreError> {
        let Some(mut before) = permit.filter(|permit| Arc::ptr_eq(&permit.guard, self)) else {
            return self.admit(reachable);
        };
        let Some(call) = before.call.take() else { return self.admit(reachable) };
        let now = self.clock.now();
        let (learned, ended, admitted) = {
            let mut calls = self.calls.lock();
            let learned = calls.learn(now, reachable);
            let (ended, admitted) = calls.follow(now, call);
            (learned, ended, admitted)
        };
        self.tell(learned, None);
        self.tell(ended, before.failure.as_deref());
        Ok(Permit { guard: Arc::clone(self), call: Some(admitted?), failure: None })
    }

    /// How it stands, given whether there is a connection.
    pub fn state(&self, reachable: bool) -> State {
        let now = self.clock.now();
        let (change, state) = {
            let mut calls = self.calls.lock();
            (calls.learn(now, reachable), calls.state(now))
        };
        self.tell(change, None);
        state
    }

    /// Changes are rare by nature: between two openings lies a back-off.
    fn tell(&self, change: Option<Change>, last: Option<&str>) {
        let (last, server) = (last.unwrap_or_default(), self.server.as_deref());
        match change {
            None => {}
            Some(Change::Closed) => {
                info!(server, "the store's breaker is closed: checks ask the store");
            }
            Some(Change::Opened { cause: Cause::Slow, wait }) => warn!(
                server,
                wait = ?wait.map(clock::duration),
                "the store's breaker opened: of the calls of the last while, more than one in twenty took \
                 longer than `store.breaker.p95` (raise it if the store is that far away) or was not \
                 answered in time; checks are answered by on_store_failure"
            ),
            Some(Change::Opened { cause: Cause::Probe, wait }) => info!(
                server, wait = ?wait.map(clock::duration), last,
                "the store's breaker stays open: a call that was let through failed or was slow"
            ),
            Some(Change::Opened { cause, wait }) => warn!(
                server, cause = cause.name(), wait = ?wait.map(clock::duration), last,
                "the store's breaker opened; checks are answered by on_store_failure"
            ),
        }
    }
}

impl Permit {
    /// Takes note of what the store answered, and how long that took. Of a call that is made twice, since
    /// its label did not fit, the second answer counts.
    pub fn note(&mut self, took: Span, answer: &Result<StoreReply, StoreError>) {
        if let Some(call) = &mut self.call {
            call.note(took, answer.as_ref().map(drop).map_err(StoreError::failure));
        }
        self.failure = answer.as_ref().err().map(ToString::to_string);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(call) = self.call.take() else { return };
        let now = self.guard.clock.now();
        let change = self.guard.calls.lock().end(now, call);
        self.guard.tell(change, self.failure.as_deref());
    }
}

impl fmt::Debug for StoreGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.calls.lock().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};
    use tidegate_core::breaker;

    use super::*;

    fn guard(calls_max: u32) -> Arc<StoreGuard> {
        let settings = Settings { calls_max, ..Settings::default() };
        let random = Box::new(StdRng::seed_from_u64(1));
        Arc::new(StoreGuard::new(settings, Clock::start(), random))
    }

    fn why_not(admitted: Result<Permit, StoreError>) -> StoreError {
        admitted.err().expect("it is not let through")
    }

    #[test]
    fn a_permit_is_given_back_when_it_is_dropped() {
        let guard = guard(2);
        assert_eq!(why_not(guard.admit(false)), StoreError::Unreachable);
        let held = [guard.admit(true), guard.admit(true)];
        assert_eq!(why_not(guard.admit(true)), StoreError::Overload);
        assert_eq!(guard.state(true).calls, 2);
        drop(held);
        let state = guard.state(true);
        assert_eq!((state.state, state.calls), (breaker::State::Closed, 0));
    }

    #[test]
    fn a_call_after_another_has_its_place() {
        let (one, other) = (guard(1), guard(1));
        let first = one.admit(true).expect("let through");
        assert_eq!(why_not(one.admit(true)), StoreError::Overload);
        let second = one.admit_after(Some(first), true).expect("in its place");
        assert_eq!(one.state(true).calls, 1);
        assert_eq!(why_not(one.admit_after(Some(second), false)), StoreError::Unreachable);
        assert_eq!(one.state(false).calls, 0);
        let of_other = other.admit(true).expect("let through");
        assert!(one.admit_after(Some(of_other), true).is_ok());
    }

    #[test]
    fn what_was_noted_of_a_permit_is_what_the_breaker_is_told() {
        let guard = guard(2);
        let mut permit = guard.admit(true).expect("it is closed");
        permit.note(Span::millis(1), &Err(StoreError::Timeout));
        assert_eq!(permit.call.expect("not over").outcome(), breaker::Outcome::Unanswered);
        permit.note(Span::millis(2), &Err(StoreError::Full));
        assert_eq!(
            permit.call.expect("not over").outcome(),
            breaker::Outcome::Answered(Span::millis(2))
        );
        assert!(permit.failure.as_deref().is_some_and(|said| said.contains("full")));
    }
}
