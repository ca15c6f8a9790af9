//! Three clocks that do not mix, spans between their instants, and the labels of windows.
//!
//! All instants and spans are whole microseconds. A microsecond since 1970 stays below 2^53 until the
//! year 2255, so that Redis' Lua, which knows doubles only, counts it exactly.

use core::ops::{Add, AddAssign, Sub};

pub use calendar::{Unit, day_of};
pub use window::Window;
pub use zone::{DATA_VERSION, Zone};

mod calendar;
mod window;
mod zone;

/// A length of time, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(pub u64);

impl Span {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// So many microseconds.
    pub const fn micros(n: u64) -> Self {
        Self(n)
    }

    /// So many milliseconds.
    pub const fn millis(n: u64) -> Self {
        Self(n.saturating_mul(1_000))
    }

    /// So many seconds.
    pub const fn secs(n: u64) -> Self {
        Self(n.saturating_mul(1_000_000))
    }

    /// Whole milliseconds, rounded up: who waits that long has waited long enough.
    pub const fn as_millis_ceil(self) -> u64 {
        self.0.div_ceil(1_000)
    }

    /// Whole milliseconds, rounded down.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000
    }

    /// Whole seconds, rounded up.
    pub const fn as_secs_ceil(self) -> u64 {
        self.0.div_ceil(1_000_000)
    }

    /// The same span `n` times over.
    pub const fn times(self, n: u64) -> Self {
        Self(self.0.saturating_mul(n))
    }

    /// One `n`th of the span.
    pub const fn divided_by(self, n: u64) -> Self {
        Self(self.0 / n)
    }
}

impl Add for Span {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

macro_rules! instant_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl $name {
            /// The time since `earlier`, zero if that is later.
            pub const fn since(self, earlier: Self) -> Span {
                Span(self.0.saturating_sub(earlier.0))
            }
        }

        impl Add<Span> for $name {
            type Output = Self;
            fn add(self, span: Span) -> Self {
                Self(self.0.saturating_add(span.0))
            }
        }

        impl Sub<Span> for $name {
            type Output = Self;
            fn sub(self, span: Span) -> Self {
                Self(self.0.saturating_sub(span.0))
            }
        }

        impl AddAssign<Span> for $name {
            fn add_assign(&mut self, span: Span) {
                *self = *self + span;
            }
        }
    };
}

instant_type! {
    /// Monotonic time of one node, for ages and timers: microseconds since some instant of its own.
    Mono
}
instant_type! {
    /// The clock of one regional store, for its records: microseconds since 1970.
    StoreTime
}
instant_type! {
    /// The clock that all regions share as well as they can, for labels: microseconds since 1970.
    ClusterTime
}

/// The integer name of a window. State never outlives its label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Label(pub u64);

impl Label {
    /// The label after this one.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The label before this one (label 0 is its own).
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}
