//! One primary of a cluster: the connection to it, whose history it tells, and whether it lives.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use redis::{AsyncConnectionConfig, aio::MultiplexedConnection};
use tidegate_core::store::CallerBucket;
use tokio::sync::Notify;
use tracing::{info, warn};

use super::{
    super::probe::{PROBES_PER_LOOK, field, info as ask_info},
    Address, Inner, PROBE_TIMEOUT,
};
use crate::store::{
    Doubt, StoreError, StoreGuard,
    doubt::{Said, Seen},
};

/// A primary that is or was one of the cluster's.
pub(super) struct Primary {
    pub(super) address: Address,
    /// What stands before it: a server that is slow or gone holds up no other.
    pub(super) guard: Arc<StoreGuard>,
    /// Absent until the first connection, and after one that broke.
    link: ArcSwapOption<Link>,
    reachable: AtomicBool,
    /// Why the last probe failed.
    trouble: ArcSwapOption<StoreError>,
    /// What the log was told last: nothing of one that has not been tried, of others what kind of trouble it was.
    told: Mutex<Option<Option<&'static str>>>,
    doubt: Mutex<Option<Doubt>>,
    /// Wakes its keeper: the connection broke, or it is no primary any more.
    pub(super) wake: Notify,
    retired: AtomicBool,
}

/// A connection, and what is known of the server behind it. One that broke is never used again, so it is one server's.
pub(super) struct Link {
    pub(super) connection: MultiplexedConnection,
    /// The server's own name of its history.
    pub(super) history: ArcSwap<String>,
}

/// What probes remember of those before.
#[derive(Default)]
pub(super) struct Memory {
    probes: u32,
    policy: String,
    seen: Seen,
}

impl Memory {
    /// For another connection to the same server: that it had replicas is not forgotten, since it may be cut off from
    /// them.
    pub(super) fn begin_anew(&mut self) {
        let seen = std::mem::take(&mut self.seen);
        *self = Self { seen, ..Self::default() };
    }
}

impl Primary {
    pub(super) fn new(address: Address, guard: StoreGuard) -> Self {
        let guard = Arc::new(guard.of_server(address.to_string()));
        Self {
            address,
            guard,
            link: ArcSwapOption::empty(),
            reachable: AtomicBool::new(false),
            trouble: ArcSwapOption::empty(),
            told: Mutex::new(None),
            doubt: Mutex::new(None),
            wake: Notify::new(),
            retired: AtomicBool::new(false),
        }
    }

    // -- getters

    pub(super) fn is_reachable(&self) -> bool {
        self.reachable.load(Ordering::Relaxed)
    }

    pub(super) fn link(&self) -> Option<Arc<Link>> {
        self.link.load_full()
    }

    pub(super) fn trouble(&self) -> Option<StoreError> {
        self.trouble.load_full().map(|trouble| (*trouble).clone())
    }

    pub(super) fn doubt(&self) -> Option<Doubt> {
        *self.doubt.lock()
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// The connection, if the last probe was answered.
    pub(super) fn usable(&self) -> Result<Arc<Link>, StoreError> {
        let link = self.link().filter(|_| self.is_reachable());
        link.ok_or_else(|| {
            let refused = self.trouble().filter(|t| matches!(t, StoreError::Refused(_)));
            refused.unwrap_or(StoreError::Unreachable)
        })
    }

    /// What is wrong with it, as a sentence, if it cannot be asked.
    pub(super) fn ails(&self) -> Option<String> {
        (!self.is_reachable()).then(|| {
            let why = self.trouble().unwrap_or(StoreError::Unreachable);
            format!("the server {} of the cluster cannot be asked: {why}", self.address)
        })
    }

    // -- inputs

    /// It is no primary any more: its keeper ends.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// A call has found the connection broken.
    pub(super) fn lose(&self, link: &Arc<Link>) {
        let before = self.link.compare_and_swap(link, None);
        if before.as_ref().is_some_and(|before| Arc::ptr_eq(before, link)) {
            self.reachable.store(false, Ordering::Relaxed);
            self.trouble.store(Some(Arc::new(StoreError::Unreachable)));
            self.wake.notify_one();
        }
    }

    /// Takes what came of a probe: the connection that was probed, or why there is none. Returns whether that is
    /// news.
    pub(super) fn handle_probe(&self, answer: Result<&Arc<Link>, StoreError>) -> bool {
        let link = answer.as_ref().ok().map(|link| Arc::clone(link));
        let (is_up, trouble) = (link.is_some(), answer.err());
        let kind = trouble.as_ref().map(StoreError::kind);
        self.link.store(link);
        self.trouble.store(trouble.map(Arc::new));
        self.reachable.store(is_up, Ordering::Relaxed);
        self.told.lock().replace(kind) != Some(kind)
    }

    // -- asking it

    /// Connects, and sees that this user may do all that a node does; `bucket` is one that it has.
    pub(super) async fn connect(
        &self,
        store: &Inner,
        bucket: Option<CallerBucket>,
    ) -> Result<Link, StoreError> {
        let timeouts = timeouts(PROBE_TIMEOUT.max(store.settings.timeout));
        let client = store.seeds.client(&self.address.host, self.address.port)?;
        let connection = client.get_multiplexed_async_connection_with_config(&timeouts);
        let mut connection = connection.await.map_err(|e| StoreError::from_redis(&e))?;
        store.names.have_rights_in_cluster(&mut connection, bucket).await?;
        Ok(Link { connection, history: ArcSwap::default() })
    }

    /// Asks whose history it tells, and whether the cluster is up.
    pub(super) async fn probe(
        &self,
        store: &Inner,
        link: &Link,
        memory: &mut Memory,
    ) -> Result<(), StoreError> {
        let mut connection = link.connection.clone();
        let replication = ask_info(&mut connection, "replication").await?;
        let Some(history) = field(&replication, "master_replid") else {
            let said = "INFO replication has no master_replid: is it a Redis server?";
            return Err(StoreError::Refused(said.into()));
        };
        if **link.history.load() != history {
            link.history.store(Arc::new(history.to_owned()));
        }
        let mut question = redis::cmd("CLUSTER");
        let cluster = question.arg("INFO").query_async::<String>(&mut connection).await;
        let cluster = cluster.map_err(|e| StoreError::from_redis(&e))?;
        let Memory { probes, policy, seen } = memory;
        if probes.is_multiple_of(PROBES_PER_LOOK) {
            let said = ask_info(&mut connection, "memory").await?;
            // A server that does not say is taken at its default.
            *policy = field(&said, "maxmemory_policy").unwrap_or("noeviction").to_owned();
        }
        *probes = probes.wrapping_add(1);
        let doubt = seen.doubt(&Said {
            policy,
            history,
            has_replicas: field(&replication, "connected_slaves").is_some_and(|n| n != "0"),
            stops_alone: field(&replication, "min_slaves_good_slaves").is_some(),
        });
        let before = std::mem::replace(&mut *self.doubt.lock(), doubt);
        if let Some(doubt) = doubt.filter(|_| doubt != before) {
            warn!(
                server = %self.address,
                "{doubt}; until then nothing is spent of `strict` and `bounded` limits"
            );
        }
        store.note_doubt();
        if field(&cluster, "cluster_state") != Some("ok") {
            let said = "the cluster is down, as it says (CLUSTER INFO): see that every slot has a server, or set \
                        `cluster-require-full-coverage no`, for others to be served meanwhile";
            return Err(StoreError::Refused(said.into()));
        }
        Ok(())
    }

    /// Tells in the log how it stands.
    pub(super) fn tell(&self, namespace: &str) {
        match self.trouble() {
            None => {
                info!(server = %self.address, %namespace, "a redis of the cluster is reachable");
            }
            Some(reason) => warn!(
                server = %self.address, %reason,
                "a redis of the cluster cannot be used; checks of its callers are answered by on_store_failure"
            ),
        }
    }
}

/// How long connecting, and an answer, may take.
pub(super) fn timeouts(most: Duration) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_connection_timeout(Some(most)).set_response_timeout(Some(most))
}
