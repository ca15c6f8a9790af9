//! Which peers are connected, by which connection, and who gives way when there are two.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
};

use parking_lot::Mutex;
use tidegate_core::ids::{NodeId, Session};
use tokio::sync::watch;

use super::{
    canonical,
    link::Link,
    refusal::{Failure, Refusal},
};

/// How many peers may be connected.
pub(super) const PEERS_MAX: usize = 1024;
/// How many addresses of one peer are remembered; a peer behind a translator gets a new one with
/// every connection.
const ADDRESSES_PER_PEER_MAX: usize = 16;

/// The connected peers.
pub(super) struct Registry {
    own: NodeId,
    peers: Mutex<Peers>,
    /// Moves whenever a peer may have become reachable or unreachable.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Peers {
    by_id: BTreeMap<NodeId, Peer>,
    /// Whom an address leads to: as dialled, as advertised, and as seen.
    by_address: HashMap<SocketAddr, NodeId>,
}

struct Peer {
    link: Arc<Link>,
    addresses: BTreeSet<SocketAddr>,
    /// Both sides count on this connection: the acceptor from the start, the dialler once it has
    /// been accepted.
    stands: bool,
    /// Nothing has been heard for a while; another connection is welcome.
    silent: bool,
    told: watch::Receiver<bool>,
}

/// The place of a connection that has been let in.
pub(super) struct Seat {
    /// To be set when this connection's events are all sent.
    pub(super) told: watch::Sender<bool>,
    /// The connection that gave way.
    pub(super) predecessor: Option<Predecessor>,
}

/// A connection that gave way to another.
pub(super) struct Predecessor {
    pub(super) link: Arc<Link>,
    told: watch::Receiver<bool>,
}

impl Predecessor {
    /// Waits until all events of that connection have been sent.
    pub(super) async fn told(mut self) {
        // An error means that its task is gone, and then it tells nothing any more.
        let _ = self.told.wait_for(|told| *told).await;
    }
}

/// What becomes of the connection that there is already.
enum Precedence {
    /// It stays; the new one is not needed.
    Old,
    /// It ends; then the new one begins.
    New,
}

impl Registry {
    pub(super) fn new(own: NodeId) -> Self {
        Self { own, peers: Mutex::default(), changed: watch::Sender::new(()) }
    }

    /// Moves whenever a peer may have become reachable or unreachable.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Bytes of messages that wait to be sent.
    pub(super) fn queued_bytes(&self) -> u64 {
        self.peers.lock().by_id.values().map(|peer| peer.link.queued_bytes() as u64).sum()
    }

    /// Lets a connection in, or says why not. `dialled` is the address that we dialled, if we did.
    /// `may` is asked at the instant when it is let in: whoever changes what that says, and looks for a
    /// connection ([`of_node`](Self::of_node)) afterwards, finds each that was let in before.
    ///
    /// The dialler calls this before it confirms, the acceptor after the confirmation. So whoever
    /// receives a confirmation knows that the dialler holds no other connection.
    pub(super) fn admit(
        &self,
        link: &Arc<Link>,
        dialled: Option<SocketAddr>,
        may: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<Seat, Failure> {
        let mut guard = self.peers.lock();
        may()?;
        let Peers { by_id, by_address } = &mut *guard;
        let id = &link.session.id;
        let mut addresses: BTreeSet<SocketAddr> =
            [Some(link.advertise), Some(link.remote), dialled]
                .into_iter()
                .flatten()
                .map(canonical)
                .collect();

        let full = by_id.len() >= PEERS_MAX;
        let mut predecessor = None;
        match by_id.get_mut(id) {
            None if full => {
                let detail = format!("{PEERS_MAX} peers are connected already");
                return Err(Failure::refused(Refusal::Limit, detail));
            }
            None => {}
            Some(old) => {
                check_name(old, link)?;
                if let Precedence::Old = self.precedence(old, link) {
                    // Whatever address led here leads to that peer.
                    let room = ADDRESSES_PER_PEER_MAX.saturating_sub(old.addresses.len());
                    for address in addresses.into_iter().take(room) {
                        by_address.entry(address).or_insert_with(|| id.clone());
                        old.addresses.insert(address);
                    }
                    drop(guard);
                    self.changed.send_replace(());
                    return Err(Failure::Duplicate);
                }
                let few = old.addresses.len() < ADDRESSES_PER_PEER_MAX;
                if old.link.session == link.session && few {
                    addresses.append(&mut old.addresses);
                }
                predecessor = Some(Predecessor { link: old.link.clone(), told: old.told.clone() });
                forget(by_id, by_address, id);
            }
        }

        let (told, told_receiver) = watch::channel(false);
        for address in &addresses {
            // The peer that last proved to be there wins an address.
            if let Some(before) = by_address.insert(*address, id.clone())
                && before != *id
                && let Some(other) = by_id.get_mut(&before)
            {
                other.addresses.remove(address);
            }
        }
        let peer = Peer {
            link: link.clone(),
            addresses,
            stands: !link.ours,
            silent: false,
            told: told_receiver,
        };
        by_id.insert(id.clone(), peer);
        drop(guard);
        self.changed.send_replace(());
        Ok(Seat { told, predecessor })
    }

    /// Whether a peer that introduces itself may be answered; [`admit`](Self::admit) decides.
    pub(super) fn check(&self, session: &Session, remote: SocketAddr) -> Result<(), Failure> {
        let peers = self.peers.lock();
        match peers.by_id.get(&session.id) {
            Some(old) => check_session(old, session, remote),
            None => Ok(()),
        }
    }

    fn precedence(&self, old: &Peer, new: &Link) -> Precedence {
        if new.session.boot != old.link.session.boot {
            return Precedence::New;
        }
        match (new.ours, old.link.ours) {
            // The dialler looks for a connection only to replace one that has gone silent.
            (true, _) if old.silent => Precedence::New,
            (true, _) => Precedence::Old,
            // The peer dialled again: it has given up the old one.
            (false, false) => Precedence::New,
            (false, true) if old.stands || old.silent => Precedence::New,
            // Both dialled at the same time, and ours has not begun: that of the smaller name will.
            (false, true) if new.session.id < self.own => Precedence::New,
            (false, true) => Precedence::Old,
        }
    }

    /// The acceptor counts on this connection too. False if another has taken its place meanwhile.
    pub(super) fn accepted(&self, link: &Link) -> bool {
        self.with_current(link, |peer| peer.stands = true)
    }

    /// Notes whether a connection has been silent for a while.
    pub(super) fn set_silent(&self, link: &Link, silent: bool) {
        if self.with_current(link, |peer| peer.silent = silent) {
            self.changed.send_replace(());
        }
    }

    fn with_current(&self, link: &Link, change: impl FnOnce(&mut Peer)) -> bool {
        let mut peers = self.peers.lock();
        match peers.by_id.get_mut(&link.session.id) {
            Some(peer) if peer.link.is(link) => {
                change(peer);
                true
            }
            _ => false,
        }
    }

    /// Forgets a connection that has ended, unless another has taken its place.
    pub(super) fn remove(&self, link: &Link) {
        let mut peers = self.peers.lock();
        let Peers { by_id, by_address } = &mut *peers;
        if by_id.get(&link.session.id).is_some_and(|peer| peer.link.is(link)) {
            forget(by_id, by_address, &link.session.id);
            drop(peers);
            self.changed.send_replace(());
        }
    }

    /// The connection that stands with a session.
    pub(super) fn of_session(&self, session: &Session) -> Option<Arc<Link>> {
        let peers = self.peers.lock();
        let peer = peers.by_id.get(&session.id)?;
        (peer.stands && peer.link.session == *session).then(|| peer.link.clone())
    }

    /// The connection with a node, whether it stands or is about to.
    pub(super) fn of_node(&self, node: &NodeId) -> Option<Arc<Link>> {
        self.peers.lock().by_id.get(node).map(|peer| peer.link.clone())
    }

    /// The connection that an address leads to.
    pub(super) fn of_address(&self, address: SocketAddr) -> Option<Arc<Link>> {
        let peers = self.peers.lock();
        let id = peers.by_address.get(&canonical(address))?;
        peers.by_id.get(id).map(|peer| peer.link.clone())
    }

    /// Whether an address leads to a peer that has been heard lately.
    pub(super) fn is_reachable(&self, address: SocketAddr) -> bool {
        let peers = self.peers.lock();
        let id = peers.by_address.get(&canonical(address));
        id.and_then(|id| peers.by_id.get(id)).is_some_and(|peer| !peer.silent)
    }

    /// All connections that stand, and whether each has been silent for a while.
    pub(super) fn all(&self) -> Vec<(Arc<Link>, bool)> {
        let peers = self.peers.lock();
        let standing = peers.by_id.values().filter(|peer| peer.stands);
        standing.map(|peer| (peer.link.clone(), peer.silent)).collect()
    }
}

fn check_name(old: &Peer, link: &Link) -> Result<(), Failure> {
    check_session(old, &link.session, link.remote)
}

/// One name is one process: a second one, at another address, is refused while the first is alive.
///
/// Its boot number says nothing: a copy of a running node has a larger one, and a later run a smaller one
/// where the clock that numbers runs was set back. A run that comes from the address of the other has
/// replaced it, since they cannot both have it. A run that has moved waits until the former is gone or silent.
fn check_session(old: &Peer, session: &Session, remote: SocketAddr) -> Result<(), Failure> {
    let home = canonical(old.link.remote);
    if canonical(remote) == home || old.silent {
        return Ok(());
    }
    let live = &old.link.session;
    let detail =
        format!("{live} is connected from {home}, so {session} is not let in from another address");
    Err(Failure::refused(Refusal::DuplicateName, detail))
}

fn forget(
    by_id: &mut BTreeMap<NodeId, Peer>,
    by_address: &mut HashMap<SocketAddr, NodeId>,
    id: &NodeId,
) {
    if let Some(peer) = by_id.remove(id) {
        for address in peer.addresses {
            if by_address.get(&address) == Some(id) {
                by_address.remove(&address);
            }
        }
    }
}
