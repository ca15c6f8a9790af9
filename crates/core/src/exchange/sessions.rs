//! Sessions and regions as small numbers, so that a slot needs four bytes to say whose it is.

use alloc::{collections::BTreeMap, vec, vec::Vec};

use core::hash::Hasher;

use siphasher::sip::SipHasher24;

use crate::ids::{RegionIndex, RegionName, Session, SessionIndex};

/// Sessions that one node can know during its own: every restart of every node is one.
const SESSIONS_MAX: usize = 60_000;
/// Regions that one node can know.
const REGIONS_MAX: usize = 1_000;

/// The table of sessions is full; nothing was changed. Restarting the node empties it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooManySessions;

/// All sessions ever heard of, this node's own first.
#[derive(Debug)]
pub(super) struct Sessions {
    by_index: Vec<(Session, RegionIndex)>,
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
        Self { by_index: vec![(own, RegionIndex::OWN)], fingerprints, indices, regions }
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
            return Ok((*index, self.by_index[usize::from(index.0)].1));
        }
        let known = self.regions.iter().position(|region| *region == session.id.region);
        if self.by_index.len() == SESSIONS_MAX
            || (known.is_none() && self.regions.len() == REGIONS_MAX)
        {
            return Err(TooManySessions);
        }
        let region = known.unwrap_or_else(|| {
            self.regions.push(session.id.region.clone());
            self.regions.len() - 1
        });
        let (index, region) =
            (SessionIndex(self.by_index.len() as u16), RegionIndex(region as u16));
        self.by_index.push((session.clone(), region));
        self.fingerprints.push(fingerprint(session));
        self.indices.insert(session.clone(), index);
        Ok((index, region))
    }

    pub(super) fn session(&self, index: SessionIndex) -> &Session {
        &self.by_index[usize::from(index.0)].0
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
