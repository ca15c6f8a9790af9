//! Mutual TLS: who may talk to us, and how we prove who we are.

use std::{sync::Arc, time::Duration};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::{
    RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tidegate_core::ids::NodeId;

use crate::{
    certs::{self, Validity},
    clock,
};

/// The application protocol that both sides must speak.
const ALPN: &[u8] = b"tidegate/1";

/// Why the transport cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The authority's certificate is not usable.
    #[error("`cluster.ca` holds no usable authority certificate: {0}")]
    Ca(String),
    /// Our certificate is not usable.
    #[error("`cluster.cert` holds no usable certificate: {0}")]
    Cert(String),
    /// Our private key is not usable.
    #[error("`cluster.key` holds no usable private key: {0}")]
    Key(String),
    /// Certificate and key do not belong together.
    #[error(
        "`cluster.key` is not the key of the certificate in `cluster.cert`: take `node.pem` and `node.key` of one `tidegate certs node`"
    )]
    KeyMismatch,
    /// Our certificate was not signed by the authority, or is not valid now.
    #[error(
        "the authority in `cluster.ca` does not stand for the certificate in `cluster.cert` ({0}): make one with `tidegate certs node --ca D`"
    )]
    NotSigned(String),
    /// Our certificate names another node.
    #[error("the certificate in `cluster.cert` is that of {certificate}, but the configuration says `region = \"{}\"`, `node = \"{}\"`", configured.region, configured.node)]
    WrongNode {
        /// Whom the certificate names.
        certificate: NodeId,
        /// Who we are by the configuration.
        configured: NodeId,
    },
    /// The socket is not usable.
    #[error("the UDP socket of `cluster.listen` is not usable: {0}")]
    Socket(#[from] std::io::Error),
    /// The TLS library cannot do what we need.
    #[error("TLS is not usable: {0}")]
    Tls(String),
}

/// Both halves of an endpoint's TLS, and how to judge a peer again.
pub(super) struct Tls {
    pub(super) server: QuicServerConfig,
    pub(super) client: QuicClientConfig,
    pub(super) trust: Trust,
}

/// Whom a node believes, and how long it is believed itself.
pub(super) struct Trust {
    verifier: Arc<dyn ClientCertVerifier>,
    /// When this node's own certificate is valid.
    pub(super) own: Validity,
}

impl Trust {
    /// Whether who shows these certificates, its own first, is to be believed at `now` (since 1970); if
    /// not, why.
    pub(super) fn judge(&self, chain: &[CertificateDer<'_>], now: Duration) -> Result<(), String> {
        let (certificate, intermediates) = chain.split_first().ok_or("it showed no certificate")?;
        let now = UnixTime::since_unix_epoch(now);
        let judged = self.verifier.verify_client_cert(certificate, intermediates, now);
        judged.map(drop).map_err(|error| error.to_string())
    }
}

/// Checks the files against each other and against `configured`, and builds both halves.
pub(super) fn build(
    configured: &NodeId,
    ca_pem: &[u8],
    cert_pem: &[u8],
    key_pem: &[u8],
) -> Result<Tls, TransportError> {
    let mut roots = RootCertStore::empty();
    for ca in certificates(ca_pem).map_err(TransportError::Ca)? {
        roots.add(ca).map_err(|e| TransportError::Ca(e.to_string()))?;
    }
    let roots = Arc::new(roots);
    let chain = certificates(cert_pem).map_err(TransportError::Cert)?;
    let key =
        PrivateKeyDer::from_pem_slice(key_pem).map_err(|e| TransportError::Key(e.to_string()))?;

    let certificate =
        certs::identity(&chain[0]).map_err(|e| TransportError::Cert(e.to_string()))?;
    if certificate != *configured {
        return Err(TransportError::WrongNode { certificate, configured: configured.clone() });
    }

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .map_err(|e| TransportError::Ca(e.to_string()))?;
    let own = certs::validity(&chain[0]).map_err(|e| TransportError::Cert(e.to_string()))?;
    let trust = Trust { verifier: verifier.clone(), own };
    trust.judge(&chain, clock::unix_time()).map_err(TransportError::NotSigned)?;

    let mut server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(pair)?;
    let mut client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(pair)?;

    // Every connection shows its certificates afresh: peers connect rarely and stay connected, so
    // resumption would gain nothing.
    server.send_tls13_tickets = 0;
    server.session_storage = Arc::new(NoServerSessionStorage {});
    client.resumption = Resumption::disabled();
    server.alpn_protocols = vec![ALPN.to_vec()];
    client.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Tls {
        server: server.try_into().map_err(tls)?,
        client: client.try_into().map_err(tls)?,
        trust,
    })
}

/// The certificates in a PEM text; at least one.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(certificates) if certificates.is_empty() => {
            Err("there is no `BEGIN CERTIFICATE` in it".into())
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(error.to_string()),
    }
}

fn tls(error: impl std::fmt::Display) -> TransportError {
    TransportError::Tls(error.to_string())
}

fn pair(error: rustls::Error) -> TransportError {
    match error {
        rustls::Error::InconsistentKeys(_) => TransportError::KeyMismatch,
        other => TransportError::Key(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certs::Authority;

    fn message(id: &NodeId, ca: &str, cert: &str, key: &str) -> String {
        match build(id, ca.as_bytes(), cert.as_bytes(), key.as_bytes()) {
            Ok(_) => "good".into(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn each_wrong_file_is_named() {
        let (ours, theirs) = (Authority::generate().unwrap(), Authority::generate().unwrap());
        let id = NodeId::new("eu", "eu-0").unwrap();
        let other = NodeId::new("us", "us-0").unwrap();
        let (a, b) = (ours.sign(&id).unwrap(), ours.sign(&id).unwrap());
        let foreign = theirs.sign(&id).unwrap();
        let ca = ours.cert_pem();

        assert_eq!(message(&id, ca, &a.cert_pem, &a.key_pem), "good");
        for (text, expected) in [
            (message(&id, "", &a.cert_pem, &a.key_pem), "`cluster.ca` holds no usable"),
            (message(&id, ca, "x", &a.key_pem), "`cluster.cert` holds no usable"),
            (message(&id, ca, &a.cert_pem, "x"), "`cluster.key` holds no usable"),
            (message(&id, ca, &a.cert_pem, &b.key_pem), "is not the key of the certificate"),
            (message(&id, ca, &foreign.cert_pem, &foreign.key_pem), "does not stand for"),
            (message(&other, ca, &a.cert_pem, &a.key_pem), "is that of eu/eu-0"),
        ] {
            assert!(text.contains(expected), "{text:?} should say {expected:?}");
        }
    }
}
