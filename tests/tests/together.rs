//! Checks over the same records that come while others are at the store: they share calls, and nobody is decided
//! otherwise for it.

use std::time::Duration;

use hyper::Method;
use serde_json::json;
use tidegate_tests::{
    ensure, eventually,
    http::Http,
    node::Node,
    redis_server::RedisServer,
    site::{Served, Site},
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

const SOON: Duration = Duration::from_secs(20);
const CLIENTS: usize = 64;
const POLICIES: &str = r#"
[[policy]]
name = "all"
key = ["api_key"]
on_store_failure = "closed"
[[policy.limit]]
name = "quota"
quantity = 1000
window = "400d"
[[policy.limit]]
name = "bucket"
quantity = 1000
window = "399d"
algorithm = "token-bucket"
"#;

struct Region {
    redis: RedisServer,
    served: Vec<Served>,
    _site: Site,
}

impl Region {
    async fn start(nodes: usize) -> Self {
        Self::start_with(nodes, POLICIES).await
    }

    async fn start_with(nodes: usize, policies: &str) -> Self {
        let redis = RedisServer::start().await.expect("redis-server");
        let site = Site::new(policies);
        // Nothing is to be answered without the store because this machine is busy.
        let store = format!(
            "kind = \"redis\"\nurl = \"{}\"\ntimeout = \"5s\"\n[store.breaker]\np95 = \"off\"",
            redis.url()
        );
        let places: Vec<_> = (0..nodes).map(|n| site.place("eu", &format!("eu-{n}"))).collect();
        let mut served = Vec::new();
        for place in &places {
            let seeds: Vec<_> = places.iter().filter(|seed| seed.node != place.node).collect();
            served.push(site.serve(place, &site.config_with(place, &seeds, &store)));
        }
        for node in served.iter().map(|served| &served.node) {
            node.ready(SOON).await;
        }
        Self { redis, served, _site: site }
    }

    fn node(&self, at: usize) -> &Node {
        &self.served[at % self.served.len()].node
    }

    /// Checks that waited for others, and checking calls of the store.
    async fn shared(&self) -> (f64, f64) {
        let mut sums = (0.0, 0.0);
        for Served { node, .. } in &self.served {
            sums.0 += node.metric("tidegate_joint_checks_total").await.expect("a number");
            let calls = "rate_limit_store_seconds_count{op=\"check\"}";
            sums.1 += node.metric(calls).await.expect("a number");
        }
        sums
    }
}

/// 64 clients ask two nodes for three times as much as there is of one caller: exactly what there is is admitted, in
/// far fewer calls than checks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_everybody_asks_for_is_admitted_exactly_in_few_calls() {
    let region = Region::start(2).await;
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let node = region.node(client).clone();
        clients.spawn(async move {
            let mut admitted = 0;
            for turn in 0..3_000 / CLIENTS {
                // Some ask for more than others.
                let cost = 1 + u64::from((client + turn) % 16 == 0);
                let check = node.check(&[("api_key", "k")], cost).await;
                assert!(!check.degraded, "{check:?}");
                let least = check.limits.iter().map(|limit| limit.remaining).min();
                assert!(check.allowed || least.is_some_and(|least| least < cost), "{check:?}");
                admitted += if check.allowed { cost } else { 0 };
            }
            admitted
        });
    }
    let admitted: u64 = clients.join_all().await.into_iter().sum();
    assert_eq!(admitted, 1_000);
    for usage in region.node(0).usages(&[("api_key", "k")]).await.expect("usages") {
        assert_eq!(usage["used"].as_u64(), Some(1_000), "{usage}");
    }
    let (joint, calls) = region.shared().await;
    let checks = (3_000 / CLIENTS * CLIENTS) as f64;
    assert!(joint > checks / 2.0 && calls < checks / 2.0, "{joint} of {checks} in {calls} calls");
}

/// A sliding window of a second: at each beginning, those that wait with the label before are labelled anew, all at a
/// time, and share calls again. Nothing is shed, and no second and a half is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_labelled_anew_waits_again_with_the_others() {
    let policies = "[[policy]]\nname = \"all\"\nkey = [\"api_key\"]\non_store_failure = \"closed\"\n\
                    [[policy.limit]]\nname = \"quota\"\nquantity = 1000\nwindow = \"1s\"\n\
                    algorithm = \"sliding-window\"\n";
    let region = Region::start_with(2, policies).await;
    let until = tokio::time::Instant::now() + Duration::from_secs(4);
    let mut clients = JoinSet::new();
    for client in 0..200 {
        let node = region.node(client).clone();
        clients.spawn(async move {
            let mut admitted = 0;
            while tokio::time::Instant::now() < until {
                // Some ask for more than others.
                let cost = 1 + client as u64 % 3;
                let check = node.check(&[("api_key", "k")], cost).await;
                assert!(!check.degraded, "{check:?}");
                admitted += if check.allowed { cost } else { 0 };
            }
            admitted
        });
    }
    let admitted: u64 = clients.join_all().await.into_iter().sum();
    // What begins with nothing used may have twice as much in its first second.
    assert!((2_000..=6_000).contains(&admitted), "{admitted}");
    let (joint, _) = region.shared().await;
    assert!(joint > 500.0, "{joint} waited");
}

/// Clients who go away while they wait: what was admitted for them is counted all the same.
#[tokio::test]
async fn who_goes_away_while_it_waits_is_counted() {
    let region = Region::start(1).await;
    let node = region.node(0).clone();
    let caller = [("api_key", "k")];
    assert!(node.check(&caller, 1).await.allowed);
    region.redis.pause().expect("paused");
    let body = json!({ "attributes": { "api_key": "k" }, "cost": 1 }).to_string();
    let mut clients = JoinSet::new();
    for _ in 0..20 {
        let (url, body) = (format!("http://{}/v1/check", node.http), body.clone());
        clients.spawn(async move {
            let http = Http::default();
            let asked = http.ask(Method::POST, &url, &[], body);
            timeout(Duration::from_millis(300), asked).await.is_err()
        });
    }
    assert_eq!(clients.join_all().await, [true; 20], "nobody was answered");
    region.redis.resume().expect("resumed");
    eventually(SOON, "all are counted", async || {
        let usages = node.usages(&caller).await?;
        let used: Vec<_> = usages.iter().map(|usage| usage["used"].as_u64()).collect();
        ensure(used == [Some(21); 2], || format!("{used:?}"))
    })
    .await;
    let (joint, _) = region.shared().await;
    assert!(joint >= 10.0, "{joint} waited");
}

/// A store that is gone while checks wait: each is answered by `on_store_failure`, and asked again later.
#[tokio::test]
async fn who_waits_for_a_store_that_is_gone_is_answered_without_it() {
    let mut region = Region::start(1).await;
    let node = region.node(0).clone();
    assert!(node.check(&[("api_key", "k")], 1).await.allowed);
    region.redis.pause().expect("paused");
    let mut clients = JoinSet::new();
    for _ in 0..20 {
        let node = node.clone();
        clients.spawn(async move { node.try_check(&[("api_key", "k")]).await });
    }
    sleep(Duration::from_millis(300)).await;
    region.redis.kill().expect("killed");
    for check in clients.join_all().await {
        let check = check.expect("answered");
        assert!(!check.allowed && check.degraded, "{check:?}");
        assert_eq!(check.reason.as_deref(), Some("store_unavailable"), "{check:?}");
    }
    let (joint, _) = region.shared().await;
    assert!(joint >= 10.0, "{joint} waited");
    region.redis.restart().await.expect("restarted");
    eventually(SOON, "the store decides again", async || {
        let check = node.try_check(&[("api_key", "k")]).await?;
        ensure(check.allowed && !check.degraded, || format!("{check:?}"))
    })
    .await;
}
