//! Random streams: one seed derives them all, and none shifts another.
//!
//! A stream belongs to a purpose and an index (a region, a link). Its seed is mixed from these, so that
//! a new purpose, or one more draw in one stream, leaves every other stream as it was. The shapes drawn
//! from (fractions, whole numbers, exponential gaps) are our own few lines, since a random library may
//! change its sampling between versions; floating point goes through `libm`, since `std` may round
//! differently on another machine.

use rand::{Rng, SeedableRng, rngs::Xoshiro256PlusPlus};

/// One stream of random numbers.
#[derive(Debug, Clone)]
pub struct Stream(Xoshiro256PlusPlus);

impl Stream {
    /// The stream of `seed` for `purpose` and `index`.
    pub fn new(seed: u64, purpose: &str, index: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(mix(mix(seed) ^ mix(fnv(purpose)) ^ index)))
    }

    /// A fraction, 0 or more and below 1.
    pub fn fraction(&mut self) -> f64 {
        // The 53 bits that a double holds exactly.
        (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A whole number below `n`; 0 if `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        // The high half of the product: uneven by at most n / 2^64, which no run can notice.
        ((u128::from(self.0.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// True in `share` of the cases. A share of 0 or less draws nothing.
    pub fn chance(&mut self, share: f64) -> bool {
        share > 0.0 && self.fraction() < share
    }

    /// An exponentially distributed number with this mean.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -libm::log(1.0 - self.fraction()) * mean
    }

    /// The bare generator, for code that draws by itself.
    pub fn into_rng(self) -> Xoshiro256PlusPlus {
        self.0
    }
}

/// A name as a number (FNV-1a).
fn fnv(name: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    name.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

/// Spreads every bit of `x` over all bits of the result (the finaliser of SplitMix64).
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_is_one_stream_and_each_purpose_another() {
        let draws = |seed, purpose, index| {
            let mut stream = Stream::new(seed, purpose, index);
            [stream.below(u64::MAX), stream.below(u64::MAX)]
        };
        assert_eq!(draws(1, "links", 0), draws(1, "links", 0));
        assert_ne!(draws(1, "links", 0), draws(2, "links", 0));
        assert_ne!(draws(1, "links", 0), draws(1, "links", 1));
        assert_ne!(draws(1, "links", 0), draws(1, "stores", 0));
    }

    #[test]
    fn the_first_numbers_are_the_same_on_every_machine() {
        let mut stream = Stream::new(1, "links", 0);
        let seen = [stream.below(1_000_000), stream.below(1_000_000), stream.below(1_000_000)];
        assert_eq!(seen, FIRST);
    }
    const FIRST: [u64; 3] = [131_786, 678_154, 58_675];

    #[test]
    fn names_are_numbers_by_fnv_1a() {
        assert_eq!(fnv(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv("foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn exponential_gaps_have_their_mean() {
        let mut stream = Stream::new(7, "arrivals", 0);
        let mean = (0..100_000).map(|_| stream.exponential(3.0)).sum::<f64>() / 100_000.0;
        assert!((2.95..3.05).contains(&mean), "{mean}");
    }

    #[test]
    fn below_reaches_every_number_and_nothing_else() {
        let mut stream = Stream::new(7, "callers", 0);
        let mut seen = [0_u32; 5];
        (0..5_000).for_each(|_| seen[stream.below(5) as usize] += 1);
        assert!(seen.iter().all(|n| (850..1_150).contains(n)), "{seen:?}");
        assert_eq!(stream.below(0), 0);
    }
}
