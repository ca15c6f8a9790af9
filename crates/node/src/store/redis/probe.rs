//! Connecting to Redis, and looking every now and then whether it lives, whose history it tells, and
//! whether this user may do what the script does.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, RedisError,
    aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig},
};
use tidegate_core::{ids::StoreEpoch, store::StoreCommand};
use tokio::{sync::watch, time};
use tracing::{info, warn};

use super::{Doubt, RedisStore, SCRIPT, StoreError};
use crate::store::doubt::{Said, Seen};

/// How often an unreachable Redis is tried, and a reachable one asked whether it lives.
pub(super) const PROBE_EVERY: Duration = Duration::from_millis(250);
/// How long a connection or a probe may take.
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long it may take to connect, to try all rights and to probe for the first time: more than a dozen
/// round trips, each of which has its own bound.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How many probes go by between two looks at settings that seldom change.
pub(super) const PROBES_PER_LOOK: u32 = 40;
/// How many probes go by between two questions to sentinels: about a second.
const PROBES_PER_QUESTION: u32 = 4;
/// How often the client library tries to connect again by itself, within about a second; after that
/// the next probe begins afresh.
const RECONNECTS: usize = 4;

/// What probes remember of those before.
#[derive(Default)]
struct Memory {
    probes: u32,
    policy: String,
    seen: Seen,
    /// Where the server is that is connected to.
    at: Option<ConnectionAddr>,
}

impl RedisStore {
    /// Connects, and from then on watches whether Redis lives. Never returns; drop it to stop.
    pub async fn keep_connected(&self) {
        let mut every = time::interval(PROBE_EVERY);
        every.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let mut told = None;
        let mut memory = Memory::default();
        loop {
            every.tick().await;
            let is_new = self.manager.load().is_none();
            let most = if is_new { CONNECT_MAX } else { self.patience() };
            let probe = time::timeout(most, self.probe(&mut memory)).await;
            let mut answer = probe.unwrap_or(Err(StoreError::Timeout));
            if answer.is_ok() && Box::pin(self.has_left(&memory)).await {
                let said = "sentinels say that the primary is elsewhere";
                answer = Err(StoreError::Broken(said.into()));
            }
            let is_up = answer.is_ok();
            if !is_up {
                // A connection may be dead without a word, and be so for as long as TCP is patient:
                // the next probe makes another one.
                self.manager.store(None);
                self.history.store(None);
            }
            self.trouble.store(answer.as_ref().err().cloned().map(Arc::new));
            let was_up = self.reachable.swap(is_up, Ordering::Relaxed);
            match answer {
                Ok(()) if !was_up => {
                    told = None;
                    info!(namespace = %self.settings.namespace, "redis is reachable");
                }
                Ok(()) => {}
                // Told once, and again if it is for another reason.
                Err(reason) if was_up || told.as_ref() != Some(&reason.kind()) => {
                    told = Some(reason.kind());
                    warn!(%reason, "redis cannot be used; checks are answered by on_store_failure");
                }
                Err(_) => {}
            }
        }
    }

    /// Whether sentinels say that the server is not the primary any more. They are asked now and then, and have a
    /// patience of their own.
    async fn has_left(&self, memory: &Memory) -> bool {
        let Some(at) = memory.at.as_ref() else { return false };
        memory.probes.is_multiple_of(PROBES_PER_QUESTION) && self.place.has_left(at).await
    }

    /// Carries out a step over nothing, which needs the rights of every other, and says in which epoch
    /// Redis is.
    async fn probe(&self, memory: &mut Memory) -> Result<(), StoreError> {
        let (manager, is_new) = match self.manager.load_full() {
            Some(manager) => (manager, false),
            None => {
                let (manager, at) = Box::pin(self.connect()).await?;
                memory.at = Some(at);
                (Arc::new(manager), true)
            }
        };
        let mut connection = (*manager).clone();
        let breaks = self.breaks.load(Ordering::Acquire);
        let replication = info(&mut connection, "replication").await?;
        if is_new && field(&info(&mut connection, "cluster").await?, "cluster_enabled") == Some("1")
        {
            let said = "the server is part of a Redis Cluster: write `store.url` as redis-cluster://host:port,host:port";
            return Err(StoreError::Refused(said.into()));
        }
        if self.place.follows() && field(&replication, "role") != Some("master") {
            return Err(StoreError::Broken("the server is no primary any more".into()));
        }
        let Some(history) = field(&replication, "master_replid") else {
            let said = "INFO replication has no master_replid: is it a Redis server?";
            return Err(StoreError::Refused(said.into()));
        };
        self.history.store(Some(Arc::new((breaks, history.to_owned()))));
        let Memory { probes, policy, seen, at: _ } = memory;
        if is_new || probes.is_multiple_of(PROBES_PER_LOOK) {
            let said = info(&mut connection, "memory").await?;
            // A server that does not say is taken at its default.
            *policy = field(&said, "maxmemory_policy").unwrap_or("noeviction").to_owned();
        }
        *probes = probes.wrapping_add(1);
        let doubt = seen.doubt(&Said {
            policy,
            history,
            // Where sentinels promote replicas there are some, seen or not.
            has_replicas: self.place.follows()
                || field(&replication, "connected_slaves").is_some_and(|n| n != "0"),
            stops_alone: field(&replication, "min_slaves_good_slaves").is_some(),
        });
        self.note_doubt(doubt, is_new);
        let reply = self.apply_on(&mut connection, &StoreCommand::default()).await?;
        self.epoch.fetch_max(reply.epoch().0, Ordering::Relaxed);
        if is_new {
            self.manager.store(Some(manager));
        }
        Ok(())
    }

    /// A client of the same server that selects no database, and the database that it should.
    fn client_without_database(client: &Client) -> Result<(Client, i64), StoreError> {
        let info = client.get_connection_info().clone();
        let settings = info.redis_settings().clone();
        let database = settings.db();
        let client = Client::open(info.set_redis_settings(settings.set_db(0)));
        Ok((client.map_err(|e| StoreError::from_redis(&e))?, database))
    }

    /// How long a probe of a connection that stands may take: it is up to three calls.
    fn patience(&self) -> Duration {
        PROBE_TIMEOUT.max(4 * self.settings.timeout)
    }

    /// A connection to the server, wherever it is, and where that is.
    async fn connect(&self) -> Result<(ConnectionManager, ConnectionAddr), StoreError> {
        // A plain connection first: it fails at once and says why, where the manager would try again.
        let timeouts = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PROBE_TIMEOUT))
            .set_response_timeout(Some(PROBE_TIMEOUT));
        // Of no database of its own, so that the right to one is tried with all others.
        let client = self.place.client().await?;
        let (anywhere, database) = Self::client_without_database(&client)?;
        let first = anywhere.get_multiplexed_async_connection_with_config(&timeouts);
        let mut first = first.await.map_err(|e| StoreError::from_redis(&e))?;
        self.names.have_rights(&mut first, database).await?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(PROBE_TIMEOUT))
            // Calls have a deadline of their own; this one only cleans up behind a dropped call.
            .set_response_timeout(Some(PROBE_TIMEOUT.max(self.settings.timeout)))
            .set_min_delay(Duration::from_millis(50))
            .set_max_delay(PROBE_EVERY)
            .set_number_of_retries(RECONNECTS);
        let at = client.get_connection_info().addr().clone();
        let manager = ConnectionManager::new_with_config(client, config).await;
        Ok((manager.map_err(|e| StoreError::from_redis(&e))?, at))
    }

    /// Takes note of what speaks against the server's settings, and says it once per connection and change.
    fn note_doubt(&self, doubt: Option<Doubt>, is_new: bool) {
        let changed = self.doubt.send_if_modified(|known| {
            let changed = *known != doubt;
            *known = doubt;
            changed
        });
        if let Some(doubt) = doubt.filter(|_| changed || is_new) {
            warn!("{doubt}; until then nothing is spent of `strict` and `bounded` limits");
        }
    }

    /// Why what is spent by rights cannot be left to the server, as far as was seen.
    pub fn doubt(&self) -> watch::Receiver<Option<Doubt>> {
        self.doubt.subscribe()
    }

    /// The newest epoch that a probe has found; `None` before the first.
    pub fn epoch(&self) -> Option<StoreEpoch> {
        let epoch = self.epoch.load(Ordering::Relaxed);
        (epoch > 0).then_some(StoreEpoch(epoch))
    }

    /// Why the last probe failed, if it did.
    pub fn trouble(&self) -> Option<StoreError> {
        self.trouble.load_full().map(|trouble| (*trouble).clone())
    }
}

/// Has a server know the script.
pub(super) async fn load_script(connection: &mut impl ConnectionLike) -> Result<(), RedisError> {
    redis::cmd("SCRIPT").arg("LOAD").arg(SCRIPT).query_async::<()>(connection).await
}

pub(super) async fn info(
    connection: &mut impl ConnectionLike,
    section: &str,
) -> Result<String, StoreError> {
    let answer = redis::cmd("INFO").arg(section).query_async(connection).await;
    answer.map_err(|e| StoreError::from_redis(&e))
}

/// The value of a line `name:value`.
pub(super) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = info.lines();
    lines.find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let info = "# Replication\r\nmaster_replid2:00\r\nmaster_replid:ab12\r\n";
        assert_eq!(field(info, "master_replid"), Some("ab12"));
        assert_eq!(field(info, "master"), None);
    }
}
