//! How soon regions know each other's counts: after a long cut, and in quiet times. Real processes, real
//! QUIC on loopback; `scripts/convergence` runs it.

use std::{error::Error, io::Write as _, time::Duration};

use clap::Parser;
use hyper::Method;
use rand::RngExt as _;
use serde_json::json;
use tidegate_tests::{
    dev::{Cluster, Dev},
    ensure, eventually,
    node::Node,
};
use tokio::time::{Instant, sleep};

type Failed = Box<dyn Error>;

const POLICIES: &str = include_str!("../../bench/one-limit.toml");
/// Checks in one batch.
const BATCH: u64 = 1_000;
/// Batches under way at a time.
const AT_ONCE: usize = 4;
const PATIENCE: Duration = Duration::from_secs(120);
/// The default period.
const GOSSIP_MS: f64 = 50.0;
/// Keys that are asked for one by one at the end.
const SAMPLED: u64 = 200;

/// Measures convergence and visibility.
#[derive(Debug, Parser)]
struct Arguments {
    /// Keys that change on one side of a cut.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// How often that is measured, each time with a new cluster.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Admissions whose way to the other regions is timed.
    #[arg(long, default_value_t = 400)]
    admissions: usize,
}

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let Arguments { keys, rounds, admissions } = Arguments::parse();
    for _ in 0..rounds {
        after_a_cut(keys).await?;
    }
    if admissions > 0 {
        visibility(admissions).await?;
    }
    Ok(())
}

fn attributes(key: &str) -> [(&str, &str); 2] {
    [("api_key", key), ("route", "/api/orders")]
}

/// Changes so many keys on one side of a cut, heals it, and times how long the other side takes.
async fn after_a_cut(keys: u64) -> Result<(), Failed> {
    let cluster = Dev::new(&["eu", "us"], POLICIES).start().await;
    let (eu, us) = (cluster.node("eu-0"), cluster.node("us-0"));
    cluster.cut_off("us").await;
    let begun = Instant::now();
    charge(eu, keys).await?;
    let charged = begun.elapsed();
    eventually(PATIENCE, "the cut is noticed", async || {
        let state = us.state_of("eu").await?;
        ensure(state != "connected", || format!("{state}"))
    })
    .await;
    ensure(us.metric("tidegate_keys").await? == 0.0, || "it was no cut".into())?;
    let before = traffic(us, "bytes").await?;

    let healed = Instant::now();
    cluster.heal().await;
    let mut connected = None;
    let took = eventually(PATIENCE, "the other side knows every key", async || {
        let held = us.metric("tidegate_keys").await?;
        if held > 0.0 {
            connected.get_or_insert_with(|| healed.elapsed());
        }
        ensure(held >= keys as f64, || format!("{held} of {keys}"))?;
        Ok(healed.elapsed())
    })
    .await;
    let bytes = traffic(us, "bytes").await? - before;
    let changes = traffic(us, "changes").await?;
    for sample in 0..SAMPLED {
        let key = format!("k{}", sample * keys / SAMPLED);
        let used = us.used(&attributes(&key)).await?;
        ensure(used == 1, || format!("{key} is known as {used}"))?;
    }
    let first = connected.unwrap_or_default();
    say(&json!({
        "what": "after a cut",
        "keys": keys,
        "charged_s": charged.as_secs_f64(),
        "heal_to_first_s": first.as_secs_f64(),
        "heal_to_last_s": took.as_secs_f64(),
        "first_to_last_s": (took - first).as_secs_f64(),
        "frame_bytes_per_key": bytes / keys as f64,
        "changes_received": changes,
    }))?;
    cluster.stop().await;
    Ok(())
}

/// Charges each key once, by batches.
async fn charge(node: &Node, keys: u64) -> Result<(), Failed> {
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..AT_ONCE {
        let node = node.clone();
        workers.spawn(async move {
            for first in (0..keys).step_by(BATCH as usize).skip(worker).step_by(AT_ONCE) {
                let checks = (first..keys.min(first + BATCH)).map(|key| {
                    let key = format!("k{key}");
                    json!({ "attributes": { "api_key": key, "route": "/api/orders" }, "cost": 1 })
                });
                let answer = node.batch(&checks.collect()).await;
                ensure(answer.status == 200, || answer.text())?;
            }
            Ok::<_, String>(())
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended??;
    }
    Ok(())
}

/// All frames' bytes, or changes, that a node has received.
async fn traffic(node: &Node, what: &str) -> Result<f64, String> {
    let family = format!("tidegate_peer_{what}_total{{");
    let metrics = node.metrics().await?;
    let received = metrics
        .lines()
        .filter(|line| line.starts_with(&family) && line.contains(r#"direction="received""#));
    Ok(received.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
}

/// Times how long single admissions in `eu` take to be seen elsewhere, from the moment they were asked for.
async fn visibility(admissions: usize) -> Result<(), Failed> {
    let cluster = Dev::new(&["eu", "us", "ap"], POLICIES);
    let cluster = cluster.with(&["--wan", "typical"]).start().await;
    settled(&cluster).await;
    let eu = cluster.node("eu-0");
    let [mut in_us, mut in_ap] = [Vec::new(), Vec::new()];
    for admission in 0..admissions {
        let key = format!("v{admission}");
        let asked = Instant::now();
        let admitted = eu.spend(&attributes(&key), 1).await;
        ensure(admitted == 1, || format!("{key} was refused"))?;
        let (us, ap) = tokio::join!(
            seen(cluster.node("us-0"), &key, asked),
            seen(cluster.node("ap-0"), &key, asked),
        );
        in_us.push(us?);
        in_ap.push(ap?);
        // The next one falls into another phase of the gossip.
        sleep(Duration::from_millis(rand::rng().random_range(0..100))).await;
    }
    // One-way delays of `--wan typical`, which are exceeded by a random part of up to a fifth.
    for (to, delay_ms, mut took) in [("us", 40.0, in_us), ("ap", 90.0, in_ap)] {
        took.sort_unstable();
        let percentile = |p: usize| {
            let at = (took.len() * p).div_ceil(100).clamp(1, took.len()) - 1;
            took[at].as_secs_f64() * 1e3
        };
        say(&json!({
            "what": "visibility",
            "from": "eu",
            "to": to,
            "admissions": took.len(),
            "p50_ms": percentile(50),
            "p99_ms": percentile(99),
            "max_ms": percentile(100),
            "delay_plus_period_ms": delay_ms + GOSSIP_MS,
            "with_jitter_ms": delay_ms * 1.2 + GOSSIP_MS,
        }))?;
    }
    cluster.stop().await;
    Ok(())
}

/// Asks a node without a pause until it counts the key; how long after `asked` that was.
async fn seen(node: &Node, key: &str, asked: Instant) -> Result<Duration, String> {
    let path = format!("/v1/usage?api_key={key}&route=/api/orders");
    while asked.elapsed() < PATIENCE {
        let answer = node.ask(Method::GET, &path, &[], "").await;
        if answer.json()["policies"][0]["limits"][0]["used"] == 1 {
            return Ok(asked.elapsed());
        }
    }
    Err(format!("{} never saw {key}", node.name))
}

/// Waits until round trips are known and nothing is left from the start.
async fn settled(cluster: &Cluster) {
    for node in cluster.nodes() {
        node.ready(PATIENCE).await;
    }
    cluster.connected().await;
}

fn say(what: &serde_json::Value) -> Result<(), Failed> {
    Ok(writeln!(std::io::stdout(), "{what}")?)
}
