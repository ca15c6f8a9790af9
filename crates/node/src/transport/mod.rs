//! The connections to other nodes: QUIC with mutual TLS over one UDP port.
//!
//! A [`Transport`] keeps the addresses that it is given dialled, accepts what comes, and reports a
//! peer as connected only once both sides have proved who they are (`hello`). Two nodes have one
//! connection between them, whoever dialled (`registry`). Messages go as one stream each, out of
//! a bounded queue per peer; sending never waits, and what does not fit is dropped and counted.

mod credentials;
mod gate;
mod hello;
mod keep;
mod link;
mod meet;
mod namesake;
mod quarantine;
mod received;
mod refusal;
mod registry;
mod stats;
mod supervision;
#[cfg(test)]
pub(crate) mod tests;
mod tls;

use std::{
    collections::BTreeSet,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use quinn::{
    AsyncUdpSocket, Endpoint, EndpointConfig, IdleTimeout, Runtime, TokioRuntime, TransportConfig,
    VarInt,
};
use tidegate_core::{
    Hello,
    ids::{Boot, NodeId, RegionName, Session},
};
use tokio::time::Instant;

pub use received::Inbox;
pub use refusal::Refusal;
pub use stats::TransportStats;
pub use tls::TransportError;

use crate::{
    certs::Validity,
    faults::{Faults, FaultySocket},
};

use credentials::{Built, Credentials};
use keep::Kept;
use link::{Channel, Link};
use namesake::Namesake;
use quarantine::Quarantine;
use received::{Held, Received, Sender};
use refusal::{CODE_GOODBYE, Failure, FailureLog};
use registry::Registry;
use stats::Counters;
use supervision::Watched;

/// The longest message in bytes: a frame of 64 KiB and a little.
pub const FRAME_BYTES_MAX: usize = 65 * 1024;

/// How many events may wait for their reader; then each peer's messages wait, [`STREAMS_MAX`] of them
/// here, and at last their senders drop.
const EVENTS_MAX: usize = 1024;
/// How many membership messages may wait for their reader.
const MEMBERSHIP_MAX: usize = 1024;

/// An idle connection asks for a sign of life this often.
const KEEP_ALIVE: Duration = Duration::from_millis(400);
/// A connection without one ends after this time. Until then others are tried beside it.
const IDLE_TIMEOUT: Duration = Duration::from_millis(3000);
/// The first guess at a round trip: it sets how soon a lost first datagram is sent again.
const INITIAL_RTT: Duration = Duration::from_millis(150);
/// How many messages a peer may have under way, and how many of its messages are read or wait for the
/// engine: that many of the longest are 16 MiB. What all peers may have so is in `received`.
const STREAMS_MAX: u32 = 256;
/// How many bytes a peer may have under way that were not read yet.
const RECEIVE_WINDOW: u32 = 8 * 1024 * 1024;
/// How many bytes of one message may be under way that were not read yet.
const STREAM_WINDOW: u32 = 128 * 1024;
/// How many bytes may be on their way to a peer.
const SEND_WINDOW: u64 = 8 * 1024 * 1024;
/// How many bytes of datagrams may wait, each way; the oldest give way.
const DATAGRAM_BUFFER: usize = 256 * 1024;
/// How long closing may take. The goodbyes leave at once; they are repeated to those that still
/// send in this time.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// What a transport needs to know.
pub struct Config {
    /// Who we are.
    pub identity: NodeId,
    /// Which run of us this is.
    pub boot: Boot,
    /// The UDP socket, bound already.
    pub socket: UdpSocket,
    /// Where peers can dial us.
    pub advertise: SocketAddr,
    /// The authority's certificate, as PEM.
    pub ca_pem: Vec<u8>,
    /// Our certificate, as PEM.
    pub cert_pem: Vec<u8>,
    /// Our private key, as PEM.
    pub key_pem: Vec<u8>,
    /// The faults to obey; none: the plain socket is used.
    pub faults: Option<Arc<Faults>>,
}

/// What happens between us and a peer. For one session: `Connected`, frames, `Disconnected`, and
/// perhaps `Connected` again; nothing of a session follows its `Disconnected`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A connection stands; both sides have proved who they are.
    Connected(Session),
    /// A frame has come. Frames may be lost, and may overtake each other.
    Frame {
        /// Who sent it.
        from: Session,
        /// The frame.
        bytes: Bytes,
    },
    /// It sent something that is not even a message, as no working node does.
    Unreadable(Session),
    /// The connection has ended.
    Disconnected(Session),
}

/// A membership message that has come.
#[derive(Debug, Clone)]
pub struct Gossiped {
    /// Who sent it.
    pub from: Session,
    /// The address that it advertises.
    pub address: SocketAddr,
    /// The message.
    pub bytes: Bytes,
}

/// Why a message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// There is no connection with that session.
    #[error("not connected")]
    NotConnected,
    /// The queue to that peer is full; the message was dropped and counted.
    #[error("the queue to the peer is full")]
    QueueFull,
    /// The message is too long.
    #[error("a message of {length} bytes is longer than {FRAME_BYTES_MAX}")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
}

/// One connection, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// With whom.
    pub session: Session,
    /// Where the peer says it can be dialled.
    pub address: SocketAddr,
    /// The round trip as QUIC estimates it.
    pub rtt: Duration,
    /// Nothing has been heard for more than a second.
    pub silent: bool,
}

/// The connections to other nodes; clones share them.
#[derive(Clone)]
pub struct Transport {
    inner: Arc<Inner>,
    accepting: Watched,
}

struct Inner {
    session: Session,
    advertise: SocketAddr,
    local: SocketAddr,
    endpoint: Endpoint,
    credentials: Credentials,
    quarantine: Quarantine,
    faults: Option<Arc<Faults>>,
    registry: Registry,
    kept: Mutex<Kept>,
    events: Sender<Event>,
    /// Where membership messages go: to whoever asked last.
    membership: Mutex<Option<Sender<Gossiped>>>,
    received: Received,
    counters: Counters,
    failures: FailureLog,
    namesake: Namesake,
}

impl Transport {
    /// Starts a transport on a bound socket. Must be called within a tokio runtime.
    ///
    /// The events must be read: while their queue is full, nothing more is received. It runs until
    /// it is [closed](Self::close), whoever holds it.
    pub fn start(config: Config) -> Result<(Self, Inbox<Event>), TransportError> {
        let Config { identity, boot, socket, advertise, ca_pem, cert_pem, key_pem, faults } =
            config;
        let built = Built::new(&identity, &ca_pem, &cert_pem, &key_pem)?;
        let (credentials, server) = Credentials::new(built);
        let local = socket.local_addr()?;
        socket.set_nonblocking(true)?;
        let runtime = Arc::new(TokioRuntime);
        let mut wrapped = runtime.wrap_udp_socket(socket)?;
        if let Some(faults) = &faults {
            let faulty: Arc<dyn AsyncUdpSocket> =
                Arc::new(FaultySocket::new(wrapped, faults.clone()));
            wrapped = faulty;
        }
        let endpoint = Endpoint::new_with_abstract_socket(
            EndpointConfig::default(),
            Some(server),
            wrapped,
            runtime,
        )?;

        let (events, receiver) = received::inbox(EVENTS_MAX);
        let inner = Arc::new(Inner {
            registry: Registry::new(identity.clone()),
            session: Session { id: identity, boot },
            advertise,
            local,
            endpoint,
            credentials,
            quarantine: Quarantine::default(),
            faults,
            kept: Mutex::default(),
            events,
            membership: Mutex::default(),
            received: Received::default(),
            counters: Counters::default(),
            failures: FailureLog::default(),
            namesake: Namesake::default(),
        });
        let accepting = Watched::spawn(meet::accept(inner.clone()));
        Ok((Self { inner, accepting }, receiver))
    }

    /// Waits until nobody is let in any more, and says why: after [`close`](Self::close), or since the
    /// socket or the task that accepts broke. Then the transport is deaf to whoever is not connected, and
    /// only another one helps.
    pub async fn ended(&self) -> String {
        self.accepting.ended().await
    }

    /// This run of this node.
    pub fn session(&self) -> &Session {
        &self.inner.session
    }

    /// The address of the socket.
    pub fn local_address(&self) -> SocketAddr {
        self.inner.local
    }

    /// Puts other certificates (PEM, as in [`Config`]) in force: for handshakes from now on, and to judge
    /// the peers that are connected, of whom those that are not believed any more are closed. An error
    /// says what is wrong with them, and changes nothing. Says whether they are others than those that
    /// were in force.
    pub fn replace_credentials(
        &self,
        ca_pem: &[u8],
        cert_pem: &[u8],
        key_pem: &[u8],
    ) -> Result<bool, TransportError> {
        let built = Built::new(&self.inner.session.id, ca_pem, cert_pem, key_pem)?;
        if self.inner.credentials.are_in_force(&built) {
            return Ok(false);
        }
        self.inner.endpoint.set_server_config(Some(built.server.clone()));
        self.inner.credentials.replace(built);
        Ok(true)
    }

    /// Closes the connection with a node and refuses it for so long, under whatever session.
    pub fn quarantine(&self, node: &NodeId, time: Duration) {
        self.inner.quarantine.add(node, time);
        if let Some(link) = self.inner.registry.of_node(node) {
            let failure = Failure::refused(Refusal::Quarantined, "it claimed what cannot be");
            link.close(Refusal::Quarantined.code(), &failure.to_string());
            self.inner.fail(link.remote, &failure);
        }
    }

    /// Closes the connection with a session after a pause, if it stands; who is kept dialled is dialled
    /// again then. Without the pause both would do nothing else.
    pub fn close_after(&self, session: &Session, pause: Duration, why: &'static str) {
        let Some(link) = self.inner.registry.of_session(session) else { return };
        tokio::spawn(async move {
            // If it ends by itself, there is nothing to close.
            if tokio::time::timeout(pause, link.connection.closed()).await.is_err() {
                link.close(Refusal::Limit.code(), why);
            }
        });
    }

    /// When this node's own certificate is valid.
    pub fn validity(&self) -> Validity {
        self.inner.credentials.validity()
    }

    /// Sends a frame to a session; never waits.
    ///
    /// `Ok` means that it was queued: a connection that breaks loses it.
    pub fn send(&self, to: &Session, frame: Bytes) -> Result<(), SendError> {
        let counters = &self.inner.counters;
        let length = frame.len() as u64;
        let link = self.inner.registry.of_session(to).ok_or(SendError::NotConnected)?;
        let result = link.enqueue(Channel::Frame, frame);
        match result {
            Ok(()) => {
                counters.frames_sent.add(1);
                counters.bytes_sent.add(length);
            }
            Err(SendError::QueueFull) => counters.dropped_queue_full.add(1),
            Err(SendError::NotConnected | SendError::TooLong { .. }) => {}
        }
        result
    }

    /// Says who is to be connected to; replaces the list given before. Our own address may be
    /// among them. At most 1024 are kept dialled. Connections that stand are not ended.
    pub fn keep_dialled(&self, addresses: impl IntoIterator<Item = SocketAddr>) {
        let addresses: BTreeSet<SocketAddr> = addresses.into_iter().collect();
        self.inner.kept.lock().set(&self.inner, &addresses);
    }

    /// Says to which region an address belongs, so that faults reach it before it is connected.
    pub fn learn(&self, address: SocketAddr, region: &RegionName) {
        if let Some(faults) = &self.inner.faults {
            faults.learn(address, region);
        }
    }

    /// The connections that stand.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        let info = |(link, silent): (Arc<Link>, bool)| ConnectionInfo {
            session: link.session.clone(),
            address: link.advertise,
            rtt: link.connection.rtt(),
            silent,
        };
        self.inner.registry.all().into_iter().map(info).collect()
    }

    /// Whom an address leads to, if that peer is connected: also where it was dialled by another
    /// address than it advertises.
    pub fn peer_at(&self, address: SocketAddr) -> Option<Session> {
        let link = self.inner.registry.of_address(address)?;
        self.inner.registry.of_session(&link.session).map(|link| link.session.clone())
    }

    /// A peer that refused this node in the last few seconds, since it is connected with another process of
    /// the same name.
    pub fn refused_for_namesake(&self) -> Option<SocketAddr> {
        self.inner.namesake.told_by(Instant::now())
    }

    /// What was sent, received, dropped and refused since the start.
    pub fn stats(&self) -> TransportStats {
        let Inner { counters, registry, received, .. } = &*self.inner;
        counters.snapshot(registry.queued_bytes(), received.bytes() as u64)
    }

    /// Sends a membership message to whoever an address leads to; never waits.
    pub fn send_membership(&self, to: SocketAddr, message: Bytes) -> Result<(), SendError> {
        let link = self.inner.registry.of_address(to).ok_or(SendError::NotConnected);
        let result = link.and_then(|link| link.send_membership(message));
        if result.is_err() {
            self.inner.counters.dropped_membership.add(1);
        }
        result
    }

    /// Takes note that a connected peer sent a membership message that no working node sends.
    pub async fn accuse(&self, peer: Session) {
        self.inner.counters.dropped_malformed.add(1);
        self.inner.tell(Event::Unreadable(peer)).await;
    }

    /// The membership messages that come from now on.
    /// Whoever called this before gets no more.
    pub fn membership_messages(&self) -> Inbox<Gossiped> {
        let (sender, receiver) = received::inbox(MEMBERSHIP_MAX);
        *self.inner.membership.lock() = Some(sender);
        receiver
    }

    /// Ends all connections, and says so: peers see `Disconnected` at once. Takes at most
    /// half a second.
    pub async fn close(&self) {
        self.inner.kept.lock().close();
        self.inner.endpoint.close(CODE_GOODBYE.into(), b"goodbye");
        // After that time peers find out by silence.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.inner.endpoint.wait_idle()).await;
    }
}

impl Inner {
    fn hello(&self) -> Hello {
        Hello { session: self.session.clone(), advertise: self.advertise }
    }

    /// Counts and logs a connection that did not come to stand.
    fn fail(&self, peer: SocketAddr, failure: &Failure) {
        if let Failure::Refused { reason, .. } = failure {
            self.counters.refuse(*reason);
        }
        self.namesake.note(canonical(peer), failure, Instant::now());
        self.failures.log(canonical(peer), failure);
    }

    /// Hands an event up; waits while the queue is full. Without a reader it goes nowhere.
    async fn tell(&self, event: Event) {
        self.tell_holding(event, None).await;
    }

    /// The same for one that has bytes in it.
    async fn tell_holding(&self, event: Event, held: Option<Held>) {
        let _ = self.events.send(event, held).await;
    }

    /// Hands a membership message up, if there is room for it. It is copied, since a datagram is a piece of
    /// all that came with it: so what is counted is what is kept.
    fn deliver_membership(&self, link: &Link, message: &[u8]) {
        let taken = match &*self.membership.lock() {
            Some(sender) => self.received.membership(message.len()).is_some_and(|held| {
                let (from, address) = (link.session.clone(), link.advertise);
                let bytes = Bytes::copy_from_slice(message);
                sender.try_send(Gossiped { from, address, bytes }, Some(held))
            }),
            None => false,
        };
        if !taken {
            self.counters.dropped_membership.add(1);
        }
    }
}

/// Reads a hello behind its length.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn unpacked_hello(bytes: &[u8]) -> Result<Hello, String> {
    hello::unpacked(bytes).map_err(|failure| failure.to_string())
}

fn transport_config() -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(
            IdleTimeout::try_from(IDLE_TIMEOUT).expect("seconds fit into QUIC's integers"),
        ))
        .initial_rtt(INITIAL_RTT)
        .max_concurrent_uni_streams(STREAMS_MAX.into())
        // One, for the hello.
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .receive_window(RECEIVE_WINDOW.into())
        .stream_receive_window(STREAM_WINDOW.into())
        .send_window(SEND_WINDOW)
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER))
        .datagram_send_buffer_size(DATAGRAM_BUFFER);
    config
}

/// The form in which an address is compared: IPv4 also where an IPv6 socket shows it mapped.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
