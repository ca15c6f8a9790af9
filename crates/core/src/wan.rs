//! How far apart regions typically are: for local clusters and simulations that imitate a wide area.

use crate::time::Span;

/// Round trips between regions whose names people use, in milliseconds: typical of public clouds.
const TYPICAL: &[(&str, &str, u64)] = &[
    ("us-east", "us-west", 65),
    ("us-east", "eu-west", 70),
    ("us-east", "ap-south", 190),
    ("us-east", "ap-northeast", 150),
    ("us-west", "eu-west", 130),
    ("us-west", "ap-south", 220),
    ("us-west", "ap-northeast", 100),
    ("eu-west", "ap-south", 120),
    ("eu-west", "ap-northeast", 210),
    ("ap-south", "ap-northeast", 125),
    ("eu", "us", 80),
    ("eu", "ap", 180),
    ("us", "ap", 150),
];

/// The round trip between any other two regions, in milliseconds.
const OTHER: u64 = 100;

/// The typical round trip between two different regions, by name; 100 ms if a name is not a usual one.
pub fn typical_round_trip(one: &str, other: &str) -> Span {
    let pair = |&&(a, b, _): &&(&str, &str, u64)| (a, b) == (one, other) || (b, a) == (one, other);
    Span::millis(TYPICAL.iter().find(pair).map_or(OTHER, |(_, _, ms)| *ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_do_not_depend_on_direction() {
        for &(one, other, ms) in TYPICAL {
            assert_eq!(typical_round_trip(one, other), Span::millis(ms));
            assert_eq!(typical_round_trip(other, one), Span::millis(ms));
        }
        assert_eq!(typical_round_trip("eu", "mars"), Span::millis(OTHER));
    }
}
