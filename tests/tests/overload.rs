//! More than a store can take: it is shed with a clear answer, at once, and counted.

use std::time::Duration;

use tidegate_tests::{
    ensure, eventually, forwarder::Forwarder, redis_server::RedisServer, site::Site,
};
use tokio::{task::JoinSet, time::Instant};

const SOON: Duration = Duration::from_secs(10);
const POLICIES: &str = r#"
[[policy]]
name = "degrade"
match = { route = "/degrade" }
key = ["api_key"]
on_store_failure = "degrade"
[[policy.limit]]
name = "quota"
quantity = 1000
window = "400d"

[[policy]]
name = "closed"
match = { route = "/closed" }
key = ["api_key"]
on_store_failure = "closed"
[[policy.limit]]
name = "quota"
quantity = 1000
window = "400d"
"#;
const DEGRADE: [(&str, &str); 2] = [("api_key", "k"), ("route", "/degrade")];

#[tokio::test]
async fn what_a_redis_cannot_take_is_shed_at_once_and_charged_once() {
    const FAR: Duration = Duration::from_millis(400);
    let site = Site::new(POLICIES);
    let place = site.place("eu", "eu-0");
    let redis = RedisServer::start().await.unwrap();
    let forwarder = Forwarder::start(redis.port()).await.unwrap();
    let store = format!(
        "kind = \"redis\"\nurl = \"{}\"\ntimeout = \"2s\"\ncalls_max = 4\n[store.breaker]\np95 = \"off\"",
        forwarder.url()
    );
    let served = site.serve_ready(&place, &site.config_alone(&place, &store)).await;
    let node = &served.node;
    assert!(!node.check(&DEGRADE, 1).await.degraded);
    forwarder.delay(FAR);
    let mut checks = JoinSet::new();
    // Each of a caller of its own: those of one would wait for each other and share calls.
    for (n, route) in ["/degrade", "/closed"].into_iter().cycle().take(40).enumerate() {
        let node = node.clone();
        checks.spawn(async move {
            let (key, asked) = (format!("k{n}"), Instant::now());
            let check = node.check(&[("api_key", &key), ("route", route)], 1).await;
            (route, key, check, asked.elapsed())
        });
    }
    let (mut admitted, mut shed, mut waited) = (Vec::new(), 0, 0);
    while let Some(done) = checks.join_next().await {
        let (route, key, check, took) = done.unwrap();
        if check.allowed && route == "/degrade" {
            admitted.push(key);
        }
        if check.degraded {
            shed += 1;
            assert_eq!(check.reason.as_deref(), Some("overload"));
            assert_eq!(check.allowed, route == "/degrade", "by its policy");
            assert!(took < FAR, "{took:?}");
        } else {
            waited += 1;
        }
    }
    assert_eq!((shed, waited), (36, 4));
    let counted = node.metric(r#"tidegate_store_errors_total{kind="overload"}"#).await;
    assert_eq!(counted, Ok(36.0));
    assert_eq!(node.metric("tidegate_store_calls").await, Ok(0.0));
    assert_eq!(node.metric("tidegate_breaker_state").await, Ok(0.0), "it has not failed");
    assert!(served.process.log().contains("too many calls are waiting for the store"));
    forwarder.delay(Duration::ZERO);
    eventually(SOON, "what was admitted meanwhile is charged", async || {
        for key in &admitted {
            let used = node.used(&[("api_key", key), ("route", "/degrade")]).await?;
            ensure(used == 1, || format!("{used} of {key}"))?;
        }
        Ok(())
    })
    .await;
    served.stop().await;
}

#[tokio::test]
async fn a_full_memory_store_answers_new_keys_by_on_store_failure_and_says_so() {
    let site = Site::new(POLICIES);
    let place = site.place("eu", "eu-0");
    let config = site.config_alone(&place, "kind = \"memory\"\nrecords_max = 64");
    let served = site.serve_ready(&place, &config).await;
    let node = &served.node;
    let known = [("api_key", "known"), ("route", "/closed")];
    assert!(node.check(&known, 1).await.allowed);
    let (mut taken, mut full) = (1, 0);
    for n in 0..300 {
        let key = format!("k{n}");
        let check = node.check(&[("api_key", &key), ("route", "/closed")], 1).await;
        assert_eq!(check.allowed, !check.degraded, "{check:?}");
        if check.degraded {
            assert_eq!(check.reason.as_deref(), Some("store_unavailable"));
            full += 1;
        } else {
            taken += 1;
        }
    }
    assert!(full > 0 && taken <= 64, "{taken} taken, {full} full");
    let check = node.check(&known, 1).await;
    assert!(check.allowed && !check.degraded, "live keys stay: {check:?}");
    assert_eq!(
        node.metric(r#"tidegate_store_errors_total{kind="full"}"#).await,
        Ok(f64::from(full))
    );
    let log = served.process.log();
    assert_eq!(log.matches("store.records_max").count(), 1, "told once for all of them: {log}");
    assert_eq!(node.readyz().await.unwrap().0, 200);
    served.stop().await;
}
