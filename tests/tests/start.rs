//! How clusters start, in any order, and how they end without leaving anything behind.

use std::{
    net::{TcpListener, UdpSocket},
    time::Duration,
};

use tidegate_tests::{
    dev::{self, Dev},
    ensure, eventually,
    ports::Ports,
    site::{Place, Served, Site},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// How long regions may take to find each other.
const FOUND: Duration = Duration::from_secs(10);
/// How soon news must have gone round.
const NEWS: Duration = Duration::from_secs(2);
/// How soon a node must say that it stops.
const SAID: Duration = Duration::from_secs(2);

const POLICIES: &str = r#"
[[policy]]
name = "all"
key = ["api_key"]
[[policy.limit]]
name = "quota"
quantity = 60
window = "400d"
scope = "global"
consistency = "plain"
"#;
const CALLER: [(&str, &str); 1] = [("api_key", "k")];

/// Starts three regions that know one seed, `eu`, in this order, each when the one before is ready.
async fn started_in_order(order: [usize; 3]) {
    let site = Site::new(POLICIES);
    let places = ["eu", "us", "ap"].map(|region| site.place(region, &format!("{region}-0")));
    let seed = &places[0];
    let mut served: Vec<Served> = Vec::new();
    for place in order.map(|index| &places[index]) {
        served.push(site.serve_ready(place, &site.config(place, &[seed])).await);
    }
    let nodes: Vec<_> = served.iter().map(|served| &served.node).collect();
    dev::connected(nodes.clone(), FOUND).await;
    for node in &nodes {
        assert_eq!(node.spend(&CALLER, 3).await, 3, "{}", node.name);
    }
    dev::agree_on(nodes, &CALLER, &[("eu", 3), ("us", 3), ("ap", 3)], NEWS).await;
    for served in served {
        served.stop().await;
    }
}

#[tokio::test]
async fn regions_find_each_other_from_one_seed_in_any_order() {
    tokio::join!(
        started_in_order([0, 1, 2]),
        started_in_order([1, 0, 2]),
        started_in_order([2, 1, 0]),
    );
}

#[tokio::test]
async fn a_node_that_stops_answers_what_is_under_way() {
    let site = Site::new(POLICIES);
    let place = site.place("eu", "eu-0");
    let mut served = site.serve_ready(&place, &site.config_alone(&place, "")).await;

    let body = r#"{"attributes":{"api_key":"k"}}"#;
    let mut stream = TcpStream::connect(&served.node.http).await.unwrap();
    let head =
        format!("POST /v1/check HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{}", &body[..10]).as_bytes()).await.unwrap();
    // Answered after it: the node has taken the first connection, and waits for the rest.
    served.node.check(&CALLER, 1).await;

    served.process.terminate();
    eventually(SAID, "the node says that it is stopping", async || {
        let (status, body) = served.node.readyz().await?;
        let reasons = body["reasons"].to_string();
        ensure(status == 503 && reasons.contains("stopping"), || format!("{status} {body}"))
    })
    .await;
    eventually(SAID, "new connections are refused", async || {
        let connected = TcpStream::connect(&served.node.http).await;
        ensure(connected.is_err(), || "it was taken".into())
    })
    .await;

    stream.write_all(&body.as_bytes()[10..]).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains(r#""used":2"#), "{answer}");
    let status = served.ended().await;
    assert_eq!(status.code(), Some(0), "{}", served.process.log());
}

/// What a taken address leads to: exit 2, and a message that names the setting and the address.
async fn refused_for(site: &Site, place: &Place, field: &str, port: u16) {
    let (code, log) = site.refused(place, &site.config(place, &[])).await;
    assert_eq!(code, Some(2), "{log}");
    assert!(log.contains(&format!("127.0.0.1:{port} (`{field}`)")), "{log}");
    assert!(log.contains("is another process using it?"), "{log}");
}

#[tokio::test]
async fn an_address_in_use_is_exit_2_and_named() {
    let site = Site::new(POLICIES);
    let place = site.place("eu", "eu-0");
    let http = TcpListener::bind(("127.0.0.1", place.http)).unwrap();
    refused_for(&site, &place, "listen.http", place.http).await;
    drop(http);
    let admin = TcpListener::bind(("127.0.0.1", place.admin)).unwrap();
    refused_for(&site, &place, "listen.admin", place.admin).await;
    drop(admin);
    let cluster = UdpSocket::bind(("127.0.0.1", place.cluster)).unwrap();
    refused_for(&site, &place, "cluster.listen", place.cluster).await;
    drop(cluster);
    // Nothing else was wrong.
    site.serve_ready(&place, &site.config(&place, &[])).await.stop().await;
}

#[tokio::test]
async fn dev_starts_nothing_when_a_port_is_in_use() {
    let ports = Ports::claim();
    // The Redis of the second region.
    let port = ports.base() + 14;
    let _other = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let mut cluster = Dev::new(&["eu", "us"], POLICIES).redis(1).spawn_at(ports);
    cluster.ends_with(2).await;
    assert!(cluster.log().contains(&format!("port {port} (Redis) is in use")), "{}", cluster.log());
    assert_eq!(cluster.ports().in_use(), [port]);
    assert!(cluster.left_behind().is_empty());
}

#[tokio::test]
async fn dev_takes_its_children_with_it_even_when_killed() {
    let mut cluster = Dev::new(&["eu", "us"], POLICIES).redis(2).start().await;
    assert_eq!(cluster.nodes().count(), 4);
    cluster.kill().await;
    cluster.nothing_runs().await;
}

#[tokio::test]
async fn dev_says_when_a_node_dies_and_stops_the_rest() {
    let mut cluster = Dev::new(&["eu", "us"], POLICIES).start().await;
    tidegate_tests::child::kill(cluster.said_of("us-0").pid);
    cluster.ends_with(1).await;
    assert!(cluster.log().contains("us-0 died"), "{}", cluster.log());
    cluster.nothing_runs().await;
    assert!(cluster.left_behind().is_empty());
}
