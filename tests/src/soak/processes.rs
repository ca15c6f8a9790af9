//! Kills of nodes, kills and stalls and wipes of Redis, and changes of the policy file: one after the
//! other, each survived before the next.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use rand::{RngExt, rngs::StdRng};
use tokio::time::{Instant, sleep};

use super::{load::Load, memory::Watch, network::rest, routes};
use crate::{
    child,
    dev::Cluster,
    ensure, eventually,
    node::Node,
    region::{ask_redis, heard_each_other, of, redis_pid},
};

/// How long a process may take to be started again, and its store to be reached.
const RETURN: Duration = Duration::from_secs(30);
/// Between two blows.
const CALM: (u64, u64) = (300, 3_000);
/// By how much a replica that takes the place of its primary is behind.
const BEHIND: (u64, u64) = (50, 3_000);
/// How long a Redis stands still.
const STALL: (u64, u64) = (100, 3_000);

/// What the blows fall on.
pub(super) struct Blows<'a> {
    pub(super) cluster: &'a mut Cluster,
    pub(super) load: &'a Load,
    pub(super) watch: &'a Watch,
    pub(super) regions: &'a [&'static str],
    /// Nodes that are never killed: their memory is watched.
    pub(super) spared: &'a [String],
}

impl Blows<'_> {
    /// Strikes until `end`; how often in which way. Afterwards everything runs again.
    pub(super) async fn strike(
        mut self,
        end: Instant,
        mut random: StdRng,
    ) -> BTreeMap<&'static str, u64> {
        let mut done = BTreeMap::new();
        let mut version = 0;
        loop {
            rest(&mut random, CALM, end).await;
            if Instant::now() >= end {
                return done;
            }
            let region = self.regions[random.random_range(0..self.regions.len())];
            let kind = match random.random_range(0..12) {
                0..4 => {
                    self.kill_a_node(region, &mut random).await;
                    "node killed"
                }
                4..6 => {
                    kill_the_redis(self.cluster, region).await;
                    "Redis killed"
                }
                6..8 => {
                    stall_the_redis(self.cluster, region, &mut random).await;
                    "Redis stalled"
                }
                8..10 => {
                    wipe_the_redis(self.cluster, region).await;
                    "Redis wiped"
                }
                10 => {
                    version += 1;
                    self.change_the_policies(version).await;
                    "policies changed"
                }
                _ => {
                    self.break_the_policies(version).await;
                    "policies broken"
                }
            };
            *done.entry(kind).or_default() += 1;
        }
    }

    async fn kill_a_node(&mut self, region: &str, random: &mut StdRng) {
        let nodes = of(self.cluster, region);
        let mortal: Vec<_> =
            nodes.iter().filter(|node| !self.spared.contains(&node.name)).collect();
        let Some(node) = mortal.get(random.random_range(0..mortal.len().max(1))) else { return };
        let name = node.name.clone();
        for node in &nodes {
            node.ready(RETURN).await;
        }
        // What clients of the quiet routes were told is known to the sibling before the node dies. The
        // other routes go on: there are requests under way.
        let quiet = self.load.quiet(&name).await;
        heard_each_other(&nodes).await;
        let before = self.cluster.said_of(&name).clone();
        self.load.ledger.about_to_die(&name);
        child::kill(before.pid);
        self.load.ledger.has_died(&name);
        let after = self.cluster.next_ready().await;
        assert_eq!(
            (after.node, after.restarts),
            (before.node, before.restarts + 1),
            "only nodes that are killed are started again"
        );
        self.watch.restarted(&name);
        // What the sibling knew of the dead one must have come before the sibling may die.
        heard_each_other(&of(self.cluster, region)).await;
        drop(quiet);
    }

    async fn change_the_policies(&self, version: usize) {
        let hashes = async || {
            let mut hashes = BTreeSet::new();
            for node in self.cluster.nodes() {
                hashes.insert(node.cluster().await?["policy_hash"].to_string());
            }
            Ok::<_, String>(hashes)
        };
        let before = hashes().await.expect("every node runs");
        self.cluster.write_policies(&routes::policies(version));
        eventually(RETURN, "the changed policies hold everywhere", async || {
            let now = hashes().await?;
            ensure(now.len() == 1 && now != before, || format!("{now:?} after {before:?}"))
        })
        .await;
    }

    /// Writes a file that is none, sees it rejected, and takes it back.
    async fn break_the_policies(&self, version: usize) {
        let rejected = async |node: &Node| {
            let series = r#"tidegate_policy_reload_total{result="rejected"}"#;
            // A series is there from the first time on.
            Ok::<_, String>(metric_of(&node.metrics().await?, series))
        };
        let mut before = Vec::new();
        for node in self.cluster.nodes() {
            before.push((node, rejected(node).await.expect("every node runs")));
        }
        self.cluster.write_policies("[[policy]]\nname = \"half a po");
        for (node, before) in before {
            eventually(RETURN, &format!("{} rejects half a policy", node.name), async || {
                let now = rejected(node).await?;
                ensure(now > before, || format!("{now} rejected"))
            })
            .await;
        }
        self.cluster.write_policies(&routes::policies(version));
    }
}

/// Kills the Redis of a region, and waits until it is back and used.
pub(super) async fn kill_the_redis(cluster: &Cluster, region: &str) {
    let before = redis_pid(cluster, region).await.expect("the Redis runs");
    child::kill(before);
    eventually(RETURN, &format!("the Redis of {region} is back"), async || {
        let now = redis_pid(cluster, region).await?;
        ensure(now != before, || "it is the same".into())
    })
    .await;
    all_ready(cluster, region).await;
}

/// Has the Redis of a region be again what it was a while ago, in another history: to its nodes that is a replica
/// that was behind and took its place.
pub(super) async fn roll_the_redis_back(cluster: &Cluster, region: &str, random: &mut StdRng) {
    ask_redis::<()>(cluster, region, &["SAVE"]).await.expect("a Redis that runs can write a dump");
    sleep(Duration::from_millis(random.random_range(BEHIND.0..BEHIND.1))).await;
    kill_the_redis(cluster, region).await;
    let settings = ask_redis::<Vec<String>>(cluster, region, &["CONFIG", "GET", "dir"]).await;
    let folder = settings.expect("it says where its dump is").swap_remove(1);
    // Or it would be this again whenever it is killed.
    fs::remove_file(Path::new(&folder).join("dump.rdb")).expect("there is a dump");
}

/// Has the Redis of a region stand still for a while.
pub(super) async fn stall_the_redis(cluster: &Cluster, region: &str, random: &mut StdRng) {
    let pid = redis_pid(cluster, region).await.expect("the Redis runs");
    child::stand_still(pid);
    sleep(Duration::from_millis(random.random_range(STALL.0..STALL.1))).await;
    child::go_on(pid);
    all_ready(cluster, region).await;
}

/// Has the Redis of a region forget everything.
pub(super) async fn wipe_the_redis(cluster: &Cluster, region: &str) {
    let wiped = ask_redis::<()>(cluster, region, &["FLUSHALL"]).await;
    wiped.expect("a Redis that runs can be wiped");
}

/// Waits until a region can decide again.
pub(super) async fn all_ready(cluster: &Cluster, region: &str) {
    for node in of(cluster, region) {
        node.ready(RETURN).await;
    }
}

/// Kills a node without a warning, and waits until it is started again.
pub(super) async fn kill_and_await(cluster: &mut Cluster, name: &str) {
    let before = cluster.said_of(name).clone();
    child::kill(before.pid);
    let after = cluster.next_ready().await;
    assert_eq!(
        (after.node, after.restarts),
        (before.node, before.restarts + 1),
        "only nodes that are killed are started again"
    );
}

/// The value of a series, 0 if it is not there.
fn metric_of(metrics: &str, series: &str) -> f64 {
    let value = metrics.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
    value.unwrap_or(0.0)
}
