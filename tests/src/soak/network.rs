//! Cuts, delay, jitter and loss between regions, by `PUT /v1/faults`.

use std::{collections::BTreeMap, time::Duration};

use hyper::Method;
use rand::{RngExt, rngs::StdRng};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::node::Node;

/// The network is left alone between two faults for so long.
const CALM: (u64, u64) = (300, 2_500);
/// Long enough for connections to end by silence, sometimes.
const FAULT: (u64, u64) = (500, 7_000);

/// Disturbs the network until `end`; how often in which way. At the end nothing is disturbed any more, as
/// far as nodes could be reached.
pub(super) async fn disturb(
    nodes: &[Node],
    regions: &[&str],
    end: Instant,
    mut random: StdRng,
) -> BTreeMap<&'static str, u64> {
    let mut done = BTreeMap::new();
    loop {
        rest(&mut random, CALM, end).await;
        if Instant::now() >= end {
            break;
        }
        let a = random.random_range(0..regions.len());
        let b = (a + random.random_range(1..regions.len())) % regions.len();
        let (a, b) = (regions[a], regions[b]);
        let cut = |to: &str| json!({ "to": to, "cut": true });
        let (kind, faults): (_, Vec<(&str, Value)>) = match random.random_range(0..10) {
            0..3 => ("cut one way", vec![(a, cut(b))]),
            3..5 => ("cut both ways", vec![(a, cut(b)), (b, cut(a))]),
            5 => {
                let others = regions.iter().filter(|region| **region != a);
                let from_others = others.map(|region| (*region, cut(a)));
                ("region cut off", from_others.chain([(a, cut("*"))]).collect())
            }
            6 => {
                let ms = random.random_range(50..500);
                ("delay", vec![(a, json!({ "to": "*", "delay_ms": ms }))])
            }
            7 => {
                let ms = random.random_range(20..200);
                ("jitter", vec![(a, json!({ "to": "*", "jitter_ms": ms }))])
            }
            _ => {
                let loss = random.random_range(0.05..0.5);
                ("loss", vec![(a, json!({ "to": b, "loss": loss }))])
            }
        };
        *done.entry(kind).or_default() += 1;
        for (region, fault) in &faults {
            for node in nodes.iter().filter(|node| node.region == *region) {
                // A node that is being killed hears nothing; it begins without faults.
                let _heard = node.ask_admin(Method::PUT, "/v1/faults", fault.to_string()).await;
            }
        }
        rest(&mut random, FAULT, end).await;
        calm(nodes).await;
    }
    done
}

/// Takes all faults back, where somebody is there.
async fn calm(nodes: &[Node]) {
    for node in nodes {
        let _heard = node.ask_admin(Method::DELETE, "/v1/faults", "").await;
    }
}

/// Does nothing for a random number of milliseconds, but not beyond `end`.
pub(super) async fn rest(random: &mut StdRng, (least, most): (u64, u64), end: Instant) {
    let pause = Duration::from_millis(random.random_range(least..most));
    sleep(pause.min(end.saturating_duration_since(Instant::now()))).await;
}
