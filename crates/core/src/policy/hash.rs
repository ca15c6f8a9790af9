//! The fingerprint of a policy set: equal on nodes that decide alike, whatever their files look like.

use alloc::{boxed::Box, format, sync::Arc};

use super::{Limit, Policy};
use crate::ids::{CallerHasher, Secret};

/// 16 hex digits over everything that decides.
///
/// Every list is preceded by its length, so that no two sets feed the hash the same parts.
pub(super) fn of(policies: &[Arc<Policy>]) -> Box<str> {
    let start = CallerHasher::new(&Secret([0; 16]));
    let caller = policies.iter().fold(start.count(policies.len()), policy).finish();
    format!("{:016x}", caller.0[0]).into()
}

fn policy(hash: CallerHasher, policy: &Arc<Policy>) -> CallerHasher {
    let Policy { name, matches, key, on_store_failure, shadow, limits } = &**policy;
    let mut hash = hash.part(name).part(on_store_failure.as_str());
    hash = hash.part(if *shadow { "shadow" } else { "enforced" }).count(matches.len());
    for (attribute, glob) in matches {
        hash = hash.part(attribute).part(glob.as_str());
    }
    hash = hash.count(key.len());
    for attributes in key {
        hash = attributes.iter().fold(hash.count(attributes.len()), |hash, name| hash.part(name));
    }
    limits.iter().fold(hash.count(limits.len()), limit)
}

fn limit(hash: CallerHasher, limit: &Limit) -> CallerHasher {
    // The number is made of the other fields.
    let Limit { name, quantity, window, algorithm, scope, consistency, id: _ } = limit;
    let mut hash = hash.part(name).number(*quantity).part(&window.shape());
    if let Some((_, zone)) = window.unit() {
        // Releases may know other rules by the same name.
        hash = hash.number(zone.fingerprint());
    }
    hash.part(algorithm.as_str())
        .number(limit.capacity())
        .part(if limit.shapes() { "shaper" } else { "" })
        .part(scope.as_str())
        .part(consistency.as_str())
        .number(u64::from(consistency.overdraft()))
}

/// Numbers as parts.
trait Numbers {
    fn number(self, n: u64) -> Self;
    fn count(self, n: usize) -> Self;
}

impl Numbers for CallerHasher {
    fn number(self, n: u64) -> Self {
        self.part(&format!("{n}"))
    }

    fn count(self, n: usize) -> Self {
        self.number(n as u64)
    }
}
