//! `strict` limits of regions whose stores are Redis Clusters, over callers that are on several servers: no window is
//! over while slots move and a server comes back empty, and all is admitted again when that is past.

use std::{
    collections::BTreeMap,
    time::{Duration, UNIX_EPOCH},
};

use tidegate_tests::{
    dev::connected,
    ensure, eventually,
    labels::{Books, Flow, Labels},
    redis_cluster::RedisCluster,
    site::{Place, Served, Site},
};

/// How long whatever must come about may take, on a machine that does a lot else.
const SOON: Duration = Duration::from_secs(60);
const QUANTITY: u64 = 20;
const CALLERS: u64 = 3;
/// The second limit is closed for a minute and a half where a store has forgotten it, unless others tell what they
/// know; the second policy counts all callers together.
const POLICIES: &str = r#"
[[policy]]
name = "each"
key = ["api_key"]
[[policy.limit]]
name = "per-second"
quantity = 20
window = "1s"
scope = "global"
consistency = "strict"
[[policy.limit]]
name = "long"
quantity = 1000000
window = "400s"
scope = "global"
consistency = "strict"

[[policy]]
name = "all"
key = ["route"]
[[policy.limit]]
name = "two-seconds"
quantity = 1000
window = "2s"
scope = "global"
consistency = "strict"
"#;

fn serve(
    site: &Site,
    places: &[Place; 3],
    at: usize,
    cluster: &RedisCluster,
    founded: u128,
) -> Served {
    let seeds: Vec<_> = places.iter().filter(|other| other.node != places[at].node).collect();
    // Nothing is to be answered without the store because this machine is busy.
    let store = format!(
        "kind = \"redis\"\nurl = \"{}\"\ntimeout = \"2s\"\n[store.breaker]\np95 = \"off\"",
        cluster.url()
    );
    let config = site.config_with(&places[at], &seeds, &store);
    let regions = "regions = { eu = 1, us = 1 }";
    site.serve(&places[at], &format!("{config}founded = {founded}\n{regions}\n"))
}

/// By label, what was admitted in windows of a second of all callers together.
fn seconds(books: &Books) -> BTreeMap<u64, u64> {
    let mut seconds = BTreeMap::new();
    for (window, sum) in books.windows.iter().filter(|(_, sum)| sum.quantity == QUANTITY) {
        *seconds.entry(window.label).or_default() += sum.admitted;
    }
    seconds
}

/// Waits until three windows that begin from now on have admitted nearly all there is.
async fn until_normal(load: &Labels, after: &str) {
    let before = seconds(&load.books()).last_key_value().map_or(0, |(label, _)| *label);
    eventually(SOON, &format!("all is admitted after {after}"), async || {
        let seconds = seconds(&load.books());
        let since: Vec<_> = seconds.range(before + 1..).map(|(_, admitted)| *admitted).collect();
        let full =
            since.iter().filter(|admitted| **admitted >= CALLERS * QUANTITY * 9 / 10).count();
        ensure(full >= 3, || format!("{since:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_window_is_over_while_slots_move_and_a_server_comes_back_empty() {
    let mut eu = RedisCluster::start(3, 0).await;
    let us = RedisCluster::start(3, 0).await;
    let site = Site::new(POLICIES);
    let places = [("eu", "eu-0"), ("eu", "eu-1"), ("us", "us-0")].map(|(r, n)| site.place(r, n));
    let founded = UNIX_EPOCH.elapsed().expect("after 1970").as_millis();
    let nodes = [&eu, &eu, &us];
    let nodes = [0, 1, 2].map(|at| serve(&site, &places, at, nodes[at], founded));
    for served in &nodes {
        served.node.ready(SOON).await;
    }
    connected(nodes.iter().map(|served| &served.node), SOON).await;
    let flows: Vec<_> = (0..CALLERS)
        .map(|caller| Flow {
            route: "/".into(),
            api_key: format!("k{caller}"),
            per_second: 3.0 * QUANTITY as f64,
        })
        .collect();
    let load = Labels::start(nodes.iter().map(|served| &served.node), &flows, 1);
    until_normal(&load, "the start").await;

    let mut moved = 0;
    for from in [0, 1, 2] {
        for slot in eu.slots_of("tidegate", from).await {
            // Most of them are of markers alone.
            if moved < 40 || slot % 16 == 0 {
                eu.move_slot(slot, from, (from + 1) % 3).await;
                moved += 1;
            }
        }
    }
    eu.agree().await;
    until_normal(&load, "slots have moved").await;

    for at in 0..3 {
        eu.server_mut(at).kill().expect("killed");
        eu.server_mut(at).restart().await.expect("restarted");
        eu.agree().await;
    }
    until_normal(&load, "servers came back empty").await;
    // So are callers whom nobody has asked for before, in parts of the store that nobody has used.
    for caller in 0..10 {
        let key = format!("new-{caller}");
        let who = [("api_key", &*key), ("route", &*key)];
        for served in &nodes {
            eventually(SOON, "a new caller is admitted", async || {
                let check = served.node.try_check(&who).await?;
                ensure(check.allowed && !check.degraded, || format!("{key}: {check:?}"))
            })
            .await;
        }
    }

    let books = load.stop().await;
    let over = books.over(0);
    assert!(over.is_empty(), "of {} windows {over:?}", books.windows.len());
    assert_eq!(books.degraded.1, 0, "nothing is admitted without the store");
    assert_eq!(books.errors, 0, "{:?}", books.first_error);
    for served in nodes {
        served.stop().await;
    }
}
