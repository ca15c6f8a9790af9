//! Peers that take more than their share, or are not listened to.

use std::net::IpAddr;

use futures_util::FutureExt as _;
use quinn::{Connection, SendStream};
use tokio::task::JoinSet;

use super::{refusals::Raw, rotation::until, *};
use crate::transport::{
    EVENTS_MAX, FRAME_BYTES_MAX, STREAMS_MAX,
    received::{MESSAGE_BYTES_MAX, RECEIVED_BYTES_MAX},
};

/// As many messages as a peer may have under way, each begun and not ended.
async fn begin_all_streams(connection: &Connection) -> Vec<SendStream> {
    let mut streams = Vec::new();
    for _ in 0..STREAMS_MAX {
        let mut stream = connection.open_uni().await.unwrap();
        stream.write_all(b"\x01").await.unwrap();
        streams.push(stream);
    }
    streams
}

#[tokio::test]
async fn a_thousand_handshakes_that_do_not_go_on_keep_nobody_out() {
    let authority = Authority::generate().unwrap();
    let mut eu = Node::start(config(&authority, "eu", 1));
    // From another address than the honest one, with a good certificate, and then silent.
    let elsewhere: IpAddr = [127, 0, 0, 2].into();
    let flood = Raw::with_certificate_from(&authority, "ap", elsewhere);
    let mut attempts = JoinSet::new();
    for _ in 0..1_000 {
        let connecting = flood.connecting(&eu);
        attempts.spawn(async move {
            if let Ok(connection) = connecting.await {
                let _ = connection.closed().await;
            }
        });
    }
    until(|| eu.refused("limit") > 0).await;
    let mut us = Node::start(config(&authority, "us", 1));
    us.keep(&[&eu]);
    assert_eq!(us.next().await, Event::Connected(eu.session()));
    assert_eq!(eu.next().await, Event::Connected(us.session()));
    // Nearly all of them are still there.
    while let Some(Some(_)) = attempts.join_next().now_or_never() {}
    assert!(attempts.len() > 900, "{} attempts go on", attempts.len());
}

#[tokio::test]
async fn streams_that_do_not_end_are_bounded_and_end_their_connection() {
    let authority = Authority::generate().unwrap();
    let mut eu = Node::start(config(&authority, "eu", 1));
    let mut us = Node::start(config(&authority, "us", 1));
    connect(&mut eu, &mut us).await;
    let raw = Raw::with_certificate(&authority, "ap");
    let (connection, _hello) = raw.introduced(&eu, "ap").await;
    assert!(matches!(eu.next().await, Event::Connected(_)));

    let _streams = begin_all_streams(&connection).await;
    assert!(connection.open_uni().now_or_never().is_none(), "no more than that");
    us.send(&eu, "undisturbed").await;
    assert_eq!(eu.next_frame().await, "undisturbed");
    let end = tokio::time::timeout(PATIENCE, connection.closed()).await.expect("closed in time");
    assert!(end.to_string().contains("do not end"), "{end}");
    assert!(matches!(eu.next().await, Event::Disconnected(peer) if peer.id == id("ap")));
    us.send(&eu, "still here").await;
    assert_eq!(eu.next_frame().await, "still here");
}

#[tokio::test]
async fn whole_messages_that_nobody_takes_are_bounded_and_none_is_lost() {
    const SENT: u64 = 5_000;
    let authority = Authority::generate().unwrap();
    let mut eu = Node::start(config(&authority, "eu", 1));
    let raw = Raw::with_certificate(&authority, "ap");
    let (connection, _hello) = raw.introduced(&eu, "ap").await;
    let sending = tokio::spawn(async move {
        for _ in 0..SENT {
            let mut stream = connection.open_uni().await.unwrap();
            stream.write_all(&[1; 100]).await.unwrap();
            stream.finish().unwrap();
        }
        connection
    });
    let held = || eu.transport.stats().frames_received;
    until(|| held() >= EVENTS_MAX as u64).await;
    // Whatever more would be taken is taken by the time when nothing has moved for a while.
    let mut before = 0;
    while held() != before {
        before = held();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let bound = EVENTS_MAX as u64 + u64::from(STREAMS_MAX);
    assert!(held() <= bound, "{} of {bound} are held", held());
    assert!(!sending.is_finished());
    assert_eq!(eu.transport.stats().received_bytes, 100 * held(), "each with its first byte");
    assert!(matches!(eu.next().await, Event::Connected(_)));
    for _ in 0..SENT {
        eu.next_frame().await;
    }
    drop(sending.await.unwrap());
    assert_eq!(eu.transport.stats().received_bytes, 0);
}

#[tokio::test]
async fn peers_that_take_all_room_for_what_is_received_keep_no_other_from_being_heard() {
    let authority = Authority::generate().unwrap();
    let mut eu = Node::start(config(&authority, "eu", 1));
    let mut us = Node::start(config(&authority, "us", 1));
    connect(&mut eu, &mut us).await;
    // One such peer takes room for `STREAMS_MAX` of the longest messages at most.
    let peers = RECEIVED_BYTES_MAX / MESSAGE_BYTES_MAX / STREAMS_MAX as usize + 1;
    let mut kept = Vec::new();
    for n in 0..peers {
        let region = format!("ap-{n}");
        let raw = Raw::with_certificate(&authority, &region);
        let (connection, hello) = raw.introduced(&eu, &region).await;
        assert!(matches!(eu.next().await, Event::Connected(_)));
        let streams = begin_all_streams(&connection).await;
        kept.push((raw, connection, hello, streams));
    }
    // One byte of each that is read.
    let read = (RECEIVED_BYTES_MAX / MESSAGE_BYTES_MAX) as u64;
    until(|| eu.transport.stats().received_bytes >= read).await;
    // Before the first of these peers is given up, which would be an event.
    for n in 0..10 {
        let text = format!("still heard {n}");
        us.send(&eu, &text).await;
        assert_eq!(eu.next_frame().await, text);
    }
}

#[tokio::test]
async fn a_message_that_is_too_long_is_told_as_unreadable() {
    let authority = Authority::generate().unwrap();
    let mut eu = Node::start(config(&authority, "eu", 1));
    let (connection, _hello) = Raw::with_certificate(&authority, "us").introduced(&eu, "us").await;
    let Event::Connected(us) = eu.next().await else { panic!("not connected") };
    for (bytes, readable) in [
        (vec![1; 1 + FRAME_BYTES_MAX], true),
        (vec![1; 2 + FRAME_BYTES_MAX], false),
        (vec![], false),
        (vec![9], false),
    ] {
        let mut stream = connection.open_uni().await.unwrap();
        // It may be stopped before all is said.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.finish();
        match eu.next().await {
            Event::Frame { .. } => assert!(readable, "{} bytes", bytes.len()),
            other => assert_eq!((other, readable), (Event::Unreadable(us.clone()), false)),
        }
    }
}

#[tokio::test]
async fn a_peer_that_is_not_taken_is_closed_after_a_pause_and_connects_again() {
    let authority = Authority::generate().unwrap();
    let mut eu = Node::start(config(&authority, "eu", 1));
    let mut us = Node::start(config(&authority, "us", 1));
    connect(&mut eu, &mut us).await;
    let asked = tokio::time::Instant::now();
    eu.transport.close_after(&us.session(), Duration::from_millis(300), "no room");
    assert_eq!(eu.next().await, Event::Disconnected(us.session()));
    assert!(asked.elapsed() >= Duration::from_millis(300));
    assert_eq!(eu.next().await, Event::Connected(us.session()));
}

#[tokio::test]
async fn a_quarantined_node_is_closed_and_refused_until_its_time_is_over() {
    let authority = Authority::generate().unwrap();
    let mut eu = Node::start(config(&authority, "eu", 1));
    let mut us = Node::start(config(&authority, "us", 1));
    connect(&mut eu, &mut us).await;
    eu.transport.quarantine(&id("us"), Duration::from_secs(5));
    assert_eq!(eu.next().await, Event::Disconnected(us.session()));
    assert_eq!(us.next().await, Event::Disconnected(eu.session()));
    // Once as it was closed, and then at each attempt, whoever dials.
    until(|| eu.refused("quarantined") >= 2).await;
    assert!(eu.events.try_recv().is_err());
    assert_eq!(eu.next().await, Event::Connected(us.session()));
    assert_eq!(us.next().await, Event::Connected(eu.session()));
}
