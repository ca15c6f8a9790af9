//! The store in Redis: the one module that knows Redis.
//!
//! One script per check, one connection that everything shares, a deadline on every call. The client
//! library reconnects, but nothing is ever sent twice: a call that may have been carried out is
//! [`StoreError::Timeout`] or [`StoreError::Broken`], and its caller decides.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, FromRedisValue, RedisError, ServerErrorKind, Value,
    aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig},
    io::tcp::TcpSettings,
};
use tidegate_core::{
    ids::{Key, Secret},
    store::{Action, COUNT_MAX, Counts, OperationReply, StoreCommand, StoreReply},
    time::{Label, StoreTime},
};
use tokio::time;
use tracing::{info, warn};

use super::StoreError;

const SCRIPT: &str = include_str!("step.lua");

/// How often an unreachable Redis is tried, and a reachable one asked whether it lives.
const PROBE_EVERY: Duration = Duration::from_millis(250);
/// How long a connection or a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the client library tries to connect again by itself, within about a second; after that
/// the next probe begins afresh.
const RECONNECTS: usize = 4;

/// Where Redis is, and how it is used.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// `redis://host:port/database`.
    pub url: String,
    /// How long a call may take before it counts as unanswered.
    pub timeout: Duration,
    /// First part of every key.
    pub namespace: String,
}

/// A Redis server that the nodes of a region share.
pub struct RedisStore {
    settings: RedisSettings,
    client: Client,
    /// Absent until the first connection, and after a probe that failed.
    manager: ArcSwapOption<ConnectionManager>,
    reachable: AtomicBool,
    /// Hex of the script's SHA-1, by which it is called.
    hash: String,
}

impl RedisStore {
    /// A store that is not connected yet: run [`keep_connected`](Self::keep_connected) beside it.
    ///
    /// # Errors
    ///
    /// A sentence on what is wrong with the URL.
    pub fn new(settings: RedisSettings) -> Result<Self, String> {
        let client = Client::open(settings.url.as_str()).map_err(|e| e.to_string())?;
        let info = client.get_connection_info().clone();
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let client = Client::open(info).map_err(|e| e.to_string())?;
        Ok(Self {
            settings,
            client,
            manager: ArcSwapOption::empty(),
            reachable: AtomicBool::new(false),
            hash: redis::Script::new(SCRIPT).get_hash().to_owned(),
        })
    }

    /// Whether the last probe was answered.
    pub fn is_reachable(&self) -> bool {
        self.reachable.load(Ordering::Relaxed)
    }

    /// Connects, and from then on watches whether Redis lives. Never returns; drop it to stop.
    pub async fn keep_connected(&self) {
        let mut every = time::interval(PROBE_EVERY);
        every.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let mut told_down = false;
        loop {
            every.tick().await;
            let probe = time::timeout(PROBE_TIMEOUT, self.probe()).await;
            let answer = probe.unwrap_or_else(|_| Err("no answer within a second".into()));
            let is_up = answer.is_ok();
            if !is_up {
                // A connection may be dead without a word, and be so for as long as TCP is patient:
                // the next probe makes another one.
                self.manager.store(None);
            }
            let was_up = self.reachable.swap(is_up, Ordering::Relaxed);
            match answer {
                Ok(()) if !was_up => {
                    told_down = false;
                    info!(namespace = %self.settings.namespace, "redis is reachable");
                }
                Err(reason) if was_up || !told_down => {
                    told_down = true;
                    warn!(%reason, "redis cannot be reached; checks are answered by on_store_failure");
                }
                _ => {}
            }
        }
    }

    async fn probe(&self) -> Result<(), String> {
        let manager = match self.manager.load_full() {
            Some(manager) => manager,
            None => {
                let manager = self.connect().await.map_err(|e| e.to_string())?;
                let manager = Arc::new(manager);
                self.manager.store(Some(Arc::clone(&manager)));
                manager
            }
        };
        let mut connection = (*manager).clone();
        let pong = redis::cmd("PING").query_async::<Value>(&mut connection).await;
        pong.map(drop).map_err(|e| e.to_string())
    }

    async fn connect(&self) -> Result<ConnectionManager, RedisError> {
        // A plain connection first: it fails at once and says why, where the manager would try again.
        let timeouts = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PROBE_TIMEOUT))
            .set_response_timeout(Some(PROBE_TIMEOUT));
        let first = self.client.get_multiplexed_async_connection_with_config(&timeouts);
        self.load_script(&mut first.await?).await?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(PROBE_TIMEOUT))
            // Calls have a deadline of their own; this one only cleans up behind a dropped call.
            .set_response_timeout(Some(PROBE_TIMEOUT.max(self.settings.timeout)))
            .set_min_delay(Duration::from_millis(50))
            .set_max_delay(PROBE_EVERY)
            .set_number_of_retries(RECONNECTS);
        ConnectionManager::new_with_config(self.client.clone(), config).await
    }

    async fn load_script(&self, connection: &mut impl ConnectionLike) -> Result<(), RedisError> {
        redis::cmd("SCRIPT").arg("LOAD").arg(SCRIPT).query_async::<()>(connection).await
    }

    /// The secret that this region's records are kept under: `ours`, unless an earlier node left one.
    pub async fn agree_on_secret(&self, ours: Secret) -> Result<Secret, StoreError> {
        let manager = self.manager.load_full().ok_or(StoreError::Unreachable)?;
        let mut connection = (*manager).clone();
        let key = format!("{}:secret", self.settings.namespace);
        let mut pipeline = redis::pipe();
        pipeline.cmd("SET").arg(&key).arg(&ours.0[..]).arg("NX").ignore();
        pipeline.cmd("GET").arg(&key);
        let call = pipeline.query_async::<(Vec<u8>,)>(&mut connection);
        let (found,) = time::timeout(PROBE_TIMEOUT, call)
            .await
            .map_err(|_| StoreError::Timeout)?
            .map_err(|e| StoreError::from_redis(&e))?;
        let bytes = found.try_into().map_err(|_| {
            StoreError::Refused(format!("`{key}` is not a secret of 16 bytes: remove it"))
        })?;
        Ok(Secret(bytes))
    }

    /// Carries out one command. How many do so at a time is for callers to bound: see
    /// [`StoreGuard`](super::StoreGuard).
    pub async fn apply(&self, command: &StoreCommand) -> Result<StoreReply, StoreError> {
        if !self.is_reachable() {
            return Err(StoreError::Unreachable);
        }
        let manager = self.manager.load_full().ok_or(StoreError::Unreachable)?;
        let mut connection = (*manager).clone();
        let call = async {
            let packed = self.call(command);
            match packed.query_async::<Value>(&mut connection).await {
                // A restarted Redis has forgotten the script, and has not run it.
                Err(e) if e.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                    self.load_script(&mut connection).await?;
                    packed.query_async::<Value>(&mut connection).await
                }
                other => other,
            }
        };
        let answer = time::timeout(self.settings.timeout, call).await;
        let value =
            answer.map_err(|_| StoreError::Timeout)?.map_err(|e| StoreError::from_redis(&e))?;
        read_reply(value, command.operations.len())
    }

    fn call(&self, command: &StoreCommand) -> redis::Cmd {
        let mut keys: Vec<Key> = Vec::with_capacity(command.operations.len());
        let mut places = Vec::with_capacity(command.operations.len());
        for operation in &command.operations {
            let known = keys.iter().position(|key| *key == operation.key);
            places.push(known.unwrap_or_else(|| {
                keys.push(operation.key);
                keys.len() - 1
            }));
        }
        let mut call = redis::cmd("EVALSHA");
        call.arg(&self.hash).arg(keys.len());
        for key in &keys {
            call.arg(record_name(&self.settings.namespace, key));
        }
        for (place, operation) in places.into_iter().zip(&command.operations) {
            let cost = match operation.action {
                Action::Charge { cost } => cost,
                Action::Peek => 0,
            };
            let numbers = [
                place as u64 + 1,
                cost,
                operation.label.0,
                operation.not_before.0,
                operation.not_after.0,
                operation.ceiling,
                operation.floor.used,
                operation.floor.refunded,
                u64::from(operation.enforce),
                operation.expires.0,
            ];
            for number in numbers {
                call.arg(number.min(COUNT_MAX));
            }
        }
        call
    }
}

/// The key of a record: `namespace:{caller}limit`, caller and limit in hex. The braces make the caller
/// the hash tag, so that all limits of a caller are in one slot of a cluster.
fn record_name(namespace: &str, key: &Key) -> String {
    format!("{namespace}:{{{:?}}}{:08x}", key.caller, key.limit.0)
}

/// What Redis or the script says when a record cannot be used: its key holds something else. Older
/// servers put these words behind others of their own.
const OF_ONE_RECORD: [&str; 4] =
    ["WRONGTYPE", "TIDEGATE record", "Bad data format in input", "bytes in input"];

impl StoreError {
    fn from_redis(error: &RedisError) -> Self {
        match error.kind() {
            _ if error.is_timeout() => Self::Timeout,
            _ if error.is_connection_refusal() => Self::Unreachable,
            ErrorKind::Io => Self::Broken(error.to_string()),
            // An answer came that is none; what it answers may have been carried out.
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => {
                Self::Unreadable(error.to_string())
            }
            // The script reads everything before its first write, so that an error means that nothing
            // was written; the others are found before anything is sent.
            _ => {
                let said = error.to_string();
                let of_one_record = OF_ONE_RECORD.iter().any(|words| said.contains(words));
                if of_one_record { Self::Record(said) } else { Self::Refused(said) }
            }
        }
    }
}

fn read_reply(value: Value, operations: usize) -> Result<StoreReply, StoreError> {
    let unreadable = |why: String| StoreError::Unreadable(why);
    let numbers = Vec::<u64>::from_redis_value(value).map_err(|e| unreadable(e.to_string()))?;
    match *numbers {
        [2, now, ref labels @ ..] if labels.len() == operations => Ok(StoreReply::Relabel {
            now: StoreTime(now),
            newest: labels.iter().copied().map(Label).collect(),
        }),
        [admitted @ (0 | 1), now, ref rest @ ..] if rest.len() == operations * 3 => {
            let reply = |three: &[u64]| OperationReply {
                passes: three[0] == 1,
                counts: Counts { used: three[1], refunded: three[2] },
            };
            Ok(StoreReply::Done {
                admitted: admitted == 1,
                now: StoreTime(now),
                operations: rest.chunks_exact(3).map(reply).collect(),
            })
        }
        _ => Err(unreadable(format!("{} numbers for {operations} operations", numbers.len()))),
    }
}
