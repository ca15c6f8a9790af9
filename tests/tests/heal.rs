//! What anyone still knows is not lost: wiped stores, killed nodes, healed cuts.

use std::time::Duration;

use tidegate_tests::{
    child,
    dev::{Cluster, Dev},
    ensure, eventually,
    node::Node,
    region::{ask_redis, heard_each_other, of, redis_pid},
};

/// How soon every region must know the exact sum, after a heal above all.
const CONVERGENCE: Duration = Duration::from_secs(2);
/// How long a cut may take to be noticed.
const NOTICED: Duration = Duration::from_secs(10);
/// How long a process may take to be started again, and its store to be reached.
const RETURN: Duration = Duration::from_secs(10);

const QUOTA: u64 = 60;
/// A quota over all regions and one in each, in windows that no test outlasts.
const POLICIES: &str = r#"
[[policy]]
name = "global"
match = { route = "/global" }
key = ["api_key"]
[[policy.limit]]
name = "quota"
quantity = 60
window = "400d"
scope = "global"
consistency = "plain"

[[policy]]
name = "regional"
match = { route = "/regional" }
key = ["api_key"]
[[policy.limit]]
name = "quota"
quantity = 20
window = "400d"
"#;

const GLOBAL: [(&str, &str); 2] = [("api_key", "k"), ("route", "/global")];
const REGIONAL: [(&str, &str); 2] = [("api_key", "k"), ("route", "/regional")];

/// Asks these nodes in turn, so many times in all; how many were admitted.
async fn spend(nodes: &[&Node], attributes: &[(&str, &str)], times: usize) -> u64 {
    let mut admitted = 0;
    for node in nodes.iter().cycle().take(times) {
        admitted += node.spend(attributes, 1).await;
    }
    admitted
}

#[tokio::test]
async fn a_wiped_redis_gives_nothing_out_twice() {
    let cluster = Dev::new(&["eu", "us"], POLICIES).redis(2).start().await;
    let (eu, us) = (of(&cluster, "eu"), of(&cluster, "us"));
    assert_eq!((eu.len(), us.len()), (2, 2));
    assert_eq!(spend(&eu, &GLOBAL, 25).await, 25);
    assert_eq!(spend(&us, &GLOBAL, 15).await, 15);
    assert_eq!(spend(&eu, &REGIONAL, 12).await, 12);
    cluster.agree_on(&GLOBAL, &[("eu", 25), ("us", 15)], CONVERGENCE).await;
    heard_each_other(&eu).await;
    ask_redis::<()>(&cluster, "eu", &["FLUSHALL"]).await.unwrap();

    // At once, three times what is left.
    let (global, regional) = (spend(&eu, &GLOBAL, 60).await, spend(&eu, &REGIONAL, 24).await);
    assert_eq!((25 + 15 + global, 12 + regional), (QUOTA, 20));
    cluster.agree_on(&GLOBAL, &[("eu", 25 + global), ("us", 15)], CONVERGENCE).await;
    assert_eq!(spend(&us, &GLOBAL, 10).await, 0);

    // Once more, with the quota spent, and everybody asking at once.
    ask_redis::<()>(&cluster, "eu", &["FLUSHALL"]).await.unwrap();
    let (at_0, at_1) = tokio::join!(eu[0].spend(&GLOBAL, 20), eu[1].spend(&GLOBAL, 20));
    assert_eq!(at_0 + at_1, 0);
    cluster.agree_on(&GLOBAL, &[("eu", 25 + global), ("us", 15)], CONVERGENCE).await;
    cluster.stop().await;
}

/// Spends on both sides of a cut, and sees the exact sum everywhere soon after it heals.
async fn cut_and_healed(cluster: Cluster) {
    let [eu, us, ap] = ["eu", "us", "ap"].map(|region| of(&cluster, region));
    let before = spend(&eu, &GLOBAL, 5).await;
    assert_eq!(before, 5);
    cluster.agree_on(&GLOBAL, &[("eu", 5), ("us", 0), ("ap", 0)], CONVERGENCE).await;

    cluster.cut_off("ap").await;
    let (in_eu, in_us, in_ap) =
        tokio::join!(spend(&eu, &GLOBAL, 20), spend(&us, &GLOBAL, 10), spend(&ap, &GLOBAL, 100));
    assert_eq!((in_eu, in_us), (20, 10));
    // Alone, a region admits what is left by what it knew: that is `plain`.
    assert_eq!(in_ap, QUOTA - before);
    eventually(NOTICED, "both sides notice the cut", async || {
        for node in eu.iter().chain(&us) {
            let state = node.state_of("ap").await?;
            ensure(state != "connected", || format!("{} has ap {state}", node.name))?;
        }
        for node in &ap {
            let state = node.state_of("eu").await?;
            ensure(state != "connected", || format!("{} has eu {state}", node.name))?;
        }
        Ok(())
    })
    .await;
    for node in &eu {
        assert_eq!(node.used(&GLOBAL).await, Ok(before + in_eu + in_us), "it was no cut");
    }
    for node in &ap {
        assert_eq!(node.used(&GLOBAL).await, Ok(before + in_ap), "it was no cut");
    }

    cluster.heal().await;
    let admitted = [("eu", before + in_eu), ("us", in_us), ("ap", in_ap)];
    cluster.agree_on(&GLOBAL, &admitted, CONVERGENCE).await;
    for node in cluster.nodes() {
        assert_eq!(node.spend(&GLOBAL, 1).await, 0, "{}", node.name);
    }
    cluster.connected().await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_healed_cut_converges_to_the_exact_sum() {
    cut_and_healed(Dev::new(&["eu", "us", "ap"], POLICIES).start().await).await;
}

#[tokio::test]
async fn a_healed_cut_converges_with_two_nodes_on_a_redis_and_far_away_too() {
    let dev = Dev::new(&["eu", "us", "ap"], POLICIES).redis(2).with(&["--wan", "typical"]);
    cut_and_healed(dev.start().await).await;
}

/// Kills a node of `eu` once the others know what it knew, and sees its region's count come back.
async fn killed_and_restarted(mut cluster: Cluster) {
    let eu = of(&cluster, "eu");
    assert_eq!(spend(&eu, &GLOBAL, 30).await, 30);
    assert_eq!(cluster.node("us-0").spend(&GLOBAL, 10).await, 10);
    cluster.agree_on(&GLOBAL, &[("eu", 30), ("us", 10)], CONVERGENCE).await;

    let before = cluster.said_of("eu-0").clone();
    child::kill(before.pid);
    let after = cluster.next_ready().await;
    assert_eq!((after.node.as_str(), after.restarts), ("eu-0", before.restarts + 1));
    assert_ne!(after.pid, before.pid);
    assert_eq!((after.http, after.store), (before.http, before.store));

    // From its first answer on, the count is what it was.
    assert_eq!(cluster.node("eu-0").used(&GLOBAL).await, Ok(40));
    assert_eq!(cluster.node("eu-0").spend(&GLOBAL, 30).await, QUOTA - 40);
    cluster.agree_on(&GLOBAL, &[("eu", 50), ("us", 10)], CONVERGENCE).await;
    cluster.connected().await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_killed_node_finds_its_count_with_its_peers() {
    killed_and_restarted(Dev::new(&["eu", "us"], POLICIES).with(&["--restart"]).start().await)
        .await;
}

#[tokio::test]
async fn a_killed_node_finds_its_count_in_its_redis() {
    let dev = Dev::new(&["eu", "us"], POLICIES).redis(2).with(&["--restart"]);
    killed_and_restarted(dev.start().await).await;
}

#[tokio::test]
async fn a_killed_redis_gets_its_counts_back_from_its_nodes() {
    let dev = Dev::new(&["eu", "us"], POLICIES).redis(2).with(&["--restart"]);
    let cluster = dev.start().await;
    let (eu, us) = (of(&cluster, "eu"), of(&cluster, "us"));
    assert_eq!(spend(&eu, &GLOBAL, 30).await, 30);
    assert_eq!(spend(&us, &GLOBAL, 10).await, 10);
    assert_eq!(spend(&eu, &REGIONAL, 12).await, 12);
    cluster.agree_on(&GLOBAL, &[("eu", 30), ("us", 10)], CONVERGENCE).await;
    heard_each_other(&eu).await;

    let before = redis_pid(&cluster, "eu").await.unwrap();
    child::kill(before);
    eventually(RETURN, "the Redis of eu is back", async || {
        let now = redis_pid(&cluster, "eu").await?;
        ensure(now != before, || "it is the same".into())
    })
    .await;
    for node in &eu {
        node.ready(RETURN).await;
    }
    cluster.agree_on(&GLOBAL, &[("eu", 30), ("us", 10)], CONVERGENCE).await;
    assert_eq!(spend(&eu, &GLOBAL, 60).await, QUOTA - 40);
    assert_eq!(spend(&eu, &REGIONAL, 24).await, 8);
    cluster.agree_on(&GLOBAL, &[("eu", 50), ("us", 10)], CONVERGENCE).await;
    cluster.stop().await;
}
