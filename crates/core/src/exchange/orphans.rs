//! Sessions of this region that speak no more: what this node knows of them is passed on to the others.
//!
//! A node tells its peers of itself alone, as long as it lives. What it told only a sibling before it died
//! would stay in the region; so the sibling tells it again, as changes of its own log.

use alloc::{collections::VecDeque, vec, vec::Vec};

use super::Shards;
use crate::{ids::SessionIndex, memory};

/// Orphans that wait to be told; beyond, the oldest is forgotten until a new peer's walk tells it.
const ORPHANS_MAX: usize = 1_024;

/// A session whose slots are being put into the log.
#[derive(Debug)]
struct Orphan {
    session: SessionIndex,
    /// The next place to look at in each shard; `None` where all was looked at.
    places: Vec<Option<u32>>,
}

/// Orphaned sessions, first come first served.
#[derive(Debug, Default)]
pub(super) struct Orphans(VecDeque<Orphan>);

impl Orphans {
    /// `session` speaks no more.
    pub(super) fn add(&mut self, session: SessionIndex, shards: usize) {
        self.0.retain(|orphan| orphan.session != session);
        if self.0.len() == ORPHANS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Orphan { session, places: vec![Some(0); shards] });
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let places = self.0.iter().map(|orphan| memory::of_vec(&orphan.places));
        memory::of_queue(&self.0) + places.sum::<usize>()
    }

    /// Whether a session waits to be told.
    pub(super) fn contains(&self, session: SessionIndex) -> bool {
        self.0.iter().any(|orphan| orphan.session == session)
    }

    /// Puts the slots of the first orphan into the log, looking at most at `budget` places per shard.
    pub(super) fn tell<S: Shards>(&mut self, shards: &S, budget: usize) {
        let Some(orphan) = self.0.front_mut() else { return };
        for (index, place) in orphan.places.iter_mut().enumerate() {
            if let Some(from) = *place {
                *place = shards.with(index, |shard| shard.touch_all(orphan.session, from, budget));
            }
        }
        if orphan.places.iter().all(Option::is_none) {
            self.0.pop_front();
        }
    }
}
