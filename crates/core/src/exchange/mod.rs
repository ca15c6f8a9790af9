//! The exchange of counts with peers: who they are, what each has been told, and the frames between.
//!
//! There is no queue of changes. Each peer's session is a cursor into the shards' change logs; a frame is
//! cut when the peer is due, from what changed behind its cursor. A new session is first told everything
//! this node may speak for (the *walk*), then what changes.

use alloc::{boxed::Box, collections::BTreeMap, collections::VecDeque, vec::Vec};

use rand::Rng;

use crate::{
    counts::{Cursor, Entry, Shape, Shard, Tally, WalkFilter},
    ids::{Caller, LimitId, NodeId, RegionIndex, RegionName, Session, SessionIndex},
    policy::Scope,
    store::Counts,
    time::{ClusterTime, Label, Mono, Span, Window},
    wire::{
        ClockReading, FRAME_BYTES_MAX, Frame, FrameError, Header, Section, SlotEntry, Slots,
        Speaker, stamp_of,
    },
};

use peer::{Peer, Position};
use sessions::{Sessions, TooManySessions};

pub use peer::Traffic;

mod peer;
mod sessions;

/// Slots that one batch of frames to one peer carries at most.
const BATCH_ENTRIES_MAX: usize = 1_024;
/// An idle node sends an empty frame this often, so that peers know it lives.
const IDLE: Span = Span::secs(1);
/// Peers, dead ones included, whose cursors are kept.
const PEERS_MAX: usize = 4_096;
/// The most bytes of a slots section without its entries, and of one entry (all varints at their longest).
const SECTION_BYTES_MAX: usize = 200;
const ENTRY_BYTES_MAX: usize = 43;
/// Room for version, header and the small sections.
const HEAD_BYTES_MAX: usize = 128;

/// Access to the shards of the counts, one at a time.
pub(crate) trait Shards {
    fn count(&self) -> usize;
    fn with<R>(&self, index: usize, f: impl FnOnce(&mut Shard) -> R) -> R;
}

/// Which shard holds a caller's counts, of `count`, a power of two.
pub(crate) fn shard_of(caller: Caller, count: usize) -> usize {
    (caller.0[0] >> 32) as usize & (count - 1)
}

/// How fresh this node's knowledge of one peer is: what the request path needs of the exchange.
#[derive(Debug, Clone)]
pub(crate) struct Freshness {
    pub(crate) region: RegionIndex,
    pub(crate) region_name: RegionName,
    pub(crate) connected: bool,
    pub(crate) newest_at: Option<Mono>,
    pub(crate) delay: Span,
}

/// One peer, for people and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// The newest session of the peer.
    pub session: Session,
    /// Whether a connection stands.
    pub connected: bool,
    /// Whether it has told all that it knew when the two met.
    pub answered: bool,
    /// Age of its newest frame plus one-way delay.
    pub staleness: Option<Span>,
    /// Smoothed round trip.
    pub round_trip: Option<Span>,
    /// Its clock minus ours, in µs.
    pub clock_offset: Option<i64>,
    /// What went there.
    pub sent: Traffic,
    /// What came from there.
    pub received: Traffic,
}

/// What the exchange did not take, and what it told twice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExchangeStats {
    /// Frames not taken, or not taken whole, by reason.
    pub dropped: BTreeMap<FrameError, u64>,
    /// Slots of labels that had closed already when they came.
    pub closed: u64,
    /// Times that unacknowledged changes were told again.
    pub resends: u64,
}

/// All peers of one node.
pub(crate) struct Exchange {
    sessions: Sessions,
    peers: BTreeMap<NodeId, Peer>,
    gossip: Span,
    random: Box<dyn Rng + Send>,
    stats: ExchangeStats,
}

/// A frame's slots, checked: nothing of it has been merged yet.
struct Told {
    session: SessionIndex,
    region: RegionIndex,
    /// Whether it is for this node to pass on.
    pass_on: bool,
    slots: Slots,
    window: Window,
}

impl Exchange {
    pub(crate) fn new(own: Session, gossip: Span, random: Box<dyn Rng + Send>) -> Self {
        Self {
            sessions: Sessions::new(own),
            peers: BTreeMap::new(),
            gossip,
            random,
            stats: ExchangeStats::default(),
        }
    }

    // -- getters

    pub(crate) fn region(&self, index: RegionIndex) -> &RegionName {
        self.sessions.region(index)
    }

    pub(crate) fn stats(&self) -> &ExchangeStats {
        &self.stats
    }

    pub(crate) fn peers(&self, now: Mono) -> Vec<PeerStatus> {
        let status = |peer: &Peer| PeerStatus {
            session: peer.session.clone(),
            connected: peer.connected,
            answered: peer.incoming.walk_is_complete(),
            staleness: peer.staleness(now),
            round_trip: peer.distance.round_trip(),
            clock_offset: peer.distance.clock_offset(),
            sent: peer.sent,
            received: peer.received,
        };
        self.peers.values().map(status).collect()
    }

    pub(crate) fn freshness(&self) -> Vec<Freshness> {
        let fresh = |peer: &Peer| Freshness {
            region: peer.region,
            region_name: self.sessions.region(peer.region).clone(),
            connected: peer.connected,
            newest_at: peer.incoming.newest_at(),
            delay: peer.distance.delay(),
        };
        self.peers.values().map(fresh).collect()
    }

    /// Nodes of this region that are connected, this one included.
    pub(crate) fn live_nodes(&self) -> usize {
        let ours = |peer: &&Peer| peer.connected && peer.region == RegionIndex::OWN;
        1 + self.peers.values().filter(ours).count()
    }

    pub(crate) fn next_deadline(&self, now: Mono) -> Option<Mono> {
        let due = |peer: &Peer| {
            let resend = peer.outgoing.resend_at(peer.patience(self.gossip));
            let ready = if peer.ready.is_empty() { peer.next_at } else { now };
            resend.map_or(ready, |at| at.min(ready))
        };
        self.peers.values().filter(|peer| peer.connected).map(due).min()
    }

    // -- inputs

    /// A connection to `session` stands. A new session of a known node replaces the old one.
    pub(crate) fn handle_connected<S: Shards>(
        &mut self,
        now: Mono,
        session: &Session,
        shards: &S,
    ) -> Result<(), FrameError> {
        if session == self.sessions.own() {
            return Err(FrameError::UnknownSender);
        }
        let (index, region) = self.sessions.intern(session).map_err(FrameError::from)?;
        let known = self.peers.get(&session.id).map(|peer| peer.session.boot);
        if known.is_some_and(|boot| boot > session.boot) {
            return Err(FrameError::UnknownSender);
        }
        if known.is_none() && self.peers.len() == PEERS_MAX && !self.forget_one_peer() {
            return Err(FrameError::Full);
        }
        if known != Some(session.boot) {
            let start = Self::start_of_walk(shards);
            self.peers.insert(session.id.clone(), Peer::new(session.clone(), index, region, start));
        }
        if let Some(peer) = self.peers.get_mut(&session.id) {
            peer.connected = true;
            peer.outgoing.resume();
            peer.ready.clear();
            peer.last_sent = None;
            peer.next_at = now;
        }
        Ok(())
    }

    fn start_of_walk<S: Shards>(shards: &S) -> Position {
        let cursor = |shard: &mut Shard| Cursor { walk: Some(0), log: shard.log_head() };
        let cursors = (0..shards.count()).map(|i| shards.with(i, cursor)).collect();
        Position { cursors, walk_ended: false }
    }

    /// Forgets the disconnected peer that has been silent longest; it would be told everything anew.
    fn forget_one_peer(&mut self) -> bool {
        let gone = self.peers.values().filter(|peer| !peer.connected);
        let oldest =
            gone.min_by_key(|peer| peer.incoming.newest_at()).map(|p| p.session.id.clone());
        oldest.is_some_and(|id| self.peers.remove(&id).is_some())
    }

    pub(crate) fn handle_disconnected(&mut self, session: &Session) {
        if let Some(peer) = self.peers.get_mut(&session.id).filter(|p| p.session == *session) {
            peer.connected = false;
            peer.outgoing.resume();
            peer.ready.clear();
        }
    }

    pub(crate) fn handle_frame<S: Shards>(
        &mut self,
        now: Mono,
        cluster: ClusterTime,
        from: &Session,
        bytes: &[u8],
        shards: &S,
    ) -> Result<(), FrameError> {
        let result = self.take_frame(now, cluster, from, bytes, shards);
        if let Err(error) = result {
            *self.stats.dropped.entry(error).or_default() += 1;
        }
        result
    }

    fn take_frame<S: Shards>(
        &mut self,
        now: Mono,
        cluster: ClusterTime,
        from: &Session,
        bytes: &[u8],
        shards: &S,
    ) -> Result<(), FrameError> {
        let frame = Frame::decode(bytes)?;
        let known = self.peers.get(&from.id);
        if !known.is_some_and(|peer| peer.session == *from && peer.connected) {
            return Err(FrameError::UnknownSender);
        }
        let header = frame.header;
        let (told, readings, ends_walk) = self.checked(from, frame.sections)?;

        let merged = self.merge(cluster, told, shards);
        let Some(peer) = self.peers.get_mut(&from.id) else {
            return Err(FrameError::UnknownSender);
        };
        if peer.is_silent(now) {
            peer.outgoing.hurry();
        }
        peer.received.frames += 1;
        peer.received.bytes += bytes.len() as u64;
        peer.received.changes += merged.changes;
        self.stats.closed += merged.closed;
        peer.incoming.handle_arrival(now, header.sent);
        peer.outgoing.handle_acknowledged(header.acknowledged);
        if let Some(trip) = header.echo.and_then(|echo| echo.round_trip(now)) {
            peer.distance.handle_echo(trip);
        }
        if let Some(reading) = readings.last() {
            peer.distance.handle_clock(reading.cluster, cluster.0);
        }
        if header.number > 0 {
            match merged.refused {
                None => peer.incoming.handle_merged(header.number, header.open, ends_walk),
                Some(_) => peer.incoming.handle_unmerged(header.number, header.open),
            }
        }
        merged.refused.map_or(Ok(()), Err)
    }

    /// Checks a frame's sections as a whole (INV-6): a frame speaks for its sender's region, and for
    /// earlier sessions of this region only until the sender has told what it knew when the two met.
    fn checked(
        &mut self,
        from: &Session,
        sections: Vec<Section>,
    ) -> Result<(Vec<Told>, Vec<ClockReading>, bool), FrameError> {
        let (mut told, mut readings, mut ends_walk) = (Vec::new(), Vec::new(), false);
        for section in sections {
            match section {
                Section::WalkEnd => ends_walk = true,
                Section::Clock(reading) => readings.push(reading),
                Section::Slots(slots) => told.extend(self.checked_slots(from, slots)?),
            }
        }
        Ok((told, readings, ends_walk))
    }

    fn checked_slots(&mut self, from: &Session, slots: Slots) -> Result<Option<Told>, FrameError> {
        let window = Window::new(Span(slots.window)).ok_or(FrameError::Unsound)?;
        if slots.entries.iter().any(|entry| entry.refunded > entry.used) {
            return Err(FrameError::Unsound); // INV-3
        }
        let session = match &slots.of {
            None => from.clone(),
            Some(speaker) => speaker.session().ok_or(FrameError::Malformed)?,
        };
        if session == *self.sessions.own() {
            return Ok(None); // an echo of ourselves teaches nothing
        }
        let own_region = &self.sessions.own().id.region;
        let walking = |peer: &Peer| !peer.incoming.walk_is_complete();
        let may_speak = session.id.region == from.id.region
            || (session.id.region == *own_region && self.peers.get(&from.id).is_some_and(walking));
        if !may_speak {
            return Err(FrameError::SpeaksForAnother);
        }
        let live = self.peers.get(&session.id).is_some_and(|p| p.connected && p.session == session);
        let (session, region) = self.sessions.intern(&session).map_err(FrameError::from)?;
        let pass_on = region == RegionIndex::OWN && !live;
        Ok(Some(Told { session, region, pass_on, slots, window }))
    }

    fn merge<S: Shards>(&mut self, cluster: ClusterTime, told: Vec<Told>, shards: &S) -> Merged {
        let mut merged = Merged::default();
        for Told { session, region, pass_on, slots, window } in told {
            let label = Label(slots.label);
            let current = window.label_at(cluster);
            if label < current.previous() {
                merged.closed += slots.entries.len() as u64;
                continue;
            }
            if label > current.next() {
                merged.refused = Some(FrameError::LabelAhead);
                continue;
            }
            let scope = if slots.global { Scope::Global } else { Scope::Region };
            let shape = Shape { limit: LimitId(slots.limit), window, scope };
            for entry in &slots.entries {
                let entry = entry.read(shape, label, session);
                let shard = shard_of(entry.caller, shards.count());
                match shards.with(shard, |shard| shard.merge(&entry, region, pass_on)) {
                    Ok(grew) => merged.changes += u64::from(grew),
                    Err(_) => merged.refused = Some(FrameError::Full),
                }
            }
        }
        merged
    }

    /// Tells again what has waited too long for an acknowledgement.
    pub(crate) fn handle_timeout(&mut self, now: Mono) {
        for peer in self.peers.values_mut().filter(|peer| peer.connected) {
            let patience = peer.patience(self.gossip);
            if peer.outgoing.resend_at(patience).is_some_and(|at| at <= now) {
                peer.outgoing.rewind();
                peer.ready.clear();
                self.stats.resends += 1;
            }
        }
    }

    /// Lets the shards' logs go up to where every peer has been told, at most `budget` items each.
    pub(crate) fn trim<S: Shards>(&self, shards: &S, budget: usize) {
        for index in 0..shards.count() {
            let told = |peer: &Peer| peer.outgoing.acknowledged().get(index).map(|c| c.log);
            let through = self.peers.values().filter_map(told).min();
            shards.with(index, |shard| {
                let through = through.unwrap_or(shard.log_head());
                shard.trim(through, budget);
            });
        }
    }

    // -- outputs

    /// The next frame that is due, and the session it is for. Call until `None`.
    pub(crate) fn poll_frame<S: Shards>(
        &mut self,
        now: Mono,
        cluster: ClusterTime,
        shards: &S,
    ) -> Option<(Session, Vec<u8>)> {
        let live: Vec<SessionIndex> =
            self.peers.values().filter(|p| p.connected).map(|p| p.index).collect();
        let due =
            |peer: &&mut Peer| peer.connected && (!peer.ready.is_empty() || peer.next_at <= now);
        for peer in self.peers.values_mut().filter(due) {
            if peer.ready.is_empty() {
                let cut = Cutter { sessions: &self.sessions, live: &live, shards };
                let more = cut.batch(peer, now, cluster);
                if !more {
                    // Each peer has a phase of its own, so that a node's frames do not leave in bursts.
                    let first = peer.last_sent.is_none();
                    let phase = self.random.next_u64() % self.gossip.0.max(1);
                    peer.next_at = if first {
                        now + Span(phase)
                    } else {
                        let missed = now.since(peer.next_at).0 / self.gossip.0.max(1);
                        peer.next_at + self.gossip.times(missed + 1)
                    };
                }
                if !peer.ready.is_empty() {
                    peer.last_sent = Some(now);
                }
            }
            if let Some(bytes) = peer.ready.pop_front() {
                peer.sent.frames += 1;
                peer.sent.bytes += bytes.len() as u64;
                return Some((peer.session.clone(), bytes));
            }
        }
        None
    }
}

#[derive(Default)]
struct Merged {
    changes: u64,
    closed: u64,
    refused: Option<FrameError>,
}

impl From<TooManySessions> for FrameError {
    fn from(_: TooManySessions) -> Self {
        Self::Full
    }
}

impl Speaker {
    fn of(session: &Session) -> Self {
        Self {
            region: session.id.region.as_str().into(),
            node: session.id.node.as_str().into(),
            boot: session.boot.0,
        }
    }

    fn session(&self) -> Option<Session> {
        let id = NodeId::new(&self.region, &self.node).ok()?;
        Some(Session { id, boot: crate::ids::Boot(self.boot) })
    }
}

impl SlotEntry {
    fn of(entry: &Entry) -> Self {
        let Tally { counts: Counts { used, refunded }, offered } = entry.tally;
        Self {
            caller: entry.caller.to_bytes(),
            used,
            refunded,
            refused: offered.saturating_sub(used),
        }
    }

    fn read(&self, shape: Shape, label: Label, session: SessionIndex) -> Entry {
        let counts = Counts { used: self.used, refunded: self.refunded };
        let offered = self.used.saturating_add(self.refused);
        let tally = Tally { counts, offered };
        Entry { caller: Caller::from_bytes(self.caller), shape, label, session, tally }
    }
}

/// Cuts frames for a peer from what it has not been told.
struct Cutter<'a, S> {
    sessions: &'a Sessions,
    live: &'a [SessionIndex],
    shards: &'a S,
}

impl<S: Shards> Cutter<'_, S> {
    /// Fills the peer's `ready` queue with what is due, and says whether there is more to tell at once.
    fn batch(&self, peer: &mut Peer, now: Mono, cluster: ClusterTime) -> bool {
        let mut entries = Vec::new();
        let before = peer.outgoing.position.clone();
        if peer.outgoing.has_window() {
            self.collect(peer, &mut entries);
        }
        let told_all = entries.len() < BATCH_ENTRIES_MAX;
        let position = &mut peer.outgoing.position;
        let ends_walk =
            !position.walk_ended && position.cursors.iter().all(|cursor| cursor.walk.is_none());
        position.walk_ended |= ends_walk;
        peer.sent.changes += entries.len() as u64;

        let mut batches = self.pack(entries);
        if ends_walk {
            match batches.back_mut() {
                Some(sections) => sections.push(Section::WalkEnd),
                None => batches.push_back(Vec::from([Section::WalkEnd])),
            }
        }
        let numbered = batches.len();
        let idle = peer.last_sent.is_none_or(|at| now.since(at) >= IDLE);
        if batches.is_empty() && (peer.incoming.owes || idle) {
            batches.push_back(Vec::new());
        }
        if let Some(sections) = batches.front_mut()
            && peer.last_clock.is_none_or(|at| now.since(at) >= IDLE)
            && peer.distance.round_trip().is_some()
        {
            sections.push(Section::Clock(ClockReading { cluster: cluster.0 }));
            peer.last_clock = Some(now);
        }
        // A cursor that moved past changes which are none of the peer's needs no frame, but if nothing
        // is under way, nothing will ever acknowledge it: it counts as told.
        if numbered == 0 && peer.outgoing.position != before {
            peer.outgoing.skip_told();
        }
        for (i, sections) in batches.into_iter().enumerate() {
            let last = i + 1 == numbered;
            let behind = last.then(|| peer.outgoing.position.clone());
            let (number, open) =
                if i < numbered { peer.outgoing.number(now, behind) } else { (0, 0) };
            let header = Header {
                number,
                open,
                acknowledged: peer.incoming.contiguous(),
                sent: stamp_of(now),
                echo: peer.incoming.echo(now),
            };
            peer.ready.push_back(Frame { header, sections }.encode());
            peer.incoming.owes = false;
        }
        !told_all && peer.outgoing.has_window()
    }

    fn collect(&self, peer: &mut Peer, entries: &mut Vec<Entry>) {
        let filter = WalkFilter { region: peer.region, peer: peer.index, live: self.live };
        let same_region = peer.region == RegionIndex::OWN;
        let wanted = |shape: &Shape| same_region || shape.scope == Scope::Global;
        for (index, cursor) in peer.outgoing.position.cursors.iter_mut().enumerate() {
            let budget = BATCH_ENTRIES_MAX.saturating_sub(entries.len());
            if budget == 0 {
                return;
            }
            *cursor = self
                .shards
                .with(index, |shard| shard.collect(*cursor, filter, wanted, budget, entries));
        }
    }

    /// Groups entries into sections and sections into frames that stay below the limit.
    fn pack(&self, mut entries: Vec<Entry>) -> VecDeque<Vec<Section>> {
        entries.sort_unstable_by_key(|e| (e.session, e.shape.limit, e.label, e.caller));
        let mut frames: VecDeque<Vec<Section>> = VecDeque::new();
        let mut room = 0;
        for group in entries.chunk_by(|a, b| {
            (a.session, a.shape.limit, a.label) == (b.session, b.shape.limit, b.label)
        }) {
            let needs = SECTION_BYTES_MAX + group.len() * ENTRY_BYTES_MAX;
            if frames.is_empty() || needs > room {
                frames.push_back(Vec::new());
                room = FRAME_BYTES_MAX - HEAD_BYTES_MAX;
            }
            room = room.saturating_sub(needs);
            if let Some(sections) = frames.back_mut() {
                sections.push(Section::Slots(self.section(group)));
            }
        }
        frames
    }

    fn section(&self, group: &[Entry]) -> Slots {
        let first = &group[0];
        let others = first.session != SessionIndex::OWN;
        Slots {
            of: others.then(|| Speaker::of(self.sessions.session(first.session))),
            limit: first.shape.limit.0,
            window: first.shape.window.length().0,
            global: first.shape.scope == Scope::Global,
            label: first.label.0,
            entries: group.iter().map(SlotEntry::of).collect(),
        }
    }
}
