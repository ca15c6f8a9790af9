//! The comparison of counts: finds what the change log has not brought to both of two nodes, and tells it.
//!
//! Callers are divided into 1,024 ranges, each of them into 64 finer ones. A node sends a peer its sums over
//! 16 ranges. The peer answers with its finer sums of the ranges that differ; the node tells its slots in the
//! finer ranges that differ, and asks for the peer's. So a difference is found and mended in two round
//! trips, and without one only sums travel. Nothing of it is acknowledged: what is lost comes in the next
//! pass. A pass over all ranges goes slowly all the time, and quickly after two nodes have met (again).

use alloc::{collections::VecDeque, vec, vec::Vec};

use super::{Exchange, Shards, cut, peer::Peer, shard_of_place};
use crate::{
    counts::{Compared, Entry},
    ids::{NodeId, RegionIndex, Session, SessionIndex},
    memory,
    time::{ClusterTime, Mono, Span},
    wire::{Ask, Digests, Section},
};

/// Bits that name a range, and a finer one.
const COARSE_BITS: u8 = 10;
const FINE_BITS: u8 = 16;
const COARSE: u32 = 1 << COARSE_BITS;
const FINE_PER_COARSE: u32 = 1 << (FINE_BITS - COARSE_BITS);
/// A pass has so many steps; a step takes every so-manieth range, so that it stays within one shard of 64.
const STEPS: u32 = 64;
/// Ranges of one step whose finer sums are answered; others that differ wait for the next pass.
const ANSWERED_MAX: usize = 4;
/// So many quick passes follow one that found more than was answered: what differs for good, since one of the two
/// has no room for it, is left to the pass that always goes on.
const AGAIN_MAX: u32 = 4;
/// Between the steps of the pass that goes on always, over all peers in turn.
const SLOWLY: Span = Span::secs(1);
/// So long after two nodes have met, what was told then has settled.
const AFTER_MEETING: Span = Span::secs(4);
/// Steps of a quick pass with one peer at a time.
const QUICK_STEPS: usize = 4;
/// With so many peers at a time, and fewer the more cells there are: about so many in a shard.
const QUICK_PEERS_MAX: usize = 8;
const QUICK_CELLS: usize = 65_536;
/// Within so long no more of a peer's sums, finer sums and questions are looked at than answer the steps of a
/// quick pass; others are ignored.
const LOOK_WITHIN: Span = Span::millis(50);
/// As many as that are: each step is answered by several finer sums, and each of these by a question.
const LOOKS: [usize; 3] = [QUICK_STEPS, QUICK_STEPS * ANSWERED_MAX, QUICK_STEPS * ANSWERED_MAX];
/// Frames of answers that wait to be sent to one peer; further answers are left out.
const OUTBOX_MAX: usize = 16;
/// Slots that one answer tells.
const ENTRIES_MAX: usize = 1_024;
/// Cells that are looked at while their shard is held.
const CELLS_AT_ONCE: u32 = 4_096;

/// What comparing has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RepairStats {
    /// Ranges whose sums were compared with a peer's.
    pub compared: u64,
    /// Finer ranges that differed.
    pub differing: u64,
    /// Slots that grew by what a peer told because of that.
    pub repaired: u64,
}

/// Where the comparison with one peer stands.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// The next step of the pass.
    step: u32,
    /// Steps of the quick pass that are left.
    hurried: u32,
    /// Quick passes that may follow it, if it does not find all, and whether one has to.
    again: u32,
    more: bool,
    /// When a quick pass may begin.
    settled_at: Mono,
    /// Since when the peer's words are counted together, and how many were looked at, by kind.
    looks: [(Option<Mono>, usize); 3],
    /// Frames that wait to be sent.
    pub(super) outbox: VecDeque<Vec<Section>>,
}

impl Comparison {
    /// Bytes held beside itself.
    pub(super) fn memory_bytes(&self) -> usize {
        let waiting = self.outbox.iter().map(|frame| {
            memory::of_vec(frame) + frame.iter().map(Section::memory_bytes).sum::<usize>()
        });
        memory::of_queue(&self.outbox) + waiting.sum::<usize>()
    }

    /// The two have met (again): all is compared soon.
    pub(super) fn hurry(&mut self, now: Mono) {
        self.quicken();
        self.settled_at = now + AFTER_MEETING;
        self.outbox.clear();
    }

    /// Somebody is gone whom the two may have heard differently: all is compared quickly.
    pub(super) fn quicken(&mut self) {
        (self.hurried, self.again, self.more) = (STEPS, AGAIN_MAX, false);
    }

    /// More differs than was answered: another quick pass follows a quick one, a few times.
    fn unfinished(&mut self) {
        self.more = true;
        self.go_on();
    }

    fn handle_step(&mut self) {
        self.step = (self.step + 1) % STEPS;
        self.hurried = self.hurried.saturating_sub(1);
        self.go_on();
    }

    fn go_on(&mut self) {
        if self.hurried == 0 && self.more && self.again > 0 {
            (self.hurried, self.again, self.more) = (STEPS, self.again - 1, false);
        }
    }

    fn may_look(&mut self, now: Mono, kind: usize) -> bool {
        let (since, looks) = &mut self.looks[kind];
        if since.is_none_or(|at| now.since(at) >= LOOK_WITHIN) {
            (*since, *looks) = (Some(now), 0);
        }
        *looks += 1;
        *looks <= LOOKS[kind] && self.outbox.len() < OUTBOX_MAX
    }
}

/// Whose turn it is to be compared with.
#[derive(Debug, Default)]
pub(super) struct Turns {
    slowly_at: Mono,
    last: Option<NodeId>,
}

fn coarse_of(place: u32) -> u32 {
    place & (COARSE - 1)
}

fn fine_of(place: u32) -> u32 {
    place & ((1 << FINE_BITS) - 1)
}

/// The finer ranges of a range.
fn finer(range: u32) -> impl Iterator<Item = u32> {
    (0..FINE_PER_COARSE).map(move |n| range | n << COARSE_BITS)
}

impl Exchange {
    /// Sends sums to a peer if it is time to; call it ten times a second.
    pub(crate) fn compare<S: Shards>(&mut self, now: Mono, cluster: ClusterTime, shards: &S) {
        let due = |peer: &&Peer| {
            let comparison = &peer.comparison;
            // Who has much to hear still hears that first.
            let caught_up = comparison.settled_at <= now && peer.outgoing.has_window();
            peer.connected && comparison.hurried > 0 && caught_up
        };
        let slowly = self.turns.slowly_at <= now;
        if slowly {
            self.turns.slowly_at = now + SLOWLY;
        }
        // Small tables are gone through for several peers at a time.
        let cells = shards.with(0, |shard| shard.len()).max(1);
        let peers_max = (QUICK_CELLS / cells).clamp(1, QUICK_PEERS_MAX);
        let mut first = None;
        for n in 0..peers_max {
            let any = |peer: &&Peer| peer.connected && peer.comparison.settled_at <= now;
            let (next, steps) = match self.next_after(due) {
                Some(id) => (Some(id), QUICK_STEPS),
                None if n == 0 && slowly => (self.next_after(any), 1),
                None => (None, 0),
            };
            let Some(id) = next.filter(|id| first.as_ref() != Some(id)) else { return };
            first.get_or_insert_with(|| id.clone());
            self.turns.last = Some(id.clone());
            for _ in 0..steps {
                self.compare_step(now, cluster, &id, shards);
            }
        }
    }

    fn compare_step<S: Shards>(
        &mut self,
        now: Mono,
        cluster: ClusterTime,
        id: &NodeId,
        shards: &S,
    ) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        let (step, regional) = (peer.comparison.step, peer.region == RegionIndex::OWN);
        peer.comparison.handle_step();
        let ranges: Vec<u32> = (step..COARSE).step_by(STEPS as usize).collect();
        let live = self.live();
        let compared = self.compared(now, cluster, regional, &live);
        let sums = sums(&compared, &ranges, coarse_of, shards);
        let digests = Digests { bits: COARSE_BITS, first: step, step: STEPS, sums };
        self.post(id, vec![Section::Digests(digests)]);
    }

    /// The peer after the last one whose turn it was, of those that `due` takes.
    fn next_after(&self, due: impl Fn(&&Peer) -> bool) -> Option<NodeId> {
        let mut due = self.peers.values().filter(due).map(|peer| &peer.session.id);
        let first = due.next()?;
        let Some(last) = &self.turns.last else { return Some(first.clone()) };
        let next = core::iter::once(first).chain(due).find(|id| *id > last);
        Some(next.unwrap_or(first).clone())
    }

    fn compared<'a>(
        &'a self,
        now: Mono,
        cluster: ClusterTime,
        regional: bool,
        live: &'a [SessionIndex],
    ) -> Compared<'a> {
        Compared { cluster, now, regional, sessions: self.sessions.fingerprints(), live }
    }

    /// Sessions whose slots may still change.
    fn live(&self) -> Vec<SessionIndex> {
        let connected = self.peers.values().filter(|peer| peer.connected).map(|peer| peer.index);
        core::iter::once(SessionIndex::OWN).chain(connected).collect()
    }

    fn post(&mut self, to: &NodeId, frame: Vec<Section>) {
        if let Some(peer) = self.peers.get_mut(to)
            && peer.comparison.outbox.len() < OUTBOX_MAX
        {
            peer.comparison.outbox.push_back(frame);
        }
    }

    /// Answers a peer's sums and questions.
    pub(super) fn answer<S: Shards>(
        &mut self,
        now: Mono,
        cluster: ClusterTime,
        from: &Session,
        (digests, asks): (Vec<Digests>, Vec<Ask>),
        shards: &S,
    ) {
        for theirs in digests {
            let kind = usize::from(theirs.bits == FINE_BITS);
            let Some(peer) = self.peers.get_mut(&from.id) else { return };
            let (regional, index) = (peer.region == RegionIndex::OWN, peer.index);
            if !theirs.is_sound() || !peer.comparison.may_look(now, kind) {
                continue;
            }
            let range_of = if theirs.bits == COARSE_BITS { coarse_of } else { fine_of };
            let ranges = theirs.ranges();
            let live = self.live();
            let compared = self.compared(now, cluster, regional, &live);
            let ours = sums(&compared, &ranges, range_of, shards);
            let pairs = ours.iter().zip(&theirs.sums);
            let differing: Vec<u32> =
                ranges.iter().zip(pairs).filter(|(_, (a, b))| a != b).map(|(r, _)| *r).collect();
            self.stats.repair.compared += ranges.len() as u64;
            if differing.len() > ANSWERED_MAX
                && theirs.bits == COARSE_BITS
                && let Some(peer) = self.peers.get_mut(&from.id)
            {
                peer.comparison.unfinished();
            }
            if theirs.bits == COARSE_BITS {
                self.answer_finer(now, cluster, from, &differing, regional, shards);
            } else if !differing.is_empty() {
                self.stats.repair.differing += differing.len() as u64;
                self.tell(now, cluster, &from.id, (index, regional), &differing, shards);
                self.post(&from.id, vec![Section::Ask(Ask { ranges: differing })]);
            }
        }
        for ask in asks {
            let Some(peer) = self.peers.get_mut(&from.id) else { return };
            let (regional, index) = (peer.region == RegionIndex::OWN, peer.index);
            let sound = ask.ranges.len() <= FINE_PER_COARSE as usize
                && ask.ranges.iter().all(|range| *range < 1 << FINE_BITS);
            if sound && peer.comparison.may_look(now, 2) {
                self.tell(now, cluster, &from.id, (index, regional), &ask.ranges, shards);
            }
        }
    }

    /// Sends this node's finer sums of ranges that differ.
    fn answer_finer<S: Shards>(
        &mut self,
        now: Mono,
        cluster: ClusterTime,
        to: &Session,
        differing: &[u32],
        regional: bool,
        shards: &S,
    ) {
        // Not the same ones first in each pass.
        let turn = self.stats.repair.compared as usize / STEPS as usize % differing.len().max(1);
        for range in differing.iter().cycle().skip(turn).take(differing.len().min(ANSWERED_MAX)) {
            let ranges: Vec<u32> = finer(*range).collect();
            let live = self.live();
            let compared = self.compared(now, cluster, regional, &live);
            let sums = sums(&compared, &ranges, fine_of, shards);
            let digests = Digests { bits: FINE_BITS, first: *range, step: COARSE, sums };
            self.post(&to.id, vec![Section::Digests(digests)]);
        }
    }

    /// Tells a peer this node's slots in finer ranges, as many as an answer holds.
    fn tell<S: Shards>(
        &mut self,
        now: Mono,
        cluster: ClusterTime,
        to: &NodeId,
        (index, regional): (SessionIndex, bool),
        ranges: &[u32],
        shards: &S,
    ) {
        let live = self.live();
        let compared = self.compared(now, cluster, regional, &live);
        let mut wanted = ranges.to_vec();
        wanted.sort_unstable();
        let mut needed: Vec<usize> =
            wanted.iter().map(|range| shard_of_place(*range, shards.count())).collect();
        needed.sort_unstable();
        needed.dedup();
        let mut entries: Vec<Entry> = Vec::new();
        let is_wanted = |place| wanted.binary_search(&fine_of(place)).is_ok();
        for shard in needed {
            // Another beginning each time: what one answer does not hold comes in another pass.
            let places = shards.with(shard, |shard| shard.places()).max(1);
            let begin = (self.stats.repair.compared % u64::from(places)) as u32;
            for (from, end) in [(begin, places), (0, begin)] {
                let mut next = Some(from);
                while let Some(at) = next.filter(|at| *at < end && entries.len() < ENTRIES_MAX) {
                    let at = (at, CELLS_AT_ONCE.min(end - at));
                    next = shards.with(shard, |shard| {
                        let full = ENTRIES_MAX;
                        shard.entries_in(&compared, is_wanted, index, at, full, &mut entries)
                    });
                }
            }
        }
        for frame in cut::pack(&self.sessions, &mut entries, None).into_frames() {
            self.post(to, frame);
        }
    }
}

impl Digests {
    fn is_sound(&self) -> bool {
        let (count, step, end) = match self.bits {
            COARSE_BITS => (COARSE / STEPS, STEPS, STEPS),
            FINE_BITS => (FINE_PER_COARSE, COARSE, COARSE),
            _ => return false,
        };
        self.sums.len() == count as usize && self.step == step && self.first < end
    }

    fn ranges(&self) -> Vec<u32> {
        (0..self.sums.len() as u32).map(|n| self.first + n * self.step).collect()
    }
}

/// This node's sums over ranges, which `range_of` finds by a caller's place.
fn sums<S: Shards>(
    compared: &Compared<'_>,
    ranges: &[u32],
    range_of: impl Fn(u32) -> u32,
    shards: &S,
) -> Vec<u64> {
    let mut sums = vec![0; ranges.len()];
    let mut needed: Vec<usize> =
        ranges.iter().map(|range| shard_of_place(*range, shards.count())).collect();
    needed.sort_unstable();
    needed.dedup();
    let at = |place: u32| ranges.binary_search(&range_of(place)).ok();
    for shard in needed {
        let mut next = Some(0);
        while let Some(from) = next {
            next = shards
                .with(shard, |shard| shard.digest(compared, at, from, CELLS_AT_ONCE, &mut sums));
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_pass_that_found_more_than_was_answered_is_followed_by_a_few_others() {
        let passes = |finds_more: bool| {
            let mut comparison = Comparison::default();
            comparison.quicken();
            let mut steps = 0;
            while comparison.hurried > 0 {
                if finds_more {
                    comparison.unfinished();
                }
                comparison.handle_step();
                steps += 1;
            }
            steps / STEPS
        };
        assert_eq!((passes(false), passes(true)), (1, 1 + AGAIN_MAX));
        let mut comparison = Comparison::default();
        comparison.unfinished();
        assert_eq!(comparison.hurried, 0, "after the slow pass none follows");
    }
}
