//! Tells in the log of failures that would otherwise be seen in metrics only, each kind now and then.

use std::sync::atomic::{AtomicU64, Ordering};

use tidegate_core::time::{Mono, Span};
use tracing::warn;

use super::StoreError;

/// How often one kind is told at most.
const EVERY: Span = Span::secs(10);

/// When each kind was told last.
#[derive(Debug, Default)]
pub struct Complaints {
    full: Told,
    record: Told,
    overload: Told,
    usage: Told,
}

/// When something was told last, and how often it has happened since.
#[derive(Debug, Default)]
struct Told {
    /// Microseconds; from then on it may be told again.
    next: AtomicU64,
    untold: AtomicU64,
}

impl Complaints {
    /// Tells of a failure, if it is of a kind that nobody else tells of and was not told just before.
    pub fn note(&self, now: Mono, failure: &StoreError) {
        let told = match failure {
            StoreError::Full => &self.full,
            StoreError::Record(_) => &self.record,
            StoreError::Overload => &self.overload,
            // The breaker and the keeper of the connection tell of the others.
            _ => return,
        };
        if let Some(times) = told.turn(now) {
            warn!(
                kind = failure.kind(),
                times, "{failure}; such checks are answered by on_store_failure"
            );
        }
    }

    /// Tells why use could not be told, of whatever kind that is: who asked has not heard it.
    pub fn note_untold_usage(&self, now: Mono, failure: &StoreError) {
        if let Some(times) = self.usage.turn(now) {
            warn!(kind = failure.kind(), times, "use could not be told: {failure}");
        }
    }
}

impl Told {
    /// How often it has happened since it was told, if it may be told now.
    fn turn(&self, now: Mono) -> Option<u64> {
        self.untold.fetch_add(1, Ordering::Relaxed);
        let next = self.next.load(Ordering::Relaxed);
        let may = now.0 >= next
            && self
                .next
                .compare_exchange(next, (now + EVERY).0, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        may.then(|| self.untold.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_once_in_a_while_with_how_often_it_happened() {
        let told = Told::default();
        let at = |ms: u64| told.turn(Mono(ms * 1_000));
        assert_eq!([at(5), at(6), at(10_004)], [Some(1), None, None]);
        assert_eq!([at(10_005), at(10_006)], [Some(3), None]);
    }
}
