//! Nodes whose transport breaks under them, and nodes that are refused.

use std::{future::pending, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time,
};

use crate::{
    api::{Admin as _, ConnectionState},
    server::{
        ServerError,
        tests::{config, node, start},
    },
    store::snapshot::{self, Found},
};

const PATIENCE: Duration = Duration::from_secs(20);

async fn until(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            time::sleep(Duration::from_millis(5)).await;
        }
    };
    time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what} in time"));
}

#[tokio::test]
async fn a_node_that_can_let_nobody_in_any_more_stops_and_says_so() {
    let home = tempfile::tempdir().unwrap();
    let server = node(home.path()).await;
    let network = Arc::clone(&server.view.network);
    let running = tokio::spawn(server.run(pending(), pending::<bool>));
    let (transport, _) = network.0.as_ref().expect("a cluster");
    transport.close().await;
    let ended = time::timeout(PATIENCE, running).await.expect("it ends in time").unwrap();
    let Err(error @ ServerError::Broken(_)) = ended else { panic!("{ended:?}") };
    assert!(error.to_string().contains("peers cannot be heard any more"), "{error}");
}

#[tokio::test]
async fn a_node_that_is_stopped_while_its_transport_breaks_ends_with_an_error_too() {
    let home = tempfile::tempdir().unwrap();
    let server = node(home.path()).await;
    let network = Arc::clone(&server.view.network);
    let (transport, _) = network.0.as_ref().expect("a cluster");
    transport.close().await;
    transport.ended().await;
    let ended = time::timeout(PATIENCE, server.run(async {}, pending::<bool>)).await;
    let ended = ended.expect("it ends in time");
    assert!(matches!(ended, Err(ServerError::Broken(_))), "{ended:?}");
}

#[tokio::test]
async fn a_node_whose_transport_breaks_answers_what_it_was_asked_and_keeps_its_counts() {
    let home = tempfile::tempdir().unwrap();
    let store = "[store]\nkind = \"memory\"\nsnapshot = \"counts\"\nsnapshot_every = \"1h\"\n";
    let config = config(home.path(), "eu", None, store);
    let server = start(config.clone()).await;
    let (view, http) = (Arc::clone(&server.view), server.http_address().unwrap());
    let running = tokio::spawn(server.run(pending(), pending::<bool>));
    let written = || view.snapshots.as_ref().is_some_and(|keeper| keeper.counted()[0] == 1);
    until("the first snapshot, which is empty", written).await;
    until("readiness", || view.ready().ready).await;

    // A check whose caller has not sent all of it.
    let (body, mut answer) = (br#"{"attributes":{"api_key":"k"}}"#, Vec::new());
    let mut caller = TcpStream::connect(http).await.unwrap();
    let head = format!(
        "POST /v1/check HTTP/1.1\r\nhost: eu\r\ncontent-type: application/json\r\n\
         expect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    caller.write_all(head.as_bytes()).await.unwrap();
    let mut go_on = *b"HTTP/1.1 100 Continue\r\n\r\n";
    caller.read_exact(&mut go_on).await.unwrap();
    assert!(go_on.starts_with(b"HTTP/1.1 100 "), "{}", go_on.escape_ascii());

    let (transport, _) = view.network.0.as_ref().expect("a cluster");
    transport.close().await;
    until("the node drains", || *view.draining.borrow()).await;
    caller.write_all(body).await.unwrap();
    caller.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", answer.escape_ascii());

    let ended = time::timeout(PATIENCE, running).await.expect("it ends in time").unwrap();
    let Err(error @ ServerError::Broken(_)) = ended else { panic!("{ended:?}") };
    assert!(error.to_string().contains("peers cannot be heard any more"), "{error}");
    let (path, secret) = (home.path().join("counts"), config.cluster.unwrap().secret);
    let found = snapshot::load(&path, Some(secret), 1000, view.clock).unwrap();
    let Found::Store { store, .. } = found else { panic!("no snapshot") };
    assert_eq!(store.records(), 1, "what was answered last is in the last snapshot");
}

#[tokio::test]
async fn a_copy_of_a_running_node_is_refused_and_says_so() {
    let home = tempfile::tempdir().unwrap();
    let eu_config = config(home.path(), "eu", None, "");
    let us_config = || config(home.path(), "us", Some(&eu_config), "");
    let (us, eu) = (start(us_config()).await, start(eu_config.clone()).await);
    let (us_view, eu_view) = (Arc::clone(&us.view), Arc::clone(&eu.view));
    let eu_running = tokio::spawn(eu.run(pending(), pending::<bool>));
    let us_running = tokio::spawn(us.run(pending(), pending::<bool>));
    let connected =
        || us_view.ready().peers.values().any(|state| *state == ConnectionState::Connected);
    until("a connection", connected).await;

    // Started later, so its boot number is larger.
    let copy = start(us_config()).await;
    let copy_view = Arc::clone(&copy.view);
    let copy_running = tokio::spawn(copy.run(pending(), pending::<bool>));
    let told = |reasons: Vec<String>| {
        reasons.iter().any(|r| r.contains("another process runs as us/us-0"))
    };
    until("the copy says why it is alone", || told(copy_view.ready().reasons)).await;
    let refused = r#"tidegate_peer_refused_total{reason="duplicate_name"} 0"#;
    assert!(!eu_view.render_metrics().contains(refused));
    assert!(connected(), "{:?}", us_view.ready());
    assert!(!told(us_view.ready().reasons));
    for running in [eu_running, us_running, copy_running] {
        running.abort();
    }
}
