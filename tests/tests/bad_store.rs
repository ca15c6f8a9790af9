//! A Redis that cannot be reached: the node starts, says so, answers all the same, and recovers.

use std::time::Duration;

use tidegate_tests::{ensure, eventually, node::Node, redis_server::RedisServer, site::Site};

const SOON: Duration = Duration::from_secs(10);
/// How soon a changed setting of Redis must be seen, which is looked at every ten seconds.
const LOOKED: Duration = Duration::from_secs(25);
/// Bytes of a record's key after the prefix.
const HASH_BYTES: usize = 16;
const POLICIES: &str = r#"
[[policy]]
name = "degrade"
match = { route = "/degrade" }
key = ["api_key"]
on_store_failure = "degrade"
[[policy.limit]]
name = "quota"
quantity = 5
window = "400d"

[[policy]]
name = "open"
match = { route = "/open" }
key = ["api_key"]
on_store_failure = "open"
[[policy.limit]]
name = "quota"
quantity = 5
window = "400d"

[[policy]]
name = "closed"
match = { route = "/closed" }
key = ["api_key"]
on_store_failure = "closed"
[[policy.limit]]
name = "quota"
quantity = 5
window = "400d"
"#;

/// Asks 8 times for one unit: what was admitted while the store did not decide.
async fn admitted_without_store(node: &Node, route: &str) -> u64 {
    let mut admitted = 0;
    for _ in 0..8 {
        let check = node.check(&[("api_key", "k"), ("route", route)], 1).await;
        assert!(check.degraded, "{check:?}");
        assert_eq!(check.reason.as_deref(), Some("store_unavailable"), "{check:?}");
        admitted += u64::from(check.allowed);
    }
    admitted
}

#[tokio::test]
async fn an_unreachable_redis_is_answered_by_on_store_failure_until_it_appears() {
    let site = Site::new(POLICIES);
    let place = site.place("eu", "eu-0");
    let mut redis = RedisServer::start().await.unwrap();
    redis.kill().unwrap();
    let store = format!("kind = \"redis\"\nurl = \"{}\"\ntimeout = \"1s\"", redis.url());
    let served = site.serve(&place, &site.config_with(&place, &[], &store));
    let node = &served.node;
    eventually(SOON, "the node says why it is not ready", async || {
        let (status, body) = node.readyz().await?;
        let reasons = body["reasons"].to_string();
        let told = status == 503 && body["ready"] == false && reasons.contains("store.url");
        ensure(told, || format!("{status} {body}"))
    })
    .await;
    let health = node.ask_admin(hyper::Method::GET, "/healthz", "").await.unwrap();
    assert_eq!(health.status, 200);

    assert_eq!(admitted_without_store(node, "/degrade").await, 5, "by the counts last known");
    assert_eq!(admitted_without_store(node, "/open").await, 8);
    assert_eq!(admitted_without_store(node, "/closed").await, 0);
    let usage = node.ask(hyper::Method::GET, "/v1/usage?api_key=k&route=/open", &[], "").await;
    assert_eq!(usage.status, 503, "{}", usage.text());
    assert_eq!(
        node.metric(r#"tidegate_store_errors_total{kind="unreachable"}"#).await.unwrap(),
        25.0
    );

    redis.restart().await.unwrap();
    node.ready(SOON).await;
    // What was admitted meanwhile is charged once.
    for (route, used) in [("/degrade", 5), ("/open", 8), ("/closed", 0)] {
        assert_eq!(
            node.used(&[("api_key", "k"), ("route", route)]).await.unwrap(),
            used,
            "{route}"
        );
    }
    let check = node.check(&[("api_key", "k"), ("route", "/degrade")], 1).await;
    assert!(!check.allowed && !check.degraded, "{check:?}");
    assert_eq!(node.spend(&[("api_key", "k"), ("route", "/closed")], 8).await, 5);
    served.stop().await;
}

#[tokio::test]
async fn what_redis_says_of_a_record_is_for_the_log_and_not_for_callers() {
    let site = Site::new(POLICIES);
    let place = site.place("eu", "eu-0");
    let redis = RedisServer::start().await.unwrap();
    let store = format!("kind = \"redis\"\nurl = \"{}\"\ntimeout = \"1s\"", redis.url());
    let served = site.serve_ready(&place, &site.config_with(&place, &[], &store)).await;
    let node = &served.node;
    assert_eq!(node.spend(&[("api_key", "k"), ("route", "/closed")], 1).await, 1);
    let keys: Vec<Vec<u8>> = redis.ask(&["KEYS", "tidegate:*"]).await.unwrap();
    let is_record = |key: &&Vec<u8>| key.len() == "tidegate:".len() + HASH_BYTES;
    let record = &keys.iter().find(is_record).expect("there is a record")[..];
    let _: i64 = redis.ask(&[&b"DEL"[..], record]).await.unwrap();
    let _: i64 = redis.ask(&[&b"LPUSH"[..], record, b"something else"]).await.unwrap();

    let usage = node.ask(hyper::Method::GET, "/v1/usage?api_key=k&route=/closed", &[], "").await;
    assert_eq!(usage.status, 503, "{}", usage.text());
    let said = usage.text();
    assert!(said.contains("the redis store of this region holds something else"), "{said}");
    for raw in ["WRONGTYPE", "tidegate:", "Operation"] {
        assert!(!said.contains(raw), "{said}");
    }
    let log = served.process.log();
    assert!(log.contains("use could not be told") && log.contains("WRONGTYPE"), "{log}");
    served.stop().await;
}

#[tokio::test]
async fn a_redis_that_may_evict_spends_no_rights_until_it_may_not() {
    let rights = r#"
[[policy]]
name = "all"
key = ["api_key"]
[[policy.limit]]
name = "quota"
quantity = 100
window = "1s"
scope = "global"
consistency = "strict"
"#;
    let site = Site::new(rights);
    let place = site.place("eu", "eu-0");
    let redis = RedisServer::start().await.unwrap();
    let set_policy = async |policy: &str| {
        redis.ask::<()>(&["CONFIG", "SET", "maxmemory-policy", policy]).await.unwrap();
    };
    // There is no other server that would need time to notice: as short as it may be.
    let url = redis.url();
    let store = format!("kind = \"redis\"\nurl = \"{url}\"\ntimeout = \"1s\"\nfence = \"1s\"");
    let config = site.config_with(&place, &[], &store);
    let config = config.replace("[cluster]\n", "[cluster]\nregions = { eu = 1 }\n");
    set_policy("allkeys-lru").await;
    let served = site.serve_ready(&place, &config).await;
    let node = &served.node;
    let key = [("api_key", "k")];
    let says = async |expected: f64| {
        eventually(LOOKED, &format!("that the server may evict is {expected}"), async || {
            let said = node.metric("tidegate_store_may_evict").await?;
            let suspended = node.metric("tidegate_rights_suspended").await?;
            ensure([said, suspended] == [expected; 2], || format!("{said}, {suspended}"))
        })
        .await;
    };
    says(1.0).await;
    let check = node.check(&key, 1).await;
    assert!(!check.allowed, "{check:?}");
    assert_eq!(check.reason.as_deref(), Some("store_unavailable"), "{check:?}");

    set_policy("noeviction").await;
    says(0.0).await;
    // Not before a window that the store knows whole.
    eventually(SOON, "rights are spent again", async || {
        let check = node.check(&key, 1).await;
        ensure(check.allowed, || format!("{check:?}"))
    })
    .await;
    served.stop().await;
}
