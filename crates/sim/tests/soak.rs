//! Random worlds: whatever goes wrong with links, nodes and stores, every checker is content.

use std::{fmt::Write, path::Path};

use tidegate_sim::{rng::Stream, run, scenario::Scenario};

/// Worlds per test run: enough to meet each kind of fault together with each other.
const WORLDS: u64 = 16;

const REGIONS: [&str; 4] = ["us-east", "eu-west", "ap-south", "us-west"];

/// A scenario drawn from a seed: two windows of ten seconds, with up to three faults of each kind.
fn draw(seed: u64) -> String {
    let mut random = Stream::new(seed, "soak", 0);
    let mut pick = |n: u64| random.below(n);
    let regions = &REGIONS[..2 + pick(3) as usize];
    let nodes = 1 + pick(3);
    let key = ["[]", "[\"user\"]"][pick(2) as usize];
    let failure = ["degrade", "closed"][pick(2) as usize];
    let mut text = format!(
        r#"
name = "world {seed}"
windows = 1
warm_up = 0
tail = "8s"
gossip = "{}ms"
converge_within = "2500ms"
policies = """
[[policy]]
name = "api"
key = {key}
on_store_failure = "{failure}"
[[policy.limit]]
name = "all"
quantity = {}
window = "10s"
algorithm = "fixed-window"
scope = "global"
consistency = "plain"
[[policy.limit]]
name = "here"
quantity = {}
window = "10s"
algorithm = "fixed-window"
scope = "region"
"""
[topology]
regions = {regions:?}
nodes_per_region = {nodes}
duplication = 0.05
loss = {}
[store]
delay = "{}ms"
[[load]]
caller = "user"
callers = {}
cost = {}
per_second = {}.0
split = "{}"
"#,
        10 + pick(100),
        100 + pick(1_900),
        50 + pick(900),
        ["0.0", "0.0", "0.02", "0.2"][pick(4) as usize],
        pick(3),
        [1, 3, 40][pick(3) as usize],
        1 + pick(3),
        20 + pick(150),
        ["uniform", "80/20"][pick(2) as usize],
    );
    // The load lasts for 18 s, the second window from 10 s on: what goes wrong before 14 s has healed
    // when it ends, while the counts that it touched are live.
    for _ in 0..pick(4) {
        let (start, length) = (pick(9_500), 100 + pick(4_500));
        let (from, both) = (pick(regions.len() as u64) as usize, pick(2) == 1);
        let end = start + length;
        writeln!(
            text,
            "[[cut]]\nfrom = {:?}\nto = \"*\"\nboth_ways = {both}\nstart = \"{start}ms\"\nend = \"{end}ms\"",
            regions[from]
        )
        .expect("text takes all");
    }
    for k in 0..pick(5) {
        // One after the other, so that no node is stopped twice at a time.
        let (at, down) = (k * 3_500 + pick(2_000), 50 + pick(1_500));
        let node = format!("{}-{}", regions[pick(regions.len() as u64) as usize], pick(nodes));
        let store = if nodes == 1 && pick(2) == 1 { "lost" } else { "kept" };
        writeln!(
            text,
            "[[restart]]\nnode = {node:?}\nat = \"{at}ms\"\ndown = \"{down}ms\"\nstore = {store:?}"
        )
        .expect("text takes all");
    }
    for _ in 0..pick(3) {
        let (start, length) = (pick(9_000), 100 + pick(4_000));
        let region = regions[pick(regions.len() as u64) as usize];
        writeln!(
            text,
            "[[store_fault]]\nregion = {region:?}\nstart = \"{start}ms\"\nend = \"{}ms\"\nlate = 0.2\nlate_by = \"{}ms\"\ntwice = 0.2\nnever = 0.{}",
            start + length,
            10 + pick(80),
            pick(6),
        )
        .expect("text takes all");
    }
    text
}

#[test]
fn random_worlds_hold() {
    let first = std::env::var("SOAK_FIRST").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    let worlds = std::env::var("SOAK_WORLDS").ok().and_then(|n| n.parse().ok()).unwrap_or(WORLDS);
    let mut bad = Vec::new();
    for seed in first..first + worlds {
        let text = draw(seed);
        let scenario = Scenario::parse(&text, "soak", Path::new("."))
            .unwrap_or_else(|error| panic!("{error}\n{text}"));
        let report = run(&scenario, seed).expect("little to measure");
        if !report.holds() {
            bad.push(format!("world {seed}:\n{text}\n{report}"));
        }
    }
    assert!(bad.is_empty(), "{} bad: {}", bad.len(), bad.join("\n"));
}
