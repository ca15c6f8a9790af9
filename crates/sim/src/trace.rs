//! The trace hash: what happened, when, and with what content, in 64 bits.
//!
//! Fed with numbers, and with bytes as little-endian numbers: the same on every machine. Each number is
//! mixed in by one multiplication, for a run feeds several for every request; and in a way that can be undone,
//! so that two runs which differ in one number never have the same hash. Runs that differ in more have, but
//! for one chance in about 2^64, different ones, as long as nobody looks for numbers that collide.

/// A hash over everything that was fed so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace(u64);

const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
/// An odd number whose bits look like chance (2^64 divided by the golden ratio).
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

impl Trace {
    /// The hash of nothing.
    pub const fn new() -> Self {
        Self(BASIS)
    }

    /// Feeds a number.
    pub const fn number(&mut self, n: u64) {
        let product = (self.0 ^ n).wrapping_mul(FACTOR);
        // The upper half of a product knows all bits of its factors.
        self.0 = product ^ (product >> 32);
    }

    /// Feeds bytes. Their length is not part of it: feed it too where it varies.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let (whole, rest) = bytes.as_chunks::<8>();
        whole.iter().for_each(|chunk| self.number(u64::from_le_bytes(*chunk)));
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.number(u64::from_le_bytes(last));
        }
    }

    /// The hash so far.
    pub const fn value(self) -> u64 {
        self.0
    }
}

impl Default for Trace {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn of(numbers: &[u64]) -> u64 {
        let mut trace = Trace::new();
        numbers.iter().for_each(|n| trace.number(*n));
        trace.value()
    }

    #[test]
    fn the_hash_is_the_same_on_every_machine() {
        let mut trace = Trace::new();
        trace.number(1);
        trace.bytes(b"tidegate-sim");
        assert_eq!(trace.value(), SEEN);
    }
    const SEEN: u64 = 0x20fd_e17f_76d7_f2ba;

    #[test]
    fn bytes_are_numbers_the_last_one_filled_up() {
        let mut trace = Trace::new();
        trace.bytes(&[1, 0, 0, 0, 0, 0, 0, 0, 2, 1]);
        assert_eq!(trace.value(), of(&[1, 0x102]));
    }

    #[test]
    fn order_matters() {
        assert_ne!(of(&[1, 2]), of(&[2, 1]));
    }

    #[test]
    fn no_two_of_many_small_differences_are_alike() {
        let mut seen = BTreeSet::new();
        for a in 0..300 {
            for b in 0..300 {
                seen.insert(of(&[a, 7, b]));
                seen.insert(of(&[a << 55, b << 40, 9, 7]));
            }
        }
        assert_eq!(seen.len(), 2 * 300 * 300);
    }

    #[test]
    fn one_bit_moves_half_of_all() {
        let changed: u32 =
            (0..64).map(|bit| (of(&[5, 1 << bit, 9]) ^ of(&[5, 0, 9])).count_ones()).sum();
        assert!((26 * 64..38 * 64).contains(&changed), "{changed} of {}", 64 * 64);
    }
}
