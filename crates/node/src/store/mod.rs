//! The regional store: one contract, kept by the memory store and by Redis.
//!
//! A store carries out commands of the core, each as one atomic step. `tests/store_contract.rs` runs one
//! suite over every implementation, and compares Redis with the memory store on random commands.

use std::fmt;

use tidegate_core::{
    calls::{Failure, NotLetThrough},
    ids::{Secret, StoreEpoch},
    store::{CallerBucket, StoreCommand, StoreReply},
    time::StoreTime,
};

pub use complaints::Complaints;
pub use doubt::Doubt;
pub use guarded::{Permit, StoreGuard};
pub use memory::MemoryStore;
pub use redis::{
    Door, GuardMaker, RedisCluster, RedisSettings, RedisStore, Tls, is_cluster, wrong_with,
};

mod complaints;
mod doubt;
mod guarded;
mod memory;
mod redis;
pub mod snapshot;

/// Why a store did not answer, and whether the step may have been carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is no connection; nothing was sent.
    #[error("the store cannot be reached")]
    Unreachable,
    /// The breaker is open; nothing was sent.
    #[error("the store failed or was too slow, and is left alone for a while")]
    Open,
    /// Too many calls are waiting already; nothing was sent.
    #[error("too many calls are waiting for the store")]
    Overload,
    /// The store refused: nothing was carried out. The message is the store's own.
    #[error("the store refused: {0}")]
    Refused(String),
    /// No server of the cluster serves the command's records at the moment: nothing was carried out.
    #[error("the cluster does not serve this caller at the moment: {0}")]
    Unserved(String),
    /// One record cannot be used: nothing was carried out. The message is the store's own.
    #[error("a record in the store is not one of ours, remove it: {0}")]
    Record(String),
    /// The store's table is full; nothing was carried out.
    #[error("the store is full: it holds as many live keys as it may, see `store.records_max`")]
    Full,
    /// No answer in time: the step may have been carried out.
    #[error("the store did not answer in time")]
    Timeout,
    /// The connection broke while waiting: the step may have been carried out.
    #[error("the connection to the store broke: {0}")]
    Broken(String),
    /// The answer was not one that the script gives: the step may have been carried out.
    #[error("the store's answer cannot be read: {0}")]
    Unreadable(String),
}

impl StoreError {
    /// What it means to the breaker, the bound on calls and the engine.
    pub const fn failure(&self) -> Failure {
        match self {
            Self::Unreachable => Failure::NotLetThrough(NotLetThrough::Unreachable),
            Self::Open => Failure::NotLetThrough(NotLetThrough::Open),
            Self::Overload => Failure::NotLetThrough(NotLetThrough::Overload),
            Self::Refused(_) => Failure::Refused,
            Self::Unserved(_) => Failure::Unserved,
            Self::Record(_) | Self::Full => Failure::Record,
            Self::Timeout => Failure::Timeout,
            Self::Broken(_) | Self::Unreadable(_) => Failure::Broken,
        }
    }

    /// Whether the step was certainly not carried out.
    pub const fn nothing_done(&self) -> bool {
        self.failure().nothing_done()
    }

    /// What is wrong with the store, as the end of a sentence that begins with it. Unlike the whole error,
    /// it repeats nothing that the store said.
    pub const fn in_short(&self) -> &'static str {
        match self {
            Self::Unreachable => "cannot be reached",
            Self::Open => "failed or was too slow, and is left alone for a while",
            Self::Overload => "has too many calls waiting already",
            Self::Refused(_) => "refused to be asked",
            Self::Unserved(_) => "does not serve this caller at the moment",
            Self::Record(_) => "holds something else in the place of a count",
            Self::Full => "is full",
            Self::Timeout => "did not answer in time",
            Self::Broken(_) => "broke the connection",
            Self::Unreadable(_) => "gave an answer that cannot be read",
        }
    }

    /// A short name, for metrics.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Open => "open",
            Self::Overload => "overload",
            Self::Refused(_) => "refused",
            Self::Unserved(_) => "unserved",
            Self::Record(_) => "record",
            Self::Full => "full",
            Self::Timeout => "timeout",
            Self::Broken(_) => "broken",
            Self::Unreadable(_) => "unreadable",
        }
    }
}

impl From<NotLetThrough> for StoreError {
    fn from(why: NotLetThrough) -> Self {
        match why {
            NotLetThrough::Unreachable => Self::Unreachable,
            NotLetThrough::Open => Self::Open,
            NotLetThrough::Overload => Self::Overload,
        }
    }
}

/// Reads what Redis answered, as bytes of its protocol.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz_reply(bytes: &[u8]) {
    redis::fuzz_reply(bytes);
}

/// A regional store of any kind.
pub enum Store {
    /// In this process.
    Memory(MemoryStore),
    /// Shared by the nodes of the region.
    Redis(Box<RedisStore>),
    /// The same, on several servers.
    Cluster(Box<RedisCluster>),
}

impl Store {
    /// Carries out one command as one atomic step.
    pub async fn apply(&self, command: &StoreCommand) -> Result<StoreReply, StoreError> {
        match self {
            Self::Memory(memory) => memory.apply(command),
            Self::Redis(redis) => redis.apply(command).await,
            Self::Cluster(cluster) => cluster.apply(command).await,
        }
    }

    /// Its clock, or that of one of its servers.
    pub async fn read_clock(&self) -> Result<StoreTime, StoreError> {
        if let Self::Cluster(cluster) = self {
            return Box::pin(cluster.read_clock()).await;
        }
        // A command without operations does nothing, and is answered with the time.
        match self.apply(&StoreCommand::default()).await? {
            StoreReply::Done { now, .. }
            | StoreReply::Relabel { now, .. }
            | StoreReply::Repeated { now, .. }
            | StoreReply::OtherRequest { now, .. } => Ok(now),
        }
    }

    /// The secret that its records are kept under: `ours`, unless an earlier node left one.
    pub async fn agree_on_secret(&self, ours: Secret) -> Result<Secret, StoreError> {
        match self {
            Self::Memory(_) => Ok(ours),
            Self::Redis(redis) => redis.agree_on_secret(ours).await,
            Self::Cluster(cluster) => cluster.agree_on_secret(ours).await,
        }
    }

    /// What it is called in the configuration.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Memory(_) => "memory",
            Self::Redis(_) | Self::Cluster(_) => "redis",
        }
    }

    /// The epochs that its buckets of callers were last seen in; none of a store that was never reached.
    pub fn epochs(&self) -> Vec<(CallerBucket, StoreEpoch)> {
        let one = |epoch| (CallerBucket::ALL, epoch);
        match self {
            Self::Memory(memory) => vec![one(memory.epoch())],
            Self::Redis(redis) => redis.epoch().map(one).into_iter().collect(),
            Self::Cluster(cluster) => cluster.epochs().collect(),
        }
    }

    /// Why it cannot be asked at the moment, if its last probe failed.
    pub fn trouble(&self) -> Option<StoreError> {
        match self {
            Self::Memory(_) => None,
            Self::Redis(redis) => redis.trouble(),
            Self::Cluster(cluster) => cluster.trouble(),
        }
    }

    /// What of it cannot be asked while the rest can, each as a sentence.
    pub fn ailing(&self) -> Vec<String> {
        match self {
            Self::Memory(_) | Self::Redis(_) => Vec::new(),
            Self::Cluster(cluster) => cluster.ailing(),
        }
    }

    /// Why what is spent by rights cannot be left to it, as far as was seen.
    pub fn doubt(&self) -> Option<Doubt> {
        match self {
            Self::Memory(_) => None,
            Self::Redis(redis) => *redis.doubt().borrow(),
            Self::Cluster(cluster) => *cluster.doubt().borrow(),
        }
    }

    /// Whether it may forget records for want of memory.
    pub fn may_evict(&self) -> bool {
        self.doubt() == Some(Doubt::Evicts)
    }

    /// Whether the store, or a part of it, can be asked at the moment.
    pub fn is_reachable(&self) -> bool {
        match self {
            Self::Memory(_) => true,
            Self::Redis(redis) => redis.is_reachable(),
            Self::Cluster(cluster) => cluster.is_reachable(),
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_been_carried_out_is_never_taken_for_not_done() {
        let said = String::new;
        for (error, nothing_done) in [
            (StoreError::Unreachable, true),
            (StoreError::Open, true),
            (StoreError::Overload, true),
            (StoreError::Refused(said()), true),
            (StoreError::Unserved(said()), true),
            (StoreError::Record(said()), true),
            (StoreError::Full, true),
            (StoreError::Timeout, false),
            (StoreError::Broken(said()), false),
            (StoreError::Unreadable(said()), false),
        ] {
            assert_eq!(error.nothing_done(), nothing_done, "{error:?}");
            if let Failure::NotLetThrough(why) = error.failure() {
                assert_eq!(StoreError::from(why), error);
            }
        }
    }
}
