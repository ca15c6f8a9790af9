//! The embedded store: the core's tables behind sharded locks.
//!
//! When it is full it takes no new key and never forgets a live one.

use parking_lot::{Mutex, MutexGuard};
use tidegate_core::{
    ids::Key,
    store::{Record, Records, StoreCommand, StoreReply, Table, TableFull, step},
    time::StoreTime,
};

use super::StoreError;
use crate::clock::Clock;

/// Locks. More of them cost memory only while they are full.
const SHARDS: usize = 64;
/// Places that one call of [`MemoryStore::sweep`] looks at, per shard.
const SWEEP_PLACES: usize = 2_048;

/// Records in this process' memory. Its clock is the process' own, steady one.
#[derive(Debug)]
pub struct MemoryStore {
    shards: Box<[Mutex<Table>]>,
    clock: Clock,
}

/// The shards that one command needs, locked in ascending order so that two commands cannot wait for
/// each other.
struct Locked<'a>(Vec<(usize, MutexGuard<'a, Table>)>);

fn shard_of(key: &Key) -> usize {
    (key.caller.0[1] >> 32) as usize % SHARDS
}

impl MemoryStore {
    /// An empty store for at most `records_max` records.
    pub fn new(records_max: usize, clock: Clock) -> Self {
        let per_shard = records_max.div_ceil(SHARDS);
        Self { shards: (0..SHARDS).map(|_| Mutex::new(Table::new(per_shard))).collect(), clock }
    }

    /// Carries out one command.
    pub fn apply(&self, command: &StoreCommand) -> Result<StoreReply, StoreError> {
        let mut shards = command.operations.iter().map(|operation| shard_of(&operation.key));
        // Nearly every check has one caller.
        if let Some(only) = shards.next()
            && shards.all(|shard| shard == only)
        {
            return self.apply_in(&mut *self.shards[only].lock(), command);
        }
        let mut needed: Vec<usize> = command.operations.iter().map(|o| shard_of(&o.key)).collect();
        needed.sort_unstable();
        needed.dedup();
        let locked = needed.into_iter().map(|at| (at, self.shards[at].lock()));
        self.apply_in(&mut Locked(locked.collect()), command)
    }

    /// The clock is read under the lock, so that the records of a key see it run forward.
    fn apply_in<R: Records>(
        &self,
        records: &mut R,
        command: &StoreCommand,
    ) -> Result<StoreReply, StoreError> {
        step(records, command, self.clock.steady()).map_err(|TableFull| StoreError::Full)
    }

    /// Forgets some of what has expired; call every 100 ms or so.
    pub fn sweep(&self) {
        for shard in &self.shards {
            shard.lock().sweep(self.clock.steady(), SWEEP_PLACES);
        }
    }

    /// Records held, expired ones that no sweep has met included.
    pub fn records(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Bytes held.
    pub fn memory_bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().memory_bytes()).sum()
    }
}

impl Locked<'_> {
    fn table(&self, key: &Key) -> Option<&Table> {
        let shard = shard_of(key);
        self.0.iter().find(|(at, _)| *at == shard).map(|(_, table)| &**table)
    }
}

impl Records for Locked<'_> {
    fn get(&self, key: &Key, now: StoreTime) -> Option<Record> {
        self.table(key)?.get(key, now)
    }

    /// Whether every shard concerned has room for all of them: stricter than need be, when almost full.
    fn has_room(&self, more: usize) -> bool {
        self.0.iter().all(|(_, table)| table.has_room(more))
    }

    fn put(&mut self, key: &Key, record: Record) {
        let shard = shard_of(key);
        if let Some((_, table)) = self.0.iter_mut().find(|(at, _)| *at == shard) {
            table.put(key, record);
        }
    }
}
