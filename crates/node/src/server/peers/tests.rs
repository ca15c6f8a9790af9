//! Nodes whose transport breaks under them.

use std::{future::pending, sync::Arc, time::Duration};

use tokio::time;

use crate::server::{ServerError, tests::node};

const PATIENCE: Duration = Duration::from_secs(20);

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
