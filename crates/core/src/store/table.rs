//! A regional store in memory: the records of a step, bounded, with exact accounting.

use hashbrown::HashTable;

use super::{
    StoreCommand, StoreReply,
    step::{Record, Records, TableFull, step},
};
use crate::{ids::Key, slab::Slab, time::StoreTime};

/// A table of records. When it is full it takes no new key, and it never forgets a live one.
#[derive(Debug, Clone)]
pub struct Table {
    slab: Slab<(Key, Record)>,
    index: HashTable<u32>,
    records_max: usize,
    /// Where the next sweep begins.
    hand: u32,
}

/// Callers are keyed fingerprints already; the limit is mixed in so that limits of one caller spread.
pub(crate) fn hash_of(key: &Key) -> u64 {
    key.caller.0[0] ^ u64::from(key.limit.0).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Table {
    /// An empty table for at most `records_max` records.
    pub fn new(records_max: usize) -> Self {
        Self { slab: Slab::new(), index: HashTable::new(), records_max, hand: 0 }
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
        self.slab.memory_bytes() + self.index.allocation_size()
    }

    /// Carries out one command; see [`step`].
    pub fn apply(
        &mut self,
        command: &StoreCommand,
        now: StoreTime,
    ) -> Result<StoreReply, TableFull> {
        step(self, command, now)
    }

    /// Looks at up to `budget` places from where the last sweep ended, and forgets what has expired.
    /// Returns how many records were forgotten.
    pub fn sweep(&mut self, now: StoreTime, budget: usize) -> usize {
        let places = self.slab.places();
        let mut forgotten = 0;
        for _ in 0..budget.min(places as usize) {
            let at = self.hand;
            self.hand = if at + 1 < places { at + 1 } else { 0 };
            let expired = self.slab.get(at).is_some_and(|(_, record)| record.expires <= now);
            if expired && let Some((key, _)) = self.slab.remove(at) {
                if let Ok(entry) = self.index.find_entry(hash_of(&key), |place| *place == at) {
                    entry.remove();
                }
                forgotten += 1;
            }
        }
        forgotten
    }

    fn find(&self, key: &Key) -> Option<u32> {
        let same = |at: &u32| self.slab.get(*at).is_some_and(|(k, _)| k == key);
        self.index.find(hash_of(key), same).copied()
    }
}

impl Records for Table {
    fn get(&self, key: &Key, now: StoreTime) -> Option<Record> {
        let (_, record) = self.slab.get(self.find(key)?)?;
        (record.expires > now).then_some(*record)
    }

    fn has_room(&self, more: usize) -> bool {
        self.slab.len() + more <= self.records_max
    }

    fn put(&mut self, key: &Key, record: Record) {
        match self.find(key).and_then(|at| self.slab.get_mut(at)) {
            Some(place) => place.1 = record,
            None => {
                let at = self.slab.insert((*key, record));
                let slab = &self.slab;
                let rehash = |at: &u32| slab.get(*at).map_or(0, |(key, _)| hash_of(key));
                self.index.insert_unique(hash_of(key), at, rehash);
            }
        }
    }
}
