//! Policies: which requests they match, whom they count, and under which limits.

use alloc::{boxed::Box, format, string::String, sync::Arc, vec::Vec};

use crate::{
    algorithm::{Bucket, LabelTime, Rule},
    ids::{Caller, CallerHasher, LimitId, Secret},
    store::COUNT_MAX,
    time::{Span, StoreTime, Window},
};

pub use glob::{GLOB_BYTES_MAX, Glob, GlobError};
pub use load::{
    ATTRIBUTE_BYTES_MAX, ATTRIBUTES_MAX, FILE_BYTES_MAX, LIMITS_MAX, NAME_CHARS_MAX, POLICIES_MAX,
};
pub use mistake::Mistake;
pub use nesting::{DEPTH_MAX, too_deep};
pub use span::BadSpan;

mod fields;
mod glob;
mod hash;
mod load;
mod mistake;
mod nesting;
mod span;
mod suggest;

/// The largest quantity of a limit: what every store counts exactly.
pub const QUANTITY_MAX: u64 = COUNT_MAX;

/// With less, limits under rights refuse much that would fit.
const RIGHTS_QUANTITY: u64 = 100;

/// The algorithm of a limit; each is explained in its file under [`algorithm`](crate::algorithm).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// So many per aligned window.
    FixedWindow,
    /// So many per aligned window, with the part of the one before that a window ending now still covers.
    SlidingWindow,
    /// So many within any stretch of a window's length.
    SlidingLog,
    /// Tokens that come back at a steady rate, up to a burst.
    TokenBucket(Bucket),
    /// A bucket that fills by what is asked for and leaks at a steady rate.
    LeakyBucket(Bucket),
    /// So many at a time; each place is held until it is given back, for a window's length at most.
    Concurrency,
}

impl Algorithm {
    /// The word for it in policy files and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FixedWindow => "fixed-window",
            Self::SlidingWindow => "sliding-window",
            Self::SlidingLog => "sliding-log",
            Self::TokenBucket(_) => "token-bucket",
            Self::LeakyBucket(_) => "leaky-bucket",
            Self::Concurrency => "concurrency",
        }
    }
}

/// Where the counts of a limit add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// In each region by itself.
    Region,
    /// Over all regions.
    Global,
}

impl Scope {
    /// The word for it in policy files and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Region => "region",
            Self::Global => "global",
        }
    }
}

/// How a global limit treats what it cannot know yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Consistency {
    /// Admit while what is known leaves room.
    Plain,
    /// Admit while what is known, and what others are expected to have admitted meanwhile, leaves room.
    Eventual,
    /// Admit what the own region has a right to, and beyond that at most a part of it.
    Bounded {
        /// The part, in millionths of the quantity: 1 to 1,000,000.
        overdraft_per_million: u32,
    },
    /// Admit what the own region has a right to, and nothing else.
    Strict,
}

impl Consistency {
    /// The word for it in policy files and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Eventual => "eventual",
            Self::Bounded { .. } => "bounded",
            Self::Strict => "strict",
        }
    }

    /// Whether regions spend of it by rights, so that all together never exceed it by more than is stated.
    pub const fn has_rights(self) -> bool {
        matches!(self, Self::Bounded { .. } | Self::Strict)
    }

    /// What a region may spend beyond its rights, in millionths of its part of the quantity.
    pub const fn overdraft(self) -> u32 {
        match self {
            Self::Bounded { overdraft_per_million } => overdraft_per_million,
            _ => 0,
        }
    }
}

/// What answers a check while the store cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OnStoreFailure {
    /// Limit by the counts last known.
    Degrade,
    /// Admit.
    Open,
    /// Refuse.
    Closed,
}

impl OnStoreFailure {
    /// The word for it in policy files and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Degrade => "degrade",
            Self::Open => "open",
            Self::Closed => "closed",
        }
    }
}

/// A quantity per window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// Unique within its policy.
    pub name: Box<str>,
    /// How much may be used in one window, 1 to [`QUANTITY_MAX`].
    pub quantity: u64,
    /// What a window is: a length, or a unit of the calendar.
    pub window: Window,
    /// How use is counted.
    pub algorithm: Algorithm,
    /// Where counts add up.
    pub scope: Scope,
    /// What a global limit promises; `Plain` (and without meaning) for a regional one.
    pub consistency: Consistency,
    /// Number of its name and shape; see [`LimitId`].
    pub id: LimitId,
}

impl Limit {
    /// Its bucket, if that is how it counts.
    pub const fn bucket(&self) -> Option<Bucket> {
        match self.algorithm {
            Algorithm::TokenBucket(bucket) | Algorithm::LeakyBucket(bucket) => Some(bucket),
            _ => None,
        }
    }

    /// Whether it tells what it admits to wait.
    pub fn shapes(&self) -> bool {
        self.bucket().is_some_and(|bucket| bucket.shapes)
    }

    /// The most that can be used at a time: the burst of a bucket, else the quantity.
    pub const fn capacity(&self) -> u64 {
        match self.bucket() {
            Some(bucket) => bucket.capacity,
            None => self.quantity,
        }
    }

    /// The most that can be used in one label.
    pub const fn most_in_label(&self) -> u64 {
        match self.bucket() {
            Some(bucket) => self.quantity.saturating_add(bucket.capacity),
            None => self.quantity,
        }
    }

    /// How the store counts by it in a label that starts then, by the store's clock, if the region is known to have
    /// used so much in the label `before`.
    pub const fn rule(&self, starts: StoreTime, before: u64) -> Rule {
        let label = LabelTime { starts, length: self.window.usual_length(), before };
        match self.algorithm {
            Algorithm::FixedWindow => Rule::FixedWindow,
            Algorithm::SlidingWindow => Rule::SlidingWindow(label),
            Algorithm::SlidingLog => Rule::SlidingLog(label),
            Algorithm::TokenBucket(bucket) | Algorithm::LeakyBucket(bucket) => {
                Rule::Bucket(label, bucket)
            }
            Algorithm::Concurrency => Rule::Concurrency,
        }
    }

    /// Whether it is spent by rights: `bounded` and `strict`.
    pub const fn has_rights(&self) -> bool {
        self.consistency.has_rights()
    }
}

/// Matches requests by attributes, names the caller, carries limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Unique within the file.
    pub name: Box<str>,
    /// Attribute names and the globs that their values must match, all of them.
    pub matches: Vec<(Box<str>, Glob)>,
    /// Alternatives; the first whose attributes are all present names the caller.
    pub key: Vec<Vec<Box<str>>>,
    /// What answers while the store cannot.
    pub on_store_failure: OnStoreFailure,
    /// Decide, count and log, but admit.
    pub shadow: bool,
    /// At least one, in file order.
    pub limits: Vec<Limit>,
}

/// The attributes of one request: names and values; a name stands once.
pub type Attributes<'a> = [(&'a str, &'a str)];

/// The value of attribute `name`, if the request has it.
pub fn attribute<'a>(attributes: &Attributes<'a>, name: &str) -> Option<&'a str> {
    attributes.iter().find(|(n, _)| *n == name).map(|(_, value)| *value)
}

impl Policy {
    /// Whether the policy applies to a request.
    pub fn applies_to(&self, attributes: &Attributes<'_>) -> bool {
        self.matches.iter().all(|(name, glob)| {
            attribute(attributes, name).is_some_and(|value| glob.matches(value))
        })
    }

    /// The attributes that name the caller of a request; empty where none of `key` is present.
    pub fn identity<'a>(&'a self, attributes: &Attributes<'a>) -> Vec<(&'a str, &'a str)> {
        self.naming(attributes).collect()
    }

    /// The same, one by one.
    fn naming<'a>(
        &'a self,
        attributes: &Attributes<'a>,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        let is_there = |name: &str| attribute(attributes, name).is_some();
        let names = self.key.iter().find(|names| names.iter().all(|name| is_there(name)));
        names.into_iter().flatten().filter_map(|name| Some((&**name, attribute(attributes, name)?)))
    }

    /// Whom a request counts under. Attribute names are part of the fingerprint: `api_key=x` and
    /// `user=x` are two callers.
    pub fn caller(&self, secret: &Secret, attributes: &Attributes<'_>) -> Caller {
        let start = CallerHasher::new(secret).part(&self.name);
        self.naming(attributes)
            .fold(start, |hasher, (name, value)| hasher.part(name).part(value))
            .finish()
    }
}

/// All policies of one file, checked as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicySet {
    /// In file order.
    pub policies: Vec<Arc<Policy>>,
    /// Fingerprint of everything that decides, equal on nodes that decide alike: 16 hex digits.
    pub hash: Box<str>,
}

/// No policy at all: every request passes, unmatched.
impl Default for PolicySet {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl PolicySet {
    /// Puts policies together, in the order in which they weigh.
    pub fn new(policies: Vec<Arc<Policy>>) -> Self {
        let hash = hash::of(&policies);
        Self { policies, hash }
    }

    /// What can be served, but not well, with clocks that are known to `clock_error`; one line each.
    pub fn warnings(&self, clock_error: Span) -> Vec<String> {
        let limits = self
            .policies
            .iter()
            .flat_map(|policy| policy.limits.iter().map(move |limit| (policy, limit)));
        let mut warnings = Vec::new();
        for (policy, limit) in limits.filter(|(_, limit)| limit.has_rights()) {
            let consistency = limit.consistency.as_str();
            let place = format!("policy \"{}\", limit \"{}\"", policy.name, limit.name);
            if limit.quantity < RIGHTS_QUANTITY {
                warnings.push(format!(
                    "{place}: {consistency} with a quantity below {RIGHTS_QUANTITY}: regions hold so few units each that requests may wait for a grant; eventual refuses less"
                ));
            }
            if limit.window.usual_length() < clock_error.times(10) {
                warnings.push(format!(
                    "{place}: {consistency} with a window below ten times cluster.clock_error: what regions spend in one window may fall into parts of two"
                ));
            }
        }
        warnings
    }

    /// The limit of this number, and the policy it belongs to.
    pub fn limit(&self, id: LimitId) -> Option<(&Policy, &Limit)> {
        let mut limits = self
            .policies
            .iter()
            .flat_map(|policy| policy.limits.iter().map(move |limit| (&**policy, limit)));
        limits.find(|(_, limit)| limit.id == id)
    }

    /// The policies that apply to a request, in file order.
    pub fn matching<'a>(
        &'a self,
        attributes: &'a Attributes<'_>,
    ) -> impl Iterator<Item = &'a Arc<Policy>> {
        self.policies.iter().filter(move |policy| policy.applies_to(attributes))
    }
}
