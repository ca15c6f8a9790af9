//! Stores of several servers that break under load: two nodes of a region, many callers, and their books.
//!
//! Tests hold the figures against what was promised; `scripts/store-faults` prints them for people.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::{
    ensure, eventually,
    load::{Asker, Seen},
    node::Node,
    redis_cluster::RedisCluster,
    redis_server::RedisServer,
    region::heard_each_other,
    sentinel::Sentinel,
    site::{Served, Site},
};

/// How long anything may take to come about.
const SOON: Duration = Duration::from_secs(60);
/// `store.timeout`.
pub const DEADLINE: Duration = Duration::from_millis(100);
/// Callers of each kind: so many that each server of a cluster has some.
const CALLERS: usize = 8;
/// Slots that are moved one after the other.
const SLOTS_MOVED: usize = 12;

/// A quota that no test spends, and one that is spent before anything breaks.
pub const POLICIES: &str = r#"
[[policy]]
name = "wide"
match = { route = "/wide" }
key = ["api_key"]
on_store_failure = "degrade"
[[policy.limit]]
name = "quota"
quantity = 100000000
window = "400d"

[[policy]]
name = "spent"
match = { route = "/spent" }
key = ["api_key"]
on_store_failure = "degrade"
[[policy.limit]]
name = "quota"
quantity = 20
window = "400d"
"#;

type Caller = &'static [(&'static str, &'static str)];

/// What a fault came to.
#[derive(Debug, Clone)]
pub struct Figures {
    /// Which fault.
    pub fault: &'static str,
    /// Admissions of what was spent.
    pub wrong: u64,
    /// Admissions that are counted nowhere.
    pub lost: u64,
    /// What is counted beyond the admissions.
    pub charged_twice: u64,
    /// Answers that were no decisions.
    pub errors: u64,
    /// Answers that the store did not give.
    pub degraded: u64,
    /// All answers.
    pub answers: u64,
    /// The slowest answer.
    pub slowest: Duration,
    /// From the fault until only the store answered.
    pub normal_after: Duration,
}

impl Figures {
    /// One line of JSON.
    pub fn line(&self) -> String {
        json!({
            "fault": self.fault, "wrong_admits": self.wrong, "lost": self.lost,
            "charged_twice": self.charged_twice, "errors": self.errors, "degraded": self.degraded,
            "answers": self.answers, "slowest_ms": self.slowest.as_millis() as u64,
            "normal_after_ms": self.normal_after.as_millis() as u64,
        })
        .to_string()
    }

    /// One row of the table in `docs/faults.md`.
    pub fn row(&self) -> String {
        let Self { fault, wrong, lost, errors, degraded, answers, normal_after, .. } = self;
        let normal = normal_after.as_millis();
        format!("| {fault} | {wrong} | {lost} | {errors} | {degraded} of {answers} | {normal} ms |")
    }

    /// What must be so of every fault.
    ///
    /// # Panics
    ///
    /// If it is not.
    pub fn assert_exact(&self) {
        assert_eq!(self.wrong, 0, "of what was spent: {self:?}");
        assert_eq!((self.lost, self.charged_twice), (0, 0), "each is charged once: {self:?}");
        assert_eq!(self.errors, 0, "everybody was answered: {self:?}");
    }
}

/// The heading of the rows.
pub const HEADING: &str = "| fault | wrong admits | lost | errors | without the store | normal after |\n|---|---|---|---|---|---|";

/// Two nodes of a region, and who asks them.
struct Region {
    nodes: [Served; 2],
    wide: Vec<(Caller, Asker)>,
    spent: Vec<Asker>,
    /// What was admitted of the plenty before, of each caller.
    before: u64,
    _site: Site,
}

/// Facts that live as long as the test.
fn caller(number: usize, route: &'static str) -> Caller {
    let key: &'static str = format!("k{number}").leak();
    Box::leak(Box::new([("api_key", key), ("route", route)]))
}

impl Region {
    /// Starts nodes whose store is at this URL, and asks them until they know what they have admitted.
    async fn start(url: &str) -> Self {
        let site = Site::new(POLICIES);
        let places = [site.place("eu", "eu-0"), site.place("eu", "eu-1")];
        let timeout = DEADLINE.as_millis();
        // Only what is slow by design may count as slow, whatever else this machine does.
        let store = format!(
            "kind = \"redis\"\nurl = \"{url}\"\ntimeout = \"{timeout}ms\"\n[store.breaker]\np95 = \"80ms\""
        );
        let config = |at: usize| site.config_with(&places[at], &[&places[1 - at]], &store);
        let nodes = [site.serve(&places[0], &config(0)), site.serve(&places[1], &config(1))];
        for served in &nodes {
            served.node.ready(SOON).await;
            eventually(SOON, "the store is whole", async || {
                let (_, body) = served.node.readyz().await?;
                ensure(body["store"] == "ok", || body.to_string())
            })
            .await;
        }
        let mut before = 0;
        for number in 0..CALLERS {
            let mut spent = 0;
            for served in &nodes {
                before += served.node.spend(caller(number, "/wide"), 5).await;
                spent += served.node.spend(caller(number, "/spent"), 20).await;
            }
            assert_eq!(spent, 20);
        }
        heard_each_other(&[&nodes[0].node, &nodes[1].node]).await;
        let each = (0..CALLERS).flat_map(|number| [(number, 0), (number, 1)]);
        let wide = each.map(|(number, at): (usize, usize)| {
            let caller = caller(number, "/wide");
            (caller, Asker::start(&nodes[at].node, caller))
        });
        let wide = wide.collect();
        let spent = (0..CALLERS)
            .map(|number| Asker::start(&nodes[number % 2].node, caller(number, "/spent")))
            .collect();
        let region = Self { wide, spent, before, nodes, _site: site };
        region.normal().await;
        region
    }

    fn askers(&self) -> impl Iterator<Item = &Asker> {
        self.wide.iter().map(|(_, asker)| asker).chain(&self.spent)
    }

    /// Waits until somebody is answered without the store.
    async fn degraded(&self) {
        let sum = || self.askers().map(|asker| asker.seen().degraded).sum::<u64>();
        let before = sum();
        eventually(SOON, "answers without the store", async || {
            ensure(sum() > before, || "none".into())
        })
        .await;
    }

    /// Waits until all have answers of the store only; since when.
    async fn normal(&self) -> Instant {
        for asker in self.askers() {
            asker.await_anew();
        }
        let mut since = Instant::now();
        for asker in self.askers() {
            since = since.max(asker.normal(SOON).await);
        }
        since
    }

    /// Waits until all is well again since the fault, stops, and compares what is counted with what was answered.
    async fn settle(self, fault: &'static str, began: Instant) -> Figures {
        let normal_after = self.normal().await.saturating_duration_since(began);
        let mut all: Vec<Seen> = Vec::new();
        let mut admitted = self.before;
        let mut callers = Vec::new();
        for (caller, asker) in self.wide {
            let seen = asker.stop().await;
            admitted += seen.admitted;
            callers.push(caller);
            all.push(seen);
        }
        let mut wrong = 0;
        for asker in self.spent {
            let seen = asker.stop().await;
            wrong += seen.admitted;
            all.push(seen);
        }
        callers.dedup();
        let mut used = 0;
        for served in &self.nodes {
            used = eventually(SOON, "every admission is known", async || {
                let used = used_by(&served.node, &callers).await?;
                ensure(used >= admitted, || format!("{used} of {admitted}")).map(|()| used)
            })
            .await;
        }
        for served in self.nodes {
            served.stop().await;
        }
        for error in all.iter().flat_map(|seen| &seen.errors) {
            eprintln!("{fault}: {error}");
        }
        Figures {
            fault,
            wrong,
            lost: admitted.saturating_sub(used),
            charged_twice: used.saturating_sub(admitted),
            errors: all.iter().map(|seen| seen.errors.len() as u64).sum(),
            degraded: all.iter().map(|seen| seen.degraded).sum(),
            answers: all.iter().map(|seen| seen.answers).sum(),
            slowest: all.iter().map(|seen| seen.slowest).max().unwrap_or_default(),
            normal_after,
        }
    }
}

async fn used_by(node: &Node, callers: &[Caller]) -> Result<u64, String> {
    let mut used = 0;
    for caller in callers {
        used += node.used(caller).await?;
    }
    Ok(used)
}

/// Slots with records in them move from one server to another, and on, under load.
///
/// # Panics
///
/// If it does not come to an end.
pub async fn slots_move() -> Figures {
    let cluster = RedisCluster::start(3, 0).await;
    let region = Region::start(&cluster.url()).await;
    let began = Instant::now();
    let mut moved = 0;
    let mut from = 0;
    while moved < SLOTS_MOVED {
        let to = (from + 1) % 3;
        for slot in cluster.slots_of("tidegate", from).await {
            cluster.move_slot(slot, from, to).await;
            moved += 1;
        }
        from = to;
    }
    cluster.agree().await;
    region.settle("slots of a cluster move under load", began).await
}

/// A primary of a cluster is killed, and its replica is promoted.
///
/// # Panics
///
/// If it does not come to an end.
pub async fn primary_with_replica_lost() -> Figures {
    let mut cluster = RedisCluster::start(3, 1).await;
    let region = Region::start(&cluster.url()).await;
    let began = Instant::now();
    cluster.server_mut(0).kill().expect("killed");
    region.degraded().await;
    eventually(SOON, "the replica is promoted", async || {
        let info = cluster.try_ask::<String>(3, &["INFO", "replication"]).await?;
        ensure(info.contains("role:master"), || info.clone())
    })
    .await;
    region.settle("a cluster's primary is killed, its replica promoted", began).await
}

/// A primary of a cluster stands still until its replica is promoted, and then goes on: it finds what was sent to it in
/// its sockets, and that it is no primary any more.
///
/// # Panics
///
/// If it does not come to an end.
pub async fn primary_stands_still_until_it_is_replaced() -> Figures {
    let cluster = RedisCluster::start(3, 1).await;
    let region = Region::start(&cluster.url()).await;
    let began = Instant::now();
    cluster.server(0).pause().expect("paused");
    region.degraded().await;
    eventually(SOON, "the replica is promoted", async || {
        let info = cluster.try_ask::<String>(3, &["INFO", "replication"]).await?;
        ensure(info.contains("role:master"), || info.clone())
    })
    .await;
    region.normal().await;
    cluster.server(0).resume().expect("resumed");
    eventually(SOON, "it is a replica", async || {
        let info = cluster.try_ask::<String>(0, &["INFO", "replication"]).await?;
        ensure(info.contains("role:slave"), || info.clone())
    })
    .await;
    region.settle("a cluster's primary stands still, is replaced, and goes on", began).await
}

/// A primary of a cluster that has no replica is killed, and restarted empty.
///
/// # Panics
///
/// If it does not come to an end.
pub async fn primary_without_replica_restarted() -> Figures {
    let mut cluster = RedisCluster::start(3, 0).await;
    let region = Region::start(&cluster.url()).await;
    let began = Instant::now();
    cluster.server_mut(0).kill().expect("killed");
    region.degraded().await;
    cluster.server_mut(0).restart().await.expect("restarted");
    region.settle("a cluster's primary without replica is killed, restarted empty", began).await
}

/// A primary of a cluster that has no replica is killed for good, and the others are given its slots.
///
/// # Panics
///
/// If it does not come to an end.
pub async fn slots_of_a_lost_primary_given_away() -> Figures {
    let mut cluster = RedisCluster::start(3, 0).await;
    let region = Region::start(&cluster.url()).await;
    let began = Instant::now();
    cluster.server_mut(0).kill().expect("killed");
    region.degraded().await;
    cluster.give_away(0, 1).await;
    region
        .settle("a cluster's primary without replica is killed, its slots given to another", began)
        .await
}

/// The primary that sentinels watch is killed, and its replica is promoted.
///
/// # Panics
///
/// If it does not come to an end.
pub async fn sentinels_primary_lost() -> Figures {
    let mut first = RedisServer::start().await.expect("redis-server");
    let port = first.port().to_string();
    let second =
        RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]).await.expect("one more");
    let sentinel = Sentinel::of(first.port());
    eventually(SOON, "the sentinel knows primary and replica", async || {
        let info =
            second.ask::<String>(&["INFO", "replication"]).await.map_err(|e| e.to_string())?;
        ensure(info.contains("master_link_status:up"), || info)?;
        let known = sentinel.ask::<redis::Value>(&["replicas", "main"]).await?;
        ensure(format!("{known:?}").contains(&second.port().to_string()), || format!("{known:?}"))
    })
    .await;
    let region = Region::start(&sentinel.url()).await;
    let began = Instant::now();
    first.kill().expect("killed");
    region.degraded().await;
    region.settle("sentinels' primary is killed, its replica promoted", began).await
}
