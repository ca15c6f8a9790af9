//! One copy per region: where a region has several nodes, one of them is told, and passes it on inside.
//!
//! Each node chooses for each other region one of the nodes it is in touch with: its *relay* there. The
//! others get empty frames, so that they know that the node lives, and the comparison of counts. Their
//! cursors follow some seconds behind what the relay has acknowledged, so that when the relay dies another
//! one is told all that the dead one may not have passed on.
//!
//! Only who tells decides this: each frame says which of the two its receiver is, and a node passes on what
//! it is asked to pass on, whatever its own setting.

use alloc::{collections::BTreeMap, vec::Vec};
use core::mem;

use super::{Exchange, outgoing::Position, peer::Peer};
use crate::{
    ids::{NodeId, RegionIndex, Session},
    memory,
    time::{Mono, Span},
    wire::{Heard, Section, Speaker},
};

/// How often the cursors of those who are not told follow; each stands where the relay's acknowledgement
/// stood between one and two of these ago.
const FOLLOW: Span = Span::secs(2);
/// Ages that one frame tells: with the longest names they fill most of it.
const HEARD_MAX: usize = 400;

/// How the receiver of a frame from another region, or its siblings, come to know the sender's changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// It is told them, and tells its siblings.
    Relay,
    /// It is told them by a sibling.
    Relayed,
}

impl Role {
    pub(super) const fn section(self) -> Section {
        match self {
            Self::Relay => Section::Relay,
            Self::Relayed => Section::Relayed,
        }
    }
}

/// The relays of other regions.
#[derive(Debug, Default)]
pub(super) struct Relays {
    /// Whether there are any: else every node is told everything.
    is_on: bool,
    marks: BTreeMap<RegionIndex, Marks>,
    follow_at: Mono,
}

/// Where the acknowledgements of a region's relay stood at the last two rounds.
#[derive(Debug)]
struct Marks {
    /// The relay: they say nothing of another, which may never have heard what this one took.
    relay: Session,
    older: Position,
    newer: Position,
}

impl Relays {
    pub(super) fn new(is_on: bool) -> Self {
        Self { is_on, ..Self::default() }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let positions = self.marks.values().flat_map(|marks| [&marks.older, &marks.newer]);
        memory::of_tree(&self.marks) + positions.map(Position::memory_bytes).sum::<usize>()
    }

    /// What a peer is, as this node has chosen.
    pub(super) fn role_of(&self, peer: &Peer) -> Option<Role> {
        let role = if peer.relayed { Role::Relayed } else { Role::Relay };
        (self.is_on && peer.region != RegionIndex::OWN).then_some(role)
    }
}

impl Exchange {
    /// Chooses who is told in each region, and lets the cursors of the others follow.
    pub(super) fn choose_relays(&mut self, now: Mono) {
        if !self.relays.is_on {
            return;
        }
        let own = self.sessions.fingerprints()[0];
        let mut chosen: BTreeMap<RegionIndex, (u64, NodeId)> = BTreeMap::new();
        for peer in self.peers.values().filter(|peer| peer.region != RegionIndex::OWN) {
            if peer.is_in_touch(now) && peer.outgoing.walk_is_told() {
                let fingerprint = self.sessions.fingerprints()[usize::from(peer.index.0)];
                let weight = (own ^ fingerprint).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let best = (weight, peer.session.id.clone());
                let place = chosen.entry(peer.region).or_insert_with(|| best.clone());
                if best > *place {
                    *place = best;
                }
            }
        }
        for peer in self.peers.values_mut() {
            let relay = chosen.get(&peer.region).filter(|_| peer.outgoing.walk_is_told());
            peer.relayed = relay.is_some_and(|(_, relay)| *relay != peer.session.id);
        }
        if self.relays.follow_at <= now {
            self.relays.follow_at = now + FOLLOW;
            self.follow(&chosen);
        }
    }

    fn follow(&mut self, chosen: &BTreeMap<RegionIndex, (u64, NodeId)>) {
        self.relays.marks.retain(|region, _| chosen.contains_key(region));
        for (region, (_, relay)) in chosen {
            let Some(relay) = self.peers.get(relay) else { continue };
            let now = relay.outgoing.acknowledged_position().clone();
            let of_relay = |marks: &&mut Marks| marks.relay == relay.session;
            let marks = self.relays.marks.get_mut(region).filter(of_relay);
            let Some(Marks { older, newer, .. }) = marks else {
                let marks = Marks { relay: relay.session.clone(), older: now.clone(), newer: now };
                self.relays.marks.insert(*region, marks);
                continue;
            };
            let passed = mem::replace(older, mem::replace(newer, now));
            // Who is not connected here may be out of its siblings' reach too.
            let follows =
                |peer: &&mut Peer| peer.region == *region && peer.connected && peer.relayed;
            for peer in self.peers.values_mut().filter(follows) {
                peer.outgoing.follow(&passed);
            }
        }
    }

    /// What a sibling needs in order to know how old the counts are that this node passes on: for each
    /// peer of other regions that tells it changes for its siblings too, the age of its newest word.
    pub(super) fn heard(&self, now: Mono) -> Vec<Section> {
        let is_passed_on = |peer: &&Peer| peer.incoming.is_for_siblings() && peer.connected;
        let heard = |peer: &Peer| {
            let age = now.since(peer.told_at()?);
            Some((Speaker::of(&peer.session), age.0))
        };
        let ages: Vec<_> = self.peers.values().filter(is_passed_on).filter_map(heard).collect();
        ages.chunks(HEARD_MAX).map(|ages| Section::Heard(Heard { ages: ages.to_vec() })).collect()
    }

    /// Takes a sibling's word of how old what it passes on is.
    pub(super) fn handle_heard(&mut self, now: Mono, from: &Session, heard: Heard) {
        let Some(sibling) = self.peers.get(&from.id) else { return };
        if sibling.region != RegionIndex::OWN {
            return;
        }
        let delay = sibling.distance.delay();
        for (speaker, age) in heard.ages {
            let Some(session) = speaker.session() else { continue };
            let told = |peer: &&mut Peer| peer.session == session && peer.connected;
            if let Some(peer) = self.peers.get_mut(&session.id).filter(told) {
                let as_of = now - (Span(age) + delay);
                peer.passed_on = peer.passed_on.max(Some(as_of));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::NAME_BYTES_MAX,
        wire::{FRAME_BYTES_MAX, Frame, Header},
    };

    #[test]
    fn the_longest_names_fit_in_a_frame_that_can_be_read() {
        let name = || "n".repeat(NAME_BYTES_MAX);
        let speaker = Speaker { region: name(), node: name(), boot: u64::MAX };
        let ages = alloc::vec![(speaker, u64::MAX); HEARD_MAX];
        let header = Header {
            number: 0,
            open: 0,
            acknowledged: u64::MAX,
            unmerged: u64::MAX,
            sent: u32::MAX,
            echo: None,
        };
        let sections = alloc::vec![Section::Heard(Heard { ages })];
        let frame = Frame { header, sections };
        let bytes = frame.encode();
        assert!(bytes.len() <= FRAME_BYTES_MAX);
        assert_eq!(Frame::decode(&bytes), Ok(frame));
    }
}
