//! Token bucket and leaky bucket: a level that every request raises by its cost, and that drains at a steady
//! rate; a request passes if the level stays within the capacity.
//!
//! ```text
//! level := max(0, level - drain × ticks)      ticks := ⌊now / tick⌋ - ⌊at / tick⌋
//! passes := level + cost × unit <= capacity × unit
//! ```
//!
//! A bucket of tokens is the same seen from the other side: its tokens are the capacity less the level. This is
//! the *generic cell rate algorithm* (ITU-T I.371) in its form as a leaky bucket; its theoretical arrival time is
//! the instant at which the level is zero.
//!
//! A bucket that *shapes* admits the same, and says how long each request is to wait so that they go on at the steady
//! rate: until what was there before it has drained.
//!
//! Levels are whole numbers of *units*: a token is `unit` of them, and `drain` of them drain in each tick, such
//! that `drain / (unit × tick) = quantity / window` exactly. So nothing is lost by rounding, however often a key is
//! asked for. A tick is 1 µs, or longer where a full bucket would not fit below 2^53.

use crate::{
    store::COUNT_MAX,
    time::{Span, StoreTime, Window},
};

/// The longest time that a full bucket may take to drain.
pub(crate) const DRAINS_MAX: Span = Span::secs(4_000 * 86_400);
/// A tick is at most this part of a window.
const TICKS_MIN: u64 = 1_000;

/// How a level rises and drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bucket {
    /// Tokens that fit.
    pub capacity: u64,
    /// Units of a token.
    pub unit: u64,
    /// Units that drain in a tick.
    pub drain: u64,
    /// µs of a tick.
    pub tick: u64,
    /// Whether what is admitted is told to wait for what was admitted before.
    pub shapes: bool,
}

impl Bucket {
    /// One that drains `quantity` tokens in a window and holds `capacity`; `None` if it does not fit into 2^53 with
    /// a tick of at most a thousandth of the window, or takes longer than 4,000 days to drain,
    /// or if the window has no length.
    pub fn new(quantity: u64, window: Window, capacity: u64) -> Option<Self> {
        let length = window.length()?.0;
        let mut tick = 1;
        while tick <= (length / TICKS_MIN).max(1) {
            if let Some(per_tick) = quantity.checked_mul(tick) {
                let divisor = gcd(length, per_tick);
                let (unit, drain) = (length / divisor, per_tick / divisor);
                let full = u128::from(capacity) * u128::from(unit);
                let lasts = full.div_ceil(u128::from(drain)) * u128::from(tick);
                if full <= u128::from(COUNT_MAX)
                    && drain <= COUNT_MAX
                    && lasts <= u128::from(DRAINS_MAX.0)
                {
                    return Some(Self { capacity, unit, drain, tick, shapes: false });
                }
            }
            tick *= 10;
        }
        None
    }

    /// The same, and it shapes.
    #[must_use]
    pub const fn shaping(self) -> Self {
        Self { shapes: true, ..self }
    }

    const fn full(&self) -> u64 {
        self.capacity * self.unit
    }

    /// From `at` until so many ticks have begun.
    fn after(&self, ticks: u64, at: StoreTime) -> Span {
        match ticks {
            0 => Span::ZERO,
            _ => Span(ticks.saturating_mul(self.tick).saturating_sub(at.0 % self.tick)),
        }
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// How full a bucket is, at the time of its [`Meter`](super::Meter).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Level {
    /// In units.
    pub units: u64,
    /// Units of a token, when it was written.
    pub unit: u64,
}

impl Level {
    pub(crate) const fn empty(bucket: &Bucket) -> Self {
        Self { units: 0, unit: bucket.unit }
    }

    /// What has drained between two times. A level that was written by another quantity is first read by this
    /// one. One that was written by a larger burst may be above the capacity for a while.
    pub(crate) fn drain(&mut self, bucket: &Bucket, before: StoreTime, at: StoreTime) {
        if self.unit != bucket.unit {
            // The script has no other numbers than these.
            let units = self.units as f64 * bucket.unit as f64 / self.unit as f64;
            *self = Self { units: libm::ceil(units) as u64, unit: bucket.unit };
        }
        self.units = drained(self.units.min(COUNT_MAX), bucket, before, at);
    }

    /// Takes note of tokens that were used until `used_by`, and drains what has since; fills it at most.
    pub(crate) fn lift(&mut self, bucket: &Bucket, amount: u64, used_by: StoreTime, at: StoreTime) {
        let more = drained(amount.min(bucket.capacity) * bucket.unit, bucket, used_by, at);
        self.units += more.min(bucket.full().saturating_sub(self.units));
    }

    /// Tokens that are used, rounded up.
    pub(crate) const fn used(&self, bucket: &Bucket) -> u64 {
        self.units.div_ceil(bucket.unit)
    }

    pub(crate) const fn has_room(&self, bucket: &Bucket, cost: u64) -> bool {
        cost <= bucket.capacity && cost * bucket.unit <= bucket.full().saturating_sub(self.units)
    }

    /// Takes what there is room for.
    pub(crate) fn charge(&mut self, bucket: &Bucket, cost: u64) {
        self.units += cost.min(bucket.capacity) * bucket.unit;
    }

    /// Gives back what of `amount` cannot have drained if it was used since an instant.
    pub(crate) fn refund(&mut self, bucket: &Bucket, amount: u64, since: StoreTime, at: StoreTime) {
        let less = drained(amount.min(bucket.capacity) * bucket.unit, bucket, since, at);
        self.units = self.units.saturating_sub(less);
    }

    pub(super) fn wait(&self, bucket: &Bucket, at: StoreTime, cost: u64) -> Span {
        let room = bucket.full() - cost.min(bucket.capacity) * bucket.unit;
        bucket.after(self.units.saturating_sub(room).div_ceil(bucket.drain), at)
    }

    pub(super) fn reset(&self, bucket: &Bucket, at: StoreTime) -> Span {
        bucket.after(self.units.div_ceil(bucket.drain), at)
    }
}

/// What is left of a level after a time.
fn drained(units: u64, bucket: &Bucket, before: StoreTime, at: StoreTime) -> u64 {
    // One step of the store reads a level several times at one instant.
    if at <= before {
        return units;
    }
    let ticks = at.0 / bucket.tick - before.0 / bucket.tick;
    // In this order no product leaves 2^53.
    if ticks >= units.div_ceil(bucket.drain) { 0 } else { units - ticks * bucket.drain }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn window(micros: u64) -> Window {
        Window::new(Span(micros)).expect("in range")
    }

    #[test]
    fn its_numbers_are_small_and_exact() {
        let of = |quantity, micros, capacity| Bucket::new(quantity, window(micros), capacity);
        let bucket = of(10, 1_000_000, 20).expect("it fits");
        assert_eq!((bucket.unit, bucket.drain, bucket.tick), (100_000, 1, 1));
        let three = of(3, 1_000_000, 3).expect("it fits");
        assert_eq!((three.unit, three.drain, three.tick), (1_000_000, 3, 1));
        // 999,983 is prime: with ticks of 1 µs a full bucket of a day would not fit.
        let day = of(999_983, 86_400_000_000, 999_983).expect("it fits");
        assert_eq!(day.tick, 10);
        assert!(of(1_000_000_000, 86_400_000_000, 1_000_000_000).is_some());
        assert_eq!(of(999_983, 400 * 86_400_000_000, COUNT_MAX), None);
        assert_eq!(of(1, 400 * 86_400_000_000, 1_000_000_000_000), None);
    }

    proptest! {
        /// As many tokens as the rate says, to the token, over any number of requests; none is lost while the bucket
        /// is never empty.
        #[test]
        fn it_admits_the_rate_and_the_capacity_exactly(
            quantity in 1..5_000_u64,
            capacity in 16..100_u64,
            gaps in prop::collection::vec(0..3_000_u64, 1..300),
        ) {
            let bucket = Bucket::new(quantity, window(1_000_000), capacity).expect("it fits");
            let (mut level, mut admitted) = (Level::empty(&bucket), 0_u64);
            let start = StoreTime(1_700_000_000_123_457);
            let mut at = start;
            for gap in core::iter::once(0).chain(gaps) {
                let now = at + Span(gap);
                level.drain(&bucket, at, now);
                at = now;
                while level.has_room(&bucket, 1) {
                    level.charge(&bucket, 1);
                    admitted += 1;
                }
                let most = capacity as u128 * 1_000_000
                    + u128::from(quantity) * u128::from(at.since(start).0);
                prop_assert_eq!(u128::from(admitted), most / 1_000_000);
            }
        }

        #[test]
        fn who_waits_passes_and_no_sooner(
            quantity in 1..2_000_u64,
            micros in 1_000..100_000_000_u64,
            capacity in 1..2_000_u64,
            (cost, now) in (1..50_u64, 0..1_000_000_000_u64),
            filled in 0.0..=1.0_f64,
        ) {
            let Some(bucket) = Bucket::new(quantity, window(micros), capacity) else { return Ok(()) };
            let cost = cost.min(capacity);
            let units = (bucket.full() as f64 * filled) as u64;
            let level = Level { units, unit: bucket.unit };
            let at = StoreTime(now);
            let wait = level.wait(&bucket, at, cost);
            let then = |now: StoreTime| {
                let mut level = level;
                level.drain(&bucket, at, now);
                level.has_room(&bucket, cost)
            };
            prop_assert!(then(at + wait));
            prop_assert!(wait == Span::ZERO || !then(StoreTime((at + wait).0 - 1)));
            prop_assert!(wait <= DRAINS_MAX);
        }
    }

    #[test]
    fn a_smaller_burst_does_not_forget_what_was_used_by_a_larger_one() {
        let [small, large] = [10, 100]
            .map(|capacity| Bucket::new(10, window(1_000_000), capacity).expect("it fits"));
        let (mut level, at) = (Level::empty(&large), StoreTime(5));
        level.charge(&large, 90);
        level.drain(&small, at, at);
        assert!(!level.has_room(&small, 1));
        level.lift(&small, 3, at, at);
        level.drain(&large, at, at);
        assert_eq!((level.has_room(&large, 10), level.has_room(&large, 11)), (true, false));
    }

    #[test]
    fn what_has_drained_is_not_given_back() {
        let bucket = Bucket::new(10, window(1_000_000), 10).expect("it fits");
        let mut level = Level::empty(&bucket);
        level.charge(&bucket, 9);
        // Used within the last 300 ms: three of four may have drained.
        level.refund(&bucket, 4, StoreTime(1_000_000), StoreTime(1_300_000));
        assert_eq!(level.used(&bucket), 8);
    }

    #[test]
    fn another_quantity_reads_the_level_in_its_own_units() {
        let slow = Bucket::new(10, window(1_000_000), 10).expect("it fits");
        let fast = Bucket::new(30, window(1_000_000), 30).expect("it fits");
        let mut level = Level::empty(&slow);
        level.charge(&slow, 7);
        level.drain(&fast, StoreTime(5), StoreTime(5));
        assert_eq!(level.used(&fast), 7);
        level.drain(&slow, StoreTime(5), StoreTime(5));
        assert_eq!(
            (level.used(&slow), level.has_room(&slow, 3), level.has_room(&slow, 4)),
            (7, true, false)
        );
    }
}
