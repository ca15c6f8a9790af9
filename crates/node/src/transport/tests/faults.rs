//! Cuts, and how soon a healed one is found.

use tokio::time::Instant;

use super::{rotation::until, *};
use crate::faults::{Baseline, FaultsRequest};

fn cut(faults: &Faults, cut: bool) {
    faults.set(&FaultsRequest { to: "*".into(), cut, ..FaultsRequest::default() }).unwrap();
}

/// A table in which every way takes `delay` and up to a fifth more.
fn slow(region: &str, delay: Duration) -> Arc<Faults> {
    let baseline = ["eu", "us"].map(|to| (id(to).region, Baseline::of_round_trip(2 * delay)));
    let rng = Box::new(Xoshiro256PlusPlus::seed_from_u64(1));
    Arc::new(Faults::new(id(region).region, baseline.into(), rng))
}

/// Waits for a frame with `text`, whatever else comes before.
async fn heard(node: &mut Node, text: &str) {
    loop {
        if let Event::Frame { bytes, .. } = node.next().await
            && bytes == text
        {
            return;
        }
    }
}

/// Sends `text` every 20 ms, connected or not.
async fn call(from: Transport, to: Session, text: &'static str) {
    let mut interval = tokio::time::interval(Duration::from_millis(20));
    loop {
        interval.tick().await;
        let _ = from.send(&to, Bytes::from_static(text.as_bytes()));
    }
}

/// Cuts two nodes apart both ways for `span`, under traffic that fills every window; returns how
/// long after the heal frames flow both ways. `delay` is that of each way.
async fn heal_time(span: Duration, delay: Duration) -> Duration {
    let authority = Authority::generate().unwrap();
    let (eu_faults, us_faults) = (slow("eu", delay), slow("us", delay));
    let with = |region, faults: &Arc<Faults>| {
        Node::start(Config { faults: Some(faults.clone()), ..config(&authority, region, 1) })
    };
    let (mut eu, mut us) = (with("eu", &eu_faults), with("us", &us_faults));
    connect(&mut eu, &mut us).await;

    cut(&eu_faults, true);
    cut(&us_faults, true);
    let filler = Bytes::from(vec![0; 10_000]);
    let until = Instant::now() + span;
    while Instant::now() < until {
        // These are lost, and what they leave in the windows must not hold up what comes later.
        let _ = eu.transport.send(&us.session(), filler.clone());
        let _ = us.transport.send(&eu.session(), filler.clone());
        tokio::time::sleep(Duration::from_millis(20)).await;
        while eu.events.try_recv().is_ok() {}
        while us.events.try_recv().is_ok() {}
    }

    let callers = [
        tokio::spawn(call(eu.transport.clone(), us.session(), "from eu")),
        tokio::spawn(call(us.transport.clone(), eu.session(), "from us")),
    ];
    let healed = Instant::now();
    cut(&eu_faults, false);
    cut(&us_faults, false);
    tokio::join!(heard(&mut eu, "from us"), heard(&mut us, "from eu"));
    let took = healed.elapsed();
    callers.iter().for_each(|caller| caller.abort());
    took
}

/// Frames must flow again this soon after a cut.
const HEAL_MAX: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_short_cut_heals_at_once() {
    // Shorter than the idle timeout: the connections still stand, with doubled pauses.
    let took = heal_time(Duration::from_millis(2500), Duration::ZERO).await;
    assert!(took < HEAL_MAX, "{took:?}");
}

#[tokio::test]
async fn a_long_cut_heals_at_once() {
    let took = heal_time(Duration::from_secs(10), Duration::ZERO).await;
    assert!(took < HEAL_MAX, "{took:?}");
}

#[tokio::test]
async fn a_cut_across_the_world_heals_within_a_few_round_trips() {
    let delay = Duration::from_millis(90);
    let took = heal_time(Duration::from_secs(5), delay).await;
    assert!(took < HEAL_MAX + 6 * delay, "{took:?}");
}

#[tokio::test]
async fn a_cut_is_told_to_both_and_so_is_its_end() {
    let authority = Authority::generate().unwrap();
    let faults = no_faults("eu");
    let with_faults = Config { faults: Some(faults.clone()), ..config(&authority, "eu", 1) };
    let mut eu = Node::start(with_faults);
    let mut us = Node::start(config(&authority, "us", 1));
    connect(&mut eu, &mut us).await;
    // One way is enough.
    cut(&faults, true);
    assert_eq!(us.next().await, Event::Disconnected(eu.session()));
    assert_eq!(eu.next().await, Event::Disconnected(us.session()));
    faults.clear();
    assert_eq!(us.next().await, Event::Connected(eu.session()));
    assert_eq!(eu.next().await, Event::Connected(us.session()));
}

#[tokio::test]
async fn delay_is_felt() {
    let authority = Authority::generate().unwrap();
    let faults = no_faults("eu");
    let with_faults = Config { faults: Some(faults.clone()), ..config(&authority, "eu", 1) };
    let mut eu = Node::start(with_faults);
    let mut us = Node::start(config(&authority, "us", 1));
    connect(&mut eu, &mut us).await;
    let delay = Duration::from_millis(300);
    let request = FaultsRequest {
        to: "us".into(),
        delay_ms: Some(300.0),
        jitter_ms: Some(0.0),
        ..FaultsRequest::default()
    };
    faults.set(&request).unwrap();
    let start = Instant::now();
    eu.send(&us, "late").await;
    until(|| faults.delayed_bytes() > 0).await;
    assert_eq!(us.next_frame().await, "late");
    assert!(start.elapsed() >= delay, "{:?}", start.elapsed());
    let start = Instant::now();
    us.send(&eu, "soon").await;
    assert_eq!(eu.next_frame().await, "soon");
    assert!(start.elapsed() < delay, "the other way is free: {:?}", start.elapsed());
    faults.clear();
    until(|| faults.delayed_bytes() == 0).await;
}

#[tokio::test]
async fn nodes_connect_and_talk_over_a_wide_and_lossy_way() {
    let authority = Authority::generate().unwrap();
    let wide = FaultsRequest {
        to: "*".into(),
        delay_ms: Some(90.0),
        jitter_ms: Some(18.0),
        loss: Some(0.1),
        ..FaultsRequest::default()
    };
    let with_faults = |region| {
        let faults = no_faults(region);
        faults.set(&wide).unwrap();
        Node::start(Config { faults: Some(faults), ..config(&authority, region, 1) })
    };
    let (mut eu, mut us) = (with_faults("eu"), with_faults("us"));
    connect(&mut eu, &mut us).await;
    for n in 0..100 {
        eu.send(&us, &n.to_string()).await;
    }
    let mut received: Vec<u32> = Vec::new();
    while received.len() < 100 {
        let frame = us.next_frame().await;
        received.push(String::from_utf8(frame.to_vec()).unwrap().parse().unwrap());
    }
    received.sort_unstable();
    assert!(received.into_iter().eq(0..100), "QUIC sends again what is lost");
}
