//! Reservations, places and named requests on real nodes: what any node settles, what nobody settles, and how often a
//! request is charged that is asked again and again while nodes are killed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use hyper::Method;
use serde_json::{Value, json};
use tidegate_tests::{
    child,
    dev::Dev,
    ensure, eventually,
    http::Answer,
    named::{Asked, ask_by_names},
    node::Node,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

const POLICIES: &str = r#"
[[policy]]
name = "tokens"
match = { route = "/tokens" }
key = ["api_key"]
on_store_failure = "closed"
[[policy.limit]]
name = "hourly"
quantity = 100000
window = "1h"
scope = "global"
consistency = "plain"

[[policy]]
name = "places"
match = { route = "/places" }
key = ["api_key"]
on_store_failure = "closed"
[[policy.limit]]
name = "places"
quantity = 10
window = "2s"
algorithm = "concurrency"
"#;

const TOKENS: [(&str, &str); 2] = [("api_key", "k"), ("route", "/tokens")];
const SOON: Duration = Duration::from_secs(20);

async fn post(node: &Node, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    node.ask(Method::POST, path, headers, body.to_string()).await
}

fn reserving(route: &str, cost: u64, ttl_ms: u64) -> Value {
    json!({ "attributes": { "api_key": "k", "route": route }, "cost": cost, "ttl_ms": ttl_ms })
}

/// Reserves, and says what is to be settled.
async fn reserve(node: &Node, cost: u64, ttl_ms: u64) -> String {
    let answer = post(node, "/v1/reserve", &[], &reserving("/tokens", cost, ttl_ms)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["reservation"].as_str().expect("a reservation").to_owned()
}

async fn settle(node: &Node, reservation: &str, actual: u64) -> (u16, Value) {
    let body = json!({ "reservation": reservation, "actual": actual });
    let answer = post(node, "/v1/settle", &[], &body).await;
    (answer.status, answer.json())
}

async fn until_used(node: &Node, used: u64) {
    eventually(SOON, "what is used is known", async || {
        let found = node.used(&TOKENS).await?;
        ensure(found == used, || format!("{}: {found} are used, not {used}", node.name))
    })
    .await;
}

#[tokio::test]
async fn any_node_of_the_region_settles_and_all_regions_hear_of_it() {
    let cluster = Dev::new(&["eu", "us"], POLICIES).redis(2).start().await;
    cluster.connected().await;
    let [first, second, far] = ["eu-0", "eu-1", "us-0"].map(|name| cluster.node(name));

    let reserved = reserve(first, 100, 3_000).await;
    let sibling = reserve(second, 50, 60_000).await;
    let forgotten = reserve(first, 1_000, 1_000).await;
    until_used(far, 1_150).await;
    // The region knows at once, whoever settles.
    let settled = json!({ "settled": true, "charged": 30 });
    assert_eq!(settle(second, &reserved, 30).await, (200, settled.clone()));
    assert_eq!(settle(second, &sibling, 20).await.0, 200);
    assert_eq!(first.used(&TOKENS).await.unwrap(), 1_050);
    // Again, by anybody: as the first time.
    assert_eq!(settle(first, &reserved, 99).await, (200, settled.clone()));
    // What the node has settled that made it is told at once; the rest when its time is over.
    until_used(far, 50).await;
    assert_eq!(first.used(&TOKENS).await.unwrap(), 50);
    assert_eq!(settle(second, &reserved, 1).await, (200, settled));

    let (status, problem) = settle(first, &forgotten, 1).await;
    assert_eq!(status, 404, "{problem}");
    let mut other = sibling.clone();
    other.replace_range(..2, "02");
    assert_eq!(settle(first, &other, 1).await.0, 404);
    let reserved = reserve(first, 5, 1_000).await;
    let (status, problem) = settle(first, &reserved, 6).await;
    assert_eq!((status, &problem["errors"][0]["field"]), (400, &json!("actual")), "{problem}");
    let cancel = json!({ "reservation": reserved });
    let cancelled = post(second, "/v1/refund", &[], &cancel).await;
    assert_eq!((cancelled.status, cancelled.json()["charged"].as_u64()), (200, Some(0)));
    assert_eq!(first.used(&TOKENS).await.unwrap(), 50);

    // Without a reservation: by the window that the check was answered with.
    let check = first.check(&TOKENS, 40).await;
    let label = check.limits[0].label;
    let body =
        json!({ "attributes": { "api_key": "k", "route": "/tokens" }, "cost": 15, "label": label });
    for node in [first, second] {
        let refunded = post(node, "/v1/refund", &[("Idempotency-Key", "r")], &body).await;
        assert_eq!(refunded.status, 200, "{}", refunded.text());
    }
    assert_eq!(second.used(&TOKENS).await.unwrap(), 75);
    until_used(far, 75).await;
    let nowhere = json!({ "attributes": { "route": "/tokens" }, "cost": 15, "label": label + 7 });
    assert_eq!(post(first, "/v1/refund", &[], &nowhere).await.status, 404);
    cluster.stop().await;
}

const CLIENTS: u64 = 64;
const LOAD: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_often_it_is_asked_while_nodes_are_killed_a_name_is_charged_once() {
    let mut cluster = Dev::new(&["eu"], POLICIES).redis(4).with(&["--restart"]).start().await;
    let nodes: Vec<Node> = cluster.nodes().cloned().collect();
    let body = json!({ "attributes": { "api_key": "k", "route": "/tokens" } });
    let killing = async {
        for victim in ["eu-1", "eu-3"] {
            sleep(LOAD / 4).await;
            child::kill(cluster.said_of(victim).pid);
            while cluster.next_ready().await.node != victim {}
        }
    };
    let asking = ask_by_names(&nodes, &body, Instant::now() + LOAD);
    let (Asked { names, sent }, ()) = tokio::join!(asking, killing);
    assert!(names > 1_000 && sent > names + names / 3, "{sent} requests, {names} names");
    assert_eq!(cluster.node("eu-0").used(&TOKENS).await.unwrap(), names, "{sent} requests");
    cluster.stop().await;
}

/// Clients take places, keep them for a while and give them back; some never do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_places_are_taken_than_there_are_while_nodes_are_killed() {
    let mut cluster = Dev::new(&["eu"], POLICIES).redis(4).with(&["--restart"]).start().await;
    let nodes: Vec<Node> = cluster.nodes().cloned().collect();
    let (held, most, taken) =
        (Arc::new(AtomicI64::new(0)), Arc::new(AtomicI64::new(0)), Arc::new(AtomicU64::new(0)));
    let until = Instant::now() + LOAD;
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let nodes = nodes.clone();
        let (held, most, taken) = (held.clone(), most.clone(), taken.clone());
        clients.spawn(async move {
            let http = tidegate_tests::http::Http::default();
            let asking = async |node: &Node, path: &str, body: Value| {
                let url = format!("http://{}{path}", node.http);
                http.ask(Method::POST, &url, &[], body.to_string()).await.ok()
            };
            let mut turn = client;
            while Instant::now() < until {
                turn += 1;
                let node = &nodes[(turn % 4) as usize];
                let answer = asking(node, "/v1/reserve", reserving("/places", 1, 2_000)).await;
                let answer = answer.filter(|answer| answer.status == 200);
                let Some(answer) = answer else {
                    sleep(Duration::from_millis(15)).await;
                    continue;
                };
                // From the answer until it is given back, at the latest when it ends.
                most.fetch_max(held.fetch_add(1, SeqCst) + 1, SeqCst);
                let count = taken.fetch_add(1, SeqCst);
                sleep(Duration::from_millis(30)).await;
                held.fetch_sub(1, SeqCst);
                if count % 50 == 49 {
                    // This one is forgotten, and ends by itself.
                    continue;
                }
                let reservation = answer.json()["reservation"].clone();
                let body = json!({ "reservation": reservation, "actual": 0 });
                for node in nodes.iter().cycle().skip(turn as usize).take(20) {
                    match asking(node, "/v1/settle", body.clone()).await {
                        Some(answer) if answer.status == 200 || answer.status == 404 => break,
                        _ => sleep(Duration::from_millis(20)).await,
                    }
                }
            }
        });
    }
    for victim in ["eu-1", "eu-3"] {
        sleep(LOAD / 4).await;
        child::kill(cluster.said_of(victim).pid);
        while cluster.next_ready().await.node != victim {}
    }
    while let Some(ended) = clients.join_next().await {
        ended.expect("no client panics");
    }
    let (most, taken) = (most.load(SeqCst), taken.load(SeqCst));
    assert_eq!(most, 10, "{taken} were taken");
    assert!(taken > 500, "{taken} were taken");
    // All end: those of who forgot, and of requests that died with their node.
    eventually(SOON, "all places are free", async || {
        let attributes = [("api_key", "k"), ("route", "/places")];
        let usage = cluster.node("eu-0").usage(&attributes).await?;
        ensure(usage["used"] == 0 && usage["remaining"] == 10, || usage.to_string())
    })
    .await;
    cluster.stop().await;
}
