//! Wakes the load at the instants at which requests are due.
//!
//! A thread that sleeps wakes within some 50 µs; the runtime's timers count whole milliseconds, more
//! than many an answer takes, and every one of them would be counted as the node's latency.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

/// More wake-ups than this would cost more than they tell.
const SHORTEST: Duration = Duration::from_micros(100);
/// So that the end is not slept over.
const LONGEST: Duration = Duration::from_millis(100);

/// A thread that says "now" again and again, until dropped.
pub(super) struct Pacer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Pacer {
    /// Starts waking `wake` every `period` from `start` on, or often enough.
    #[expect(clippy::disallowed_methods, reason = "the thread is its own and serves no task")]
    pub(super) fn start(
        start: Instant,
        period: Duration,
        wake: Arc<Notify>,
    ) -> std::io::Result<Self> {
        let period = period.clamp(SHORTEST, LONGEST);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("pacer".into()).spawn(move || {
            let mut next = start;
            while !stopped.load(Ordering::Relaxed) {
                wake.notify_one();
                next += period;
                match next.checked_duration_since(super::load::now()) {
                    Some(rest) => thread::sleep(rest),
                    // Behind: one wake-up serves all that is due.
                    None => next = super::load::now(),
                }
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::warn!("the pacer panicked; the load came late");
        }
    }
}
