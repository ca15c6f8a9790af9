//! What stands between a node and its region's store: core's breaker and bound on calls ([`Calls`]), whose
//! calls are numbered here for the checkers.

use tidegate_core::{
    breaker::{self, Change},
    calls::{Call, Calls, Failure, NotLetThrough, Settings},
    store::StoreReply,
    time::{Mono, Span},
};

use crate::{rng::Stream, scenario::StoreSettings};

/// What a store says to a question, or why it does not.
pub type Answer = Result<StoreReply, Failure>;

/// One life's guard of its store.
pub struct StoreGuard {
    calls: Calls,
    /// Calls let through so far.
    through: u64,
}

/// A call that may be made: it is over when it is given back.
#[derive(Debug)]
#[must_use = "a call that is let through is made"]
pub struct Permit {
    number: u64,
    call: Call,
}

impl Permit {
    /// Takes note of an answer, and how long it took. Of a call that is made twice the second one counts.
    pub fn note(&mut self, took: Span, answer: &Answer) {
        self.call.note(took, answer.as_ref().map(drop).map_err(|failure| *failure));
    }

    /// Its number among the calls of its node's life, from 1.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// What it came to, if it was made.
    pub const fn outcome(&self) -> breaker::Outcome {
        self.call.outcome()
    }
}

impl StoreGuard {
    /// A guard of a store that has not been reached yet.
    pub fn new(settings: &StoreSettings, random: Stream) -> Self {
        let StoreSettings { breaker, calls_max, timeout, .. } = *settings;
        let calls =
            Calls::new(Settings { breaker, calls_max, timeout }, Box::new(random.into_rng()));
        Self { calls, through: 0 }
    }

    /// How core's machine stands.
    pub const fn calls(&self) -> &Calls {
        &self.calls
    }

    /// Takes note of whether there is a connection.
    pub fn learn(&mut self, now: Mono, reachable: bool) -> Option<Change> {
        self.calls.learn(now, reachable)
    }

    /// Lets a call through or says why not.
    pub fn admit(&mut self, now: Mono) -> Result<Permit, NotLetThrough> {
        let call = self.calls.admit(now)?;
        self.through += 1;
        Ok(Permit { number: self.through, call })
    }

    /// A call is over.
    pub fn end(&mut self, now: Mono, permit: &Permit) -> Option<Change> {
        self.calls.end(now, permit.call)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_calls_that_are_let_through_are_numbered() {
        let settings = StoreSettings { calls_max: 1, ..StoreSettings::default() };
        let mut guard = StoreGuard::new(&settings, Stream::new(1, "breaker", 0));
        let number = |admitted: Result<Permit, _>| admitted.map(|permit| permit.number());
        assert_eq!(number(guard.admit(Mono(0))), Err(NotLetThrough::Unreachable));
        guard.learn(Mono(0), true);
        let first = guard.admit(Mono(0)).expect("it is closed");
        assert_eq!(first.number(), 1);
        assert_eq!(number(guard.admit(Mono(0))), Err(NotLetThrough::Overload));
        assert_eq!(guard.end(Mono(1), &first), None);
        assert_eq!(number(guard.admit(Mono(1))), Ok(2));
    }
}
