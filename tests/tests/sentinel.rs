//! A primary by the word of sentinels: when it is gone and a replica has taken its place, nodes go there.

use std::{net::TcpListener, time::Duration};

use tidegate_tests::{
    ensure, eventually, redis_server::RedisServer, sentinel::Sentinel, site::Site,
};

const SOON: Duration = Duration::from_secs(30);
const QUANTITY: u64 = 20;
const POLICIES: &str = r#"
[[policy]]
name = "all"
key = ["api_key"]
on_store_failure = "closed"
[[policy.limit]]
name = "quota"
quantity = 20
window = "400d"
[[policy.limit]]
name = "bucket"
quantity = 20
window = "300d"
algorithm = "token-bucket"
"#;
const KEY: [(&str, &str); 1] = [("api_key", "k")];

#[tokio::test]
async fn nodes_follow_a_primary_and_count_on_where_they_were() {
    let mut first = RedisServer::start().await.expect("redis-server");
    let port = first.port().to_string();
    let second =
        RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]).await.expect("one more");
    let sentinel = Sentinel::of(first.port());
    eventually(SOON, "the sentinel knows primary and replica", async || {
        let primary = sentinel.primary().await?;
        ensure(primary == first.port(), || format!("{primary}"))?;
        let info =
            second.ask::<String>(&["INFO", "replication"]).await.map_err(|e| e.to_string())?;
        ensure(info.contains("master_link_status:up"), || info)?;
        let known = sentinel.ask::<redis::Value>(&["replicas", "main"]).await?;
        ensure(format!("{known:?}").contains(&second.port().to_string()), || format!("{known:?}"))
    })
    .await;

    let site = Site::new(POLICIES);
    let nobody =
        TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("one").port();
    // The first sentinel is not there.
    let url = format!("redis-sentinel://127.0.0.1:{nobody},127.0.0.1:{}/main/0", sentinel.port());
    let store = format!("kind = \"redis\"\nurl = \"{url}\"");
    let place = site.place("eu", "eu-0");
    let served = site.serve_ready(&place, &site.config_alone(&place, &store)).await;
    assert_eq!(served.node.spend(&KEY, 7).await, 7);

    first.kill().expect("killed");
    eventually(SOON, "it admits on the replica", async || {
        let check = served.node.try_check(&KEY).await?;
        ensure(check.allowed, || format!("{check:?}"))
    })
    .await;
    assert_eq!(sentinel.primary().await, Ok(second.port()));
    assert_eq!(served.node.spend(&KEY, QUANTITY).await, QUANTITY - 8, "what was used is known");

    // The old one comes back, and is a replica: nobody asks it.
    first.restart().await.expect("restarted");
    eventually(SOON, "the old primary follows the new one", async || {
        let info =
            first.ask::<String>(&["INFO", "replication"]).await.map_err(|e| e.to_string())?;
        ensure(info.contains("role:slave"), || info)
    })
    .await;
    let check = served.node.check(&KEY, 1).await;
    assert_eq!((check.allowed, check.reason.as_deref()), (false, Some("limit")));
    served.stop().await;
}

/// A failover that somebody asks for: the old primary lives, and must not be asked any more.
#[tokio::test]
async fn nodes_leave_a_primary_that_has_become_a_replica() {
    let first = RedisServer::start().await.expect("redis-server");
    let port = first.port().to_string();
    let second =
        RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]).await.expect("one more");
    let sentinel = Sentinel::of(first.port());
    let site = Site::new(POLICIES);
    let url = format!("redis-sentinel://127.0.0.1:{}/main", sentinel.port());
    let place = site.place("eu", "eu-0");
    let config = site.config_alone(&place, &format!("kind = \"redis\"\nurl = \"{url}\""));
    let served = site.serve_ready(&place, &config).await;
    assert_eq!(served.node.spend(&KEY, 7).await, 7);
    eventually(SOON, "a failover is begun", async || {
        sentinel.ask::<String>(&["failover", "main"]).await.map(drop)
    })
    .await;
    eventually(SOON, "the replica is the primary", async || {
        let primary = sentinel.primary().await?;
        ensure(primary == second.port(), || format!("{primary}"))
    })
    .await;
    eventually(SOON, "the primary is a replica", async || {
        let info =
            first.ask::<String>(&["INFO", "replication"]).await.map_err(|e| e.to_string())?;
        ensure(info.contains("role:slave"), || info)
    })
    .await;
    // What is admitted from now on the new one has admitted.
    let mut admitted = 7;
    eventually(SOON, "it admits on the new primary", async || {
        let check = served.node.try_check(&KEY).await?;
        admitted += u64::from(check.allowed);
        ensure(check.allowed, || format!("{check:?}"))
    })
    .await;
    admitted += served.node.spend(&KEY, QUANTITY).await;
    assert_eq!(admitted, QUANTITY);
    served.stop().await;
}
