//! Cuts frames for a peer from what it has not been told yet.

use alloc::{collections::VecDeque, vec::Vec};

use super::{
    IDLE, Shards, clocks,
    peer::Peer,
    relay::{Relays, Role},
    rights,
    sessions::Sessions,
};
use crate::{
    clock::Reading,
    counts::{Entry, Shape, WalkFilter},
    ids::{RegionIndex, SessionIndex},
    policy::Scope,
    time::Mono,
    wire::{
        ConfigReading, FRAME_BYTES_MAX, Frame, Header, Section, SlotEntry, Slots, Speaker,
        WRAPPING_BYTES_MAX, WalkEnd, micros_of, stamp_of,
    },
};

/// Slots that one batch of frames to one peer carries at most.
const BATCH_ENTRIES_MAX: usize = 1_024;
/// The most bytes of a slots section without its entries, and of one entry (all varints at their longest).
const SECTION_BYTES_MAX: usize = 200 + WRAPPING_BYTES_MAX;
const ENTRY_BYTES_MAX: usize = 52;
/// Room for version, header and the small sections.
const HEAD_BYTES_MAX: usize = 128;

/// Cuts frames for a peer from what it has not been told.
pub(super) struct Cutter<'a, S> {
    pub(super) sessions: &'a Sessions,
    /// Sessions that speak for themselves: connected peers.
    pub(super) live: &'a [SessionIndex],
    pub(super) relays: &'a Relays,
    /// Sessions of other regions whose changes this node passes on to its siblings.
    pub(super) passed_on: &'a [SessionIndex],
    /// How old what is passed on to siblings is.
    pub(super) heard: &'a [Section],
    pub(super) shards: &'a S,
    /// What the sender's region says of configurations, with its clocks; nothing if there is no other region.
    pub(super) config: Option<ConfigReading>,
    /// Whether peers are told every period that nothing is new, where nothing is.
    pub(super) lively: bool,
}

impl<S: Shards> Cutter<'_, S> {
    /// Fills the peer's `ready` queue with what is due, and says whether there is more to tell at once.
    pub(super) fn batch(&self, peer: &mut Peer, now: Mono, clock: Reading) -> bool {
        let mut entries = Vec::new();
        let before = peer.outgoing.position.clone();
        if peer.outgoing.has_window() && !peer.relayed {
            self.collect(peer, &mut entries);
        }
        let told_all = entries.len() < BATCH_ENTRIES_MAX;
        let position = &mut peer.outgoing.position;
        let ends_walk = !peer.relayed
            && !position.walk_ended
            && position.cursors.iter().all(|cursor| cursor.walk.is_none());
        position.walk_ended |= ends_walk;
        peer.sent.changes += entries.len() as u64;

        let mut packer = pack(self.sessions, &mut entries, Some(peer.region));
        rights::pack(self.sessions, &entries, peer.region, self.shards, &mut packer);
        let mut batches = packer.into_frames();
        if ends_walk {
            let end = Section::WalkEnd(WalkEnd { retold: peer.outgoing.retold() });
            match batches.back_mut() {
                Some(sections) => sections.push(end),
                None => batches.push_back(Vec::from([end])),
            }
        }
        let numbered = batches.len();
        let idle = peer.last_sent.is_none_or(|at| now.since(at) >= IDLE);
        // A reading is worth something only with an echo, from which its age is told.
        let heard = peer.incoming.newest_at().is_some();
        let first_clock = heard && peer.last_clock.is_none();
        let has_to = peer.incoming.owes || idle || first_clock || self.lively;
        if batches.is_empty() && peer.comparison.outbox.is_empty() && has_to {
            batches.push_back(Vec::new());
        }
        let first = peer.comparison.outbox.front_mut().or(batches.front_mut());
        if let Some(sections) = first
            && heard
            && peer.last_clock.is_none_or(|at| now.since(at) >= IDLE)
        {
            sections.push(Section::Clock(clocks::told(clock)));
            sections.extend(self.config.map(Section::Config));
            peer.last_clock = Some(now);
        }
        // A cursor that moved past changes which are none of the peer's needs no frame, but if nothing
        // is under way, nothing will ever acknowledge it: it counts as told.
        if numbered == 0 && peer.outgoing.position != before {
            peer.outgoing.skip_told();
        }
        // What was gathered earlier goes first, so that no slot seems to fall.
        while let Some(sections) = peer.comparison.outbox.pop_front() {
            self.frame(peer, now, (0, 0), sections);
        }
        for (i, sections) in batches.into_iter().enumerate() {
            let last = i + 1 == numbered;
            let behind = last.then(|| peer.outgoing.position.clone());
            let number = if i < numbered { peer.outgoing.number(now, behind) } else { (0, 0) };
            self.frame(peer, now, number, sections);
        }
        // Only who has been told all there is knows as much as this node does. There may be many: they
        // have no room in a frame with slots.
        if peer.region == RegionIndex::OWN && told_all && !peer.ready.is_empty() {
            for heard in self.heard {
                self.frame(peer, now, (0, 0), Vec::from([heard.clone()]));
            }
        }
        !told_all && peer.outgoing.has_window()
    }

    /// Makes a frame ready, with what the peer is to be told about the state of the two.
    fn frame(
        &self,
        peer: &mut Peer,
        now: Mono,
        (number, open): (u64, u64),
        mut sections: Vec<Section>,
    ) {
        sections.extend(self.relays.role_of(peer).map(Role::section));
        let header = Header {
            number,
            open,
            acknowledged: peer.incoming.contiguous(),
            unmerged: peer.incoming.unmerged(),
            sent: stamp_of(now),
            echo: peer.incoming.echo(now),
        };
        peer.ready.push_back(Frame { header, sections }.encode());
        peer.incoming.owes = false;
    }

    fn collect(&self, peer: &mut Peer, entries: &mut Vec<Entry>) {
        let filter = WalkFilter {
            region: peer.region,
            peer: peer.index,
            live: self.live,
            passed_on: self.passed_on,
        };
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
}

/// Puts sections into frames that stay below the limit.
#[derive(Default)]
pub(super) struct Packer {
    frames: VecDeque<Vec<Section>>,
    room: usize,
}

impl Packer {
    /// Adds a section that has `needs` bytes at most.
    pub(super) fn push(&mut self, section: Section, needs: usize) {
        if self.frames.is_empty() || needs > self.room {
            self.frames.push_back(Vec::new());
            self.room = FRAME_BYTES_MAX - HEAD_BYTES_MAX;
        }
        self.room = self.room.saturating_sub(needs);
        if let Some(sections) = self.frames.back_mut() {
            sections.push(section);
        }
    }

    /// The frames.
    pub(super) fn into_frames(self) -> VecDeque<Vec<Section>> {
        self.frames
    }
}

/// Groups entries into sections, after sorting them. What is told of sessions of other regions than the
/// sender's and the listener's is hearsay; all of it is if the listener's region is not named.
pub(super) fn pack(
    sessions: &Sessions,
    entries: &mut [Entry],
    listener: Option<RegionIndex>,
) -> Packer {
    entries.sort_unstable_by_key(|e| (e.session, e.shape.limit, e.label, e.caller));
    let mut packer = Packer::default();
    for group in entries
        .chunk_by(|a, b| (a.session, a.shape.limit, a.label) == (b.session, b.shape.limit, b.label))
    {
        let slots = section(sessions, group);
        let of = sessions.region_of(group[0].session);
        let ordinary = listener.is_some_and(|listener| of == RegionIndex::OWN || of == listener);
        let section = if ordinary { Section::Slots(slots) } else { Section::Hearsay(slots) };
        let section = Section::of_window(group[0].shape.window, section);
        packer.push(section, SECTION_BYTES_MAX + group.len() * ENTRY_BYTES_MAX);
    }
    packer
}

fn section(sessions: &Sessions, group: &[Entry]) -> Slots {
    let first = &group[0];
    let others = first.session != SessionIndex::OWN;
    Slots {
        of: others.then(|| Speaker::of(sessions.session(first.session))),
        limit: first.shape.limit.0,
        window: micros_of(first.shape.window),
        global: first.shape.scope == Scope::Global,
        label: first.label.0,
        entries: group.iter().map(SlotEntry::of).collect(),
    }
}
