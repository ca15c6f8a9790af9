//! Sessions and regions as small numbers, so that a slot needs four bytes to say whose it is.

use alloc::{collections::BTreeMap, vec, vec::Vec};

use core::hash::Hasher;

use siphasher::sip::SipHasher24;

use super::Shards;
use crate::{
    ids::{RegionIndex, RegionName, RegionNumber, Session, SessionIndex},
    memory,
};

/// Sessions that one node can know at a time: every restart of every node is one, for as long as its counts
/// live.
const SESSIONS_MAX: usize = 60_000;
/// Of these, sessions of one region: what one region's nodes tell does not take the others' places.
const SESSIONS_PER_REGION_MAX: usize = 16_000;
/// A session that a peer only tells of is taken in while its region has fewer than these: the others are
/// kept for sessions that connect, and so have proved that they are.
const TOLD_PER_REGION_MAX: usize = SESSIONS_PER_REGION_MAX / 2;
/// From so many on, those that nothing is known of any more are looked for.
const COLLECT_FROM: usize = if cfg!(test) { 32 } else { 4_096 };
/// Regions that one node can know.
const REGIONS_MAX: usize = 1_000;

/// The table of sessions, or the region's part of it, is full; nothing was changed.
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
    own_region: RegionNumber,
    indices: BTreeMap<Session, SessionIndex>,
    /// Each region, and how many sessions of it are known.
    regions: Vec<(RegionName, usize)>,
}

impl Sessions {
    pub(super) fn new(own: Session) -> Self {
        let regions = vec![(own.id.region.clone(), 1)];
        let indices = BTreeMap::from([(own.clone(), SessionIndex::OWN)]);
        let fingerprints = vec![fingerprint(&own)];
        let own_region = RegionNumber::of(&own.id.region);
        let (by_index, free) = (vec![(own, RegionIndex::OWN)], Vec::new());
        Self { by_index, free, round: None, fingerprints, own_region, indices, regions }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let names = self.by_index.iter().map(|(session, _)| memory::of_names(session));
        let regions = self.regions.iter().map(|(region, _)| memory::of_shared(region.as_str()));
        memory::of_vec(&self.by_index)
            + memory::of_vec(&self.free)
            + self.round.as_ref().map_or(0, |round| memory::of_vec(&round.seen))
            + memory::of_vec(&self.fingerprints)
            + memory::of_tree(&self.indices)
            + memory::of_vec(&self.regions)
            + names.chain(regions).sum::<usize>()
    }

    pub(super) fn len(&self) -> usize {
        self.indices.len()
    }

    /// The number that the own region is named by in rows of rights.
    pub(super) const fn own_region(&self) -> RegionNumber {
        self.own_region
    }

    /// The other sessions of the own region that are known.
    pub(super) fn of_own_region(&self) -> impl Iterator<Item = &Session> {
        let own = &self.own().id.region;
        self.indices.keys().filter(move |s| s.id.region == *own && *s != self.own())
    }

    pub(super) fn own(&self) -> &Session {
        &self.by_index[0].0
    }

    /// The numbers of a session that is connected and of its region, given now if they are new.
    pub(super) fn intern(
        &mut self,
        session: &Session,
    ) -> Result<(SessionIndex, RegionIndex), TooManySessions> {
        self.intern_up_to(SESSIONS_PER_REGION_MAX, session)
    }

    /// The same for a session that a peer tells of.
    pub(super) fn intern_told(
        &mut self,
        session: &Session,
    ) -> Result<(SessionIndex, RegionIndex), TooManySessions> {
        self.intern_up_to(TOLD_PER_REGION_MAX, session)
    }

    fn intern_up_to(
        &mut self,
        per_region: usize,
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
        let known = self.regions.iter().position(|(region, _)| *region == session.id.region);
        // What is only told of takes no more than half of any table: the rest is for who connects.
        let told = per_region < SESSIONS_PER_REGION_MAX;
        let most = |max: usize| if told { max / 2 } else { max };
        let full = match known {
            Some(region) => self.regions[region].1 >= per_region,
            None => self.regions.len() >= most(REGIONS_MAX),
        };
        if full || self.indices.len() >= most(SESSIONS_MAX) {
            return Err(TooManySessions);
        }
        let region = known.unwrap_or_else(|| {
            self.regions.push((session.id.region.clone(), 0));
            self.regions.len() - 1
        });
        self.regions[region].1 += 1;
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
                let (session, region) = &self.by_index[at];
                self.indices.remove(session);
                self.regions[usize::from(region.0)].1 -= 1;
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

    pub(super) fn region_of_number(&self, number: RegionNumber) -> Option<RegionIndex> {
        let mut names = self.regions.iter();
        let at = names.position(|(name, _)| RegionNumber::of(name) == number)?;
        u16::try_from(at).ok().map(RegionIndex)
    }

    pub(super) fn region(&self, index: RegionIndex) -> &RegionName {
        &self.regions[usize::from(index.0)].0
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Boot, NodeId};

    fn session(region: &str, boot: usize) -> Session {
        let id = NodeId::new(region, "n").expect("names");
        Session { id, boot: Boot(boot as u64) }
    }

    #[test]
    fn one_region_cannot_take_the_places_of_the_others() {
        let mut sessions = Sessions::new(session("eu", 0));
        let told = |n: &usize| sessions.intern_told(&session("us", *n)).is_ok();
        assert_eq!((0..100_000).filter(told).count(), TOLD_PER_REGION_MAX);
        let connected = |n: &usize| sessions.intern(&session("us", *n)).is_ok();
        assert_eq!((0..100_000).filter(connected).count(), SESSIONS_PER_REGION_MAX);
        assert!(sessions.intern(&session("us", 0)).is_ok(), "who is known stays known");
        assert!(sessions.intern(&session("ap", 1)).is_ok());
        assert!(sessions.intern(&session("eu", 1)).is_ok());
    }

    #[test]
    fn what_is_told_of_leaves_room_for_who_connects() {
        let mut sessions = Sessions::new(session("eu", 0));
        let region = |n: usize| alloc::format!("r-{n}");
        for n in 0..2 * REGIONS_MAX {
            let _ = sessions.intern_told(&session(&region(n), 0));
        }
        assert!(sessions.intern(&session("us", 0)).is_ok());
        for n in 0..SESSIONS_MAX {
            let _ = sessions.intern_told(&session(&region(n % 10), n));
        }
        assert!(sessions.intern(&session("us", 1)).is_ok());
    }
}
