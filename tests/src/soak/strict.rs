//! The promise of `strict` under random faults: no window of any limit admits more than its quantity.
//!
//! Three regions with two nodes and a Redis each, as far apart as continents, asked in an open loop for
//! three times what the limits allow, in windows of several lengths. By a seed regions are cut off, slowed
//! and made to lose datagrams, Redis servers are killed, wiped, stalled and set back, and nodes are killed without a
//! warning, also right after the store of their region was wiped. Nothing is quieted before: what the
//! answers admitted is added up, by the label that they name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::Serialize;
use tokio::time::Instant;

use super::{RECOVERY, REGIONS, network, processes};
use crate::{
    dev::{Cluster, Dev},
    ensure, eventually,
    labels::{Books, Flow, Labels},
    node::Node,
    region::of,
};

/// Between two blows. A store that has forgotten spends nothing for a while, and all must not be closed
/// all the time.
const CALM: (u64, u64) = (500, 6_000);
/// Windows, in seconds.
const WINDOWS: [u64; 4] = [1, 10, 60, 90];
/// Windows that are named if they are over.
const OVER_SHOWN: usize = 10;
/// What is asked for, of what the limits allow.
const MULTIPLE: f64 = 3.0;

/// How long, how much, and which faults.
#[derive(Debug, Clone, Copy)]
pub struct StrictSoak {
    /// How long faults happen.
    pub duration: Duration,
    /// What each limit allows per second of its window.
    pub per_second: u64,
    /// Decides which faults happen when.
    pub seed: u64,
}

/// The windows of one limit.
#[derive(Debug, Default, Serialize)]
pub struct OfLimit {
    quantity: u64,
    windows: u64,
    /// Those that spent all of it.
    spent: u64,
    /// The largest sum of any.
    most: u64,
    pub(super) admitted: u64,
    offered: u64,
    /// Answered without the store.
    pub(super) degraded: u64,
    /// What was admitted above the quantity, over all windows.
    pub(super) over_admitted: u64,
    /// The first windows that were over.
    pub(super) over: Vec<String>,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct StrictReport {
    seed: u64,
    seconds: f64,
    /// What did not hold; empty if all is well.
    pub broken: Vec<String>,
    limits: BTreeMap<String, OfLimit>,
    faults: BTreeMap<&'static str, u64>,
    answered: u64,
    degraded: u64,
    degraded_and_admitted: u64,
    unreachable: u64,
    interrupted: u64,
    unsent: u64,
    errors: u64,
    first_error: Option<String>,
    /// From the last fault until every node was ready and connected.
    recovery_ms: u128,
    broken_invariants: u64,
    panics: u64,
}

fn policies(per_second: u64) -> String {
    let mut text = String::new();
    for window in WINDOWS {
        let quantity = window * per_second;
        write!(
            text,
            r#"
[[policy]]
name = "w{window}"
match = {{ route = "/{window}" }}
key = ["api_key"]
[[policy.limit]]
name = "strict"
quantity = {quantity}
window = "{window}s"
scope = "global"
consistency = "strict"
"#
        )
        .expect("a string takes all text");
    }
    text
}

impl StrictSoak {
    /// Runs it.
    ///
    /// # Panics
    ///
    /// If the cluster does not start or recover in time; the logs of all processes are shown.
    pub async fn run(self) -> StrictReport {
        let dev = Dev::new(&REGIONS, &policies(self.per_second)).redis(2);
        let mut cluster = dev.with(&["--restart", "--wan", "typical"]).start().await;
        let nodes: Vec<Node> = cluster.nodes().cloned().collect();
        let flows = WINDOWS.map(|window| Flow {
            route: format!("/{window}"),
            api_key: "k".into(),
            per_second: MULTIPLE * self.per_second as f64,
        });
        let load = Labels::start(&nodes, &flows, self.seed);

        let begun = Instant::now();
        let end = begun + self.duration;
        let random = |part| StdRng::seed_from_u64(self.seed ^ part);
        let (mut faults, more) = tokio::join!(
            strike(&mut cluster, end, random(1 << 60)),
            network::disturb(&nodes, &REGIONS, end, random(2 << 60)),
        );
        faults.extend(more);

        let healed = Instant::now();
        cluster.heal().await;
        for node in cluster.nodes() {
            node.ready(RECOVERY).await;
        }
        cluster.connected().await;
        let recovery = healed.elapsed();
        let books = load.stop().await;

        let mut report = StrictReport {
            seed: self.seed,
            seconds: begun.elapsed().as_secs_f64(),
            broken: Vec::new(),
            limits: limits(&books),
            faults,
            answered: books.windows.values().map(|sum| sum.offered).sum(),
            degraded: books.degraded.0,
            degraded_and_admitted: books.degraded.1,
            unreachable: books.unreachable,
            interrupted: books.interrupted,
            unsent: books.unsent,
            errors: books.errors,
            first_error: books.first_error,
            recovery_ms: recovery.as_millis(),
            broken_invariants: 0,
            panics: 0,
        };
        for node in cluster.nodes() {
            let metrics = eventually(RECOVERY, "metrics", async || node.metrics().await).await;
            let broken = metrics.lines().filter_map(|line| {
                let (_, value) =
                    line.strip_prefix("tidegate_broken_invariants_total")?.rsplit_once(' ')?;
                value.parse::<f64>().ok()
            });
            report.broken_invariants += broken.sum::<f64>() as u64;
        }
        for (_, text) in cluster.logs() {
            report.panics += text.lines().filter(|line| line.contains("panicked")).count() as u64;
        }
        report.judge();
        cluster.stop().await;
        report
    }
}

impl StrictReport {
    /// Finds what did not hold.
    fn judge(&mut self) {
        let mut must = |holds: bool, what: &str| {
            self.broken.extend(ensure(holds, || what.to_owned()).err());
        };
        for (route, limit) in &self.limits {
            must(limit.over.is_empty(), &format!("no window of {route} is over: {:?}", limit.over));
            must(limit.admitted > 0, &format!("some requests of {route} are admitted"));
        }
        must(self.limits.len() == WINDOWS.len(), "every limit was asked for");
        must(self.degraded_and_admitted == 0, "nothing is admitted without a store");
        must(self.errors == 0, "every request is answered, or its node is killed");
        must(self.broken_invariants == 0, "no invariant is broken");
        must(self.panics == 0, "nothing panics");
    }
}

pub(super) fn limits(books: &Books) -> BTreeMap<String, OfLimit> {
    let mut limits = BTreeMap::<_, OfLimit>::new();
    for (window, sum) in &books.windows {
        let limit = limits.entry(window.route.clone()).or_default();
        limit.quantity = sum.quantity;
        limit.windows += 1;
        limit.spent += u64::from(sum.admitted == sum.quantity);
        limit.most = limit.most.max(sum.admitted);
        limit.admitted += sum.admitted;
        limit.offered += sum.offered;
        limit.degraded += sum.degraded;
    }
    for (window, sum) in books.over(0) {
        let limit = limits.entry(window.route).or_default();
        limit.over_admitted += sum.admitted - sum.quantity;
        if limit.over.len() >= OVER_SHOWN {
            continue;
        }
        limit.over.push(format!("label {}: {} of {}", window.label, sum.admitted, sum.quantity));
    }
    limits
}

/// Strikes processes until `end`; how often in which way. Afterwards everything runs again.
async fn strike(
    cluster: &mut Cluster,
    end: Instant,
    mut random: StdRng,
) -> BTreeMap<&'static str, u64> {
    let mut done = BTreeMap::new();
    loop {
        network::rest(&mut random, CALM, end).await;
        if Instant::now() >= end {
            return done;
        }
        let region = REGIONS[random.random_range(0..REGIONS.len())];
        let names: BTreeSet<_> = of(cluster, region).iter().map(|n| n.name.clone()).collect();
        let name = names.iter().nth(random.random_range(0..names.len())).expect("two nodes");
        let kind = match random.random_range(0..14) {
            0..3 => {
                processes::kill_and_await(cluster, name).await;
                "node killed"
            }
            3..5 => {
                processes::kill_the_redis(cluster, region).await;
                "Redis killed"
            }
            5..8 => {
                processes::wipe_the_redis(cluster, region).await;
                "Redis wiped"
            }
            8 => {
                processes::wipe_the_redis(cluster, region).await;
                processes::kill_and_await(cluster, name).await;
                "Redis wiped and node killed"
            }
            9 => {
                for name in &names {
                    processes::kill_and_await(cluster, name).await;
                }
                processes::wipe_the_redis(cluster, region).await;
                "both nodes killed and Redis wiped"
            }
            10..12 => {
                processes::roll_the_redis_back(cluster, region, &mut random).await;
                "Redis failed over to a lagging replica"
            }
            _ => {
                processes::stall_the_redis(cluster, region, &mut random).await;
                "Redis stalled"
            }
        };
        processes::all_ready(cluster, region).await;
        *done.entry(kind).or_default() += 1;
    }
}
