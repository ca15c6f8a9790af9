//! Whether another process runs under this node's name, as peers say that refuse it for that.

use std::{net::SocketAddr, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::refusal::{Failure, Refusal};

/// For how long a peer's word counts. A peer that goes on refusing says so again within it.
const BELIEVED: Duration = Duration::from_secs(5);

/// The last peer that refused this node since it is connected with another process of its name, and when.
#[derive(Default)]
pub(super) struct Namesake(Mutex<Option<(SocketAddr, Instant)>>);

impl Namesake {
    /// Notes how an attempt to connect with a peer failed.
    pub(super) fn note(&self, peer: SocketAddr, failure: &Failure, now: Instant) {
        if let Failure::Rejected { reason: Some(Refusal::DuplicateName), .. } = failure {
            *self.0.lock() = Some((peer, now));
        }
    }

    /// The peer that refused this node lately.
    pub(super) fn told_by(&self, now: Instant) -> Option<SocketAddr> {
        let (peer, at) = (*self.0.lock())?;
        (now.saturating_duration_since(at) < BELIEVED).then_some(peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_keeps_to_a_namesake_is_believed_and_only_for_a_while() {
        let (namesake, now) = (Namesake::default(), Instant::now());
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let rejected = |reason| Failure::Rejected { reason: Some(reason), detail: String::new() };
        namesake.note(peer, &rejected(Refusal::Quarantined), now);
        // We refused somebody who took our name: the name is ours.
        namesake.note(peer, &Failure::refused(Refusal::DuplicateName, ""), now);
        assert_eq!(namesake.told_by(now), None);
        namesake.note(peer, &rejected(Refusal::DuplicateName), now);
        assert_eq!(namesake.told_by(now), Some(peer));
        assert_eq!(namesake.told_by(now + BELIEVED), None);
    }
}
