//! Keeps a snapshot of the memory store: finds one at the start, writes one every now and then and at the
//! end.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tidegate_core::ids::Secret;
use tokio::{
    task,
    time::{self, MissedTickBehavior},
};
use tracing::{info, warn};

use super::ServerError;
use crate::{
    clock::Clock,
    config,
    limiter::Limiter,
    store::{
        MemoryStore, Store,
        snapshot::{self, Found, Lock, LockError, Owner},
    },
};

/// Where snapshots of the store go.
pub(super) struct Snapshots {
    path: PathBuf,
    every: Duration,
    in_cluster: bool,
    /// One is written at a time, and only by whom the file belongs to.
    lock: Mutex<Option<Lock>>,
    written: AtomicU64,
    failed: AtomicU64,
}

/// What there is at the start of a node on the memory store.
pub(super) struct Begin {
    pub(super) store: MemoryStore,
    /// The secret of what a snapshot brought back, if it kept one.
    pub(super) secret: Option<Secret>,
    /// The right to the snapshot, if there is one.
    pub(super) lock: Option<Lock>,
}

/// The memory store that a configuration asks for, with what the last snapshot holds.
pub(super) fn memory_store(
    config: &config::Memory,
    cluster: Option<Secret>,
    clock: Clock,
) -> Result<Begin, ServerError> {
    let records_max = config.records_max;
    let empty = || (MemoryStore::new(records_max, clock), None);
    let Some(settings) = &config.snapshot else {
        let (store, secret) = empty();
        return Ok(Begin { store, secret, lock: None });
    };
    let path = &settings.path;
    let lock = match Lock::take(path) {
        Ok(lock) => Some(lock),
        Err(LockError::Taken) => return Err(ServerError::SnapshotTaken { path: path.clone() }),
        // What cannot be written beside cannot be overwritten either; each writing tries again, and tells.
        Err(LockError::Io(_)) => None,
    };
    let found = snapshot::load(path, cluster, records_max, clock).map_err(|source| {
        ServerError::File { field: "store.snapshot", path: path.clone(), source }
    })?;
    let (store, secret) = match found {
        Found::Nothing => {
            info!(path = %path.display(), "there is no snapshot yet: the store is empty");
            empty()
        }
        Found::Store { store, secret } => {
            let records = store.records();
            info!(path = %path.display(), records, "the store has what its snapshot held");
            (store, secret)
        }
        Found::TooLarge { records } => {
            return Err(ServerError::SnapshotTooLarge { path: path.clone(), records, records_max });
        }
        Found::Unusable { reason, kept } => {
            let kept =
                kept.map_or("nowhere: it will be replaced".into(), |p| p.display().to_string());
            warn!(
                path = %path.display(), %reason, %kept,
                "the snapshot cannot be used: the store is empty, and windows start anew"
            );
            empty()
        }
    };
    Ok(Begin { store, secret, lock })
}

impl Snapshots {
    /// What keeps the snapshots of this configuration, if it asks for any.
    pub(super) fn new(config: &config::Config, lock: Option<Lock>) -> Option<Arc<Self>> {
        let config::Store::Memory(config::Memory { snapshot: Some(settings), .. }) = &config.store
        else {
            return None;
        };
        Some(Arc::new(Self {
            path: settings.path.clone(),
            every: settings.every,
            in_cluster: config.cluster.is_some(),
            lock: Mutex::new(lock),
            written: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }))
    }

    /// How many were written, and how many could not be.
    pub(super) fn counted(&self) -> [u64; 2] {
        [&self.written, &self.failed].map(|count| count.load(Ordering::Relaxed))
    }

    /// Writes one now and then, for as long as it is polled. The first is written at once, so that a place
    /// that cannot be written to is told at the start.
    pub(super) async fn keep_writing(self: &Arc<Self>, limiter: &Limiter, store: &Arc<Store>) {
        let mut every = time::interval(self.every);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = false;
        loop {
            every.tick().await;
            let result = self.write(limiter, store).await;
            if let (Err(error), false) = (&result, told) {
                warn!(
                    path = %self.path.display(), %error,
                    "the snapshot of the store cannot be written (`store.snapshot`); \
                     a restart will find the last one that could"
                );
            } else if told && result.is_ok() {
                info!(path = %self.path.display(), "the snapshot of the store is written again");
            }
            told = result.is_err();
        }
    }

    /// Writes the last one, when nothing changes the store any more.
    pub(super) async fn write_last(self: &Arc<Self>, limiter: &Limiter, store: &Arc<Store>) {
        let path = self.path.display();
        match self.write(limiter, store).await {
            Ok(records) => info!(%path, records, "the snapshot of the store is written"),
            Err(error) => warn!(%path, %error, "the last snapshot of the store cannot be written"),
        }
    }

    /// Writes one, on a thread that may wait for the disk.
    async fn write(self: &Arc<Self>, limiter: &Limiter, store: &Arc<Store>) -> io::Result<u64> {
        let secret = limiter.secret();
        let owner = if self.in_cluster { Owner::Cluster(secret) } else { Owner::Alone(secret) };
        let (this, store) = (Arc::clone(self), Arc::clone(store));
        let written = task::spawn_blocking(move || {
            let Store::Memory(memory) = &*store else { return Ok(0) };
            let mut lock = this.lock.lock();
            if lock.is_none() {
                *lock = Some(Lock::take(&this.path).map_err(io::Error::other)?);
            }
            snapshot::save(&this.path, owner, memory)
        });
        let result = written.await.unwrap_or_else(|broken| Err(io::Error::other(broken)));
        let count = if result.is_ok() { &self.written } else { &self.failed };
        count.fetch_add(1, Ordering::Relaxed);
        result
    }
}
