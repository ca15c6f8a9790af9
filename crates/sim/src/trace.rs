//! The trace hash: what happened, when, and with what content, in 64 bits.
//!
//! FNV-1a, fed with little-endian bytes: the same on every machine. Two runs of one seed that differ in
//! any event, its time or its content have, but for one chance in 2^64, different hashes.

/// A hash over everything that was fed so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace(u64);

const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

impl Trace {
    /// The hash of nothing.
    pub const fn new() -> Self {
        Self(BASIS)
    }

    /// Feeds a number.
    pub fn number(&mut self, n: u64) {
        self.bytes(&n.to_le_bytes());
    }

    /// Feeds bytes. Their length is not part of it: feed it too where it varies.
    pub fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(PRIME);
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
    use super::*;

    #[test]
    fn is_fnv_1a() {
        let of = |text: &str| {
            let mut trace = Trace::new();
            trace.bytes(text.as_bytes());
            trace.value()
        };
        assert_eq!(of(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(of("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(of("foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn order_matters() {
        let of = |numbers: [u64; 2]| {
            let mut trace = Trace::new();
            numbers.iter().for_each(|n| trace.number(*n));
            trace.value()
        };
        assert_ne!(of([1, 2]), of([2, 1]));
    }
}
