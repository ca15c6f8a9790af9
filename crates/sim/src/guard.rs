//! What stands between a node and its region's store: core's breaker and bound on calls, driven as a
//! server drives them (`crates/node/src/store/guarded.rs`).
//!
//! A check asks here first. Whoever is not let through is answered by `on_store_failure` at once.

use tidegate_core::{
    breaker::{self, Breaker, Cause, Change},
    congestion::Congestion,
    engine,
    store::StoreReply,
    time::{Mono, Span},
};

use crate::{rng::Stream, scenario::StoreSettings};

/// What a store says to a question, or why it was not asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It looked at the command.
    Reply(StoreReply),
    /// It has no room for the command's keys; nothing was done.
    Full,
    /// It refused; nothing was done.
    Refused,
    /// There is no connection; nothing was sent.
    Unreachable,
    /// The breaker is open; nothing was sent.
    Open,
    /// Too many calls wait already; nothing was sent.
    Overload,
    /// Nothing, in time: the step may have been carried out.
    Nothing,
}

impl Answer {
    /// What the engine is told.
    pub fn outcome(self) -> engine::Outcome {
        match self {
            Self::Reply(reply) => engine::Outcome::Reply(reply),
            Self::Full | Self::Refused | Self::Unreachable | Self::Open => {
                engine::Outcome::Cancelled
            }
            Self::Overload => engine::Outcome::Shed,
            Self::Nothing => engine::Outcome::Unknown,
        }
    }

    /// What the engine is told of a command that heals the store: one that was not sent says nothing of
    /// the records in it.
    pub fn healing_outcome(self) -> engine::Outcome {
        match self {
            Self::Unreachable | Self::Open => engine::Outcome::Shed,
            other => other.outcome(),
        }
    }

    /// What the breaker is told, and how long the answer took where that says something.
    const fn noted(&self, took: Span) -> (breaker::Outcome, Option<Span>) {
        match self {
            Self::Reply(_) | Self::Full => (breaker::Outcome::Answered(took), Some(took)),
            Self::Nothing => (breaker::Outcome::Unanswered, Some(took)),
            Self::Refused | Self::Unreachable => (breaker::Outcome::Failed, None),
            Self::Open | Self::Overload => (breaker::Outcome::NotAsked, None),
        }
    }
}

/// One life's guard of its store.
pub struct StoreGuard {
    breaker: Breaker,
    congestion: Congestion,
    reachable: bool,
    /// Calls let through so far.
    calls: u64,
}

/// A call that may be made: it is over when it is given back.
#[derive(Debug)]
#[must_use = "a call that is let through is made"]
pub struct Permit {
    number: u64,
    call: breaker::Call,
    outcome: breaker::Outcome,
    took: Option<Span>,
}

impl Permit {
    /// Takes note of an answer, and how long it took. Of a call that is made twice the second one counts.
    pub const fn note(&mut self, took: Span, answer: &Answer) {
        (self.outcome, self.took) = answer.noted(took);
    }

    /// Its number among the calls of its node's life, from 1.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// What it came to, if it was made.
    pub const fn outcome(&self) -> breaker::Outcome {
        self.outcome
    }
}

impl StoreGuard {
    /// A guard of a store that has not been reached yet.
    pub fn new(settings: &StoreSettings, random: Stream) -> Self {
        Self {
            breaker: Breaker::new(settings.breaker, Box::new(random.into_rng())),
            congestion: Congestion::new(settings.calls_max, settings.timeout),
            reachable: false,
            calls: 0,
        }
    }

    /// Whether there was a connection when it last heard.
    pub const fn is_reachable(&self) -> bool {
        self.reachable
    }

    /// Takes note of whether there is a connection.
    pub fn learn(&mut self, now: Mono, reachable: bool) -> Option<Change> {
        if self.reachable == reachable {
            return None;
        }
        self.reachable = reachable;
        self.breaker.handle_reachable(now, reachable)
    }

    /// Lets a call through or says why not.
    pub fn admit(&mut self, now: Mono) -> Result<Permit, Answer> {
        match self.breaker.admit(now) {
            _ if !self.reachable => Err(Answer::Unreachable),
            None => Err(Answer::Open),
            Some(call) if !self.congestion.begin() => {
                self.breaker.complete(now, call, breaker::Outcome::NotAsked);
                Err(Answer::Overload)
            }
            Some(call) => {
                self.calls += 1;
                let (number, outcome) = (self.calls, breaker::Outcome::NotAsked);
                Ok(Permit { number, call, outcome, took: None })
            }
        }
    }

    /// A call is over.
    pub fn end(&mut self, now: Mono, permit: &Permit) -> Option<Change> {
        self.congestion.end(now, permit.took);
        self.breaker.complete(now, permit.call, permit.outcome)
    }

    /// How often the breaker has opened, by cause.
    pub fn opened(&self) -> [(Cause, u64); Cause::ALL.len()] {
        self.breaker.opened()
    }
}

#[cfg(test)]
mod tests {
    use tidegate_core::{ids::StoreEpoch, time::StoreTime};

    use super::*;

    fn guard(calls_max: u32) -> StoreGuard {
        let settings = StoreSettings { calls_max, ..StoreSettings::default() };
        StoreGuard::new(&settings, Stream::new(1, "breaker", 0))
    }

    const fn ms(ms: u64) -> Mono {
        Mono(ms * 1_000)
    }

    #[test]
    fn without_a_connection_nothing_passes_and_with_one_all_that_fits() {
        let mut guard = guard(1);
        assert_eq!(guard.admit(ms(0)).err(), Some(Answer::Unreachable));
        assert_eq!(guard.learn(ms(0), true), Some(Change::Closed));
        let permit = guard.admit(ms(0)).expect("it is closed");
        assert_eq!(guard.admit(ms(0)).err(), Some(Answer::Overload));
        assert_eq!(guard.end(ms(1), &permit), None);
        assert!(guard.admit(ms(1)).is_ok());
        let opened = Some(Change::Opened { cause: Cause::Unreachable, wait: None });
        assert_eq!(guard.learn(ms(2), false), opened);
        assert_eq!(guard.learn(ms(3), false), None);
        assert_eq!(guard.admit(ms(3)).err(), Some(Answer::Unreachable));
    }

    #[test]
    fn only_what_speaks_against_the_store_opens_it() {
        let reply = StoreReply::Relabel { now: StoreTime(0), epoch: StoreEpoch(1), newest: vec![] };
        for (answer, opens) in [
            (Answer::Reply(reply), false),
            (Answer::Full, false),
            (Answer::Refused, true),
            (Answer::Unreachable, true),
            (Answer::Nothing, true),
        ] {
            let mut guard = guard(8);
            guard.learn(ms(0), true);
            let mut changes = Vec::new();
            for n in 0..5 {
                let Ok(mut permit) = guard.admit(ms(30 * n)) else { continue };
                permit.note(Span::millis(1), &answer);
                changes.extend(guard.end(ms(30 * n), &permit));
            }
            assert_eq!(!changes.is_empty(), opens, "{answer:?}");
            assert_eq!(guard.admit(ms(121)).err(), opens.then_some(Answer::Open), "{answer:?}");
        }
    }

    #[test]
    fn what_was_not_sent_is_certainly_not_done() {
        use engine::Outcome::{Cancelled, Shed, Unknown};
        assert!(matches!(Answer::Nothing.outcome(), Unknown));
        assert!(matches!(Answer::Overload.outcome(), Shed));
        for answer in [Answer::Full, Answer::Refused, Answer::Unreachable, Answer::Open] {
            assert!(matches!(answer.outcome(), Cancelled));
        }
        assert!(matches!(Answer::Open.healing_outcome(), Shed));
        assert!(matches!(Answer::Refused.healing_outcome(), Cancelled));
    }
}
