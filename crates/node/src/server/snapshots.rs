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
        snapshot::{self, Found, Owner},
    },
};

/// Where snapshots of the store go.
pub(super) struct Snapshots {
    path: PathBuf,
    every: Duration,
    in_cluster: bool,
    /// One is written at a time.
    writing: Mutex<()>,
    written: AtomicU64,
    failed: AtomicU64,
}

/// The memory store that a configuration asks for, with what the last snapshot holds, and the secret that
/// goes with that.
pub(super) fn memory_store(
    config: &config::Memory,
    cluster: Option<Secret>,
    clock: Clock,
) -> Result<(MemoryStore, Option<Secret>), ServerError> {
    let records_max = config.records_max;
    let empty = || (MemoryStore::new(records_max, clock), None);
    let Some(settings) = &config.snapshot else { return Ok(empty()) };
    let path = &settings.path;
    let found = snapshot::load(path, cluster, records_max, clock).map_err(|source| {
        ServerError::File { field: "store.snapshot", path: path.clone(), source }
    })?;
    Ok(match found {
        Found::Nothing => {
            info!(path = %path.display(), "there is no snapshot yet: the store is empty");
            empty()
        }
        Found::Store { store, secret } => {
            let records = store.records();
            info!(path = %path.display(), records, "the store has what its snapshot held");
            (store, secret)
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
    })
}

impl Snapshots {
    /// What keeps the snapshots of this configuration, if it asks for any.
    pub(super) fn new(config: &config::Config) -> Option<Arc<Self>> {
        let config::Store::Memory(config::Memory { snapshot: Some(settings), .. }) = &config.store
        else {
            return None;
        };
        Some(Arc::new(Self {
            path: settings.path.clone(),
            every: settings.every,
            in_cluster: config.cluster.is_some(),
            writing: Mutex::new(()),
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
            let _turn = this.writing.lock();
            snapshot::save(&this.path, owner, memory)
        });
        let result = written.await.unwrap_or_else(|broken| Err(io::Error::other(broken)));
        let count = if result.is_ok() { &self.written } else { &self.failed };
        count.fetch_add(1, Ordering::Relaxed);
        result
    }
}
