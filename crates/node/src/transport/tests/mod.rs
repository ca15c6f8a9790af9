//! Transports on loopback sockets, with real certificates.

mod faults;
mod floods;
mod peers;
mod refusals;
mod rotation;

use std::{
    collections::BTreeMap,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};
use tidegate_core::ids::{Boot, NodeId, Session};

use super::{Config, Event, Inbox, Transport};
use crate::{certs::Authority, faults::Faults};

/// Far longer than anything here takes, also on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A transport and its events.
pub(crate) struct Node {
    pub(crate) transport: Transport,
    pub(crate) events: Inbox<Event>,
}

pub(crate) fn id(region: &str) -> NodeId {
    NodeId::new(region, &format!("{region}-0")).unwrap()
}

pub(crate) fn free_socket() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").unwrap()
}

/// A table of faults without baseline.
pub(crate) fn no_faults(region: &str) -> Arc<Faults> {
    let rng = Box::new(Xoshiro256PlusPlus::seed_from_u64(1));
    Arc::new(Faults::new(id(region).region, BTreeMap::new(), rng))
}

pub(crate) fn config(authority: &Authority, region: &str, boot: u64) -> Config {
    let identity = id(region);
    let cert = authority.sign(&identity).unwrap();
    let socket = free_socket();
    Config {
        advertise: socket.local_addr().unwrap(),
        identity,
        boot: Boot(boot),
        socket,
        ca_pem: authority.cert_pem().into(),
        cert_pem: cert.cert_pem.into(),
        key_pem: cert.key_pem.into(),
        faults: None,
    }
}

impl Node {
    pub(crate) fn start(config: Config) -> Self {
        let (transport, events) = Transport::start(config).unwrap();
        Self { transport, events }
    }

    pub(crate) fn session(&self) -> Session {
        self.transport.session().clone()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.transport.local_address()
    }

    pub(crate) fn keep(&self, others: &[&Node]) {
        self.transport.keep_dialled(others.iter().map(|node| node.address()));
    }

    pub(crate) async fn next(&mut self) -> Event {
        let event = tokio::time::timeout(PATIENCE, self.events.recv()).await;
        event.expect("an event in time").expect("a transport that still runs")
    }

    /// The next frame's bytes; the beginning or end of a connection before it is a failure.
    async fn next_frame(&mut self) -> Bytes {
        loop {
            match self.next().await {
                Event::Frame { bytes, .. } => return bytes,
                Event::Unreadable(_) => {}
                other => panic!("{other:?} instead of a frame"),
            }
        }
    }

    async fn send(&self, to: &Node, text: &str) {
        self.transport.send(&to.session(), Bytes::from(text.to_owned())).unwrap();
    }

    fn refused(&self, reason: &str) -> u64 {
        let stats = self.transport.stats();
        stats.refused.iter().find(|(name, _)| *name == reason).expect("a known reason").1
    }
}

/// Both dial each other; returns when both know.
async fn connect(a: &mut Node, b: &mut Node) {
    a.keep(&[b]);
    b.keep(&[a]);
    assert_eq!(a.next().await, Event::Connected(b.session()));
    assert_eq!(b.next().await, Event::Connected(a.session()));
}
