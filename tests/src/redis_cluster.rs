//! A Redis Cluster of a test's own: real servers, put together by commands.

use std::{ops::Range, time::Duration};

use redis::FromRedisValue;

use crate::{
    ensure, eventually,
    redis_server::{BUS_BEHIND, RedisServer},
};

/// Slots of every cluster.
const SLOTS: u16 = 16_384;
/// How long servers may take to know each other, and to agree.
const SOON: Duration = Duration::from_secs(60);
/// After which servers take one that is silent for dead, in milliseconds.
pub const NODE_TIMEOUT_MS: u64 = 1_000;
/// Keys that are moved by one command.
const KEYS_PER_MOVE: &str = "8";

/// Primaries, with their slots in equal parts, and replicas of them.
#[derive(Debug)]
pub struct RedisCluster {
    servers: Vec<RedisServer>,
    ids: Vec<String>,
    primaries: usize,
}

impl RedisCluster {
    /// Starts so many primaries, each with so many replicas, and waits until all agree that all slots are served.
    ///
    /// # Panics
    ///
    /// If that does not come about.
    pub async fn start(primaries: usize, replicas: usize) -> Self {
        Self::start_with(primaries, replicas, &[]).await
    }

    /// The same, with further arguments of each server.
    ///
    /// # Panics
    ///
    /// If that does not come about.
    pub async fn start_with(primaries: usize, replicas: usize, more: &[&str]) -> Self {
        let count = primaries * (1 + replicas);
        let mut servers = Vec::new();
        for _ in 0..count {
            servers.push(server(more).await);
        }
        let mut cluster = Self { servers, ids: Vec::new(), primaries };
        for at in 0..count {
            cluster.ids.push(cluster.ask::<String>(at, &["CLUSTER", "MYID"]).await);
            let epoch = (at + 1).to_string();
            cluster.ask::<()>(at, &["CLUSTER", "SET-CONFIG-EPOCH", &epoch]).await;
        }
        for at in 0..primaries {
            let [from, to] = [at, at + 1].map(|at| usize::from(SLOTS) * at / primaries);
            cluster.of_slots(at, "ADDSLOTS", from..to).await;
        }
        for at in 1..count {
            let [port, bus] = cluster.ports(at).map(|port| port.to_string());
            cluster.ask::<()>(0, &["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await;
        }
        for at in 0..count {
            eventually(SOON, "the servers know each other", async || {
                let nodes = cluster.try_ask::<String>(at, &["CLUSTER", "NODES"]).await?;
                let is_known =
                    |line: &&str| !line.contains("handshake") && line.contains(" connected");
                ensure(nodes.lines().filter(is_known).count() == count, || nodes.clone())
            })
            .await;
        }
        for at in primaries..count {
            let of = cluster.ids[at % primaries].clone();
            eventually(SOON, "a replica is told whom to follow", async || {
                cluster.try_ask::<()>(at, &["CLUSTER", "REPLICATE", &of]).await
            })
            .await;
            eventually(SOON, "a replica follows", async || {
                let info = cluster.try_ask::<String>(at, &["INFO", "replication"]).await?;
                ensure(info.contains("master_link_status:up"), || info.clone())
            })
            .await;
        }
        cluster.agree().await;
        cluster
    }

    /// A server that belongs to the cluster and has no slots. Returns its place.
    ///
    /// # Panics
    ///
    /// If it does not come to know the others.
    pub async fn add(&mut self) -> usize {
        let at = self.servers.len();
        self.servers.push(server(&[]).await);
        self.ids.push(self.ask::<String>(at, &["CLUSTER", "MYID"]).await);
        let [port, bus] = self.ports(at).map(|port| port.to_string());
        self.ask::<()>(0, &["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await;
        self.agree().await;
        at
    }

    /// Waits until all servers that live say that the cluster is up and that all slots are served.
    ///
    /// # Panics
    ///
    /// If that does not come about.
    pub async fn agree(&self) {
        for at in 0..self.servers.len() {
            eventually(SOON, "the servers agree", async || {
                let info = self.try_ask::<String>(at, &["CLUSTER", "INFO"]).await?;
                let known = format!("cluster_known_nodes:{}", self.servers.len());
                let is_well = ["cluster_state:ok", "cluster_slots_ok:16384", &known];
                ensure(is_well.iter().all(|well| info.contains(well)), || info.clone())
            })
            .await;
        }
    }

    /// The URL of a store in it.
    pub fn url(&self) -> String {
        let places = self.servers.iter().take(self.primaries);
        let places: Vec<_> = places.map(|server| format!("127.0.0.1:{}", server.port())).collect();
        format!("redis-cluster://{}", places.join(","))
    }

    /// One of its servers: first the primaries, then the replicas of each in turn.
    pub fn server(&self, at: usize) -> &RedisServer {
        &self.servers[at]
    }

    /// The same, to be killed and restarted.
    pub fn server_mut(&mut self, at: usize) -> &mut RedisServer {
        &mut self.servers[at]
    }

    /// How many servers there are.
    pub fn len(&self) -> usize {
        self.servers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    /// Asks a server.
    ///
    /// # Errors
    ///
    /// What it, or the network, says.
    pub async fn try_ask<T: FromRedisValue>(&self, at: usize, words: &[&str]) -> Result<T, String> {
        self.servers[at].ask(words).await.map_err(|error| error.to_string())
    }

    /// Asks a server.
    ///
    /// # Panics
    ///
    /// If it does not answer as it should.
    pub async fn ask<T: FromRedisValue>(&self, at: usize, words: &[&str]) -> T {
        let answer = self.try_ask(at, words).await;
        answer.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// The slot of a key, as a server says.
    pub async fn slot_of(&self, key: &str) -> u16 {
        self.ask(0, &["CLUSTER", "KEYSLOT", key]).await
    }

    /// The slot of a bucket of callers.
    pub async fn slot_of_bucket(&self, bucket: u16) -> u16 {
        self.slot_of(&format!("{{{bucket}}}")).await
    }

    /// The slots in which a server has records of a namespace.
    pub async fn slots_of(&self, namespace: &str, at: usize) -> Vec<u16> {
        let keys: Vec<String> = self.ask(at, &["KEYS", &format!("{namespace}:{{*}}*")]).await;
        let mut slots = Vec::new();
        for key in keys.iter().filter(|key| !key.ends_with("}epoch")) {
            slots.push(self.slot_of(key).await);
        }
        slots.sort_unstable();
        slots.dedup();
        slots
    }

    /// Which server says that it has a slot itself.
    ///
    /// # Panics
    ///
    /// If none does.
    pub async fn owner(&self, slot: u16) -> usize {
        for at in 0..self.servers.len() {
            let Ok(nodes) = self.try_ask::<String>(at, &["CLUSTER", "NODES"]).await else {
                continue;
            };
            if nodes.lines().any(|line| line.contains("myself,master") && has(line, slot)) {
                return at;
            }
        }
        panic!("nobody has slot {slot}")
    }

    /// Says that a slot moves, as the first step of moving it: from now on what is not there any more is asked for at
    /// the other.
    pub async fn begin_to_move(&self, slot: u16, from: usize, to: usize) {
        let slot = slot.to_string();
        let [source, target] = [from, to].map(|at| self.ids[at].as_str());
        self.ask::<()>(to, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", source]).await;
        self.ask::<()>(from, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", target]).await;
    }

    /// Moves some keys of a slot that is moving. Returns whether there may be more.
    pub async fn move_some(&self, slot: u16, from: usize, to: usize) -> bool {
        let words = ["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), KEYS_PER_MOVE];
        let keys = self.ask::<Vec<String>>(from, &words).await;
        self.move_keys(&keys, from, to).await;
        !keys.is_empty()
    }

    /// Moves keys.
    pub async fn move_keys(&self, keys: &[String], from: usize, to: usize) {
        if keys.is_empty() {
            return;
        }
        let port = self.servers[to].port().to_string();
        let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
        words.extend(keys.iter().map(String::as_str));
        // One that has expired meanwhile is none to be moved.
        self.ask::<String>(from, &words).await;
    }

    /// Says that a slot has moved, and has everybody know.
    pub async fn end_move(&self, slot: u16, from: usize, to: usize) {
        let words = ["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", &self.ids[to]];
        self.ask::<()>(to, &words).await;
        self.ask::<()>(from, &words).await;
        for at in (0..self.servers.len()).filter(|at| *at != from && *at != to) {
            // Replicas are told by their primary.
            let _ = self.try_ask::<()>(at, &words).await;
        }
    }

    /// Moves a slot with all its keys.
    pub async fn move_slot(&self, slot: u16, from: usize, to: usize) {
        self.begin_to_move(slot, from, to).await;
        while self.move_some(slot, from, to).await {}
        self.end_move(slot, from, to).await;
    }

    /// Gives all slots of a primary that is gone to another, which has none of the records, and has all others forget
    /// the one that is gone.
    ///
    /// # Panics
    ///
    /// If they do not come to agree.
    pub async fn give_away(&self, gone: usize, to: usize) {
        let [from, end] = [gone, gone + 1].map(|at| usize::from(SLOTS) * at / self.primaries);
        let others: Vec<_> = (0..self.servers.len()).filter(|at| *at != gone).collect();
        for at in &others {
            // Whoever knows that the slots are somebody's does not take them.
            self.of_slots(*at, "DELSLOTS", from..end).await;
        }
        self.of_slots(to, "ADDSLOTS", from..end).await;
        self.ask::<String>(to, &["CLUSTER", "BUMPEPOCH"]).await;
        for at in &others {
            eventually(SOON, "the others agree", async || {
                // One that is forgotten may be told of again until everybody has forgotten it.
                let _ = self.try_ask::<()>(*at, &["CLUSTER", "FORGET", &self.ids[gone]]).await;
                let info = self.try_ask::<String>(*at, &["CLUSTER", "INFO"]).await?;
                let is_well =
                    info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384");
                ensure(is_well, || info.clone())
            })
            .await;
        }
    }

    /// Tells a server that it, or nobody that it knows of, has these slots; one by one, as all versions know it.
    async fn of_slots(&self, at: usize, word: &str, slots: Range<usize>) {
        let slots: Vec<_> = slots.map(|slot| slot.to_string()).collect();
        let words = ["CLUSTER", word].into_iter().chain(slots.iter().map(String::as_str));
        self.ask::<()>(at, &words.collect::<Vec<_>>()).await;
    }

    fn ports(&self, at: usize) -> [u16; 2] {
        let port = self.servers[at].port();
        [port, port + BUS_BEHIND]
    }
}

/// Whether a line of `CLUSTER NODES` has a slot in it.
fn has(line: &str, slot: u16) -> bool {
    line.split_ascii_whitespace().skip(8).any(|range| {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        let range = from.parse::<u16>().ok().zip(to.parse::<u16>().ok());
        range.is_some_and(|(from, to)| (from..=to).contains(&slot))
    })
}

/// A server that knows no other yet. The others of a cluster go on without one that is gone.
async fn server(more: &[&str]) -> RedisServer {
    let timeout = NODE_TIMEOUT_MS.to_string();
    let own = [
        "--cluster-node-timeout",
        &timeout,
        "--cluster-require-full-coverage",
        "no",
        "--repl-diskless-sync-delay",
        "0",
    ];
    RedisServer::start_in_cluster(&[&own, more].concat()).await.expect("redis-server")
}
