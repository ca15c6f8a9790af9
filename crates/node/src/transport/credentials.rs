//! What this node proves itself by, and whom it believes: both can be replaced while connections stand.
//!
//! A handshake uses what is in force when it begins. A connection that stands is judged again when
//! something was replaced, when its peer's certificate expires, and once a minute all the same, by the
//! rules that a handshake would be judged by now. So an authority that is taken out of `cluster.ca` ends
//! the connections of those whom only that authority vouched for.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, LazyLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use quinn::{ClientConfig, Connection, ServerConfig};
use rustls::pki_types::CertificateDer;
use tidegate_core::ids::NodeId;
use tokio::sync::watch;

use super::{
    Inner, TransportError,
    gate::MEETINGS_MAX,
    link::Link,
    refusal::{Failure, Refusal},
    tls::{self, Trust},
    transport_config,
};
use crate::{
    certs::{self, Validity},
    clock,
};

/// A connection is judged again after this time at the latest: the wall clock may have been set.
const JUDGE_EVERY: Duration = Duration::from_secs(60);

/// Keyed anew in every process, so that a hash says nothing to others.
static FINGERPRINTS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// What is in force.
pub(super) struct Credentials {
    current: ArcSwap<Current>,
    /// Moves when they were replaced.
    replaced: watch::Sender<()>,
}

struct Current {
    client: ClientConfig,
    trust: Trust,
    /// A hash of the texts, so that the same ones are known without a second copy of the key.
    fingerprint: u64,
}

/// Both halves of what an endpoint needs.
pub(super) struct Built {
    pub(super) server: ServerConfig,
    current: Current,
}

impl Built {
    /// Checks the three texts (PEM) against each other and against `identity`, and builds both halves.
    pub(super) fn new(
        identity: &NodeId,
        ca_pem: &[u8],
        cert_pem: &[u8],
        key_pem: &[u8],
    ) -> Result<Self, TransportError> {
        let tls = tls::build(identity, ca_pem, cert_pem, key_pem)?;
        let transport = Arc::new(transport_config());
        let mut server = ServerConfig::with_crypto(Arc::new(tls.server));
        server.transport_config(transport.clone()).migration(false).max_incoming(
            // Beyond what is being answered, a few may wait to be looked at.
            2 * MEETINGS_MAX,
        );
        let mut client = ClientConfig::new(Arc::new(tls.client));
        client.transport_config(transport);
        let fingerprint = FINGERPRINTS.hash_one((ca_pem, cert_pem, key_pem));
        Ok(Self { server, current: Current { client, trust: tls.trust, fingerprint } })
    }
}

impl Credentials {
    /// In force from the start; the server's half is for the endpoint.
    pub(super) fn new(built: Built) -> (Self, ServerConfig) {
        let current = ArcSwap::from_pointee(built.current);
        (Self { current, replaced: watch::Sender::new(()) }, built.server)
    }

    pub(super) fn are_in_force(&self, built: &Built) -> bool {
        self.current.load().fingerprint == built.current.fingerprint
    }

    /// Puts others in force. The endpoint must have been given the server's half before.
    pub(super) fn replace(&self, built: Built) {
        self.current.store(Arc::new(built.current));
        self.replaced.send_replace(());
    }

    /// How this node dials.
    pub(super) fn client(&self) -> ClientConfig {
        self.current.load().client.clone()
    }

    /// From when until when this node's own certificate is valid.
    pub(super) fn validity(&self) -> Validity {
        self.current.load().trust.own
    }

    /// Whether a peer that showed these certificates would be believed now; if not, why.
    fn judge(&self, chain: &[CertificateDer<'_>]) -> Result<(), String> {
        self.current.load().trust.judge(chain, clock::unix_time())
    }
}

/// The certificates that the peer showed in its handshake, its own first.
pub(super) fn shown(connection: &Connection) -> Vec<CertificateDer<'static>> {
    let identity = connection.peer_identity();
    let chain = identity.and_then(|identity| identity.downcast().ok());
    chain.map(|chain| *chain).unwrap_or_default()
}

/// Closes a connection as soon as its peer would not be believed any more.
pub(super) async fn watch(inner: Arc<Inner>, link: Arc<Link>) {
    let chain = shown(&link.connection);
    // From before the first look on: nothing that is replaced afterwards is missed.
    let mut replaced = inner.credentials.replaced.subscribe();
    loop {
        if let Err(why) = inner.credentials.judge(&chain) {
            let detail = format!("{} is believed no longer: {why}", link.session.id);
            let refusal = Refusal::ForeignCertificate;
            link.close(refusal.code(), &detail);
            inner.fail(link.remote, &Failure::refused(refusal, detail));
            return;
        }
        tokio::select! {
            // The sender lives as long as `inner`.
            _ = replaced.changed() => {}
            () = tokio::time::sleep(next_look(&chain)) => {}
        }
    }
}

/// The time until the first of the certificates expires, or a minute.
fn next_look(chain: &[CertificateDer<'_>]) -> Duration {
    let now = clock::unix_time();
    let ends = chain.iter().filter_map(|certificate| certs::validity(certificate).ok());
    let ahead = ends.map(|validity| validity.not_after).filter(|end| *end >= now);
    // The last second still counts, hence one more.
    let end = ahead.min().map(|end| end.saturating_sub(now) + Duration::from_secs(1));
    end.map_or(JUDGE_EVERY, |end| end.min(JUDGE_EVERY))
}
