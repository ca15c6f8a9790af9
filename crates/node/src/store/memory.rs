//! The embedded store: the core's tables behind sharded locks.
//!
//! When it is full it takes no new key and never forgets a live one. It is of one epoch for as long as the
//! process runs.

use parking_lot::{Mutex, MutexGuard, RwLock};
use tidegate_core::{
    ids::{Key, StoreEpoch},
    store::{
        Marker, Record, Records, Remembered, RequestId, StoreCommand, StoreReply, Table, TableFull,
        step,
    },
    time::StoreTime,
};

use super::StoreError;
use crate::clock::Clock;

/// Locks. More of them cost memory only while they are full.
const SHARDS: usize = 64;
/// Places that one call of [`MemoryStore::sweep`] looks at, per shard.
const SWEEP_PLACES: usize = 2_048;
/// Places that are copied for a snapshot under one lock.
const COPY_PLACES: u32 = 2_048;

/// Records in this process' memory. Its clock is the process' own, steady one.
#[derive(Debug)]
pub struct MemoryStore {
    shards: Box<[Mutex<Table>]>,
    clock: Clock,
    epoch: StoreEpoch,
    /// What it remembers beside its records: what one shard is told, all know.
    marker: RwLock<Marker>,
}

/// The shards that one command needs, locked in ascending order so that two commands cannot wait for
/// each other.
struct Locked<'a> {
    tables: Vec<(usize, MutexGuard<'a, Table>)>,
    epoch: StoreEpoch,
    marker: Marker,
}

fn shard_of(key: &Key) -> usize {
    (key.caller.0[1] >> 32) as usize % SHARDS
}

impl MemoryStore {
    /// An empty store for at most `records_max` records. Its epoch is the time of its making.
    pub fn new(records_max: usize, clock: Clock) -> Self {
        Self::after(None, records_max, clock)
    }

    /// An empty store whose epoch comes after that of another one.
    pub(super) fn after(before: Option<StoreEpoch>, records_max: usize, clock: Clock) -> Self {
        let now = StoreTime(clock.steady().0);
        let epoch = before.map_or(StoreEpoch(now.0), |before| before.next_at(now));
        let per_shard = records_max.div_ceil(SHARDS);
        let shards = (0..SHARDS).map(|_| Mutex::new(Table::new(per_shard, epoch))).collect();
        Self { shards, clock, epoch, marker: RwLock::default() }
    }

    /// Which history its records are of.
    pub const fn epoch(&self) -> StoreEpoch {
        self.epoch
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
        let (tables, epoch) = (locked.collect(), self.epoch);
        self.apply_in(&mut Locked { tables, epoch, marker: Marker::default() }, command)
    }

    /// The clock is read under the lock, so that the records of a key see it run forward.
    fn apply_in<R: Records>(
        &self,
        records: &mut R,
        command: &StoreCommand,
    ) -> Result<StoreReply, StoreError> {
        let run = |records: &mut R| step(records, command, self.clock.steady());
        let reply = if command.speaks_of_rights() {
            let known = self.marker.read();
            let mut told = *known;
            if told.take(self.epoch, command, self.clock.steady()) {
                drop(known);
                let mut marker = self.marker.write();
                records.mark(*marker);
                let reply = run(records);
                *marker = records.marker();
                reply
            } else {
                // It stays as it is until the step is over.
                records.mark(*known);
                run(records)
            }
        } else {
            run(records)
        };
        reply.map_err(|TableFull| StoreError::Full)
    }

    /// Shows every live record to `show`, a few at a time, so that checks go on meanwhile: each is as it
    /// was at some instant of the walk. Of a key that was forgotten and came back there may be two.
    pub(super) fn copy<E>(
        &self,
        mut show: impl FnMut(&Key, &Record) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut copied = Vec::with_capacity(COPY_PLACES as usize);
        for shard in &self.shards {
            let mut from = Some(0);
            while let Some(place) = from {
                from = shard.lock().copy_from(place, COPY_PLACES, &mut copied);
                let now = self.clock.steady();
                for (key, record) in copied.drain(..).filter(|(_, record)| record.expires > now) {
                    show(&key, &record)?;
                }
            }
        }
        Ok(())
    }

    /// Takes a record that was shown by another store, unless it has expired or a newer one of its key is
    /// here. Returns whether there was room for it.
    pub(super) fn restore(&self, key: &Key, record: Record) -> bool {
        let now = self.clock.steady();
        let mut table = self.shards[shard_of(key)].lock();
        let here = table.get(key, now);
        let newer = |here: &Record| here.label >= record.label;
        if record.expires <= now || here.as_ref().is_some_and(newer) {
            return true;
        }
        let has_room = here.is_some() || table.make_room(1, now);
        if has_room {
            table.put(key, record);
        }
        has_room
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
        self.tables.iter().find(|(at, _)| *at == shard).map(|(_, table)| &**table)
    }
}

impl Records for Locked<'_> {
    fn get(&self, key: &Key, now: StoreTime) -> Option<Record> {
        self.table(key)?.get(key, now)
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

    /// Whether every shard concerned has room for all of them: stricter than need be, when almost full.
    fn make_room(&mut self, more: usize, now: StoreTime) -> bool {
        self.tables.iter_mut().all(|(_, table)| table.make_room(more, now))
    }

    fn put(&mut self, key: &Key, record: Record) {
        let shard = shard_of(key);
        if let Some((_, table)) = self.tables.iter_mut().find(|(at, _)| *at == shard) {
            table.put(key, record);
        }
    }

    fn recall(&self, key: &Key, id: &RequestId, now: StoreTime) -> Option<Remembered> {
        self.table(key)?.recall(key, id, now)
    }

    fn remember(&mut self, key: &Key, id: RequestId, until: StoreTime, remembered: Remembered) {
        let shard = shard_of(key);
        if let Some((_, table)) = self.tables.iter_mut().find(|(at, _)| *at == shard) {
            table.remember(key, id, until, remembered);
        }
    }
}
