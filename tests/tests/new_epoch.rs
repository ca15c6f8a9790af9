//! A store that has lost its memory gets it back from the nodes that run, without a check that asks.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tidegate_tests::{ensure, eventually, redis_server::RedisServer, site::Site};

const SOON: Duration = Duration::from_secs(20);
const KEYS: u64 = 300;
const POLICIES: &str = r#"
[[policy]]
name = "all"
key = ["api_key"]
[[policy.limit]]
name = "regional"
quantity = 60
window = "400d"
[[policy.limit]]
name = "quota"
quantity = 60
window = "400d"
scope = "global"
consistency = "plain"
"#;

async fn keys_in(redis: &mut MultiplexedConnection) -> u64 {
    redis::cmd("DBSIZE").query_async(redis).await.expect("answered")
}

#[tokio::test]
async fn a_node_that_knows_nothing_finds_the_sum_that_others_wrote_back() {
    let site = Site::new(POLICIES);
    let (one, other) = (site.place("eu", "eu-0"), site.place("eu", "eu-1"));
    let redis = RedisServer::start().await.unwrap();
    let mut connection = redis.connection().await.unwrap();
    // Without seeds, the second is never told anything by the first.
    let store = format!("kind = \"redis\"\nurl = \"{}\"\ntimeout = \"1s\"", redis.url());
    let served = site.serve_ready(&one, &site.config_with(&one, &[], &store)).await;
    for n in 0..KEYS {
        let caller = [("api_key", format!("key-{n}"))];
        let caller = [(caller[0].0, caller[0].1.as_str())];
        assert!(served.node.check(&caller, 1 + n % 9).await.allowed);
    }
    let before = keys_in(&mut connection).await;
    assert_eq!(before, 2 * KEYS + 1, "two records for each, and the marker");
    let epoch = served.node.metric("tidegate_store_epoch").await.unwrap();

    redis::cmd("FLUSHALL").query_async::<()>(&mut connection).await.unwrap();
    // Nobody asks anything.
    eventually(SOON, "the records are back", async || {
        let now = keys_in(&mut connection).await;
        ensure(now == before, || format!("{now} of {before} keys"))
    })
    .await;
    eventually(SOON, "the node says so", async || {
        let healed = served.node.metric("tidegate_healed_records_total").await?;
        // In two passes.
        ensure(healed >= 4.0 * KEYS as f64, || format!("{healed} records"))
    })
    .await;
    assert!(served.node.metric("tidegate_store_epoch").await.unwrap() > epoch);
    assert_eq!(served.node.metric("tidegate_store_epochs_total").await.unwrap(), 1.0);
    let log = served.process.log();
    assert!(log.contains("the store may have lost counts: a new epoch"), "{log}");
    eventually(SOON, "the log says that it is healed", async || {
        ensure(served.process.log().contains("the store's new epoch is healed"), || {
            served.process.log()
        })
    })
    .await;

    let stranger = site.serve_ready(&other, &site.config_with(&other, &[], &store)).await;
    for n in 0..KEYS {
        let caller = [("api_key", format!("key-{n}"))];
        let caller = [(caller[0].0, caller[0].1.as_str())];
        assert_eq!(stranger.node.used(&caller).await, Ok(1 + n % 9), "key-{n}");
    }
    stranger.stop().await;
    served.stop().await;
}

#[tokio::test]
async fn a_user_without_a_right_keeps_the_node_unready_and_the_right_is_named() {
    let site = Site::new(POLICIES);
    let place = site.place("eu", "eu-0");
    let redis = RedisServer::start().await.unwrap();
    let mut connection = redis.connection().await.unwrap();
    let mut user = redis::cmd("ACL");
    user.arg("SETUSER").arg("gate").arg(&["on", ">word", "~tidegate:*", "+evalsha", "+get"]);
    user.query_async::<()>(&mut connection).await.unwrap();
    let url = redis.url().replace("redis://", "redis://gate:word@");
    let store = format!("kind = \"redis\"\nurl = \"{url}\"");
    let served = site.serve(&place, &site.config_alone(&place, &store));
    let missing = "+script|load, +time, +info, +pttl on keys ~tidegate:*, +set on keys ~tidegate:*";
    eventually(SOON, "the node names the rights", async || {
        let (status, body) = served.node.readyz().await?;
        let said = body["reasons"].to_string();
        ensure(status == 503 && said.contains(missing), || format!("{status} {body}"))
    })
    .await;
    assert!(served.process.log().contains(missing), "{}", served.process.log());
    let check = served.node.check(&[("api_key", "k")], 1).await;
    assert!(check.degraded, "{check:?}");

    let mut user = redis::cmd("ACL");
    user.arg("SETUSER").arg("gate").arg(&["+script|load", "+time", "+info", "+pttl", "+set"]);
    user.query_async::<()>(&mut connection).await.unwrap();
    served.node.ready(SOON).await;
    eventually(SOON, "it is charged afterwards", async || {
        let used = served.node.used(&[("api_key", "k")]).await?;
        ensure(used == 1, || format!("{used}"))
    })
    .await;
    served.stop().await;
}
