//! Sessions and regions as small numbers, so that a slot needs four bytes to say whose it is.

use alloc::{collections::BTreeMap, vec, vec::Vec};

use crate::ids::{RegionIndex, RegionName, Session, SessionIndex};

/// Sessions that one node can know during its own: every restart of every node is one.
const SESSIONS_MAX: usize = 60_000;
/// Of these, sessions of one region: what one region's nodes tell does not take the others' places.
const SESSIONS_PER_REGION_MAX: usize = 16_000;
/// A session that a peer only tells of is taken in while its region has fewer than these: the others are
/// kept for sessions that connect, and so have proved that they are.
const TOLD_PER_REGION_MAX: usize = SESSIONS_PER_REGION_MAX / 2;
/// Regions that one node can know.
const REGIONS_MAX: usize = 1_000;

/// The table of sessions, or the region's part of it, is full; nothing was changed. Restarting the node empties it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooManySessions;

/// All sessions ever heard of, this node's own first.
#[derive(Debug)]
pub(super) struct Sessions {
    by_index: Vec<(Session, RegionIndex)>,
    indices: BTreeMap<Session, SessionIndex>,
    /// Each region, and how many sessions of it are known.
    regions: Vec<(RegionName, usize)>,
}

impl Sessions {
    pub(super) fn new(own: Session) -> Self {
        let regions = vec![(own.id.region.clone(), 1)];
        let indices = BTreeMap::from([(own.clone(), SessionIndex::OWN)]);
        Self { by_index: vec![(own, RegionIndex::OWN)], indices, regions }
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
            return Ok((*index, self.by_index[usize::from(index.0)].1));
        }
        let known = self.regions.iter().position(|(region, _)| *region == session.id.region);
        let full = match known {
            Some(region) => self.regions[region].1 >= per_region,
            None => self.regions.len() == REGIONS_MAX,
        };
        if full || self.by_index.len() == SESSIONS_MAX {
            return Err(TooManySessions);
        }
        let region = known.unwrap_or_else(|| {
            self.regions.push((session.id.region.clone(), 0));
            self.regions.len() - 1
        });
        self.regions[region].1 += 1;
        let (index, region) =
            (SessionIndex(self.by_index.len() as u16), RegionIndex(region as u16));
        self.by_index.push((session.clone(), region));
        self.indices.insert(session.clone(), index);
        Ok((index, region))
    }

    pub(super) fn session(&self, index: SessionIndex) -> &Session {
        &self.by_index[usize::from(index.0)].0
    }

    pub(super) fn region(&self, index: RegionIndex) -> &RegionName {
        &self.regions[usize::from(index.0)].0
    }
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
}
