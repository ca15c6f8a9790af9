//! Reservations: what a check was charged for a while, in a form that any node of the region can take back.

use alloc::{string::String, vec::Vec};
use core::{fmt::Write as _, hash::Hasher};

use siphasher::sip128::{Hasher128, SipHasher24};

use super::LIMITS_MAX;
use crate::{
    ids::{Caller, Key, LimitId, RequestName, Secret},
    store::{COUNT_MAX, HoldId, RequestId},
    time::{Label, StoreTime},
};

/// What a check was charged of one limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charged {
    /// Of whom, by which limit.
    pub key: Key,
    /// In which window.
    pub label: Label,
    /// How much.
    pub cost: u64,
}

/// What is reserved: charged and held, until it is settled or its time is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// The name of its holds.
    pub id: HoldId,
    /// When they end, by the store's clock.
    pub ends: StoreTime,
    /// What was charged, limit by limit; at least one.
    pub charged: Vec<Charged>,
}

/// The first byte of a token: how the others are to be read.
const VERSION: u8 = 1;
/// Bytes before the first limit, of a limit, and of the proof behind the last.
const HEAD: usize = 1 + 8 + 8;
const EACH: usize = 16 + 4 + 8 + 8;
const PROOF: usize = 16;
/// The longest token, in characters.
pub const TOKEN_CHARS_MAX: usize = 2 * (HEAD + LIMITS_MAX * EACH + PROOF);

impl Reservation {
    /// It as text, with a proof that a node of this secret has made it: hexadecimal digits. Layout: version, name,
    /// end, then for each limit caller, number, label, cost; little-endian; then the proof, SipHash-2-4 with 128 bits
    /// over all before.
    pub fn to_token(&self, secret: &Secret) -> String {
        let mut bytes = Vec::with_capacity(HEAD + self.charged.len() * EACH + PROOF);
        bytes.push(VERSION);
        bytes.extend(self.id.0.to_le_bytes());
        bytes.extend(self.ends.0.to_le_bytes());
        for charged in &self.charged {
            bytes.extend(charged.key.caller.to_bytes());
            bytes.extend(charged.key.limit.0.to_le_bytes());
            bytes.extend(charged.label.0.to_le_bytes());
            bytes.extend(charged.cost.to_le_bytes());
        }
        bytes.extend(proof(secret, &bytes));
        bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// What a token says, if it was made under this secret.
    pub fn from_token(token: &str, secret: &Secret) -> Option<Self> {
        if token.len() > TOKEN_CHARS_MAX || !token.is_ascii() || !token.len().is_multiple_of(2) {
            return None;
        }
        let digits = token.as_bytes().chunks(2);
        let byte = |pair: &[u8]| {
            // Not by the library's reader of numbers alone, which takes a sign.
            let plain = pair.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
            let text = core::str::from_utf8(pair).ok().filter(|_| plain)?;
            u8::from_str_radix(text, 16).ok()
        };
        let bytes: Vec<u8> = digits.map(byte).collect::<Option<_>>()?;
        let (said, shown) = bytes.split_last_chunk::<PROOF>()?;
        if *shown != proof(secret, said) {
            return None;
        }
        let (&version, mut rest) = said.split_first()?;
        let mut number = || {
            let (head, tail) = rest.split_first_chunk::<8>()?;
            rest = tail;
            Some(u64::from_le_bytes(*head))
        };
        let (id, ends) = (HoldId(number()?), StoreTime(number()?));
        let (limits, left) = rest.as_chunks::<EACH>();
        if version != VERSION || limits.is_empty() || !left.is_empty() {
            return None;
        }
        let charged = limits.iter().map(|of| {
            let (caller, rest) = of.split_first_chunk::<16>()?;
            let (limit, rest) = rest.split_first_chunk::<4>()?;
            let (label, rest) = rest.split_first_chunk::<8>()?;
            let cost = rest.first_chunk::<8>()?;
            let (caller, limit) =
                (Caller::from_bytes(*caller), LimitId(u32::from_le_bytes(*limit)));
            let (label, cost) = (u64::from_le_bytes(*label), u64::from_le_bytes(*cost));
            Some(Charged { key: Key { caller, limit }, label: Label(label), cost })
        });
        Some(Self { id, ends, charged: charged.collect::<Option<_>>()? })
    }

    /// The name under which the store remembers that it was settled.
    pub(crate) fn settling(&self) -> RequestId {
        let caller = self.charged.first().map_or(Caller([0; 2]), |charged| charged.key.caller);
        RequestName::settling(self.id.0, self.ends.0, caller)
    }

    /// The most that was charged of any limit.
    pub fn cost(&self) -> u64 {
        self.charged.iter().map(|charged| charged.cost).max().unwrap_or(0).min(COUNT_MAX)
    }
}

fn proof(secret: &Secret, bytes: &[u8]) -> [u8; PROOF] {
    let mut hasher = SipHasher24::new_with_key(&secret.0);
    // What no caller's fingerprint begins with.
    hasher.write_u64(u64::MAX);
    hasher.write(bytes);
    hasher.finish128().as_bytes()
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use proptest::prelude::*;

    use super::*;

    fn reservation() -> Reservation {
        let key = |n| Key { caller: Caller([n, 7]), limit: LimitId(n as u32) };
        let charged = |n| Charged { key: key(n), label: Label(n + 5), cost: 3 };
        Reservation {
            id: HoldId(77),
            ends: StoreTime(1_700_000_000_000_000),
            charged: vec![charged(1), charged(2)],
        }
    }

    #[test]
    fn a_token_says_what_was_reserved_to_who_has_the_secret() {
        let token = reservation().to_token(&Secret([1; 16]));
        assert_eq!(Reservation::from_token(&token, &Secret([1; 16])), Some(reservation()));
        assert_eq!(Reservation::from_token(&token, &Secret([2; 16])), None);
    }

    #[test]
    fn no_digit_of_a_token_can_be_changed() {
        let secret = Secret([1; 16]);
        let token = reservation().to_token(&secret);
        for at in 0..token.len() {
            let mut other = token.clone().into_bytes();
            other[at] = if other[at] == b'0' { b'1' } else { b'0' };
            let other = String::from_utf8(other).expect("digits");
            assert_eq!(Reservation::from_token(&other, &secret), None, "{at}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,200}", digits in "[0-9a-f]{0,400}") {
            for text in [text, digits] {
                prop_assert_eq!(Reservation::from_token(&text, &Secret([1; 16])), None);
            }
        }
    }
}
