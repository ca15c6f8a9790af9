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

/// What `INFO memory` and `INFO replication` of a server say.
pub(super) struct Said<'a> {
    /// Its eviction policy.
    pub(super) policy: &'a str,
    /// Its history.
    pub(super) history: &'a str,
    /// Whether replicas are connected.
    pub(super) has_replicas: bool,
    /// Whether it stops without good ones.
    pub(super) stops_alone: bool,
}

/// What is remembered of a server: it may be the server that is cut off from replicas that are gone, and one
/// of them be promoted.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The history in which it had replicas.
    replicated: Option<String>,
}

impl Seen {
    /// Why limits under rights cannot be left to a server that says so.
    pub(super) fn doubt(&mut self, said: &Said<'_>) -> Option<Doubt> {
        if said.has_replicas && self.replicated.as_deref() != Some(said.history) {
            self.replicated = Some(said.history.to_owned());
        }
        if said.policy != "noeviction" {
            return Some(Doubt::Evicts);
        }
        let replicated = self.replicated.as_deref() == Some(said.history);
        (replicated && !said.stops_alone).then_some(Doubt::GoesOnAlone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doubt(
        seen: &mut Seen,
        policy: &str,
        has_replicas: bool,
        stops_alone: bool,
    ) -> Option<Doubt> {
        seen.doubt(&Said { policy, history: "a", has_replicas, stops_alone })
    }

    #[test]
    fn eviction_and_replicas_that_are_not_waited_for_are_doubts() {
        let mut seen = Seen::default();
        assert_eq!(doubt(&mut seen, "noeviction", false, false), None);
        assert_eq!(doubt(&mut seen, "noeviction", true, true), None);
        assert_eq!(doubt(&mut seen, "noeviction", true, false), Some(Doubt::GoesOnAlone));
        assert_eq!(doubt(&mut seen, "allkeys-lru", true, true), Some(Doubt::Evicts));
    }

    #[test]
    fn replicas_that_are_gone_are_doubted_as_long_as_the_history_goes_on() {
        let mut seen = Seen::default();
        assert_eq!(doubt(&mut seen, "noeviction", true, false), Some(Doubt::GoesOnAlone));
        assert_eq!(doubt(&mut seen, "noeviction", false, false), Some(Doubt::GoesOnAlone));
        assert_eq!(doubt(&mut seen, "noeviction", false, true), None);
        let said =
            Said { policy: "noeviction", history: "b", has_replicas: false, stops_alone: false };
        assert_eq!(seen.doubt(&said), None, "a new history is a new epoch");
    }
}
