//! A soak: a whole cluster under load and under random faults, and exact sums at the end.
//!
//! Three regions with two nodes and a Redis each, as far apart as continents. Clients ask every node all
//! the time and keep books of what they are told (`ledger`). Meanwhile the network is cut, slowed and
//! made to lose datagrams (`network`), and nodes and Redis servers are killed, stopped and wiped, and
//! policies changed (`processes`); all by a seed. Then everything is healed, and every node must count
//! exactly what the clients were told (`verdict`), without a panic, a broken invariant, a grown process
//! or a leaked file.
//!
//! What may be missing or on top, because the documents say so, is bounded by the books:
//!
//! - `/exact` and `/local` are not asked of a node while it is killed, and what it admitted has been heard
//!   by its sibling before. Nothing may be missing.
//! - `/rough` is asked on: of what the node admitted in its last second, some may be missing.
//! - A request that a kill leaves without an answer may be counted or not.
//! - A Redis that stood still may carry out steps that their callers had given up and answered otherwise:
//!   its own region may count them on top, the other regions must not.

use std::{collections::BTreeMap, time::Duration};

use rand::{SeedableRng, rngs::StdRng};
use serde::Serialize;
use tokio::time::Instant;

use self::{
    ledger::Answers,
    load::Load,
    memory::{Growth, Watch},
    processes::Blows,
    verdict::Sums,
};
use crate::{
    dev::{Cluster, Dev},
    ensure, eventually,
    node::Node,
};

mod ledger;
mod load;
mod memory;
mod network;
mod processes;
mod routes;
pub mod strict;
mod verdict;

const REGIONS: [&str; 3] = ["eu", "us", "ap"];
/// How soon everything must run and be connected after the last fault.
const RECOVERY: Duration = Duration::from_secs(30);
/// What a process may grow from the first to the last quarter of the run, beside a tenth: tables grow in
/// steps, and allocators keep some of what they once had.
const GROWTH_KIB_MAX: u64 = 8 * 1024;
/// What open files may come on top: connections of clients that were kept waiting together.
const FILES_MAX: u64 = 24;

/// How long, and which faults.
#[derive(Debug, Clone, Copy)]
pub struct Soak {
    /// How long faults happen.
    pub duration: Duration,
    /// Decides which faults happen when.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Report {
    seed: u64,
    seconds: f64,
    /// What did not hold; empty if all is well.
    pub broken: Vec<String>,
    answers: Answers,
    faults: BTreeMap<&'static str, u64>,
    /// From the end of the faults until every process was ready and connected.
    recovery_ms: u128,
    /// From then until every node knew the exact sums.
    convergence_ms: u128,
    sums: BTreeMap<&'static str, Sums>,
    growth: Vec<Growth>,
    /// By policy and limit, the largest of what the nodes measured.
    over_admitted: BTreeMap<String, u64>,
    broken_invariants: u64,
    panics: u64,
}

impl Soak {
    /// Runs it.
    ///
    /// # Panics
    ///
    /// If the cluster does not start, recover or agree in time; the logs of all processes are shown.
    pub async fn run(self) -> Report {
        let dev = Dev::new(&REGIONS, &routes::policies(0)).redis(2);
        let mut cluster = dev.with(&["--restart", "--wan", "typical"]).start().await;
        let nodes: Vec<(Node, usize)> = cluster
            .nodes()
            .map(|node| (node.clone(), REGIONS.iter().position(|r| *r == node.region).unwrap_or(0)))
            .collect();
        // In one region both nodes are killed again and again, in the others the same one.
        let mortal = usize::try_from(self.seed % 3).expect("small");
        let spared: Vec<String> = REGIONS
            .iter()
            .enumerate()
            .filter(|(index, _)| *index != mortal)
            .map(|(_, region)| format!("{region}-{}", self.seed % 2))
            .collect();
        let pids = |node: &Node| (node.name.clone(), cluster.said_of(&node.name).pid);
        let watch = Watch::new(cluster.nodes().map(pids));
        let disturbed: Vec<_> = nodes.iter().map(|(node, _)| node.clone()).collect();
        let mut load = Load::start(nodes, self.seed);

        let begun = Instant::now();
        let end = begun + self.duration;
        let random = |part| StdRng::seed_from_u64(self.seed ^ part);
        let blows = Blows {
            cluster: &mut cluster,
            load: &load,
            watch: &watch,
            regions: &REGIONS,
            spared: &spared,
        };
        let (mut faults, more) = tokio::select! {
            done = async {
                tokio::join!(
                    blows.strike(end, random(1 << 60)),
                    network::disturb(&disturbed, &REGIONS, end, random(2 << 60)),
                )
            } => done,
            () = watch.keep_looking(Duration::from_millis(500)) => unreachable!("it never ends"),
        };
        faults.extend(more);

        let healed = Instant::now();
        cluster.heal().await;
        load.stop().await;
        for node in cluster.nodes() {
            node.ready(RECOVERY).await;
        }
        cluster.connected().await;
        let recovery = healed.elapsed();
        let (convergence, sums) = verdict::converge(&load.asked, &REGIONS, &load.ledger).await;

        let mut report = Report {
            seed: self.seed,
            seconds: begun.elapsed().as_secs_f64(),
            broken: Vec::new(),
            answers: load.ledger.answers(),
            faults,
            recovery_ms: recovery.as_millis(),
            convergence_ms: convergence.as_millis(),
            sums: sums.into_iter().map(|(route, sums)| (route.path(), sums)).collect(),
            growth: watch.growth(),
            over_admitted: BTreeMap::new(),
            broken_invariants: 0,
            panics: 0,
        };
        report.measured(&cluster).await;
        report.judge(spared.len());
        cluster.stop().await;
        report
    }
}

impl Report {
    /// Reads metrics and logs.
    async fn measured(&mut self, cluster: &Cluster) {
        for node in cluster.nodes() {
            let metrics = eventually(RECOVERY, "metrics", async || node.metrics().await).await;
            let series = |family: &'static str| {
                metrics.lines().filter_map(move |line| {
                    let (labels, value) = line.strip_prefix(family)?.rsplit_once(' ')?;
                    Some((labels.to_owned(), value.parse::<f64>().ok()? as u64))
                })
            };
            let broken = series("tidegate_broken_invariants_total");
            self.broken_invariants += broken.map(|(_, value)| value).sum::<u64>();
            for (limit, value) in series("tidegate_over_admitted_total") {
                let most = self.over_admitted.entry(limit).or_default();
                *most = value.max(*most);
            }
        }
        for (_, text) in cluster.logs() {
            self.panics += text.lines().filter(|line| line.contains("panicked")).count() as u64;
        }
    }

    /// Finds what did not hold.
    fn judge(&mut self, spared: usize) {
        let mut must = |holds: bool, what: &str| {
            self.broken.extend(ensure(holds, || what.to_owned()).err());
        };
        let answers = &self.answers;
        must(answers.errors == 0, "every request is answered, or its node is killed");
        must(answers.allowed > 0 && answers.refused > 0, "some are admitted and some refused");
        let kills = self.faults.get("node killed").copied().unwrap_or(0);
        must(
            answers.interrupted <= kills * routes::Route::ALL.len() as u64,
            "only a kill interrupts a request, one of each route",
        );
        let lost = |path| self.sums.get(path).map(|sums| sums.lost);
        must(
            lost("/exact") == Some(0) && lost("/local") == Some(0),
            "nothing that was told is lost",
        );
        must(self.broken_invariants == 0, "no invariant is broken");
        must(self.panics == 0, "nothing panics");
        must(self.growth.len() >= spared, "nodes that are spared live all the time");
        for growth in &self.growth {
            let most = growth.rss_kib_first + growth.rss_kib_first / 10 + GROWTH_KIB_MAX;
            must(growth.rss_kib_last <= most, &format!("the memory of {} is flat", growth.node));
            must(
                growth.files_last <= growth.files_first + FILES_MAX,
                &format!("{} leaks no files", growth.node),
            );
        }
    }
}
