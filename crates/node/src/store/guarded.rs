//! What stands between checks and Redis: a breaker, and a bound on the calls that wait.
//!
//! A call asks here first, and says here what came of it. Whoever is not let through is answered by
//! `on_store_failure` at once. Both machines are the core's; this file gives them a lock, the clock, and
//! words for people.

use std::{fmt, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rand::Rng;
use tidegate_core::{
    breaker::{self, Breaker, Call, Cause, Change, Outcome, State},
    congestion::Congestion,
    store::StoreReply,
    time::Span,
};
use tracing::{info, warn};

use super::StoreError;
use crate::clock::{self, Clock};

/// When calls are let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuardSettings {
    /// When the breaker opens and closes.
    pub breaker: breaker::Settings,
    /// Calls that may wait at a time, at most; fewer while answers are late.
    pub calls_max: u32,
    /// After which a call is given up.
    pub timeout: Duration,
}

/// Decides which calls are made. Each of its methods holds a lock for a few arithmetic operations.
pub struct StoreGuard {
    machines: Mutex<Machines>,
    clock: Clock,
}

struct Machines {
    breaker: Breaker,
    congestion: Congestion,
    reachable: bool,
}

/// How a guard stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuardState {
    /// What the breaker does with calls now.
    pub state: State,
    /// How often it has opened, by cause.
    pub opened: [(Cause, u64); Cause::ALL.len()],
    /// Calls that wait for the store now.
    pub calls: u32,
    /// Calls that may wait for it now.
    pub calls_limit: u32,
}

/// A call that may be made; it is over when this is dropped, and was not made if nothing was
/// [`note`](Self::note)d.
#[must_use = "a call that is let through is made"]
pub struct Permit {
    guard: Arc<StoreGuard>,
    call: Call,
    outcome: Outcome,
    /// How long the answer took, where that says something.
    took: Option<Span>,
    /// What the store said, if it was no answer.
    failure: Option<String>,
}

impl StoreGuard {
    /// A guard of a store that has not been reached yet.
    pub fn new(settings: GuardSettings, clock: Clock, random: Box<dyn Rng + Send>) -> Self {
        let machines = Machines {
            breaker: Breaker::new(settings.breaker, random),
            congestion: Congestion::new(settings.calls_max, clock::span(settings.timeout)),
            reachable: false,
        };
        Self { machines: Mutex::new(machines), clock }
    }

    /// Lets a call through or says why not. `reachable`: whether there is a connection.
    pub fn admit(self: &Arc<Self>, reachable: bool) -> Result<Permit, StoreError> {
        let now = self.clock.now();
        let (change, call) = {
            let mut machines = self.machines.lock();
            let change = machines.learn(self.clock, reachable);
            let call = match machines.breaker.admit(now) {
                _ if !reachable => Err(StoreError::Unreachable),
                None => Err(StoreError::Open),
                Some(call) if !machines.congestion.begin() => {
                    machines.breaker.complete(now, call, Outcome::NotAsked);
                    Err(StoreError::Overload)
                }
                Some(call) => Ok(call),
            };
            (change, call)
        };
        tell(change, None);
        call.map(|call| Permit::new(Arc::clone(self), call))
    }

    /// How it stands, given whether there is a connection.
    pub fn state(&self, reachable: bool) -> GuardState {
        let (change, state) = {
            let mut machines = self.machines.lock();
            let change = machines.learn(self.clock, reachable);
            let Machines { breaker, congestion, .. } = &*machines;
            let state = GuardState {
                state: breaker.state(self.clock.now()),
                opened: breaker.opened(),
                calls: congestion.under_way(),
                calls_limit: congestion.limit(),
            };
            (change, state)
        };
        tell(change, None);
        state
    }
}

impl Machines {
    fn learn(&mut self, clock: Clock, reachable: bool) -> Option<Change> {
        if self.reachable == reachable {
            return None;
        }
        self.reachable = reachable;
        self.breaker.handle_reachable(clock.now(), reachable)
    }
}

impl Permit {
    const fn new(guard: Arc<StoreGuard>, call: Call) -> Self {
        Self { guard, call, outcome: Outcome::NotAsked, took: None, failure: None }
    }

    /// Takes note of what the store answered, and how long that took. Of a call that is made twice, since
    /// its label did not fit, the second answer counts.
    pub fn note(&mut self, took: Span, answer: &Result<StoreReply, StoreError>) {
        (self.outcome, self.took) = match answer {
            // A fault found with one record, or with one more of them, is an answer like another.
            Ok(_) | Err(StoreError::Record(_) | StoreError::Full) => {
                (Outcome::Answered(took), Some(took))
            }
            Err(StoreError::Timeout) => (Outcome::Unanswered, Some(took)),
            Err(StoreError::Open | StoreError::Overload) => (Outcome::NotAsked, None),
            Err(
                StoreError::Unreachable
                | StoreError::Refused(_)
                | StoreError::Broken(_)
                | StoreError::Unreadable(_),
            ) => (Outcome::Failed, None),
        };
        self.failure = answer.as_ref().err().map(ToString::to_string);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let now = self.guard.clock.now();
        let change = {
            let mut machines = self.guard.machines.lock();
            machines.congestion.end(now, self.took);
            machines.breaker.complete(now, self.call, self.outcome)
        };
        tell(change, self.failure.as_deref());
    }
}

/// Changes are rare by nature: between two openings lies a back-off.
fn tell(change: Option<Change>, last: Option<&str>) {
    let last = last.unwrap_or_default();
    match change {
        None => {}
        Some(Change::Closed) => info!("the store's breaker is closed: checks ask the store"),
        Some(Change::Opened { cause: Cause::Slow, wait }) => warn!(
            wait = ?wait.map(clock::duration),
            "the store's breaker opened: of the calls of the last while, more than one in twenty took \
             longer than `store.breaker.p95` (raise it if the store is that far away) or was not \
             answered in time; checks are answered by on_store_failure"
        ),
        Some(Change::Opened { cause: Cause::Probe, wait }) => info!(
            wait = ?wait.map(clock::duration), last,
            "the store's breaker stays open: a call that was let through failed or was slow"
        ),
        Some(Change::Opened { cause, wait }) => warn!(
            cause = cause.name(), wait = ?wait.map(clock::duration), last,
            "the store's breaker opened; checks are answered by on_store_failure"
        ),
    }
}

impl fmt::Debug for StoreGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.machines.lock().breaker.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};
    use tidegate_core::time::StoreTime;

    use super::*;

    fn guard(calls_max: u32, breaker: breaker::Settings) -> Arc<StoreGuard> {
        let settings = GuardSettings { breaker, calls_max, timeout: Duration::from_millis(30) };
        let random = Box::new(StdRng::seed_from_u64(1));
        Arc::new(StoreGuard::new(settings, Clock::start(), random))
    }

    fn why_not(admitted: Result<Permit, StoreError>) -> StoreError {
        admitted.err().expect("it is not let through")
    }

    #[test]
    fn without_a_connection_nothing_passes_and_with_one_all_that_fits() {
        let guard = guard(2, breaker::Settings::default());
        assert_eq!(why_not(guard.admit(false)), StoreError::Unreachable);
        assert_eq!(guard.state(false).state, State::Open);
        let held = [guard.admit(true), guard.admit(true)];
        assert!(held.iter().all(Result::is_ok));
        assert_eq!(why_not(guard.admit(true)), StoreError::Overload);
        assert_eq!((guard.state(true).state, guard.state(true).calls), (State::Closed, 2));
        drop(held);
        assert_eq!(guard.state(true).calls, 0);
        assert_eq!(why_not(guard.admit(false)), StoreError::Unreachable);
        let opened = guard.state(false).opened;
        assert_eq!(opened[Cause::Unreachable as usize], (Cause::Unreachable, 1));
    }

    #[test]
    fn what_the_store_says_of_one_record_is_no_failure_of_the_store() {
        let picky = breaker::Settings { in_a_row: 1, probes: 1, ..breaker::Settings::default() };
        let half_open = || {
            let guard = guard(8, picky);
            guard.admit(true).unwrap().note(Span::ZERO, &Err(StoreError::Timeout));
            let mut machines = guard.machines.lock();
            let later = guard.clock.now() + Span::millis(100);
            let call = machines.breaker.admit(later).unwrap();
            machines.breaker.complete(later, call, Outcome::Failed);
            // Half open, as if time had passed.
            let due = later + Span::secs(5);
            let probe = machines.breaker.admit(due).unwrap();
            machines.congestion.begin().then_some(()).unwrap();
            drop(machines);
            (Permit::new(Arc::clone(&guard), probe), guard)
        };
        let said = String::new;
        let relabel = StoreReply::Relabel { now: StoreTime(0), newest: Vec::new() };
        for (answer, closes) in [
            (Ok(relabel), true),
            (Err(StoreError::Record(said())), true),
            (Err(StoreError::Full), true),
            (Err(StoreError::Refused(said())), false),
            (Err(StoreError::Broken(said())), false),
            (Err(StoreError::Unreadable(said())), false),
            (Err(StoreError::Unreachable), false),
            (Err(StoreError::Timeout), false),
        ] {
            let (mut probe, guard) = half_open();
            probe.note(Span::millis(1), &answer);
            drop(probe);
            let closed = guard.state(true).state == State::Closed;
            assert_eq!(closed, closes, "{answer:?}");
            assert_eq!(guard.state(true).calls, 0);
        }
        let (mut slow, guard) = half_open();
        slow.note(Span::millis(51), &Err(StoreError::Full));
        drop(slow);
        assert_ne!(guard.state(true).state, State::Closed);
    }
}
