//! Drives the engine's exchange: events in, frames out, and the timer.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use tidegate_core::{PeerStatus, Sentence, engine::Engine, time::Span};
use tokio::{sync::watch, time};
use tracing::{debug, info, warn};

use crate::{
    certs::Validity,
    clock::Clock,
    config::Config,
    guard::Mutexes,
    limiter::Limiter,
    membership::{Member, Membership},
    transport::{ConnectionInfo, Event, Inbox, Transport, TransportStats},
};

#[cfg(test)]
mod tests;

/// Events that are handled before frames are looked for.
const EVENTS_AT_ONCE: usize = 64;
/// How long a peer that is not taken keeps its connection, and so how often it is tried again.
const NOT_TAKEN_PAUSE: Duration = Duration::from_secs(2);
/// How long a stopping node goes on telling: a few periods, so that peers hear the last of it.
const LAST_WORDS: u64 = 4;
/// And never longer than this.
const LAST_WORDS_MAX: Span = Span::secs(2);

/// The exchange with peers, to be run; without a cluster only its timer.
pub(super) struct Peers {
    engine: Arc<Engine<Mutexes>>,
    clock: Clock,
    gossip: Span,
    /// Whose checks may bring what cannot wait.
    limiter: Limiter,
    network: Arc<Network>,
    events: Option<Inbox<Event>>,
}

/// Why peers cannot be heard any more.
#[derive(Debug, thiserror::Error)]
#[error(
    "peers cannot be heard any more, since the transport of `cluster.listen` broke ({0}): start the node again"
)]
pub(super) struct Deaf(String);

/// The transport and the membership, where there are any.
pub(super) struct Network(Option<(Transport, Membership)>);

impl Network {
    /// Whether whoever `seed` leads to has told all that it knew when it met us.
    pub(super) fn has_answered(&self, seed: SocketAddr, peers: &[PeerStatus]) -> bool {
        let session = self.0.as_ref().and_then(|(transport, _)| transport.peer_at(seed));
        session.is_some_and(|session| peers.iter().any(|p| p.answered && p.session == session))
    }

    pub(super) fn connections(&self) -> Vec<ConnectionInfo> {
        self.0.as_ref().map(|(transport, _)| transport.connections()).unwrap_or_default()
    }

    pub(super) fn members(&self) -> Vec<Member> {
        self.0.as_ref().map(|(_, membership)| membership.members()).unwrap_or_default()
    }

    /// The members whenever they change; `None` without a cluster.
    pub(super) fn watch_members(&self) -> Option<watch::Receiver<Vec<Member>>> {
        self.0.as_ref().map(|(_, membership)| membership.watch())
    }

    /// What gossip about members holds, in bytes.
    pub(super) fn gossip_bytes(&self) -> u64 {
        self.0.as_ref().map(|(_, membership)| membership.memory_bytes()).unwrap_or_default()
    }

    /// A peer that keeps to another process of this node's name, and refuses this one.
    pub(super) fn refused_for_namesake(&self) -> Option<SocketAddr> {
        self.0.as_ref().and_then(|(transport, _)| transport.refused_for_namesake())
    }

    pub(super) fn stats(&self) -> TransportStats {
        self.0.as_ref().map(|(transport, _)| transport.stats()).unwrap_or_default()
    }

    /// Waits until nobody is let in any more, and says why; never completes without a cluster.
    ///
    /// A node that went on would admit ever more than it should.
    pub(super) async fn deaf(&self) -> Deaf {
        match &self.0 {
            Some((transport, _)) => Deaf(transport.ended().await),
            None => std::future::pending().await,
        }
    }

    /// Puts certificates in force, or says what is wrong with them; whether they are others.
    pub(super) fn replace_credentials(
        &self,
        ca: &[u8],
        cert: &[u8],
        key: &[u8],
    ) -> Result<bool, String> {
        let Some((transport, _)) = &self.0 else { return Ok(false) };
        transport.replace_credentials(ca, cert, key).map_err(|error| error.to_string())
    }

    /// When this node's certificate is valid, where it has one.
    pub(super) fn validity(&self) -> Option<Validity> {
        self.0.as_ref().map(|(transport, _)| transport.validity())
    }

    pub(super) fn set_policy_hash(&self, hash: &str) {
        if let Some((_, membership)) = &self.0 {
            membership.set_policy_hash(hash);
        }
    }
}

impl Peers {
    pub(super) fn new(
        engine: Arc<Engine<Mutexes>>,
        clock: Clock,
        config: &Config,
        limiter: Limiter,
        cluster: Option<(Transport, Inbox<Event>, Membership)>,
    ) -> Self {
        let gossip =
            config.cluster.as_ref().map_or(Span::secs(1), |c| crate::clock::span(c.gossip));
        let (network, events) = match cluster {
            Some((transport, events, membership)) => (Some((transport, membership)), Some(events)),
            None => (None, None),
        };
        Self { engine, clock, gossip, limiter, network: Arc::new(Network(network)), events }
    }

    pub(super) fn network(&self) -> Arc<Network> {
        Arc::clone(&self.network)
    }

    /// Exchanges counts until `stop` completes, tells the rest, and says goodbye.
    ///
    /// # Errors
    ///
    /// Why peers cannot be heard any more. Whoever is connected already may still be, and hears the rest.
    pub(super) async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), Deaf> {
        tokio::pin!(stop);
        let mut batch = Vec::with_capacity(EVENTS_AT_ONCE);
        loop {
            let deadline = self.turn();
            tokio::select! {
                () = &mut stop => break,
                events = receive(&mut self.events, &mut batch) => match events {
                    0 => return Err(Deaf("its events ended".into())),
                    _ => self.handle(&mut batch),
                },
                () = self.limiter.urgent() => {}
                () = time::sleep_until(self.clock.timer_at(deadline)) => {}
            }
        }
        let Some((transport, _)) = &self.network.0 else { return Ok(()) };
        let end = self.clock.now() + self.gossip.times(LAST_WORDS).min(LAST_WORDS_MAX);
        while self.clock.now() < end {
            let deadline = self.turn().min(end);
            time::sleep_until(self.clock.timer_at(deadline)).await;
        }
        // To be asked before our own goodbye ends it.
        let deaf = self.network.deaf().now_or_never();
        transport.close().await;
        deaf.map_or(Ok(()), Err)
    }

    fn handle(&self, batch: &mut Vec<Event>) {
        let now = self.clock.now();
        for event in batch.drain(..) {
            match event {
                Event::Connected(peer) => match self.engine.handle_connected(now, &peer) {
                    Ok(()) => info!(%peer, "connected"),
                    Err(reason) => {
                        warn!(%peer, %reason, "connected, but not taken as a peer: it is closed, and tried again");
                        // There may be room soon, but of a connection that stands nobody asks again.
                        if let Some((transport, _)) = &self.network.0 {
                            transport.close_after(
                                &peer,
                                NOT_TAKEN_PAUSE,
                                "there is no room for this peer",
                            );
                        }
                    }
                },
                Event::Disconnected(peer) => {
                    self.engine.handle_disconnected(now, &peer);
                    info!(%peer, "disconnected");
                }
                Event::Unreadable(peer) => self.engine.handle_unreadable(now, &peer),
                Event::Frame { from, bytes } => {
                    if let Err(reason) = self.engine.handle_frame(now, &from, &bytes) {
                        debug!(%from, %reason, "frame not taken");
                    }
                }
            }
        }
        if self.engine.wants_grants() {
            self.limiter.wake_grants();
        }
        self.quarantine();
    }

    /// Closes the connections with those who claimed what cannot be too often.
    fn quarantine(&self) {
        while let Some(Sentence { session, reason, time }) = self.engine.poll_sentence() {
            let seconds = time.as_secs_ceil();
            warn!(
                peer = %session, last = reason.name(), seconds,
                "quarantined a peer: it claimed what cannot be, several times; find out who runs under its certificate, or run the same release on both"
            );
            if let Some((transport, _)) = &self.network.0 {
                transport.quarantine(&session.id, crate::clock::duration(time));
            }
        }
    }

    /// One turn of timer and frames; says when the next is due.
    fn turn(&self) -> tidegate_core::time::Mono {
        let now = self.clock.now();
        self.engine.handle_timeout(now);
        if let Some((transport, _)) = &self.network.0 {
            while let Some((to, bytes)) = self.engine.poll_frame(now) {
                // What is not sent is not acknowledged, and will be told again.
                if let Err(reason) = transport.send(&to, bytes.into()) {
                    debug!(%to, %reason, "frame not sent");
                }
            }
        }
        self.engine.next_deadline(self.clock.now())
    }
}

/// How many events came next; 0 if none will any more. Never completes without a cluster.
async fn receive(events: &mut Option<Inbox<Event>>, batch: &mut Vec<Event>) -> usize {
    match events {
        Some(events) => events.recv_many(batch, EVENTS_AT_ONCE).await,
        None => std::future::pending().await,
    }
}
