//! Peers that may talk: frames, one connection per pair, restarts, goodbyes, full queues.

use super::{rotation::until, *};
use crate::transport::{
    FRAME_BYTES_MAX, SendError,
    link::{self, QUEUE_MESSAGES_MAX},
};

#[tokio::test]
async fn two_nodes_exchange_frames() {
    let authority = Authority::generate().unwrap();
    let mut eu = Node::start(config(&authority, "eu", 1));
    let mut us = Node::start(config(&authority, "us", 1));
    connect(&mut eu, &mut us).await;

    let large = Bytes::from(vec![7; FRAME_BYTES_MAX]);
    eu.transport.send(&us.session(), large.clone()).unwrap();
    assert_eq!(us.next().await, Event::Frame { from: eu.session(), bytes: large });
    us.transport.send(&eu.session(), Bytes::new()).unwrap();
    assert_eq!(eu.next().await, Event::Frame { from: us.session(), bytes: Bytes::new() });

    let too_long = Bytes::from(vec![7; FRAME_BYTES_MAX + 1]);
    let length = too_long.len();
    let refused = eu.transport.send(&us.session(), too_long);
    assert_eq!(refused, Err(SendError::TooLong { length }));
    let other_run = Session { boot: Boot(2), ..us.session() };
    let refused = eu.transport.send(&other_run, Bytes::new());
    assert_eq!(refused, Err(SendError::NotConnected), "frames are for one run of a node");
    let stats = eu.transport.stats();
    assert_eq!((stats.frames_sent, stats.frames_received), (1, 1));
    assert_eq!(eu.transport.connections()[0].address, us.address());
}

#[tokio::test]
async fn a_peer_is_known_by_every_address_that_leads_to_it() {
    let authority = Authority::generate().unwrap();
    let mut eu = Node::start(config(&authority, "eu", 1));
    // As behind a translator: dialled where it is, advertised somewhere else.
    let elsewhere = free_socket().local_addr().unwrap();
    let mut us = Node::start(Config { advertise: elsewhere, ..config(&authority, "us", 1) });
    eu.keep(&[&us]);
    assert_eq!(eu.next().await, Event::Connected(us.session()));
    assert_eq!(us.next().await, Event::Connected(eu.session()));
    for address in [us.address(), elsewhere] {
        assert_eq!(eu.transport.peer_at(address), Some(us.session()));
    }
    assert_eq!(eu.transport.peer_at(eu.address()), None);
    assert_eq!(eu.transport.connections().len(), 1);
}

#[tokio::test]
async fn nodes_that_dial_each_other_settle_on_one_connection_without_a_break() {
    let authority = Authority::generate().unwrap();
    for _ in 0..20 {
        let mut eu = Node::start(config(&authority, "eu", 1));
        let mut us = Node::start(config(&authority, "us", 1));
        connect(&mut eu, &mut us).await;
        // Not a frame is lost, and no break is told.
        for round in 0..20 {
            let (there, back) = (format!("to us {round}"), format!("to eu {round}"));
            eu.send(&us, &there).await;
            us.send(&eu, &back).await;
            assert_eq!(us.next_frame().await, there);
            assert_eq!(eu.next_frame().await, back);
        }
        assert_eq!(eu.transport.connections().len(), 1);
        tokio::join!(eu.transport.close(), us.transport.close());
    }
}

#[tokio::test]
async fn a_goodbye_is_seen_at_once() {
    let authority = Authority::generate().unwrap();
    let mut eu = Node::start(config(&authority, "eu", 1));
    let mut us = Node::start(config(&authority, "us", 1));
    connect(&mut eu, &mut us).await;
    let start = tokio::time::Instant::now();
    us.transport.close().await;
    assert_eq!(eu.next().await, Event::Disconnected(us.session()));
    assert!(start.elapsed() < Duration::from_secs(2), "not found out by silence");
}

#[test]
fn a_killed_and_restarted_node_is_seen_as_another_session() {
    let refused = kill_and_restart(1, 2, Place::Same);
    assert_eq!(refused, 0, "its former run cannot have its address any more");
}

#[test]
fn so_is_one_whose_clock_was_set_back_meanwhile() {
    assert_eq!(kill_and_restart(7, 2, Place::Same), 0);
}

#[test]
fn one_that_has_moved_is_let_in_once_its_former_run_is_silent() {
    kill_and_restart(1, 2, Place::Other);
    kill_and_restart(7, 2, Place::Other);
}

/// Where a node is started again.
#[derive(Clone, Copy)]
enum Place {
    Same,
    Other,
}

/// A run of `us` is killed, and another begins and dials `eu`; how often `eu` has refused it.
fn kill_and_restart(first_boot: u64, second_boot: u64, place: Place) -> u64 {
    let authority = Authority::generate().unwrap();
    let mut first = config(&authority, "us", first_boot);
    let mut second = config(&authority, "us", second_boot);
    if let Place::Same = place {
        second.advertise = first.advertise;
        second.socket = first.socket.try_clone().unwrap();
    }

    // Killed with its runtime, the first run says no goodbye.
    let killed = tokio::runtime::Runtime::new().unwrap();
    let mut us = killed.block_on(async {
        first.faults = None;
        Node::start(first)
    });
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut eu = Node::start(config(&authority, "eu", 1));
        eu.keep(&[&us]);
        let old = us.session();
        assert_eq!(eu.next().await, Event::Connected(old.clone()));
        assert_eq!(us.next().await, Event::Connected(eu.session()));

        drop(us);
        killed.shutdown_background();
        let mut us = Node::start(second);
        us.keep(&[&eu]);
        assert_eq!(eu.next().await, Event::Disconnected(old));
        assert_eq!(eu.next().await, Event::Connected(us.session()));
        assert_eq!(us.next().await, Event::Connected(eu.session()));
        eu.send(&us, "again").await;
        assert_eq!(us.next_frame().await, "again");
        eu.refused("duplicate_name")
    })
}

#[tokio::test]
async fn of_two_live_runs_the_one_that_is_there_stays_whichever_is_newer() {
    let authority = Authority::generate().unwrap();
    for (first, second) in [(5, 6), (6, 5)] {
        let mut eu = Node::start(config(&authority, "eu", 1));
        let mut us = Node::start(config(&authority, "us", first));
        us.keep(&[&eu]);
        assert_eq!(eu.next().await, Event::Connected(us.session()));
        assert_eq!(us.next().await, Event::Connected(eu.session()));

        // The other one tries again and again, is told, and changes nothing.
        let copy = Node::start(config(&authority, "us", second));
        copy.keep(&[&eu]);
        until(|| eu.refused("duplicate_name") >= 3).await;
        until(|| copy.transport.refused_for_namesake() == Some(eu.address())).await;
        assert_eq!(us.transport.refused_for_namesake(), None);
        us.send(&eu, "undisturbed").await;
        assert_eq!(eu.next_frame().await, "undisturbed");
        assert!(us.events.try_recv().is_err(), "no break");

        // When the one that was there is gone, nothing speaks against the other.
        us.transport.close().await;
        assert_eq!(eu.next().await, Event::Disconnected(us.session()));
        assert_eq!(eu.next().await, Event::Connected(copy.session()));
    }
}

#[tokio::test]
async fn a_full_queue_drops_the_newest_and_counts() {
    let authority = Authority::generate().unwrap();
    let mut eu = Node::start(config(&authority, "eu", 1));
    let mut us = Node::start(config(&authority, "us", 1));
    connect(&mut eu, &mut us).await;

    // Nothing else runs on this thread between these calls.
    let send = |n: usize| eu.transport.send(&us.session(), n.to_string().into());
    let results: Vec<_> = (0..QUEUE_MESSAGES_MAX + 3).map(send).collect();
    assert!(results[..QUEUE_MESSAGES_MAX].iter().all(Result::is_ok));
    assert_eq!(results[QUEUE_MESSAGES_MAX..], [Err(SendError::QueueFull); 3]);
    assert_eq!(eu.transport.stats().dropped_queue_full, 3);

    let mut received: Vec<usize> = Vec::new();
    for _ in 0..QUEUE_MESSAGES_MAX {
        let bytes = us.next_frame().await;
        received.push(String::from_utf8(bytes.to_vec()).unwrap().parse().unwrap());
    }
    received.sort_unstable();
    assert!(received.into_iter().eq(0..QUEUE_MESSAGES_MAX), "the older ones arrive");

    // Bytes are bounded too: 8 MiB are fewer than 1024 of the longest messages.
    let long = Bytes::from(vec![0; FRAME_BYTES_MAX]);
    let taken = (0..QUEUE_MESSAGES_MAX)
        .take_while(|_| eu.transport.send(&us.session(), long.clone()).is_ok())
        .count();
    assert_eq!(taken, 8 * 1024 * 1024 / FRAME_BYTES_MAX);
}

#[tokio::test]
async fn a_connection_whose_task_panics_is_closed_told_and_made_anew() {
    let authority = Authority::generate().unwrap();
    let mut eu = Node::start(config(&authority, "eu", 1));
    let mut us = Node::start(config(&authority, "us", 1));
    connect(&mut eu, &mut us).await;
    let inner = eu.transport.inner.clone();
    let broken = inner.registry.of_node(&id("us")).unwrap();
    link::see_through(&inner, &broken, async { panic!("for the test") }).await;
    let end = broken.connection.close_reason().expect("closed").to_string();
    assert!(end.contains("closed"), "{end}");
    assert_eq!(eu.next().await, Event::Disconnected(us.session()));
    assert_eq!(us.next().await, Event::Disconnected(eu.session()));
    assert_eq!(us.next().await, Event::Connected(eu.session()));
    us.send(&eu, "here").await;
    loop {
        // Here the other task still ran, and may have told the end once more.
        match eu.next().await {
            Event::Frame { bytes, .. } => break assert_eq!(bytes, "here"),
            Event::Unreadable(_) => panic!("nothing was unreadable"),
            Event::Connected(_) | Event::Disconnected(_) => {}
        }
    }
}
