//! Why what is spent by rights cannot be left to a store: it may lose some of it and begin no new epoch, or
//! begin one while the server that it replaces goes on.

use std::fmt;

/// A setting of the store under which `strict` and `bounded` would not be what they promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// Nobody has looked at its settings yet.
    NotSeen,
    /// It forgets records for want of memory, and nothing tells.
    Evicts,
    /// It has replicas, and goes on without them: two servers may spend the same rights after a failover.
    GoesOnAlone,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotSeen => "its settings have not been seen yet",
            Self::Evicts => {
                "redis may forget counts when its memory is full: set `maxmemory-policy noeviction`"
            }
            Self::GoesOnAlone => {
                "redis has replicas and goes on without them: set `min-replicas-to-write 1`, and \
                 `min-replicas-max-lag` to no more than store.fence"
            }
        })
    }
}

/// What `INFO memory` and `INFO replication` of a server say: its eviction policy, how many replicas are
/// connected, and whether it stops without good ones.
pub(super) fn doubt_of(policy: &str, replicas: u64, stops_alone: bool) -> Option<Doubt> {
    if policy != "noeviction" {
        return Some(Doubt::Evicts);
    }
    (replicas > 0 && !stops_alone).then_some(Doubt::GoesOnAlone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eviction_and_replicas_that_are_not_waited_for_are_doubts() {
        assert_eq!(doubt_of("noeviction", 0, false), None);
        assert_eq!(doubt_of("noeviction", 2, true), None);
        assert_eq!(doubt_of("noeviction", 1, false), Some(Doubt::GoesOnAlone));
        assert_eq!(doubt_of("allkeys-lru", 0, true), Some(Doubt::Evicts));
    }
}
