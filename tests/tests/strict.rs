//! Limits under rights on real processes: all regions together never exceed them, whatever breaks.

use std::time::Duration;

use tidegate_tests::{
    child,
    dev::{Cluster, Dev},
    ensure, eventually,
    node::Node,
    region::{ask_redis, of},
};

/// How long grants may take to move all that there is to whom asks for it.
const GRANTED: Duration = Duration::from_secs(10);
/// How long a process may take to be started again.
const RETURN: Duration = Duration::from_secs(10);

const QUANTITY: u64 = 300;
const CALLER: [(&str, &str); 1] = [("api_key", "k")];

/// A limit whose window no test outlasts.
fn policies(consistency: &str) -> String {
    format!(
        r#"
[[policy]]
name = "spent"
key = ["api_key"]
on_store_failure = "closed"
[[policy.limit]]
name = "quota"
quantity = {QUANTITY}
window = "400d"
scope = "global"
{consistency}
"#
    )
}

const STRICT: &str = r#"consistency = "strict""#;

/// Asks a node until so much was admitted in all, `admitted` included; how much was.
async fn spend_up_to(node: &Node, admitted: u64, most: u64) -> u64 {
    let mut sum = admitted;
    eventually(GRANTED, &format!("{} spends {most}", node.name), async || {
        sum += node.spend(&CALLER, 50).await;
        ensure(sum >= most, || format!("{sum} so far"))
    })
    .await;
    sum
}

/// What comes of these nodes asking so many times each, ten at a time in turn.
async fn ask_all(nodes: &[&Node], times: u64) -> u64 {
    let mut admitted = 0;
    for start in (0..times).step_by(10) {
        for node in nodes {
            admitted += node.spend(&CALLER, (times - start).min(10)).await;
        }
    }
    admitted
}

/// Nobody gets any more.
async fn all_is_spent(cluster: &Cluster) {
    for node in cluster.nodes() {
        assert_eq!(node.spend(&CALLER, 3).await, 0, "{}", node.name);
    }
}

#[tokio::test]
async fn one_region_spends_what_the_others_do_not_need() {
    let cluster = Dev::new(&["eu", "us", "ap"], &policies(STRICT)).start().await;
    let eu = cluster.node("eu-0");
    assert_eq!(spend_up_to(eu, 0, QUANTITY).await, QUANTITY);
    all_is_spent(&cluster).await;
    let usage = eu.usage(&CALLER).await.unwrap();
    assert_eq!((&usage["used"], &usage["worst_over_admission"]), (&300.into(), &0.into()));
    assert_eq!(usage["rights"], serde_json::json!({"held": 300, "granted": 0, "stranded": 0}));
    let usage = cluster.node("us-0").usage(&CALLER).await.unwrap();
    assert_eq!(usage["rights"]["granted"], 100, "{usage}");
    cluster.stop().await;
}

#[tokio::test]
async fn a_cut_makes_no_side_exceed_it() {
    let cluster = Dev::new(&["eu", "us", "ap"], &policies(STRICT)).start().await;
    let nodes: Vec<_> = cluster.nodes().collect();
    let before = ask_all(&nodes, 5).await;
    assert_eq!(before, 15);
    cluster.cut_off("ap").await;
    // Both sides want all of it.
    let during = before + ask_all(&nodes, 300).await;
    assert!(during <= QUANTITY, "{during}");
    let ap = cluster.node("ap-0");
    assert_eq!(ap.spend(&CALLER, 10).await, 0, "it has what it had, and hears of no more");
    cluster.heal().await;
    cluster.connected().await;
    // What was left on one side is spent on the other.
    assert_eq!(spend_up_to(ap, during, QUANTITY).await, QUANTITY);
    all_is_spent(&cluster).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_store_that_forgot_spends_nothing_twice() {
    let dev = Dev::new(&["eu", "us"], &policies(STRICT)).redis(2).with(&["--restart"]);
    let mut cluster = dev.start().await;
    let (eu, us) = (of(&cluster, "eu"), of(&cluster, "us"));
    let mut admitted = ask_all(&eu, 40).await;
    assert_eq!(admitted, 80);
    ask_redis::<()>(&cluster, "eu", &["FLUSHALL"]).await.unwrap();
    // Its window has not ended: what it may have forgotten it does not spend again.
    assert_eq!(ask_all(&eu, 20).await, 0);
    admitted += ask_all(&us, 200).await;
    assert!(admitted <= QUANTITY, "{admitted}");

    // Who is killed and comes back knows no more than its store.
    child::kill(cluster.said_of("eu-0").pid);
    let back = cluster.next_ready().await;
    assert_eq!((back.node.as_str(), back.restarts), ("eu-0", 1));
    cluster.node("eu-0").ready(RETURN).await;
    let nodes: Vec<_> = cluster.nodes().collect();
    admitted += ask_all(&nodes, 50).await;
    assert!(admitted <= QUANTITY, "{admitted}");
    cluster.stop().await;
}

#[tokio::test]
async fn a_node_that_died_with_its_store_spends_nothing_twice() {
    let dev = Dev::new(&["eu", "us"], &policies(STRICT)).with(&["--restart"]);
    let mut cluster = dev.start().await;
    let mut admitted = cluster.node("eu-0").spend(&CALLER, 150).await;
    assert_eq!(admitted, 150, "its base");
    child::kill(cluster.said_of("eu-0").pid);
    let back = cluster.next_ready().await;
    assert_eq!((back.node.as_str(), back.restarts), ("eu-0", 1));
    let nodes: Vec<_> = cluster.nodes().collect();
    admitted += ask_all(&nodes, 200).await;
    assert!(admitted <= QUANTITY, "{admitted}");
    cluster.stop().await;
}

#[tokio::test]
async fn a_bounded_limit_is_overdrawn_by_no_more_than_it_says() {
    let bounded = "consistency = \"bounded\"\noverdraft = \"10%\"";
    let cluster = Dev::new(&["eu", "us", "ap"], &policies(bounded)).start().await;
    let nodes: Vec<_> = cluster.nodes().collect();
    cluster.cut_off("ap").await;
    let mut admitted = ask_all(&nodes, 300).await;
    cluster.heal().await;
    cluster.connected().await;
    admitted += ask_all(&nodes, 100).await;
    assert!((QUANTITY..=QUANTITY + 30).contains(&admitted), "{admitted}");
    cluster.stop().await;
}
