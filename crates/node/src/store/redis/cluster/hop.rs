//! What servers of a cluster say that have not carried out what they were asked, since it is for another server, or
//! for later.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use super::map::Address;

/// Where to ask instead. Whatever was asked was certainly not carried out.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Hop {
    /// At the server that has the slot; `None` if what it said cannot be read.
    Moved(Option<Address>),
    /// This once at the server that the slot is moving to.
    Ask(Option<Address>),
    /// A little later: some of the keys have moved, and some have not.
    Again,
    /// Nobody serves the slot.
    Down,
}

impl Hop {
    /// What an answer of the server at an address says, if it is such an answer.
    pub(super) fn of(error: &RedisError, said_by: &Address) -> Option<Self> {
        let to = || Address::parse(error.redirect_node()?.0, said_by);
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::Moved) => Some(Self::Moved(to())),
            ErrorKind::Server(ServerErrorKind::Ask) => Some(Self::Ask(to())),
            ErrorKind::Server(ServerErrorKind::TryAgain) => Some(Self::Again),
            ErrorKind::Server(ServerErrorKind::ClusterDown) => Some(Self::Down),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections_are_told_from_errors() {
        let by = Address::new("10.0.0.1", 7_001);
        let hop = |said: &str| {
            let value = redis::parse_redis_value(format!("-{said}\r\n").as_bytes()).expect("RESP");
            Hop::of(&value.extract_error().expect_err("an error"), &by)
        };
        let there = Some(Address::new("10.0.0.2", 7_002));
        assert_eq!(hop("MOVED 7 10.0.0.2:7002"), Some(Hop::Moved(there.clone())));
        assert_eq!(hop("MOVED 7 :7002"), Some(Hop::Moved(Some(Address::new("10.0.0.1", 7_002)))));
        assert_eq!(hop("ASK 7 10.0.0.2:7002"), Some(Hop::Ask(there)));
        assert_eq!(hop("MOVED nonsense"), Some(Hop::Moved(None)));
        assert_eq!(hop("TRYAGAIN Multiple keys request"), Some(Hop::Again));
        assert_eq!(hop("CLUSTERDOWN Hash slot not served"), Some(Hop::Down));
        assert_eq!(hop("ERR MOVED is not here"), None);
        assert_eq!(hop("OOM command not allowed"), None);
    }
}
