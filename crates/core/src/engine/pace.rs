//! How soon peers hear of what checks bring: noted by checks without a guard, read when frames are due.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::{
    exchange::Tempo,
    forecast::Urgency,
    time::{Mono, Span},
};

/// So long after a watched key was asked for, peers are told every period, also that nothing is new: else
/// they would expect that it goes on.
const LIVELY: Span = Span::secs(1);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pace {
    urgent: AtomicBool,
    lively_until: AtomicU64,
    quick_until: AtomicU64,
    usual_until: AtomicU64,
    grants_wanted: AtomicBool,
}

impl Pace {
    /// Something changed that peers hear of as usual.
    pub(super) fn note_change(&self, now: Mono, gossip: Span) {
        raise(&self.usual_until, now + gossip.times(2));
    }

    /// A watched key was asked for.
    pub(super) fn note(&self, now: Mono, gossip: Span, urgency: Urgency) {
        raise(&self.lively_until, now + LIVELY);
        match urgency {
            Urgency::Later => {}
            Urgency::None => self.note_change(now, gossip),
            Urgency::Soon => raise(&self.quick_until, now + gossip),
            Urgency::Now => self.urgent.store(true, Ordering::Relaxed),
        }
    }

    /// Whether peers are to hear at once; asked once for each time.
    pub(super) fn take_urgent(&self) -> bool {
        self.urgent.load(Ordering::Relaxed) && self.urgent.swap(false, Ordering::Relaxed)
    }

    /// Peers have told something of limits that are spent by rights.
    pub(super) fn want_grants(&self) {
        self.grants_wanted.store(true, Ordering::Relaxed);
    }

    /// Whether they have since this was last asked.
    pub(super) fn take_grants_wanted(&self) -> bool {
        self.are_grants_wanted() && self.grants_wanted.swap(false, Ordering::Relaxed)
    }

    /// Whether they have.
    pub(super) fn are_grants_wanted(&self) -> bool {
        self.grants_wanted.load(Ordering::Relaxed)
    }

    /// Whether somebody should see to it that peers hear at once.
    pub(super) fn is_urgent(&self) -> bool {
        self.urgent.load(Ordering::Relaxed)
    }

    /// How frames follow each other now.
    pub(super) fn tempo(&self, now: Mono, gossip: Span) -> Tempo {
        let until = |instant: &AtomicU64| now.0 < instant.load(Ordering::Relaxed);
        let lively = until(&self.lively_until);
        let period = if until(&self.quick_until) {
            Span(gossip.0 * 2 / 5)
        } else if lively && !until(&self.usual_until) {
            gossip.times(2)
        } else {
            gossip
        };
        Tempo { period: period.max(Span::millis(1)), lively }
    }
}

fn raise(instant: &AtomicU64, to: Mono) {
    // Most calls raise nothing.
    if instant.load(Ordering::Relaxed) < to.0 {
        instant.fetch_max(to.0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOSSIP: Span = Span::millis(50);

    #[test]
    fn frames_are_quick_where_it_matters_and_frugal_where_not() {
        let pace = Pace::default();
        let at = |millis: u64| Mono(millis * 1_000);
        let tempo = |now| {
            let Tempo { period, lively } = pace.tempo(at(now), GOSSIP);
            (period.as_millis(), lively)
        };
        assert_eq!(tempo(0), (50, false), "nobody asks");
        pace.note(at(0), GOSSIP, Urgency::Later);
        assert_eq!(tempo(1), (100, true));
        pace.note(at(1), GOSSIP, Urgency::None);
        assert_eq!(tempo(2), (50, true));
        pace.note(at(2), GOSSIP, Urgency::Soon);
        assert_eq!(tempo(3), (20, true));
        assert_eq!(tempo(60), (50, true));
        assert_eq!(tempo(900), (100, true));
        assert_eq!(tempo(1_100), (50, false));
        assert!(!pace.is_urgent());
        pace.note(at(3), GOSSIP, Urgency::Now);
        assert!(pace.is_urgent() && pace.take_urgent() && !pace.take_urgent());
    }
}
