//! The exchange of counts with peers: who they are, what each has been told, and the frames between.
//!
//! There is no queue of changes. Each peer's session is a cursor into the shards' change logs; a frame is
//! cut when the peer is due, from what changed behind its cursor. A new session is first told everything
//! this node may speak for (the *walk*), then what changes.

use alloc::{boxed::Box, collections::BTreeMap, sync::Arc, vec::Vec};

use core::mem;

use rand::Rng;

use crate::{
    clock::{Reading, UNSETTLED_MAX},
    counts::{Cursor, Shard, place_of},
    forecast::Participant,
    ids::{Caller, NodeId, RegionIndex, RegionName, RegionNumber, Session},
    memory,
    rights::{Adopted, Adoptions, Regions},
    time::{Mono, Span},
    wire::{ConfigReading, Frame, FrameError},
};

use clocks::Clocks;
use cut::Cutter;
use orphans::Orphans;
use outgoing::{Outgoing, Position};
use peer::Peer;
use quarantine::Quarantine;
use relay::{Relays, Role};
use repair::Turns;
use sessions::{Sessions, TooManySessions};

pub use peer::Traffic;
pub use repair::RepairStats;

pub(crate) use clocks::ClockNews;

mod clocks;
mod convert;
mod cut;
mod orphans;
mod outgoing;
mod peer;
mod quarantine;
mod relay;
mod repair;
mod rights;
mod sessions;
mod take;

/// Frames that cannot wait follow each other so closely at most.
const HURRIES_APART: Span = Span::millis(10);
/// An idle node sends an empty frame this often, so that peers know it lives.
const IDLE: Span = Span::secs(1);
/// Who has not been connected for so long is taken for dead: what is known of it is passed on, or compared.
const ORPHANED_AFTER: Span = Span::secs(3);
/// So long after there was no room for something that a peer told, it may still be missing: comparing brings
/// it within about a minute, or is refused again.
const REFUSED_FOR: Span = Span::secs(120);
/// So long after a peer was heard last, nobody waits for its part of the counts any more.
const MISSED_MAX: Span = Span::secs(3_600);
/// Peers, dead ones included, whose cursors are kept.
pub(crate) const PEERS_MAX: usize = if cfg!(test) { 64 } else { 4_096 };

/// How frames follow each other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tempo {
    /// From one to the next, to one peer.
    pub(crate) period: Span,
    /// Whether also those are sent that say no more than that nothing is new.
    pub(crate) lively: bool,
}

/// Access to the shards of the counts, one at a time.
pub(crate) trait Shards {
    fn count(&self) -> usize;
    fn with<R>(&self, index: usize, f: impl FnOnce(&mut Shard) -> R) -> R;
}

/// Which shard holds a caller's counts, of `count`, a power of two.
pub(crate) fn shard_of(caller: Caller, count: usize) -> usize {
    shard_of_place(place_of(caller), count)
}

/// Which shard holds the callers of a place, or of a range that is named by at least as many bits.
pub(crate) fn shard_of_place(place: u32, count: usize) -> usize {
    place as usize & (count - 1)
}

/// How fresh this node's knowledge of another region is: what the request path needs of the exchange.
#[derive(Debug, Clone)]
pub(crate) struct RegionView {
    pub(crate) region: RegionIndex,
    pub(crate) name: RegionName,
    /// The instant as of which its counts are known; `None` if it was never heard.
    as_of: Option<Mono>,
    /// Whether one of its nodes is connected.
    connected: bool,
    /// When there was no room for something that its nodes told.
    refused_at: Option<Mono>,
}

impl RegionView {
    /// Whether all that it told lately could be kept.
    pub(crate) fn is_whole(&self, now: Mono) -> bool {
        self.refused_at.is_none_or(|at| now.since(at) >= REFUSED_FOR)
    }

    /// The age of what is known.
    pub(crate) fn staleness(&self, now: Mono) -> Option<Span> {
        self.as_of.map(|as_of| now.since(as_of))
    }

    /// Takes in one more node of the region: the stalest of the connected ones counts, else the
    /// freshest of those that were.
    fn add(&mut self, as_of: Option<Mono>, connected: bool, refused_at: Option<Mono>) {
        self.refused_at = self.refused_at.max(refused_at);
        self.as_of = match (self.connected, connected) {
            (true, true) => self.as_of.min(as_of),
            (true, false) => self.as_of,
            (false, true) => as_of,
            (false, false) => self.as_of.max(as_of),
        };
        self.connected |= connected;
    }
}

/// One peer, for people and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// The newest session of the peer.
    pub session: Session,
    /// Whether a connection stands.
    pub connected: bool,
    /// Whether it has told all that it knew when the two met, and what its clocks show.
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

/// A peer that is not listened to for a while: close its connection, and let its node in again afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentence {
    /// Whose connection it is.
    pub session: Session,
    /// What it claimed last.
    pub reason: FrameError,
    /// For how long.
    pub time: Span,
}

/// What the exchange did not take, and what it told twice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExchangeStats {
    /// Frames not taken, or not taken whole, by reason.
    pub dropped: BTreeMap<FrameError, u64>,
    /// Slots of labels that had closed already when they came.
    pub closed: u64,
    /// Slots that came and found no room; one that is told again counts again.
    pub refused: u64,
    /// Times that unacknowledged changes were told again.
    pub resends: u64,
    /// What the comparison of counts found.
    pub repair: RepairStats,
}

/// All peers of one node.
pub(crate) struct Exchange {
    /// The regions that share limits under rights: nobody else is heard of them.
    regions: Regions,
    /// How far each region's store has come with configurations of them.
    adoptions: Adoptions,
    sessions: Sessions,
    peers: BTreeMap<NodeId, Peer>,
    /// The largest number of a frame to a peer that was forgotten.
    forgotten_number: u64,
    gossip: Span,
    random: Box<dyn Rng + Send>,
    stats: ExchangeStats,
    orphans: Orphans,
    turns: Turns,
    relays: Relays,
    clocks: Clocks,
    quarantine: Quarantine,
    /// Whether anything was heard lately of limits that are spent by rights.
    rights_news: bool,
    /// Whether anything was heard lately of keys whose demand somebody watches.
    demand_news: bool,
    /// Sentences that the driver has not been told of; one at most for each peer that was connected.
    sentenced: Vec<Sentence>,
}

impl Exchange {
    /// `relays`: whether one node of each other region is told, and passes it on.
    pub(crate) fn new(
        own: Session,
        gossip: Span,
        relays: bool,
        regions: Regions,
        random: Box<dyn Rng + Send>,
    ) -> Self {
        Self {
            regions,
            adoptions: Adoptions::default(),
            sessions: Sessions::new(own),
            peers: BTreeMap::new(),
            forgotten_number: 0,
            gossip,
            random,
            stats: ExchangeStats::default(),
            orphans: Orphans::default(),
            turns: Turns::default(),
            relays: Relays::new(relays),
            clocks: Clocks::default(),
            quarantine: Quarantine::default(),
            rights_news: false,
            demand_news: false,
            sentenced: Vec::new(),
        }
    }

    // -- getters

    pub(crate) fn region(&self, index: RegionIndex) -> &RegionName {
        self.sessions.region(index)
    }

    /// How many sessions are known.
    pub(crate) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    pub(crate) fn stats(&self) -> &ExchangeStats {
        &self.stats
    }

    /// Bytes held for sessions, and for peers. What is counted by reason, by region or by limit is bounded by how
    /// many of these there are, and left out.
    pub(crate) fn memory_bytes(&self) -> (usize, usize) {
        let peers = self.peers.values().map(Peer::memory_bytes);
        let peers = memory::of_tree(&self.peers)
            + peers.sum::<usize>()
            + self.relays.memory_bytes()
            + self.clocks.memory_bytes()
            + self.quarantine.memory_bytes()
            + memory::of_vec(&self.sentenced);
        (self.sessions.memory_bytes() + self.orphans.memory_bytes(), peers)
    }

    pub(crate) fn peers(&self, now: Mono) -> Vec<PeerStatus> {
        let status = |peer: &Peer| PeerStatus {
            session: peer.session.clone(),
            connected: peer.connected,
            answered: peer.incoming.walk_is_complete() && peer.distance.clock_offset().is_some(),
            staleness: peer.staleness(now),
            round_trip: peer.distance.round_trip(),
            clock_offset: peer.distance.clock_offset(),
            sent: peer.sent,
            received: peer.received,
        };
        self.peers.values().map(status).collect()
    }

    /// Whether a peer was ever connected.
    pub(crate) fn has_peers(&self) -> bool {
        !self.peers.is_empty()
    }

    /// All other regions that a peer was ever connected from, by name.
    pub(crate) fn views(&self) -> Vec<RegionView> {
        let mut views: Vec<RegionView> = Vec::new();
        for peer in self.peers.values().filter(|peer| peer.region != RegionIndex::OWN) {
            let as_of = peer.as_of();
            match views.iter_mut().find(|view| view.region == peer.region) {
                Some(view) => view.add(as_of, peer.connected, peer.refused_at),
                None => views.push(RegionView {
                    region: peer.region,
                    name: self.sessions.region(peer.region).clone(),
                    as_of,
                    connected: peer.connected,
                    refused_at: peer.refused_at,
                }),
            }
        }
        views
    }

    /// The index of a region of which anything was ever told.
    pub(crate) fn index_of(&self, region: RegionNumber) -> Option<RegionIndex> {
        self.sessions.region_of_number(region)
    }

    /// How many of the other regions that share limits no peer was ever connected from.
    pub(crate) fn unmet(&self) -> usize {
        let met = |region: RegionNumber| {
            let mut peers = self.peers.values();
            peers.any(|peer| RegionNumber::of(&peer.session.id.region) == region)
        };
        let own = self.sessions.own_region();
        self.regions.iter().filter(|region| *region != own && !met(*region)).count()
    }

    /// Whether a peer that was heard within the last hour cannot be talked to now.
    pub(crate) fn misses_a_peer(&self, now: Mono) -> bool {
        let recent =
            |peer: &Peer| peer.incoming.newest_at().is_some_and(|at| now.since(at) < MISSED_MAX);
        self.peers.values().any(|peer| recent(peer) && !peer.is_in_touch(now))
    }

    /// Whose demand weighs in forecasts: all peers that were heard within the last hour.
    pub(crate) fn participants(&self, now: Mono) -> Arc<[Participant]> {
        let recent =
            |peer: &&Peer| peer.incoming.newest_at().is_some_and(|at| now.since(at) < MISSED_MAX);
        let participant = |peer: &Peer| {
            let (session, region, delay) = (peer.index, peer.region, peer.distance.delay());
            let fingerprint = self.sessions.fingerprints()[usize::from(session.0)];
            let (as_of, echoed) = (peer.as_of()?, peer.echoed);
            Some(Participant { session, region, as_of, delay, echoed, fingerprint })
        };
        self.peers.values().filter(recent).filter_map(participant).collect()
    }

    /// The other regions that a peer was ever connected from, by number.
    pub(crate) fn numbers(&self) -> Arc<[(RegionNumber, RegionIndex)]> {
        let regions = self.peers.values().map(|peer| peer.region);
        let mut regions: Vec<_> = regions.filter(|region| *region != RegionIndex::OWN).collect();
        regions.sort_unstable();
        regions.dedup();
        let number = |index: RegionIndex| RegionNumber::of(self.sessions.region(index));
        regions.into_iter().map(|index| (number(index), index)).collect()
    }

    /// The number of the own session that is the same on every node.
    pub(crate) fn own_fingerprint(&self) -> u64 {
        self.sessions.fingerprints()[0]
    }

    /// How far each region has come with configurations, as far as is known.
    pub(crate) const fn adoptions(&self) -> &Adoptions {
        &self.adoptions
    }

    /// The own store has said how far it has come: all are told when that is news, which is returned.
    pub(crate) fn handle_adopted(&mut self, now: Mono, adopted: &Adopted) -> bool {
        let news = self.adoptions.note(self.sessions.own_region(), adopted);
        if news && !self.regions.is_one() {
            self.peers.values_mut().for_each(|peer| peer.last_clock = None);
            self.hurry(now);
        }
        news
    }

    /// Connected nodes of regions that share limits which mean another configuration by the same number.
    pub(crate) fn configured_otherwise(&self) -> impl Iterator<Item = &Session> {
        let ours = self.regions.fingerprints();
        let differs = move |peer: &&Peer| {
            peer.connected
                && peer.configured.is_some_and(|theirs| ours.contradicts(&theirs))
                && self.regions.has(RegionNumber::of(&peer.session.id.region))
        };
        self.peers.values().filter(differs).map(|peer| &peer.session)
    }

    /// Whether a node of every other configured region has told all that it knew when the two met.
    pub(crate) fn have_answered(&self) -> bool {
        let own = self.sessions.own_region();
        let mut others = self.regions.iter().filter(|region| *region != own);
        others.all(|region| self.has_answered(region))
    }

    /// Whether a connected node of a region has told all that it knew when the two met.
    pub(crate) fn has_answered(&self, region: RegionNumber) -> bool {
        self.peers.values().any(|peer| {
            peer.connected
                && peer.incoming.walk_is_complete()
                && RegionNumber::of(&peer.session.id.region) == region
        })
    }

    /// Whether a session of the own region is known that is over.
    pub(crate) fn knows_gone_siblings(&self) -> bool {
        let connected = |session: &Session| {
            self.peers.get(&session.id).is_some_and(|p| p.connected && p.session == *session)
        };
        self.sessions.of_own_region().any(|session| !connected(session))
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

    /// Nodes that are not listened to, and how much longer.
    pub(crate) fn quarantined(&self, now: Mono) -> Vec<(NodeId, Span)> {
        self.quarantine.all(now)
    }

    /// For how long beyond its label and one window more a cell is kept.
    pub(crate) fn grace(&self) -> Span {
        Span::secs(2).max(self.gossip.times(10))
    }

    // -- inputs

    /// A connection to `session` stands. Another session of a known node replaces the one before, also
    /// with a smaller boot: a clock that was set back may have numbered it.
    pub(crate) fn handle_connected<S: Shards>(
        &mut self,
        now: Mono,
        session: &Session,
        shards: &S,
    ) -> Result<(), FrameError> {
        if session == self.sessions.own() {
            return Err(FrameError::UnknownSender);
        }
        if self.quarantine.left(now, &session.id).is_some() {
            return Err(FrameError::Quarantined);
        }
        let (index, region) = self.sessions.intern(session).map_err(FrameError::from)?;
        let known = self.peers.get(&session.id).map(|peer| peer.session.boot);
        if known.is_none() && self.peers.len() == PEERS_MAX && !self.forget_one_peer() {
            return Err(FrameError::Full);
        }
        if known != Some(session.boot) {
            let start = Self::start_of_walk(shards);
            // A peer that we have forgotten may remember us: its acknowledgements of old frames must not
            // be taken for ones of new frames.
            let outgoing = Outgoing::new(start, self.forgotten_number);
            let peer = Peer::new(session.clone(), index, region, outgoing);
            let earlier = self.peers.insert(session.id.clone(), peer);
            if let Some(earlier) = earlier.filter(|peer| peer.region == RegionIndex::OWN) {
                self.orphans.add(earlier.index, shards.count());
            }
        }
        if let Some(peer) = self.peers.get_mut(&session.id) {
            peer.connected = true;
            peer.silent_since = None;
            peer.outgoing.resume();
            peer.comparison.hurry(now);
            peer.met_at = now;
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
        let Some(forgotten) = oldest.and_then(|id| self.peers.remove(&id)) else { return false };
        self.forgotten_number = self.forgotten_number.max(forgotten.outgoing.last_number());
        true
    }

    pub(crate) fn handle_disconnected(&mut self, now: Mono, session: &Session) {
        if let Some(peer) = self.peers.get_mut(&session.id).filter(|p| p.session == *session) {
            peer.connected = false;
            peer.silent_since = Some(now);
            peer.outgoing.resume();
            peer.ready.clear();
        }
    }

    pub(crate) fn handle_frame<S: Shards>(
        &mut self,
        now: Mono,
        clock: Reading,
        from: &Session,
        bytes: &[u8],
        shards: &S,
    ) -> Result<(), FrameError> {
        let result = match self.quarantine.left(now, &from.id) {
            Some(_) => Err(FrameError::Quarantined),
            None => self.take_frame(now, clock, from, bytes, shards),
        };
        if let Err(error) = result {
            *self.stats.dropped.entry(error).or_default() += 1;
            self.handle_claim(now, from, error);
        }
        result
    }

    /// Holds an impossible claim against a peer's node; too many, and it is quarantined.
    pub(crate) fn handle_claim(&mut self, now: Mono, from: &Session, error: FrameError) {
        // What was under way when it was sentenced counts for nothing.
        if !error.is_impossible() || self.quarantine.left(now, &from.id).is_some() {
            return;
        }
        if let Some(time) = self.quarantine.handle_offence(now, &from.id) {
            self.handle_disconnected(now, from);
            self.sentenced.push(Sentence { session: from.clone(), reason: error, time });
        }
    }

    fn take_frame<S: Shards>(
        &mut self,
        now: Mono,
        clock: Reading,
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
        if !header.is_sound() {
            return Err(FrameError::Unsound);
        }
        let (told, remarks) = self.checked(from, frame.sections)?;

        let cluster = clock.cluster;
        // Who could not ask its store for so long takes its clock for what it is.
        let known = self.peers.get(&from.id);
        let settled = clock.settled || known.is_none_or(|p| now.since(p.met_at) > UNSETTLED_MAX);
        let merged = self.merge(now, Reading { settled, ..clock }, from, told, shards);
        let relays =
            |peer: &&Peer| remarks.role == Some(Role::Relay) && peer.region != RegionIndex::OWN;
        let for_siblings = self.peers.get(&from.id).filter(relays).map(|peer| peer.index);
        let heard = Self::hear_rights(now, clock, remarks.stated, for_siblings, shards);
        self.rights_news |= heard.news > 0 || merged.rights;
        self.demand_news |= merged.watched;
        let ahead = merged.ahead || heard.ahead || heard.refused;
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
        self.stats.refused += merged.refused;
        self.stats.repair.repaired += merged.repaired;
        peer.refused_at = if merged.refused > 0 { Some(now) } else { peer.refused_at };
        peer.incoming.handle_arrival(now, header.sent, remarks.role);
        peer.outgoing.handle_acknowledged(now, header.acknowledged, header.unmerged);
        let trip = header.echo.and_then(|echo| echo.round_trip(now));
        if let Some((echo, trip)) = header.echo.zip(trip) {
            peer.distance.handle_echo(trip);
            let sent = now - (trip + echo.held());
            peer.outgoing.handle_echo(sent);
            peer.echoed = peer.echoed.max(Some(sent));
        }
        if let Some(reading) = &remarks.config {
            peer.configured = Some(reading.configured.into());
            let region = RegionNumber::of(&from.id.region);
            if self.regions.has(region) {
                self.adoptions.note_was(reading.yours());
                reading.adopted(cluster).iter().for_each(|told| {
                    self.adoptions.note(region, told);
                });
            }
        }
        if let Some(reading) = remarks.readings.last() {
            peer.distance.handle_clock(reading.cluster, cluster.0);
            self.clocks.handle_reading(now, peer.region, reading, trip);
        }
        if header.number > 0 {
            if ahead {
                peer.incoming.handle_unmerged(header.number, header.open);
            } else {
                let end = remarks.walk_end.map(|end| end.retold);
                peer.incoming.handle_merged(header.number, header.open, end);
            }
        }
        for heard in remarks.heard {
            self.handle_heard(now, from, heard);
        }
        self.answer(now, cluster, from, (remarks.digests, remarks.asks), shards);
        merged.whole()
    }

    /// Tells again what has waited too long for an acknowledgement.
    pub(crate) fn handle_timeout(&mut self, now: Mono) {
        self.choose_relays(now);
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

    /// Passes on what is known of siblings that speak no more, a bounded part at a time; and compares soon
    /// with all others what each has heard of whoever is gone.
    pub(crate) fn tell_orphans<S: Shards>(&mut self, now: Mono, shards: &S, budget: usize) {
        let mut gone = false;
        for peer in self.peers.values_mut() {
            if peer.silent_since.is_some_and(|since| now.since(since) >= ORPHANED_AFTER) {
                peer.silent_since = None;
                gone = true;
                if peer.region == RegionIndex::OWN {
                    self.orphans.add(peer.index, shards.count());
                }
            }
        }
        if gone {
            self.peers.values_mut().for_each(|peer| peer.comparison.quicken());
        }
        self.orphans.tell(shards, budget);
    }

    /// Forgets sessions that no count is left of, looking at `budget` places at a time.
    pub(crate) fn collect_sessions<S: Shards>(&mut self, shards: &S, budget: u32) {
        let Self { sessions, peers, orphans, .. } = self;
        sessions.collect(shards, budget, |index| {
            orphans.contains(index) || peers.values().any(|peer| peer.index == index)
        });
    }

    // -- outputs

    /// What peers have told of their clocks since this was last asked; `None` if nothing.
    pub(crate) fn poll_clocks(&mut self, now: Mono) -> Option<ClockNews> {
        self.clocks.poll(now)
    }

    /// Whether anything was heard of limits that are spent by rights since this was last asked.
    pub(crate) const fn take_rights_news(&mut self) -> bool {
        mem::replace(&mut self.rights_news, false)
    }

    /// Whether anything was heard of keys whose demand somebody watches since this was last asked.
    pub(crate) const fn take_demand_news(&mut self) -> bool {
        mem::replace(&mut self.demand_news, false)
    }

    /// The next peer whose connection is to be closed. Call until `None`.
    pub(crate) fn poll_sentence(&mut self) -> Option<Sentence> {
        self.sentenced.pop()
    }

    /// All peers hear at once what there is to tell, but not sooner than a while after the last time.
    pub(crate) fn hurry(&mut self, now: Mono) {
        self.hurry_whom(now, |_| true);
    }

    /// The peers in some regions do.
    pub(crate) fn hurry_to(&mut self, now: Mono, regions: &[RegionNumber]) {
        self.hurry_whom(now, |peer| regions.contains(&RegionNumber::of(&peer.session.id.region)));
    }

    fn hurry_whom(&mut self, now: Mono, whom: impl Fn(&Peer) -> bool) {
        for peer in self.peers.values_mut().filter(|peer| peer.connected && whom(peer)) {
            let soonest = peer.last_sent.map_or(now, |at| now.max(at + HURRIES_APART));
            peer.next_at = peer.next_at.min(soonest);
        }
    }

    /// The next frame that is due, and the session it is for. Call until `None`.
    pub(crate) fn poll_frame<S: Shards>(
        &mut self,
        now: Mono,
        clock: Reading,
        tempo: Tempo,
        shards: &S,
    ) -> Option<(Session, Vec<u8>)> {
        let due = |peer: &Peer| peer.connected && (!peer.ready.is_empty() || peer.next_at <= now);
        let (mut live, mut passed_on) = (Vec::new(), Vec::new());
        let mut heard = Vec::new();
        if self.peers.values().find(|peer| due(peer)).is_some_and(|peer| peer.ready.is_empty()) {
            live = self.peers.values().filter(|p| p.connected).map(|p| p.index).collect();
            let for_siblings =
                |p: &&Peer| p.incoming.is_for_siblings() && p.region != RegionIndex::OWN;
            passed_on = self.peers.values().filter(for_siblings).map(|p| p.index).collect();
            heard = self.heard(now);
        }
        for peer in self.peers.values_mut().filter(|peer| due(peer)) {
            if peer.ready.is_empty() {
                let (sessions, relays) = (&self.sessions, &self.relays);
                let lively = tempo.lively;
                let config = (!self.regions.is_one()).then(|| {
                    let of = |region: RegionNumber| self.adoptions.of(region);
                    let yours = of(RegionNumber::of(&peer.session.id.region));
                    let own = of(self.sessions.own_region());
                    ConfigReading::of(&self.regions, own.as_ref(), yours.as_ref())
                });
                let cut = Cutter {
                    sessions,
                    live: &live,
                    relays,
                    passed_on: &passed_on,
                    heard: &heard,
                    shards,
                    config,
                    lively,
                };
                let more = cut.batch(peer, now, clock);
                if !more {
                    // Each peer has a phase of its own, so that a node's frames do not leave in bursts.
                    let first = peer.last_sent.is_none();
                    let phase = self.random.next_u64() % self.gossip.0.max(1);
                    peer.next_at = if first {
                        now + Span(phase)
                    } else {
                        let missed = now.since(peer.next_at).0 / tempo.period.0.max(1);
                        peer.next_at + tempo.period.times(missed + 1)
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

impl From<TooManySessions> for FrameError {
    fn from(_: TooManySessions) -> Self {
        Self::Full
    }
}
