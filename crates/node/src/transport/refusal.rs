//! Why a peer is not let in, and what a person does about it.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use parking_lot::Mutex;
use quinn::ConnectionError;
use tokio::time::Instant;

/// The application code with which a node says goodbye.
pub(super) const CODE_GOODBYE: u32 = 0;
/// The application code of a connection that gave way to another between the same nodes.
pub(super) const CODE_SUPERSEDED: u32 = 1;
/// The application code of a peer that broke the protocol after it had been let in.
pub(super) const CODE_PROTOCOL: u32 = 2;
/// The application codes of refusals begin here.
const CODE_REFUSALS: u32 = 16;

/// TLS alerts (RFC 8446) that tell the reasons apart.
const ALERT_CERTIFICATE_REQUIRED: u64 = 116;
const ALERT_NO_APPLICATION_PROTOCOL: u64 = 120;

/// The same line is logged about the same peer at most this often.
const LOG_EVERY: Duration = Duration::from_secs(30);
/// How many (peer, reason) pairs the log's memory holds.
const LOGGED_MAX: usize = 1024;

/// Why a peer was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// It showed no certificate.
    NoCertificate,
    /// Its certificate is not from our authority, or not valid now.
    ForeignCertificate,
    /// Its certificate names another node than it claims to be, or none.
    IdentityMismatch,
    /// It speaks another version of the protocol.
    Version,
    /// Another process runs under its name.
    DuplicateName,
    /// It is this very node.
    Own,
    /// It did not introduce itself in time.
    Timeout,
    /// There are too many peers or too many handshakes.
    Limit,
    /// It has claimed what cannot be too often, and must wait.
    Quarantined,
}

impl Refusal {
    /// All reasons.
    pub const ALL: [Self; 9] = [
        Self::NoCertificate,
        Self::ForeignCertificate,
        Self::IdentityMismatch,
        Self::Version,
        Self::DuplicateName,
        Self::Own,
        Self::Timeout,
        Self::Limit,
        Self::Quarantined,
    ];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::ForeignCertificate => "foreign_certificate",
            Self::IdentityMismatch => "identity_mismatch",
            Self::Version => "version",
            Self::DuplicateName => "duplicate_name",
            Self::Own => "self",
            Self::Timeout => "timeout",
            Self::Limit => "limit",
            Self::Quarantined => "quarantined",
        }
    }

    /// What a person does about it.
    fn remedy(self) -> &'static str {
        match self {
            Self::NoCertificate => {
                "every node needs a certificate: `tidegate certs node`, then `cluster.cert` and `cluster.key`"
            }
            Self::ForeignCertificate => {
                "both nodes need certificates of one authority that are valid now: compare `cluster.ca`, and make expired ones anew with `tidegate certs node`"
            }
            Self::IdentityMismatch => {
                "the `region` and `node` of a node must be those of its certificate: `tidegate certs node --region R --node N`"
            }
            Self::Version => "run the same release of tidegate on both nodes",
            Self::DuplicateName => {
                "two processes use one name: give each its own `node` and certificate, or stop one (a node that moved is let in once its former run has been silent for a second or two)"
            }
            Self::Own => "a node's own address among its `cluster.seeds` does no harm",
            Self::Timeout => "the way to it loses or delays too much, or it is not a tidegate node",
            Self::Limit => "it will try again by itself",
            Self::Quarantined => {
                "it is let in again when its time is over; the log of the node that refuses says what it claimed: find out who runs under its certificate, or run the same release on both"
            }
        }
    }

    /// The application code that tells the peer.
    pub(super) fn code(self) -> u32 {
        CODE_REFUSALS + self as u32
    }

    fn from_code(code: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|refusal| u64::from(refusal.code()) == code)
    }
}

/// Why a connection did not come to stand.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// We refused the peer.
    #[error("{detail}")]
    Refused {
        /// Why.
        reason: Refusal,
        /// What exactly.
        detail: String,
    },
    /// The peer refused us.
    #[error("the peer refused this node: {detail}")]
    Rejected {
        /// Why, if it is one of our reasons.
        reason: Option<Refusal>,
        /// What it said.
        detail: String,
    },
    /// There is a good connection to that node already.
    #[error("connected already")]
    Duplicate,
    /// The way to the peer is broken, or it went away.
    #[error("unreachable: {0}")]
    Unreachable(String),
}

impl Failure {
    pub(super) fn refused(reason: Refusal, detail: impl Into<String>) -> Self {
        Self::Refused { reason, detail: detail.into() }
    }

    /// Whether it is of no use to try again soon.
    pub(super) fn needs_a_person(&self) -> bool {
        let reason = match self {
            Self::Refused { reason, .. } => Some(reason),
            Self::Rejected { reason, .. } => reason.as_ref(),
            Self::Duplicate | Self::Unreachable(_) => None,
        };
        reason.is_some_and(|reason| !matches!(reason, Refusal::Timeout | Refusal::Limit))
    }
}

impl From<ConnectionError> for Failure {
    fn from(error: ConnectionError) -> Self {
        match &error {
            // Found here: the peer's half of the TLS handshake was not acceptable.
            ConnectionError::TransportError(e) => match alert(u64::from(e.code)) {
                Some(ALERT_CERTIFICATE_REQUIRED) => {
                    Self::refused(Refusal::NoCertificate, "it showed no certificate")
                }
                Some(ALERT_NO_APPLICATION_PROTOCOL) => {
                    Self::refused(Refusal::Version, "it speaks another protocol")
                }
                Some(_) => Self::refused(Refusal::ForeignCertificate, e.reason.clone()),
                None => Self::Unreachable(error.to_string()),
            },
            // Found by the peer.
            ConnectionError::ConnectionClosed(e) => match alert(u64::from(e.error_code)) {
                Some(ALERT_CERTIFICATE_REQUIRED) => rejected(Some(Refusal::NoCertificate), &error),
                Some(ALERT_NO_APPLICATION_PROTOCOL) => rejected(Some(Refusal::Version), &error),
                Some(_) => rejected(Some(Refusal::ForeignCertificate), &error),
                None => Self::Unreachable(error.to_string()),
            },
            ConnectionError::ApplicationClosed(e) => {
                match Refusal::from_code(e.error_code.into_inner()) {
                    Some(reason) => Self::Rejected {
                        reason: Some(reason),
                        detail: String::from_utf8_lossy(&e.reason).into_owned(),
                    },
                    None => Self::Unreachable(error.to_string()),
                }
            }
            ConnectionError::VersionMismatch => {
                Self::refused(Refusal::Version, "it speaks another version of QUIC")
            }
            _ => Self::Unreachable(error.to_string()),
        }
    }
}

fn rejected(reason: Option<Refusal>, error: &ConnectionError) -> Failure {
    Failure::Rejected { reason, detail: error.to_string() }
}

/// The TLS alert in a QUIC transport error code.
fn alert(code: u64) -> Option<u64> {
    (0x100..0x200).contains(&code).then_some(code & 0xff)
}

/// Logs failures, each at most once in a while, so that a peer that tries again and again does not
/// fill the log.
#[derive(Default)]
pub(super) struct FailureLog {
    last: Mutex<HashMap<(SocketAddr, Option<Refusal>), Instant>>,
}

impl FailureLog {
    pub(super) fn log(&self, peer: SocketAddr, failure: &Failure) {
        let (reason, remedy) = match failure {
            Failure::Refused { reason, .. } => (Some(*reason), reason.remedy()),
            Failure::Rejected { reason, .. } => (*reason, reason.map_or("", Refusal::remedy)),
            Failure::Duplicate | Failure::Unreachable(_) => {
                tracing::debug!(%peer, "no connection: {failure}");
                return;
            }
        };
        if !self.is_due(peer, reason) {
            return;
        }
        match (failure, reason) {
            (_, Some(Refusal::Own)) => tracing::info!(%peer, "this is our own address; {remedy}"),
            (Failure::Refused { .. }, Some(reason)) => {
                tracing::warn!(%peer, reason = reason.name(), "refused a peer: {failure}; {remedy}");
            }
            _ => tracing::warn!(%peer, "{failure}; {remedy}"),
        }
    }

    fn is_due(&self, mut peer: SocketAddr, reason: Option<Refusal>) -> bool {
        // Who floods us comes from ever other ports.
        if matches!(reason, Some(Refusal::Timeout | Refusal::Limit)) {
            peer.set_port(0);
        }
        let (mut last, now) = (self.last.lock(), Instant::now());
        if last.len() >= LOGGED_MAX {
            last.retain(|_, at| now.duration_since(*at) < LOG_EVERY);
        }
        // A port that changes at every try must not make the memory grow, nor flood the log.
        if last.len() >= LOGGED_MAX {
            return false;
        }
        let due = last.get(&(peer, reason)).is_none_or(|at| now.duration_since(*at) >= LOG_EVERY);
        if due {
            last.insert((peer, reason), now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_distinct() {
        for refusal in Refusal::ALL {
            assert_eq!(Refusal::from_code(u64::from(refusal.code())), Some(refusal));
            assert_eq!(Refusal::ALL.iter().filter(|r| r.name() == refusal.name()).count(), 1);
        }
        for code in [CODE_GOODBYE, CODE_SUPERSEDED, CODE_PROTOCOL] {
            assert_eq!(Refusal::from_code(u64::from(code)), None);
        }
    }

    #[test]
    fn the_log_says_a_thing_once_in_a_while_and_is_bounded() {
        let log = FailureLog::default();
        let peer = |port| SocketAddr::from(([127, 0, 0, 1], port));
        assert!(log.is_due(peer(1), Some(Refusal::Version)));
        assert!(!log.is_due(peer(1), Some(Refusal::Version)));
        assert!(log.is_due(peer(1), Some(Refusal::Limit)));
        assert!(
            !log.is_due(peer(2), Some(Refusal::Limit)),
            "a flood is one line, whatever its ports"
        );
        let said = (2..10_000).filter(|port| log.is_due(peer(*port), None)).count();
        assert_eq!(said, LOGGED_MAX - 2);
    }
}
