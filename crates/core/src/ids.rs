//! Names and identities: regions, nodes, sessions, callers, limits.

use alloc::{string::String, sync::Arc};
use core::{fmt, hash::Hasher};

use siphasher::sip128::{Hasher128, SipHasher24};

use crate::{store::RequestId, time::StoreTime};

/// The longest region or node name, in bytes.
pub const NAME_BYTES_MAX: usize = 63;

/// A name that is not fit for a region or a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a name: use 1 to 63 letters, digits, `-`, `_` or `.`, beginning with a letter or digit"
)]
pub struct BadName(pub String);

/// Checks that `text` may name a region or a node.
fn checked_name(text: &str) -> Result<Arc<str>, BadName> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let good = text.len() <= NAME_BYTES_MAX
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(plain);
    if good { Ok(text.into()) } else { Err(BadName(text.into())) }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes `text` as a name, if it is fit for one.
            pub fn new(text: &str) -> Result<Self, BadName> {
                checked_name(text).map(Self)
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type! {
    /// A place that decides alone.
    RegionName
}
name_type! {
    /// One `tidegate` process; its name is unique within its region.
    NodeName
}

/// Who a node is, as its certificate says: region and node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId {
    /// The region it belongs to.
    pub region: RegionName,
    /// Its own name.
    pub node: NodeName,
}

impl NodeId {
    /// Takes two texts as region and node names.
    pub fn new(region: &str, node: &str) -> Result<Self, BadName> {
        Ok(Self { region: RegionName::new(region)?, node: NodeName::new(node)? })
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.region, self.node)
    }
}

/// Numbers the runs of one node: larger at every start (Unix milliseconds, or one more than the last).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Boot(pub u64);

/// One run of one node: the actor of counts, and who numbers frames.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session {
    /// Whose run it is.
    pub id: NodeId,
    /// Which run.
    pub boot: Boot,
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.id, self.boot.0)
    }
}

/// The number of a configuration of regions and weights; 0 is the first of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ConfigEpoch(pub u64);

impl ConfigEpoch {
    /// The next one.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The one before; of the first, itself.
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

/// One unbroken history of one store: larger whenever a store may have lost what it knew.
///
/// A store gives it a number from its clock (microseconds since 1970); see [`next_at`](Self::next_at).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct StoreEpoch(pub u64);

impl StoreEpoch {
    /// A later epoch's number is larger by this at least, whatever the clock shows: only the first may be
    /// taken for one that began when its cluster was founded.
    pub const APART: u64 = 11_000_000;

    /// The number of the epoch that comes after this one and begins when the store's clock shows `now`.
    pub fn next_at(self, now: StoreTime) -> Self {
        Self(now.0.max(self.0 + Self::APART))
    }
}

impl fmt::Display for StoreEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Keys every fingerprint; the same on all nodes that exchange counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret(pub [u8; 16]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Who is counted, as a 128-bit keyed fingerprint of the policy's name and the values of its key.
///
/// Chooses the engine's shard and, in Redis, the hash tag. Two 64-bit halves, so that tables need
/// no 16-byte alignment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Caller(pub [u64; 2]);

impl Caller {
    /// The 16 bytes that travel: both halves, little-endian.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.0[0].to_le_bytes());
        bytes[8..].copy_from_slice(&self.0[1].to_le_bytes());
        bytes
    }

    /// The caller whose [`to_bytes`](Self::to_bytes) these are.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let (low, high) = bytes.split_at(8);
        let half = |b: &[u8]| b.iter().rev().fold(0_u64, |acc, byte| (acc << 8) | u64::from(*byte));
        Self([half(low), half(high)])
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.0[1], self.0[0])
    }
}

/// Builds a [`Caller`] from parts; parts cannot run into each other, since each is preceded by its length.
pub struct CallerHasher(SipHasher24);

impl CallerHasher {
    /// Starts a fingerprint under `secret`.
    pub fn new(secret: &Secret) -> Self {
        Self(SipHasher24::new_with_key(&secret.0))
    }

    /// Adds one part.
    pub fn part(mut self, text: &str) -> Self {
        self.0.write_u64(text.len() as u64);
        self.0.write(text.as_bytes());
        self
    }

    /// Adds numbers.
    pub(crate) fn numbers(mut self, numbers: &[u64]) -> Self {
        numbers.iter().for_each(|number| self.0.write_u64(*number));
        self
    }

    /// The fingerprint of all parts.
    pub fn finish(self) -> Caller {
        let hash = self.0.finish128();
        Caller([hash.h1, hash.h2])
    }
}

/// Names requests that are carried out once.
pub(crate) struct RequestName;

impl RequestName {
    /// The request that a caller gave this name.
    pub(crate) fn of(secret: &Secret, name: &str, caller: Caller) -> RequestId {
        let hasher = CallerHasher::new(secret).part("request").part(name);
        RequestId(hasher.numbers(&caller.0).finish().0)
    }

    /// The settling of a reservation, which is named by nobody else: its holds were drawn at random.
    pub(crate) fn settling(id: u64, ends: u64, caller: Caller) -> RequestId {
        let hasher = CallerHasher::new(&Secret([0; 16])).part("settle");
        RequestId(hasher.numbers(&[id, ends]).numbers(&caller.0).finish().0)
    }
}

/// A limit's name and shape (policy, limit, algorithm, window, scope, whether it is spent by rights) as a 32-bit
/// number.
///
/// Not secret and equal on every node: another shape is another number, another quantity is not.
/// Two limits of one policy file with the same number are a load error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LimitId(pub u32);

impl LimitId {
    /// The number of the limit that these parts describe.
    pub fn of(parts: &[&str]) -> Self {
        let zero = Secret([0; 16]);
        let hash = parts.iter().fold(CallerHasher::new(&zero), |h, part| h.part(part)).finish();
        Self((hash.0[0] >> 32) as u32)
    }
}

/// A region's name as a 32-bit number, equal on every node: what records and rows of rights name it by.
/// Two configured regions with the same number are a configuration error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionNumber(pub u32);

impl RegionNumber {
    /// The number of a region.
    pub fn of(name: &RegionName) -> Self {
        Self(LimitId::of(&["region", name.as_str()]).0)
    }
}

/// What is counted: a caller under one limit of one shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Who is counted.
    pub caller: Caller,
    /// Under which limit.
    pub limit: LimitId,
}

/// A session as a small number, within one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionIndex(pub(crate) u16);

impl SessionIndex {
    /// This node's own session.
    pub(crate) const OWN: Self = Self(0);
}

/// A region as a small number, within one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RegionIndex(pub(crate) u16);

impl RegionIndex {
    /// This node's own region.
    pub(crate) const OWN: Self = Self(0);
    /// One that no peer was ever connected from; there may be several. No session is of it.
    pub(crate) const UNMET: Self = Self(u16::MAX);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert!(RegionName::new("eu-west.1").is_ok());
        for bad in ["", "-eu", "e u", "eu/1", &"x".repeat(64)] {
            assert!(RegionName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_caller_survives_its_bytes() {
        let caller = CallerHasher::new(&Secret([7; 16])).part("a").part("b").finish();
        assert_eq!(Caller::from_bytes(caller.to_bytes()), caller);
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        let secret = Secret([7; 16]);
        let ab_c = CallerHasher::new(&secret).part("ab").part("c").finish();
        let a_bc = CallerHasher::new(&secret).part("a").part("bc").finish();
        assert_ne!(ab_c, a_bc);
    }

    #[test]
    fn another_secret_is_another_caller() {
        let one = CallerHasher::new(&Secret([1; 16])).part("a").finish();
        let two = CallerHasher::new(&Secret([2; 16])).part("a").finish();
        assert_ne!(one, two);
    }

    #[test]
    fn a_secret_does_not_show_itself() {
        assert_eq!(alloc::format!("{:?}", Secret([9; 16])), "Secret(..)");
    }
}
