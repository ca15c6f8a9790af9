//! What must be true before a node is asked, and the store's upkeep afterwards.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use tokio::{
    net,
    time::{self, MissedTickBehavior},
};
use tracing::{error, info, warn};

use super::{agreement, clocks, foreign_seeds, regions, view::View};
use crate::{
    clock::Clock,
    config::{Config, Seed},
    limiter::Limiter,
    store::{Store, StoreError},
};

/// How long start sync waits for seeds that do not answer.
const SYNC_MAX: Duration = Duration::from_secs(2);
/// How often start sync and the secret are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How often it is made sure that Redis still has the secret.
const SECRET_EVERY: Duration = Duration::from_secs(1);
/// How often broken invariants are told.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How often the memory store forgets what has expired.
const SWEEP_EVERY: Duration = Duration::from_millis(100);

/// Starts the limiter once peers have told what they know of this region, and looks after the store for
/// as long as it is polled.
pub(super) async fn upkeep(
    limiter: &Limiter,
    store: &Store,
    view: &View,
    config: &Config,
    clock: Clock,
) {
    let start = async {
        agree_on_secret(limiter, store, view).await;
        sync(view, config, clock).await;
        limiter.start();
        keep_secret(limiter, store, config).await;
    };
    tokio::join!(
        start,
        look_after(store),
        tell_broken_invariants(view),
        watch_doubt(store, view),
        clocks::watch(limiter, view),
        regions::watch(view),
        agreement::watch(view)
    );
}

/// Suspends what is spent by rights while the store's settings would make the promise false.
async fn watch_doubt(store: &Store, view: &View) {
    let mut doubt = match store {
        Store::Redis(redis) => redis.doubt(),
        Store::Cluster(cluster) => cluster.doubt(),
        Store::Memory(_) => return,
    };
    loop {
        view.engine.suspend_rights(doubt.borrow_and_update().is_some());
        if doubt.changed().await.is_err() {
            return;
        }
    }
}

/// Says in the log what the engine counted: a broken invariant is a bug, and must not go unseen.
async fn tell_broken_invariants(view: &View) {
    let mut every = time::interval(TELL_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = BTreeMap::new();
    loop {
        every.tick().await;
        let broken = view.engine.broken();
        for (invariant, times) in broken.iter().filter(|(i, n)| told.get(*i) != Some(*n)) {
            error!(%invariant, times, "an invariant was broken; the check was answered without the store");
        }
        told = broken;
    }
}

async fn look_after(store: &Store) {
    match store {
        Store::Redis(redis) => redis.keep_connected().await,
        Store::Cluster(cluster) => cluster.keep_connected().await,
        Store::Memory(memory) => {
            let mut every = time::interval(SWEEP_EVERY);
            every.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                every.tick().await;
                memory.sweep();
            }
        }
    }
}

/// Without a cluster, the nodes that share a Redis find their secret in it.
async fn agree_on_secret(limiter: &Limiter, store: &Store, view: &View) {
    let mut told = false;
    while !*view.secret_agreed.borrow() {
        match store.agree_on_secret(limiter.secret()).await {
            Ok(secret) => {
                limiter.set_secret(secret);
                view.secret_agreed.send_replace(true);
            }
            Err(reason) => {
                // Of a cluster the server that has the secret may be found later than others.
                if store.is_reachable() && reason != StoreError::Unreachable && !told {
                    told = true;
                    warn!(%reason, "cannot agree on a secret");
                }
                time::sleep(LOOK_EVERY).await;
            }
        }
    }
}

/// Without a cluster: puts the secret back into a Redis that was wiped, before another node makes its
/// own and the region counts every caller twice. Never returns.
async fn keep_secret(limiter: &Limiter, store: &Store, config: &Config) {
    if matches!(store, Store::Memory(_)) || config.cluster.is_some() {
        return std::future::pending().await;
    }
    loop {
        time::sleep(SECRET_EVERY).await;
        let ours = limiter.secret();
        // A Redis that cannot be reached is asked again, and its keeper tells of it.
        if let Ok(secret) = store.agree_on_secret(ours).await
            && secret != ours
        {
            warn!("another node left another secret in Redis; counts begin anew");
            limiter.set_secret(secret);
        }
    }
}

/// Waits until every seed has told what it knows of our region, or for two seconds.
async fn sync(view: &View, config: &Config, clock: Clock) {
    let Some(cluster) = &config.cluster else { return };
    let mut look = time::interval(LOOK_EVERY);
    let answered = async {
        let mut seeds = Vec::new();
        for seed in foreign_seeds(cluster) {
            seeds.push(addresses_of(seed).await);
        }
        let has_answered = |addresses: &Vec<SocketAddr>| {
            let peers = view.engine.peers(clock.now());
            addresses.iter().any(|address| view.network.has_answered(*address, &peers))
        };
        while !seeds.iter().all(has_answered) {
            look.tick().await;
        }
    };
    match time::timeout(SYNC_MAX, answered).await {
        Ok(()) => info!("start sync is done: every seed has answered"),
        Err(_) => info!("start sync is over: not every seed has answered in time"),
    }
}

/// Where a seed may be dialled; nowhere, if its name cannot be found.
async fn addresses_of(seed: &Seed) -> Vec<SocketAddr> {
    match seed {
        Seed::Address(address) => vec![*address],
        // Membership looks names up too, again and again, and tells what is wrong with them.
        Seed::Name(name) => net::lookup_host(name).await.map(Iterator::collect).unwrap_or_default(),
    }
}
