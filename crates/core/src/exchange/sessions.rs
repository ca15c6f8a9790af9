//! Sessions and regions as small numbers, so that a slot needs four bytes to say whose it is.

use alloc::{collections::BTreeMap, vec, vec::Vec};

use core::hash::Hasher;

use siphasher::sip::SipHasher24;

use super::Shards;
use crate::ids::{RegionIndex, RegionName, Session, SessionIndex};

/// Sessions that one node can know at a time: every restart of every node is one, for as long as its counts
/// live.
const SESSIONS_MAX: usize = 60_000;
/// From so many on, those that nothing is known of any more are looked for.
const COLLECT_FROM: usize = if cfg!(test) { 32 } else { 4_096 };
/// Regions that one node can know.
const REGIONS_MAX: usize = 1_000;

/// The table of sessions is full; nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooManySessions;

/// A round over all counts that marks the sessions which have any.
#[derive(Debug, Default)]
struct Round {
    /// By index; those that came later are marked.
    seen: Vec<bool>,
    /// The shard and the place in it to go on with.
    next: (usize, u32),
}

/// All sessions whose counts are known, this node's own first.
#[derive(Debug)]
pub(super) struct Sessions {
    /// A place that is free still has its last session.
    by_index: Vec<(Session, RegionIndex)>,
    free: Vec<SessionIndex>,
    round: Option<Round>,
    /// By index: a number that is the same for the session on every node.
    fingerprints: Vec<u64>,
    indices: BTreeMap<Session, SessionIndex>,
    regions: Vec<RegionName>,
}

impl Sessions {
    pub(super) fn new(own: Session) -> Self {
        let regions = vec![own.id.region.clone()];
        let indices = BTreeMap::from([(own.clone(), SessionIndex::OWN)]);
        let fingerprints = vec![fingerprint(&own)];
        let (by_index, free) = (vec![(own, RegionIndex::OWN)], Vec::new());
        Self { by_index, free, round: None, fingerprints, indices, regions }
    }

    pub(super) fn len(&self) -> usize {
        self.indices.len()
    }

    pub(super) fn own(&self) -> &Session {
        &self.by_index[0].0
    }

    /// The numbers of a session and of its region, given now if they are new.
    pub(super) fn intern(
        &mut self,
        session: &Session,
    ) -> Result<(SessionIndex, RegionIndex), TooManySessions> {
        if let Some(index) = self.indices.get(session) {
            if let Some(round) = &mut self.round
                && let Some(seen) = round.seen.get_mut(usize::from(index.0))
            {
                *seen = true;
            }
            return Ok((*index, self.by_index[usize::from(index.0)].1));
        }
        let known = self.regions.iter().position(|region| *region == session.id.region);
        if self.indices.len() >= SESSIONS_MAX
            || (known.is_none() && self.regions.len() == REGIONS_MAX)
        {
            return Err(TooManySessions);
        }
        let region = known.unwrap_or_else(|| {
            self.regions.push(session.id.region.clone());
            self.regions.len() - 1
        });
        let region = RegionIndex(region as u16);
        let index = self.free.pop().unwrap_or(SessionIndex(self.by_index.len() as u16));
        let at = usize::from(index.0);
        if at == self.by_index.len() {
            self.by_index.push((session.clone(), region));
            self.fingerprints.push(fingerprint(session));
        } else {
            self.by_index[at] = (session.clone(), region);
            self.fingerprints[at] = fingerprint(session);
            if let Some(seen) = self.round.as_mut().and_then(|round| round.seen.get_mut(at)) {
                *seen = true;
            }
        }
        self.indices.insert(session.clone(), index);
        Ok((index, region))
    }

    /// Goes on with looking for sessions that no count is left of, at `budget` places; frees those that
    /// `is_needed` does not know either, when all counts were looked at.
    pub(super) fn collect<S: Shards>(
        &mut self,
        shards: &S,
        budget: u32,
        is_needed: impl Fn(SessionIndex) -> bool,
    ) {
        if self.round.is_none() && self.indices.len() < COLLECT_FROM {
            return;
        }
        let round = self
            .round
            .get_or_insert_with(|| Round { seen: vec![false; self.by_index.len()], next: (0, 0) });
        let (shard, from) = round.next;
        let on = shards.with(shard, |shard| shard.mark_sessions(from, budget, &mut round.seen));
        round.next = on.map_or((shard + 1, 0), |from| (shard, from));
        if round.next.0 < shards.count() {
            return;
        }
        let seen = self.round.take().map(|round| round.seen).unwrap_or_default();
        for (at, _) in seen.iter().enumerate().filter(|(_, seen)| !**seen) {
            let index = SessionIndex(at as u16);
            let known = self.indices.get(&self.by_index[at].0) == Some(&index);
            if known && index != SessionIndex::OWN && !is_needed(index) {
                self.indices.remove(&self.by_index[at].0);
                self.free.push(index);
            }
        }
    }

    pub(super) fn session(&self, index: SessionIndex) -> &Session {
        &self.by_index[usize::from(index.0)].0
    }

    pub(super) fn region_of(&self, index: SessionIndex) -> RegionIndex {
        self.by_index[usize::from(index.0)].1
    }

    pub(super) fn fingerprints(&self) -> &[u64] {
        &self.fingerprints
    }

    pub(super) fn region(&self, index: RegionIndex) -> &RegionName {
        &self.regions[usize::from(index.0)]
    }
}

fn fingerprint(session: &Session) -> u64 {
    let mut hasher = SipHasher24::new();
    for part in [session.id.region.as_str(), session.id.node.as_str()] {
        hasher.write_u64(part.len() as u64);
        hasher.write(part.as_bytes());
    }
    hasher.write_u64(session.boot.0);
    hasher.finish()
}
