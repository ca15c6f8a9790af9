//! Peers that may not talk, and bytes that mean nothing.

use std::net::{IpAddr, Ipv4Addr};

use quinn::{
    ClientConfig, Connecting, Connection, ConnectionError, Endpoint, RecvStream, SendStream,
    crypto::rustls::QuicClientConfig,
};
use rand::{Rng, RngExt};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tidegate_core::Hello;

use super::*;
use crate::{
    certs::SERVER_NAME,
    transport::{hello, refusal::Refusal, tls},
};

/// A QUIC client without our transport around it, which can misbehave.
pub(super) struct Raw {
    endpoint: Endpoint,
}

impl Raw {
    fn new(crypto: QuicClientConfig) -> Self {
        Self::new_from(crypto, Ipv4Addr::LOCALHOST.into())
    }

    fn new_from(crypto: QuicClientConfig, address: IpAddr) -> Self {
        let mut endpoint = Endpoint::client(SocketAddr::new(address, 0)).unwrap();
        endpoint.set_default_client_config(ClientConfig::new(Arc::new(crypto)));
        Self { endpoint }
    }

    /// With the certificate of a node.
    pub(super) fn with_certificate(authority: &Authority, region: &str) -> Self {
        Self::with_certificate_from(authority, region, Ipv4Addr::LOCALHOST.into())
    }

    /// The same, sending from this address.
    pub(super) fn with_certificate_from(
        authority: &Authority,
        region: &str,
        address: IpAddr,
    ) -> Self {
        let config = config(authority, region, 1);
        let built = tls::build(&id(region), &config.ca_pem, &config.cert_pem, &config.key_pem);
        Self::new_from(built.unwrap().client, address)
    }

    fn without_certificate(authority: &Authority) -> Self {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(authority.cert_pem().as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut crypto = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        crypto.alpn_protocols = vec![b"tidegate/1".to_vec()];
        Self::new(crypto.try_into().unwrap())
    }

    pub(super) fn connecting(&self, to: &Node) -> Connecting {
        self.endpoint.connect(to.address(), SERVER_NAME).unwrap()
    }

    async fn connect(&self, to: &Node) -> Connection {
        self.connecting(to).await.unwrap()
    }

    /// Connects and is let in.
    pub(super) async fn introduced(
        &self,
        to: &Node,
        region: &str,
    ) -> (Connection, (SendStream, RecvStream)) {
        let connection = self.connect(to).await;
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        hello::write_hello(&mut send, &hello_of(region, 1)).await.unwrap();
        hello::read_hello(&mut recv).await.unwrap();
        hello::write_confirm(&mut send).await.unwrap();
        hello::read_accepted(&mut recv).await.unwrap();
        (connection, (send, recv))
    }

    /// Connects and sends `hello`; returns how the connection ended.
    async fn introduce(&self, to: &Node, hello: &[u8]) -> ConnectionError {
        let connection = self.connect(to).await;
        let (mut send, _recv) = connection.open_bi().await.unwrap();
        let _ = send.write_all(hello).await;
        closed(&connection).await
    }
}

async fn closed(connection: &Connection) -> ConnectionError {
    tokio::time::timeout(PATIENCE, connection.closed()).await.expect("closed in time")
}

fn hello_of(region: &str, boot: u64) -> Hello {
    let session = Session { id: id(region), boot: Boot(boot) };
    Hello { session, advertise: "127.0.0.1:1".parse().unwrap() }
}

fn assert_refused(end: &ConnectionError, reason: Refusal) {
    let ConnectionError::ApplicationClosed(close) = end else { panic!("{end:?}") };
    assert_eq!(close.error_code.into_inner(), u64::from(reason.code()), "{end}");
}

#[tokio::test]
async fn a_client_without_certificate_is_refused() {
    let authority = Authority::generate().unwrap();
    let mut eu = Node::start(config(&authority, "eu", 1));
    // It sees a good handshake at first, and is closed afterwards.
    let end = Raw::without_certificate(&authority).introduce(&eu, &[]).await;
    assert!(matches!(end, ConnectionError::ConnectionClosed(_)), "{end:?}");
    assert_eq!(eu.refused("no_certificate"), 1);
    assert!(eu.events.try_recv().is_err());
}

#[tokio::test]
async fn nodes_of_two_authorities_refuse_each_other() {
    let (ours, theirs) = (Authority::generate().unwrap(), Authority::generate().unwrap());
    let mut eu = Node::start(config(&ours, "eu", 1));
    let us = Node::start(config(&theirs, "us", 1));
    us.keep(&[&eu]);
    let refused = async {
        while us.refused("foreign_certificate") == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.unwrap();

    // A client that trusts our authority but is not from it.
    let foreign = config(&theirs, "us", 1);
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ours.cert_pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut crypto = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(&foreign.cert_pem).unwrap()],
            rustls::pki_types::PrivateKeyDer::from_pem_slice(&foreign.key_pem).unwrap(),
        )
        .unwrap();
    crypto.alpn_protocols = vec![b"tidegate/1".to_vec()];
    let raw = Raw::new(crypto.try_into().unwrap());
    let end = raw.introduce(&eu, &hello::packed(&hello_of("us", 1))).await;
    assert!(matches!(end, ConnectionError::ConnectionClosed(_)), "{end:?}");
    assert_eq!(eu.refused("foreign_certificate"), 1);
    assert!(eu.events.try_recv().is_err());
}

#[tokio::test]
async fn a_name_that_is_not_the_certificates_is_refused() {
    let authority = Authority::generate().unwrap();
    let mut eu = Node::start(config(&authority, "eu", 1));
    let raw = Raw::with_certificate(&authority, "ap");
    for claimed in ["us", "eu"] {
        let end = raw.introduce(&eu, &hello::packed(&hello_of(claimed, 1))).await;
        assert_refused(&end, Refusal::IdentityMismatch);
    }
    assert_eq!(eu.refused("identity_mismatch"), 2);
    assert!(eu.events.try_recv().is_err());
}

#[tokio::test]
async fn our_own_name_is_refused() {
    let authority = Authority::generate().unwrap();
    let eu = Node::start(config(&authority, "eu", 1));
    let raw = Raw::with_certificate(&authority, "eu");
    assert_refused(&raw.introduce(&eu, &hello::packed(&hello_of("eu", 1))).await, Refusal::Own);
    let other_run = raw.introduce(&eu, &hello::packed(&hello_of("eu", 2))).await;
    assert_refused(&other_run, Refusal::DuplicateName);
    assert_eq!((eu.refused("self"), eu.refused("duplicate_name")), (1, 1));
}

#[tokio::test]
async fn a_live_name_at_another_address_is_refused() {
    let authority = Authority::generate().unwrap();
    let mut eu = Node::start(config(&authority, "eu", 1));
    let mut us = Node::start(config(&authority, "us", 5));
    connect(&mut eu, &mut us).await;
    let raw = Raw::with_certificate(&authority, "us");
    // A copy that was started later is no better than one that was started before.
    for boot in [4, 5, 6] {
        let end = raw.introduce(&eu, &hello::packed(&hello_of("us", boot))).await;
        assert_refused(&end, Refusal::DuplicateName);
        // It is told whom it copies.
        let live = format!("{} is connected from {}", us.session(), us.address());
        assert!(end.to_string().contains(&live), "{end}");
    }
    assert_eq!(eu.refused("duplicate_name"), 3);
    us.send(&eu, "undisturbed").await;
    assert_eq!(eu.next_frame().await, "undisturbed");
}

#[tokio::test]
async fn who_is_quarantined_while_introducing_itself_is_not_let_in() {
    let authority = Authority::generate().unwrap();
    let mut eu = Node::start(config(&authority, "eu", 1));
    let raw = Raw::with_certificate(&authority, "us");
    let connection = raw.connect(&eu).await;
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    hello::write_hello(&mut send, &hello_of("us", 1)).await.unwrap();
    // It has been found good, or there would be no answer.
    hello::read_hello(&mut recv).await.unwrap();
    eu.transport.quarantine(&id("us"), PATIENCE);
    hello::write_confirm(&mut send).await.unwrap();
    assert_refused(&closed(&connection).await, Refusal::Quarantined);
    assert_eq!(eu.refused("quarantined"), 1);
    assert_eq!(eu.transport.connections(), []);
    assert!(eu.events.try_recv().is_err());
}

#[tokio::test]
async fn another_protocol_is_refused() {
    let authority = Authority::generate().unwrap();
    let eu = Node::start(config(&authority, "eu", 1));
    let mut bytes = hello::packed(&hello_of("us", 1));
    bytes[2] = 2;
    let end = Raw::with_certificate(&authority, "us").introduce(&eu, &bytes).await;
    assert_refused(&end, Refusal::Version);
    assert_eq!(eu.refused("version"), 1);
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_given_up() {
    let authority = Authority::generate().unwrap();
    let eu = Node::start(config(&authority, "eu", 1));
    let end = Raw::with_certificate(&authority, "us").introduce(&eu, &[]).await;
    assert_refused(&end, Refusal::Timeout);
    assert_eq!(eu.refused("timeout"), 1);
}

#[tokio::test]
async fn random_bytes_do_no_harm() {
    let authority = Authority::generate().unwrap();
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(3);
    let mut bytes = |max: usize| {
        let mut bytes = vec![0; rng.random_range(0..max)];
        rng.fill_bytes(&mut bytes);
        bytes
    };
    let mut eu = Node::start(config(&authority, "eu", 1));
    let socket = free_socket();
    for _ in 0..500 {
        socket.send_to(&bytes(1400), eu.address()).unwrap();
    }

    let raw = Raw::with_certificate(&authority, "us");
    for _ in 0..20 {
        // A length that will come, then nonsense.
        let mut hello = vec![100, 0];
        hello.extend(bytes(400));
        hello.resize(102, 0);
        let _ = raw.introduce(&eu, &hello).await;
    }
    assert_eq!(eu.refused("version"), 20);

    // A peer that is let in and then sends nonsense.
    let (connection, _hello) = raw.introduced(&eu, "us").await;
    let mad = hello_of("us", 1).session;
    assert_eq!(eu.next().await, Event::Connected(mad.clone()));
    for n in 0..200 {
        let mut stream = connection.open_uni().await.unwrap();
        let mut nonsense = bytes(70_000);
        if let Some(first) = nonsense.first_mut() {
            *first |= 0x80; // no channel that there is
        }
        // Some are cut short, some are too long.
        if stream.write_all(&nonsense).await.is_ok() && n % 3 == 0 {
            let _ = stream.reset(9_u32.into());
        }
        let mut datagram = bytes(1000);
        datagram.insert(0, 0x80);
        let _ = connection.send_datagram(datagram.into());
    }
    let mut frame = connection.open_uni().await.unwrap();
    frame.write_all(b"\x01good").await.unwrap();
    frame.finish().unwrap();
    assert_eq!(eu.next_frame().await, "good");
    assert!(eu.transport.stats().dropped_malformed > 0);

    // A well-behaved peer is served as ever.
    connection.close(0_u32.into(), b"");
    let mut last = eu.next().await;
    while last == Event::Unreadable(mad.clone()) {
        last = eu.next().await;
    }
    assert_eq!(last, Event::Disconnected(mad));
    let mut us = Node::start(config(&authority, "us", 2));
    connect(&mut eu, &mut us).await;
}
