//! A Redis that breaks under load and comes back: two nodes of a region, everything that can be wrong
//! with their store, and what their clients see of it.
//!
//! Each test prints a line of JSON, from which `docs/faults.md` has its figures.

use std::{
    io::{self, Write},
    time::Duration,
};

use serde_json::json;
use tidegate_tests::{
    ensure, eventually,
    faulted::{DEADLINE, POLICIES},
    forwarder::Forwarder,
    load::{Asker, Seen},
    node::Node,
    redis_server::RedisServer,
    site::{Served, Site},
};
use tokio::time::Instant;

const SOON: Duration = Duration::from_secs(10);
/// What a machine that is busy with other tests may add to it.
const BUSY: Duration = Duration::from_secs(5);

const WIDE: [(&str, &str); 2] = [("api_key", "k"), ("route", "/wide")];
const OTHER: [(&str, &str); 2] = [("api_key", "l"), ("route", "/wide")];
const SPENT: [(&str, &str); 2] = [("api_key", "k"), ("route", "/spent")];

/// Two nodes on one Redis, and who asks them.
struct Region {
    nodes: [Served; 2],
    /// Who asks for what there is plenty of, at each node; and for what there is nothing left of.
    wide: [Asker; 4],
    spent: [Asker; 2],
    /// What was admitted of the plenty before.
    before: u64,
    _site: Site,
}

impl Region {
    /// Starts nodes whose store is at this URL, and asks them until they know what they have admitted.
    async fn start(url: &str) -> Self {
        // Only what is slow by design may count as slow, whatever else this machine does.
        Self::start_with(url, "p95 = \"80ms\"").await
    }

    async fn start_with(url: &str, breaker: &str) -> Self {
        let site = Site::new(POLICIES);
        let places = [site.place("eu", "eu-0"), site.place("eu", "eu-1")];
        let timeout = DEADLINE.as_millis();
        let store = format!(
            "kind = \"redis\"
url = \"{url}\"
timeout = \"{timeout}ms\"
[store.breaker]
{breaker}"
        );
        let seeds = [&places[1], &places[0]];
        let config = |at: usize| site.config_with(&places[at], &[seeds[at]], &store);
        let nodes = [site.serve(&places[0], &config(0)), site.serve(&places[1], &config(1))];
        for served in &nodes {
            served.node.ready(SOON).await;
        }
        let mut before = 0;
        for served in &nodes {
            before += served.node.spend(&WIDE, 20).await;
            served.node.spend(&SPENT, 20).await;
        }
        for (to, from) in [(0, "eu-1"), (1, "eu-0")] {
            hears(&nodes[to].node, from).await;
        }
        let wide = [0, 1, 0, 1].map(|at: usize| Asker::start(&nodes[at].node, &WIDE));
        let spent = [0, 1].map(|at: usize| Asker::start(&nodes[at].node, &SPENT));
        let region = Self { wide, spent, before, nodes, _site: site };
        region.normal().await;
        region
    }

    fn node(&self, at: usize) -> &Node {
        &self.nodes[at].node
    }

    /// Waits until both nodes answer without the store.
    async fn degraded(&self) {
        for asker in &self.wide {
            let before = asker.seen().degraded;
            asker.sees(SOON, "answers without the store", |seen| seen.degraded > before).await;
        }
    }

    /// Waits until both nodes' breakers are open.
    async fn open(&self) {
        for served in &self.nodes {
            eventually(SOON, "the breaker opens", async || {
                let state = served.node.metric("tidegate_breaker_state").await?;
                ensure(state == 2.0, || format!("{state}"))
            })
            .await;
        }
    }

    /// Waits until both nodes have answers of the store only; since when.
    async fn normal(&self) -> Instant {
        for asker in self.wide.iter().chain(&self.spent) {
            asker.await_anew();
        }
        let mut since = Instant::now();
        for asker in self.wide.iter().chain(&self.spent) {
            since = since.max(asker.normal(SOON).await);
        }
        since
    }

    /// How often the breakers have opened.
    async fn opened(&self) -> f64 {
        let mut sum = 0.0;
        for served in &self.nodes {
            let text = served.node.metrics().await.expect("metrics");
            let values = text.lines().filter_map(|line| {
                line.strip_prefix("tidegate_breaker_opened_total{")?.split_once(' ')
            });
            sum += values.map(|(_, value)| value.parse::<f64>().expect("a number")).sum::<f64>();
        }
        sum
    }

    /// Waits until all is well again since `healed`, stops, and sees that the books are right: nothing
    /// was admitted of what was spent, everybody was answered, and each admission is charged once.
    async fn settle(self, fault: &str, healed: Instant) -> Vec<Seen> {
        let normal = self.normal().await.saturating_duration_since(healed);
        let (mut seen, wide) = (Vec::new(), self.wide.len());
        for asker in self.wide.into_iter().chain(self.spent) {
            seen.push(asker.stop().await);
        }
        let admitted_by = |seen: &[Seen]| seen.iter().map(|seen| seen.admitted).sum::<u64>();
        let nodes = [&self.nodes[0].node, &self.nodes[1].node];
        let admitted = self.before + admitted_by(&seen[..wide]);
        let wrong = admitted_by(&seen[wide..]);
        let errors: Vec<_> = seen.iter().flat_map(|seen| &seen.errors).collect();
        let mut used = 0;
        for node in nodes {
            used = eventually(SOON, "every admission is known", async || {
                let used = node.used(&WIDE).await?;
                ensure(used >= admitted, || format!("{used} of {admitted}")).map(|()| used)
            })
            .await;
        }
        let degraded: u64 = seen.iter().map(|seen| seen.degraded).sum();
        let slowest = seen.iter().map(|seen| seen.slowest).max().unwrap_or_default();
        let figures = json!({
            "fault": fault, "wrong_admits": wrong, "lost": admitted.saturating_sub(used),
            "charged_twice": used.saturating_sub(admitted), "errors": errors.len(),
            "degraded": degraded, "admitted": admitted,
            "slowest_ms": slowest.as_millis() as u64,
            "normal_after_ms": normal.as_millis() as u64,
        });
        writeln!(io::stdout(), "{figures}").expect("standard output takes a line");
        assert_eq!(errors, Vec::<&String>::new());
        assert_eq!(wrong, 0, "of what was spent");
        assert_eq!(used, admitted, "each admission is charged exactly once");
        assert!(slowest <= DEADLINE + BUSY, "{slowest:?}");
        for served in self.nodes {
            served.stop().await;
        }
        seen
    }
}

/// Waits until a node knows what another one has admitted so far: a frame that arrives may have been on
/// its way already, the one after it has been made since.
async fn hears(node: &Node, from: &str) {
    let series =
        format!(r#"tidegate_peer_frames_total{{region="eu",node="{from}",direction="received"}}"#);
    let frames = async || Ok::<_, String>(node.metric(&series).await.unwrap_or_default());
    let before = frames().await.expect("a number");
    eventually(SOON, &format!("{} hears {from}", node.name), async || {
        let now = frames().await?;
        ensure(now >= before + 2.0, || format!("{now} frames after {before}"))
    })
    .await;
}

#[tokio::test]
async fn killed_and_restarted_empty() {
    let mut redis = RedisServer::start().await.unwrap();
    let region = Region::start(&redis.url()).await;
    redis.kill().unwrap();
    region.degraded().await;
    region.open().await;
    eventually(SOON, "the node says that its store is gone", async || {
        let (status, body) = region.node(0).readyz().await?;
        ensure(status == 503 && body["store"] == "unreachable", || format!("{status} {body}"))
    })
    .await;
    let healed = Instant::now();
    redis.restart().await.unwrap();
    let seen = region.settle("killed, restarted empty", healed).await;
    assert!(seen.iter().all(|seen| seen.degraded > 0));
}

#[tokio::test]
async fn killed_and_restarted_with_what_it_had() {
    let mut redis =
        RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).await.unwrap();
    let region = Region::start(&redis.url()).await;
    redis.kill().unwrap();
    region.degraded().await;
    let healed = Instant::now();
    redis.restart().await.unwrap();
    region.settle("killed, restarted with its data", healed).await;
}

/// Calls that wait when it stops are ambiguous: a paused Redis carries them out when it goes on, long
/// after they were answered without it.
#[tokio::test]
async fn paused() {
    let redis = RedisServer::start().await.unwrap();
    let region = Region::start(&redis.url()).await;
    redis.pause().unwrap();
    region.open().await;
    // Now nobody waits any more.
    let asked = region.wide[0].seen().degraded_times.len();
    region.wide[0].sees(SOON, "more answers", |seen| seen.degraded_times.len() >= asked + 50).await;
    let mut times = region.wide[0].seen().degraded_times.split_off(asked + 1);
    times.sort_unstable();
    let median = times[times.len() / 2];
    assert!(median < DEADLINE / 4, "{median:?}");
    let timeouts =
        region.node(0).metric(r#"tidegate_store_errors_total{kind="timeout"}"#).await.unwrap();
    assert!(timeouts > 0.0);
    let healed = Instant::now();
    redis.resume().unwrap();
    region.settle("paused (SIGSTOP)", healed).await;
}

/// Pauses that no breaker ends: when Redis goes on, it finds late calls of one node beside calls of the
/// other that know already what was answered in their place.
#[tokio::test]
async fn paused_again_and_again_without_a_breaker() {
    let redis = RedisServer::start().await.unwrap();
    let patient = "p95 = \"off\"\nin_a_row = 1000\nfailures = 100";
    let region = Region::start_with(&redis.url(), patient).await;
    let mut healed = Instant::now();
    for _ in 0..5 {
        let before: Vec<_> = region.wide.iter().map(|asker| asker.seen().degraded).collect();
        redis.pause().unwrap();
        for (asker, before) in region.wide.iter().zip(before) {
            asker.sees(SOON, "a few deadlines", |seen| seen.degraded >= before + 3).await;
        }
        healed = Instant::now();
        redis.resume().unwrap();
        region.normal().await;
    }
    region.settle("paused five times for three deadlines, no breaker", healed).await;
}

#[tokio::test]
async fn wiped() {
    let redis = RedisServer::start().await.unwrap();
    let region = Region::start(&redis.url()).await;
    let healed = Instant::now();
    redis.ask::<()>(&["FLUSHALL"]).await.unwrap();
    region.settle("wiped (FLUSHALL)", healed).await;
}

#[tokio::test]
async fn its_scripts_flushed() {
    let redis = RedisServer::start().await.unwrap();
    let region = Region::start(&redis.url()).await;
    let healed = Instant::now();
    redis.ask::<()>(&["SCRIPT", "FLUSH"]).await.unwrap();
    region.settle("SCRIPT FLUSH", healed).await;
}

#[tokio::test]
async fn failed_over_to_a_replica_that_is_behind() {
    let mut primary = RedisServer::start().await.unwrap();
    let replica = RedisServer::start().await.unwrap();
    let port = primary.port().to_string();
    let forwarder = Forwarder::start(primary.port()).await.unwrap();
    let region = Region::start(&forwarder.url()).await;
    replica.ask::<()>(&["REPLICAOF", "127.0.0.1", &port]).await.unwrap();
    eventually(SOON, "the replica follows", async || {
        let info: String =
            replica.ask(&["INFO", "replication"]).await.map_err(|e| e.to_string())?;
        ensure(info.contains("master_link_status:up"), || info)
    })
    .await;
    // It falls behind: what is admitted from now on it never hears of.
    replica.ask::<()>(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
    for asker in &region.wide {
        let before = asker.seen().admitted;
        asker.sees(SOON, "further admissions", |seen| seen.admitted >= before + 100).await;
    }
    primary.kill().unwrap();
    region.degraded().await;
    let healed = Instant::now();
    forwarder.lead_to(replica.port());
    region.settle("failed over to a lagging replica", healed).await;
}

/// Breaks Redis so that it answers, but refuses; then heals it.
async fn refusing(
    fault: &str,
    redis: &RedisServer,
    url: &str,
    breaks: &[&[&str]],
    heals: &[&[&str]],
) {
    let region = Region::start(url).await;
    for words in breaks {
        redis.ask::<()>(words).await.expect("Redis does as it is told");
    }
    region.degraded().await;
    region.open().await;
    let node = region.node(0);
    for kind in ["refused", "open"] {
        let series = format!(r#"tidegate_store_errors_total{{kind="{kind}"}}"#);
        eventually(SOON, &series, async || node.metric(&series).await).await;
    }
    eventually(SOON, "a node that does not ask its store says so", async || {
        let (status, body) = node.readyz().await?;
        ensure(status == 200 && body["store"] == "open", || format!("{status} {body}"))
    })
    .await;
    let healed = Instant::now();
    for words in heals {
        redis.ask::<()>(words).await.expect("Redis does as it is told");
    }
    region.settle(fault, healed).await;
}

#[tokio::test]
async fn out_of_memory() {
    let redis = RedisServer::start().await.unwrap();
    let url = redis.url();
    let full: &[&str] = &["CONFIG", "SET", "maxmemory", "1"];
    let roomy: &[&str] = &["CONFIG", "SET", "maxmemory", "0"];
    refusing("out of memory (noeviction)", &redis, &url, &[full], &[roomy]).await;
}

#[tokio::test]
async fn read_only() {
    let redis = RedisServer::start().await.unwrap();
    let url = redis.url();
    // Of a primary that is not there.
    let replica: &[&str] = &["REPLICAOF", "127.0.0.1", "1"];
    refusing("read-only", &redis, &url, &[replica], &[&["REPLICAOF", "NO", "ONE"]]).await;
}

#[tokio::test]
async fn a_user_without_a_right() {
    let redis = RedisServer::start().await.unwrap();
    let user: &[&str] = &["ACL", "SETUSER", "tide", "on", ">gate", "~*", "+@all"];
    redis.ask::<()>(user).await.unwrap();
    let url = redis.url().replace("redis://", "redis://tide:gate@");
    let taken: &[&str] = &["ACL", "SETUSER", "tide", "-set"];
    let given: &[&str] = &["ACL", "SETUSER", "tide", "+set"];
    refusing("a right taken away (ACL)", &redis, &url, &[taken], &[given]).await;
}

/// The other keys are answered by the store as before, and the breaker stays closed.
#[tokio::test]
async fn one_key_of_a_wrong_type() {
    let redis = RedisServer::start().await.unwrap();
    // No call counts as slow here: the bad record alone must open no breaker.
    let region = Region::start_with(&redis.url(), "p95 = \"off\"").await;
    let node = region.node(0);
    let keys = async || redis.ask::<Vec<Vec<u8>>>(&["KEYS", "tidegate:*"]).await.unwrap();
    let before = keys().await;
    assert_eq!(node.spend(&OTHER, 5).await, 5);
    let after = keys().await;
    let [of_other] = after.iter().filter(|key| !before.contains(key)).collect::<Vec<_>>()[..]
    else {
        panic!("{before:?} {after:?}")
    };
    redis.ask::<()>(&[b"DEL", &of_other[..]]).await.unwrap();
    redis.ask::<()>(&[b"LPUSH", &of_other[..], b"x"]).await.unwrap();
    let opened = region.opened().await;
    for _ in 0..50 {
        let check = node.check(&OTHER, 1).await;
        assert!(check.degraded, "{check:?}");
    }
    assert!(node.metric(r#"tidegate_store_errors_total{kind="record"}"#).await.unwrap() > 5.0);
    assert_eq!(region.opened().await, opened, "no breaker has opened by it");
    assert!(region.nodes[0].process.log().contains("remove it"));
    redis.ask::<()>(&[b"DEL", &of_other[..]]).await.unwrap();
    let healed = Instant::now();
    eventually(SOON, "the store decides again, from the floor", async || {
        let check = node.check(&OTHER, 1).await;
        let lifted = check.remaining.is_some_and(|left| left < 100_000_000 - 6);
        ensure(!check.degraded && lifted, || format!("{check:?}"))
    })
    .await;
    region.settle("one key of a wrong type", healed).await;
}

/// It answers all, and in time, but far too late for the 95th percentile that is asked of it.
#[tokio::test]
async fn slow() {
    let redis = RedisServer::start().await.unwrap();
    let forwarder = Forwarder::start(redis.port()).await.unwrap();
    let region = Region::start(&forwarder.url()).await;
    forwarder.delay(Duration::from_millis(85));
    region.open().await;
    let reasons = |reason: &str| format!(r#"tidegate_breaker_opened_total{{reason="{reason}"}}"#);
    let mut by_slowness = 0.0;
    for reason in ["slow", "in_a_row"] {
        by_slowness += region.node(0).metric(&reasons(reason)).await.unwrap();
    }
    assert!(by_slowness > 0.0);
    let healed = Instant::now();
    forwarder.delay(Duration::ZERO);
    region.settle("slow (85 ms)", healed).await;
}
