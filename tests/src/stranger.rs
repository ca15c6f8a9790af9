//! Who knocks at a node's QUIC endpoint without being a `tidegate`.

use std::{fs, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream,
    crypto::rustls::QuicClientConfig,
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tidegate_node::certs::SERVER_NAME;
use tokio::{net::UdpSocket, time};

/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A QUIC client that can misbehave.
#[derive(Debug)]
pub struct Stranger(Endpoint);

impl Stranger {
    /// One without a certificate, which believes the authority in `ca.pem`.
    pub fn without_certificate(ca: &Path) -> Self {
        Self::new(ca, None)
    }

    /// One with the `node.pem` and `node.key` in this directory.
    pub fn with_certificate(ca: &Path, directory: &Path) -> Self {
        Self::new(ca, Some(directory))
    }

    fn new(ca: &Path, certificate: Option<&Path>) -> Self {
        let read = |path: &Path| fs::read(path).expect("the file is there");
        let pem = |path: &Path| CertificateDer::from_pem_slice(&read(path)).expect("it is PEM");
        let mut roots = RootCertStore::empty();
        roots.add(pem(ca)).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3 is there")
            .with_root_certificates(roots);
        let mut tls = match certificate {
            None => builder.with_no_client_auth(),
            Some(directory) => {
                let key = PrivateKeyDer::from_pem_slice(&read(&directory.join("node.key")));
                let chain = vec![pem(&directory.join("node.pem"))];
                builder.with_client_auth_cert(chain, key.expect("it is PEM")).expect("a pair")
            }
        };
        tls.alpn_protocols = vec![b"tidegate/1".to_vec()];
        let tls = QuicClientConfig::try_from(tls).expect("TLS 1.3 suits QUIC");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut endpoint = Endpoint::client(any).expect("a port is free");
        endpoint.set_default_client_config(ClientConfig::new(Arc::new(tls)));
        Self(endpoint)
    }

    /// Connects; the handshake succeeds as this side sees it.
    ///
    /// # Errors
    ///
    /// How the handshake failed.
    pub async fn connect(&self, port: u16) -> Result<Connection, ConnectionError> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        self.0.connect(address, SERVER_NAME).expect("an address").await
    }

    /// Connects and opens the stream on which nodes introduce themselves, says this, and waits until the
    /// node closes the connection: why it did.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub async fn turned_away(&self, port: u16, says: &[u8]) -> String {
        let connection = match self.connect(port).await {
            Ok(connection) => connection,
            Err(error) => return error.to_string(),
        };
        if let Ok((mut send, _recv)) = connection.open_bi().await {
            // It may be closed before all is said.
            let _said = send.write_all(says).await;
            let _finished = send.finish();
            return closed(&connection).await;
        }
        closed(&connection).await
    }

    /// The first datagram that a node would get from this client.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub async fn first_datagram(&self) -> Vec<u8> {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).await.expect("a port is free");
        let address = socket.local_addr().expect("it is bound");
        let _connecting = self.0.connect(address, SERVER_NAME).expect("an address");
        let mut bytes = vec![0; 2_048];
        let came = time::timeout(PATIENCE, socket.recv(&mut bytes)).await;
        bytes.truncate(came.expect("a datagram comes").expect("it can be read"));
        bytes
    }
}

/// Waits until the node closes the connection: why it did.
///
/// # Panics
///
/// If it does not.
pub async fn closed(connection: &Connection) -> String {
    let closed = time::timeout(PATIENCE, connection.closed()).await;
    closed.expect("the node closes the connection").to_string()
}

/// Introduces itself as nodes do, and is let in.
///
/// # Panics
///
/// If it is not.
pub async fn introduce(
    connection: &Connection,
    region: &str,
    node: &str,
) -> (SendStream, RecvStream) {
    let (mut send, mut recv) = connection.open_bi().await.expect("a stream");
    send.write_all(&hello(region, node)).await.expect("it is read");
    let mut length = [0; 2];
    recv.read_exact(&mut length).await.expect("the node introduces itself");
    let mut theirs = vec![0; usize::from(u16::from_le_bytes(length))];
    recv.read_exact(&mut theirs).await.expect("the node introduces itself");
    send.write_all(&[CONFIRM]).await.expect("it is read");
    let mut accepted = [0];
    recv.read_exact(&mut accepted).await.expect("the node accepts");
    assert_eq!(accepted, [ACCEPTED]);
    (send, recv)
}

const PROTOCOL: u16 = 1;
const CONFIRM: u8 = 1;
const ACCEPTED: u8 = 2;

/// What a node says of itself, as `docs/wire.md` has it.
pub fn hello(region: &str, node: &str) -> Vec<u8> {
    let mut body = PROTOCOL.to_le_bytes().to_vec();
    for name in [region, node] {
        body.push(u8::try_from(name.len()).expect("names are short"));
        body.extend(name.as_bytes());
    }
    // Boot 1, IPv4, 127.0.0.1, port 1.
    body.extend([1, 0, 127, 0, 0, 1, 1]);
    let length = u16::try_from(body.len()).expect("names are short");
    [&length.to_le_bytes()[..], &body].concat()
}
