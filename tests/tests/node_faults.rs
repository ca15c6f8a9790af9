//! Nodes that stop, die and do not come back, and links that flap: what anyone who lives knows is not lost.

use std::time::Duration;

use serde_json::json;
use tidegate_tests::{
    child,
    dev::{Dev, agree_on, connected},
    ensure, eventually,
    node::Node,
    region::{heard_each_other, of},
    site::{Place, Site},
};
use tokio::time::interval;

/// How soon every node must know the exact sum after the last fault.
const CONVERGENCE: Duration = Duration::from_secs(10);
/// How long silence may take to be noticed.
const NOTICED: Duration = Duration::from_secs(10);
/// How often, and how quickly, links flap: a connection outlives some of it, and not all.
const FLAPS: usize = 12;
const FLAP: Duration = Duration::from_millis(400);

/// Windows that no test outlasts.
const POLICIES: &str = r#"
[[policy]]
name = "api"
key = ["api_key"]
[[policy.limit]]
name = "quota"
quantity = 1000
window = "400d"
scope = "global"
consistency = "plain"
"#;
const KEY: [(&str, &str); 1] = [("api_key", "k")];

/// Waits until a node has lost touch with a region.
async fn misses(node: &Node, region: &str) {
    eventually(NOTICED, "the silence is noticed", async || {
        let state = node.state_of(region).await?;
        ensure(state != "connected", || format!("{} has {region} {state}", node.name))
    })
    .await;
}

#[tokio::test]
async fn a_node_that_stood_still_hears_what_it_missed() {
    let cluster = Dev::new(&["eu", "us", "ap"], POLICIES).start().await;
    let [eu, us, ap] = ["eu-0", "us-0", "ap-0"].map(|name| cluster.node(name));
    cluster.connected().await;
    assert_eq!((eu.spend(&KEY, 5).await, us.spend(&KEY, 3).await), (5, 3));
    cluster.agree_on(&KEY, &[("eu", 5), ("us", 3), ("ap", 0)], CONVERGENCE).await;

    let stopped = cluster.said_of("us-0").pid;
    child::stand_still(stopped);
    misses(eu, "us").await;
    misses(ap, "us").await;
    assert_eq!((eu.spend(&KEY, 7).await, ap.spend(&KEY, 6).await), (7, 6));
    child::go_on(stopped);
    assert_eq!(us.spend(&KEY, 4).await, 4);
    cluster.agree_on(&KEY, &[("eu", 12), ("us", 7), ("ap", 6)], CONVERGENCE).await;
    cluster.stop().await;
}

#[tokio::test]
async fn links_that_flap_lose_nothing() {
    let cluster = Dev::new(&["eu", "us", "ap"], POLICIES).start().await;
    let [eu, us, ap] = ["eu-0", "us-0", "ap-0"].map(|name| cluster.node(name));
    cluster.connected().await;
    let (mut ticks, mut spent) = (interval(FLAP), 0);
    for flap in 0..FLAPS {
        ticks.tick().await;
        let cut = flap % 2 == 0;
        eu.put_fault(&json!({ "to": "us", "cut": cut })).await;
        us.put_fault(&json!({ "to": "eu", "cut": cut })).await;
        // One direction of another pair, out of step.
        ap.put_fault(&json!({ "to": "eu", "cut": flap % 3 == 0 })).await;
        for node in [eu, us, ap] {
            assert_eq!(node.spend(&KEY, 3).await, 3);
        }
        spent += 3;
    }
    cluster.heal().await;
    cluster.agree_on(&KEY, &[("eu", spent), ("us", spent), ("ap", spent)], CONVERGENCE).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_region_whose_nodes_all_die_comes_back_with_its_counts() {
    let mut cluster = Dev::new(&["eu", "us"], POLICIES).redis(2).with(&["--restart"]).start().await;
    cluster.connected().await;
    {
        let (eu, us) = (of(&cluster, "eu"), of(&cluster, "us"));
        assert_eq!((eu[0].spend(&KEY, 5).await, us[0].spend(&KEY, 3).await), (5, 3));
        assert_eq!(us[1].spend(&KEY, 4).await, 4);
        cluster.agree_on(&KEY, &[("eu", 5), ("us", 7)], CONVERGENCE).await;
        heard_each_other(&us).await;
    }
    for name in ["us-0", "us-1"] {
        child::kill(cluster.said_of(name).pid);
    }
    assert_eq!(cluster.node("eu-1").spend(&KEY, 8).await, 8);
    for _ in 0..2 {
        let line = cluster.next_ready().await;
        assert_eq!((line.region.as_str(), line.restarts), ("us", 1));
    }
    cluster.agree_on(&KEY, &[("eu", 13), ("us", 7)], CONVERGENCE).await;
    assert_eq!(cluster.node("us-1").spend(&KEY, 2).await, 2);
    cluster.agree_on(&KEY, &[("eu", 13), ("us", 9)], CONVERGENCE).await;
    cluster.stop().await;
}

#[tokio::test]
async fn what_a_node_told_before_it_was_gone_for_good_stays_known() {
    let site = Site::new(POLICIES);
    let places = ["eu", "us", "ap"].map(|region| site.place(region, &format!("{region}-0")));
    let seeds: Vec<_> = places.iter().collect();
    let mut served = Vec::new();
    for place in &places {
        served.push(site.serve(place, &site.config(place, &seeds)));
    }
    for served in &served {
        served.node.ready(NOTICED).await;
    }
    assert_eq!(served[1].node.spend(&KEY, 9).await, 9);
    let all = served.iter().map(|served| &served.node);
    agree_on(all, &KEY, &[("eu", 0), ("us", 9), ("ap", 0)], CONVERGENCE).await;

    served.remove(1).process.kill().await;
    let [eu, ap] = [&served[0].node, &served[1].node];
    assert_eq!((eu.spend(&KEY, 7).await, ap.spend(&KEY, 6).await), (7, 6));
    misses(eu, "us").await;
    agree_on([eu, ap], &KEY, &[("eu", 7), ("us", 9), ("ap", 6)], CONVERGENCE).await;
    // A missing peer makes nobody unready.
    assert_eq!(eu.readyz().await.map(|(status, _)| status), Ok(200));
    // What the dead one used is not given out again.
    assert_eq!(eu.spend(&KEY, 1_000).await, 1_000 - 7 - 9 - 6);
    for served in served {
        served.stop().await;
    }
}

#[tokio::test]
async fn a_second_process_under_a_name_is_refused_until_the_first_is_gone() {
    let site = Site::new(POLICIES);
    let (eu_place, us_place) = (site.place("eu", "eu-0"), site.place("us", "us-0"));
    let eu = site.serve(&eu_place, &site.config(&eu_place, &[&us_place]));
    let first = site.serve(&us_place, &site.config(&us_place, &[&eu_place]));
    connected([&eu.node, &first.node], NOTICED).await;
    assert_eq!(first.node.spend(&KEY, 3).await, 3);
    agree_on([&eu.node, &first.node], &KEY, &[("eu", 0), ("us", 3)], CONVERGENCE).await;

    // The same name and certificate, at another address.
    let (http, admin, cluster) = (site.port(), site.port(), site.port());
    let again = Place { http, admin, cluster, ..us_place };
    let second = site.serve(&again, &site.config(&again, &[&eu_place]));
    eventually(NOTICED, "the second is refused, and says so", async || {
        let series = r#"tidegate_peer_refused_total{reason="duplicate_name"}"#;
        let refused = eu.node.metric(series).await?;
        let (_, ready) = second.node.readyz().await?;
        let reasons = ready["reasons"].to_string();
        ensure(refused >= 1.0 && reasons.contains("us/us-0"), || format!("{refused} {reasons}"))
    })
    .await;
    // What it admits is heard by nobody, what the first one admits is.
    let alone = second.node.spend(&KEY, 2).await;
    assert_eq!((alone, first.node.spend(&KEY, 4).await), (2, 4));
    agree_on([&eu.node, &first.node], &KEY, &[("eu", 0), ("us", 7)], CONVERGENCE).await;

    first.stop().await;
    eventually(NOTICED, "the second is let in, and what it admitted is known", async || {
        let usage = eu.node.usage(&KEY).await?;
        ensure(usage["regions"]["us"]["used"] == 9, || usage.to_string())
    })
    .await;
    for served in [eu, second] {
        assert!(!served.process.log().contains("panicked"));
        served.stop().await;
    }
}
