//! A regional store in memory: the records of a step, bounded, with exact accounting.

use alloc::vec::Vec;

use super::{
    Marker, Remembered, RequestId, StoreCommand, StoreReply,
    once::Memories,
    record::Record,
    step::{Records, TableFull, step},
};
use crate::{
    ids::{Key, StoreEpoch},
    index::Index,
    slab::Slab,
    time::StoreTime,
};

/// Places that a full table looks at for expired records before it refuses a new key.
const ROOM_SWEEP_PLACES: usize = 256;

/// A table of records. When it is full it forgets what has expired; it takes no new key if that does not
/// suffice, and never forgets a live one.
#[derive(Debug, Clone)]
pub struct Table {
    slab: Slab<(Key, Record)>,
    index: Index,
    /// Of requests that are carried out once.
    memories: Memories,
    records_max: usize,
    /// Bytes that records hold beside themselves.
    beside: usize,
    epoch: StoreEpoch,
    marker: Marker,
    /// Where the next sweep begins.
    hand: u32,
}

/// Callers are keyed fingerprints already; the limits of one are neighbours, since one check asks for them all.
pub(crate) fn hash_of(key: &Key) -> u32 {
    Index::neighbour(key.caller.0[0], u64::from(key.limit.0))
}

impl Table {
    /// An empty table for at most `records_max` records. Whoever makes another one in its place gives
    /// that a larger epoch.
    pub fn new(records_max: usize, epoch: StoreEpoch) -> Self {
        Self {
            slab: Slab::new(),
            index: Index::new(),
            memories: Memories::default(),
            records_max,
            beside: 0,
            epoch,
            marker: Marker::default(),
            hand: 0,
        }
    }

    /// Is of another epoch from now on: of records that were put back in time.
    pub fn begin_epoch(&mut self, epoch: StoreEpoch) {
        self.epoch = epoch;
        self.marker = Marker::default();
    }

    /// How many records there are, expired ones that no sweep has met included.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.slab.len() == 0
    }

    /// Bytes held.
    pub fn memory_bytes(&self) -> usize {
        self.slab.memory_bytes()
            + self.index.memory_bytes()
            + self.memories.memory_bytes()
            + self.beside
    }

    /// Carries out one command; see [`step`].
    pub fn apply(
        &mut self,
        command: &StoreCommand,
        now: StoreTime,
    ) -> Result<StoreReply, TableFull> {
        step(self, command, now)
    }

    /// Appends the records in up to `budget` places from `from` on to `out`, expired ones included, and
    /// says where to go on; `None` at the end. What is written meanwhile may or may not be among them,
    /// and a key that was forgotten and came back may be there twice.
    pub fn copy_from(&self, from: u32, budget: u32, out: &mut Vec<(Key, Record)>) -> Option<u32> {
        let places = self.slab.places();
        let end = places.min(from.saturating_add(budget));
        out.extend((from..end).filter_map(|at| self.slab.get(at).cloned()));
        (end < places).then_some(end)
    }

    /// Looks at up to `budget` places from where the last sweep ended, and forgets what has expired.
    /// Returns how many records were forgotten.
    pub fn sweep(&mut self, now: StoreTime, budget: usize) -> usize {
        self.memories.sweep(now, budget);
        let places = self.slab.places();
        let mut forgotten = 0;
        for _ in 0..budget.min(places as usize) {
            let at = self.hand;
            self.hand = if at + 1 < places { at + 1 } else { 0 };
            let expired = self.slab.get(at).is_some_and(|(_, record)| record.expires <= now);
            if expired && let Some((key, record)) = self.slab.remove(at) {
                self.beside -= record.memory_bytes();
                self.index.remove(hash_of(&key), at);
                forgotten += 1;
            }
        }
        forgotten
    }

    fn find(&self, key: &Key) -> Option<u32> {
        self.index.find(hash_of(key), |at| self.slab.get(at).is_some_and(|(k, _)| k == key))
    }
}

impl Records for Table {
    fn get(&self, key: &Key, now: StoreTime) -> Option<Record> {
        let (_, record) = self.slab.get(self.find(key)?)?;
        (record.expires > now).then(|| record.clone())
    }

    fn epoch(&self) -> StoreEpoch {
        self.epoch
    }

    fn marker(&self) -> Marker {
        self.marker
    }

    fn mark(&mut self, marker: Marker) {
        self.marker = marker;
    }

    fn make_room(&mut self, more: usize, now: StoreTime) -> bool {
        let fits =
            |table: &Self| table.slab.len() + table.memories.len() + more <= table.records_max;
        if !fits(self) {
            self.sweep(now, ROOM_SWEEP_PLACES);
        }
        fits(self)
    }

    fn put(&mut self, key: &Key, record: Record) {
        self.beside += record.memory_bytes();
        match self.find(key).and_then(|at| self.slab.get_mut(at)) {
            Some((_, known)) => {
                self.beside -= known.memory_bytes();
                *known = record;
            }
            None => {
                let at = self.slab.insert((*key, record));
                self.index.insert(hash_of(key), at);
            }
        }
    }

    fn recall(&self, key: &Key, id: &RequestId, now: StoreTime) -> Option<Remembered> {
        self.memories.get(&(key.caller, *id), now).cloned()
    }

    fn remember(&mut self, key: &Key, id: RequestId, until: StoreTime, remembered: Remembered) {
        self.memories.put((key.caller, id), until, remembered);
    }
}
