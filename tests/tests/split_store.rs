//! One node of a region goes on asking a Redis that was replaced, while its sibling asks the new one, and neither
//! server knows what the other does: of a `strict` limit no window is over.

use std::time::Duration;

use tidegate_tests::{
    dev::connected,
    ensure, eventually,
    forwarder::Forwarder,
    labels::{Flow, Labels},
    redis_server::RedisServer,
    site::{Place, Served, Site},
};

/// How long whatever must come about may take, on a machine that does a lot else.
const SOON: Duration = Duration::from_secs(30);

const QUANTITY: u64 = 60;
const POLICIES: &str = r#"
[[policy]]
name = "strict"
key = ["api_key"]
[[policy.limit]]
name = "per-second"
quantity = 60
window = "1s"
scope = "global"
consistency = "strict"
"#;
/// So often the Redis is replaced.
const TIMES: usize = 2;
/// A server may go on for so long; here it does for two windows and a little.
const FENCE: &str = "fence = \"3s\"";

fn serve(site: &Site, places: &[Place; 3], at: usize, store: &str) -> Served {
    let seeds: Vec<_> = places.iter().filter(|other| other.node != places[at].node).collect();
    let config = site.config_with(&places[at], &seeds, store);
    site.serve(&places[at], &format!("{config}regions = {{ eu = 1, us = 1 }}\n"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_goes_on_after_it_was_replaced_admits_nothing_twice() {
    let mut current = RedisServer::start().await.unwrap();
    let site = Site::new(POLICIES);
    let places = [("eu", "eu-0"), ("eu", "eu-1"), ("us", "us-0")].map(|(r, n)| site.place(r, n));
    let (slow, prompt) = (
        Forwarder::start(current.port()).await.unwrap(),
        Forwarder::start(current.port()).await.unwrap(),
    );
    let nodes = [
        serve(&site, &places, 0, &format!("kind = \"redis\"\nurl = \"{}\"\n{FENCE}", slow.url())),
        serve(&site, &places, 1, &format!("kind = \"redis\"\nurl = \"{}\"\n{FENCE}", prompt.url())),
        serve(&site, &places, 2, "kind = \"memory\""),
    ];
    for served in &nodes {
        served.node.ready(SOON).await;
    }
    connected(nodes.iter().map(|served| &served.node), SOON).await;

    let flow = Flow { route: "/".into(), api_key: "k".into(), per_second: 3.0 * QUANTITY as f64 };
    let load = Labels::start(nodes.iter().map(|served| &served.node), &[flow], 1);
    let more_windows = async |more: usize| {
        let before = load.windows();
        eventually(SOON, "windows are asked in", async || {
            let windows = load.windows();
            ensure(windows >= before + more, || format!("{windows} after {before}"))
        })
        .await;
    };
    more_windows(3).await;
    for _ in 0..TIMES {
        let next = RedisServer::start().await.unwrap();
        prompt.lead_to(next.port());
        eventually(SOON, "the new server is asked", async || {
            let keys: u64 = next.ask(&["DBSIZE"]).await.map_err(|e| e.to_string())?;
            ensure(keys > 1, || format!("{keys} keys"))
        })
        .await;
        // A whole window goes by in which both are asked.
        more_windows(2).await;
        slow.lead_to(next.port());
        more_windows(5).await;
        current = next;
    }
    drop(current);
    let books = load.stop().await;
    let over = books.over(0);
    assert!(over.is_empty(), "of {} windows {over:?}", books.windows.len());
    assert_eq!((books.errors, books.interrupted), (0, 0), "{:?}", books.first_error);
    let all: u64 = books.windows.values().map(|window| window.admitted).sum();
    let whole = books.windows.values().filter(|window| window.admitted == QUANTITY).count();
    assert!(whole >= 3, "all was admitted in {whole} of {} windows, {all}", books.windows.len());
    for served in nodes {
        served.stop().await;
    }
}
