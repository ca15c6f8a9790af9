//! The one place that reads the operating system's clocks.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tidegate_core::time::{ClusterTime, Mono, Span, StoreTime};

/// Monotonic and wall time of this process.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    wall_at_start: StoreTime,
}

impl Clock {
    /// A clock whose monotonic time begins now.
    pub fn start() -> Self {
        let wall = u64::try_from(unix_time().as_micros()).unwrap_or(u64::MAX);
        Self { start: instant(), wall_at_start: StoreTime(wall) }
    }

    /// Monotonic time since the clock started.
    pub fn now(&self) -> Mono {
        Mono(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Wall time as it was at the start, moved on by monotonic time: no step of the wall clock shows.
    pub fn steady(&self) -> StoreTime {
        self.wall_at_start + self.now().since(Mono(0))
    }

    /// [`steady`](Self::steady) as a first guess at cluster time.
    pub fn cluster_guess(&self) -> ClusterTime {
        ClusterTime(self.steady().0)
    }

    /// A number for this run: the wall clock in Unix milliseconds and, since a clock that was set back
    /// may show the same again, ten bits of `luck`. Below 2^53, which JSON can tell.
    pub fn boot_number(luck: u16) -> u64 {
        let millis = u64::try_from(unix_time().as_millis()).unwrap_or(u64::MAX);
        millis.min((1 << 43) - 1) << 10 | u64::from(luck & 0x3ff)
    }

    /// The instant of the runtime's timer at which monotonic time shows `at`.
    pub fn timer_at(&self, at: Mono) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.start + Duration::from_micros(at.0))
    }
}

/// The wall clock, as time since 1970; zero before that.
pub fn unix_time() -> Duration {
    wall().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The wall clock.
#[expect(clippy::disallowed_methods, reason = "this is the module that reads clocks")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// The monotonic clock, for timers and ages that do not concern the engine.
#[expect(clippy::disallowed_methods, reason = "this is the module that reads clocks")]
pub fn instant() -> Instant {
    Instant::now()
}

/// A core span as the standard library's duration.
pub fn duration(span: Span) -> Duration {
    Duration::from_micros(span.0)
}

/// A duration as a core span, at microsecond resolution.
pub fn span(duration: Duration) -> Span {
    Span::micros(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}
