//! Engines whose clocks are off, drift and are set: labels agree, counts stay exact, nobody is pinned.

use alloc::{boxed::Box, collections::BTreeMap, vec, vec::Vec};

use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};

mod long_labels;
mod rights;

use super::*;
use crate::{
    check::{Purpose, Subject},
    guard::OneThread,
    ids::{Boot, NodeId, Secret, StoreEpoch},
    policy::{Attributes, PolicySet},
    store::Table,
};

const POLICIES: &str = r#"
[[policy]]
name = "everywhere"
match = { route = "/global" }
key = ["api_key"]
[[policy.limit]]
name = "minute"
quantity = 100
window = "1m"
scope = "global"
consistency = "plain"

[[policy]]
name = "here"
match = { route = "/region" }
key = ["api_key"]
[[policy.limit]]
name = "minute"
quantity = 40
window = "1m"

[[policy]]
name = "strict"
match = { route = "/strict" }
key = ["api_key"]
[[policy.limit]]
name = "minute"
quantity = 90
window = "1m"
scope = "global"
consistency = "strict"

[[policy]]
name = "long"
match = { route = "/long" }
key = ["api_key"]
[[policy.limit]]
name = "ten-minutes"
quantity = 1000
window = "10m"
scope = "global"
consistency = "strict"
"#;
const SECRET: Secret = Secret([3; 16]);
const REGIONS: [&str; 3] = ["eu", "us", "ap"];
/// A full minute.
const START: u64 = 1_700_000_040_000_000;
const MS: u64 = 1_000;
const SECOND: u64 = 1_000 * MS;
const MINUTE: i64 = 60_000_000;
/// One way between any two nodes.
const DELAY: u64 = 10 * MS;

/// A region's store, with a clock of its own.
struct Store {
    table: Table,
    /// How far its clock is off, in µs.
    off: i64,
    ppm: i64,
}

struct Node {
    engine: Engine<OneThread>,
    region: usize,
    /// When its monotonic clock began.
    started: u64,
    ppm: i64,
    /// The latest label it was answered under, by policy.
    labels: BTreeMap<&'static str, Label>,
}

/// A frame under way: when it arrives, from whom, to whom.
struct Letter(u64, Session, Session, Vec<u8>);

/// Nodes, stores and true time, in µs since the start.
struct World {
    now: u64,
    stores: Vec<Store>,
    nodes: Vec<Node>,
    mail: Vec<Letter>,
    policies: PolicySet,
    /// What was admitted: by route, region (for the regional limit) and label.
    admitted: BTreeMap<(&'static str, usize, Label), u64>,
}

fn drifting(elapsed: u64, ppm: i64) -> u64 {
    elapsed.saturating_add_signed(elapsed as i64 * ppm / 1_000_000)
}

impl World {
    /// One store for each of `off`, and as many nodes as `nodes` says; all are connected.
    fn new(off: &[i64], nodes: &[usize]) -> Self {
        let store =
            |off: &i64| Store { table: Table::new(1_000, StoreEpoch(1)), off: *off, ppm: 0 };
        let mut world = Self {
            now: 0,
            stores: off.iter().map(store).collect(),
            nodes: Vec::new(),
            mail: Vec::new(),
            policies: PolicySet::parse(POLICIES).expect("the policies are right"),
            admitted: BTreeMap::new(),
        };
        for (at, region) in nodes.iter().enumerate() {
            let started = world.started(at, *region, 1, 0);
            world.nodes.push(started);
        }
        for a in 0..nodes.len() {
            (0..a).for_each(|b| world.connect(a, b));
        }
        world
    }

    /// A run of the node `at`, whose own guess at the time is off by `guess` µs.
    fn started(&self, at: usize, region: usize, boot: u64, guess: i64) -> Node {
        let id = NodeId::new(REGIONS[region], &alloc::format!("n-{at}")).expect("names");
        let session = Session { id, boot: Boot(boot) };
        let regions: Vec<_> = (0..self.stores.len()).map(region_number).collect();
        let regions = Regions::first(Split::even(&regions).expect("regions"));
        let settings = Settings { shards: 1, cells_max: 1_000, regions, ..Settings::new(session) };
        let random = Box::new(Xoshiro256PlusPlus::seed_from_u64(at as u64));
        let guess = ClusterTime((START + self.now).saturating_add_signed(guess));
        let engine = Engine::new(settings, Mono(0), guess, random);
        Node { engine, region, started: self.now, ppm: 0, labels: BTreeMap::new() }
    }

    /// A new run of a node, which reads its store's clock first of all.
    fn restart(&mut self, at: usize, guess: i64) {
        let boot = self.nodes[at].engine.session().boot.0;
        self.nodes[at] = self.started(at, self.nodes[at].region, boot + 1, guess);
        let Node { engine, region, .. } = &self.nodes[at];
        engine.handle_store_clock(Mono(0), Mono(0), self.store_time(*region));
    }

    fn mono(&self, node: usize) -> Mono {
        let Node { started, ppm, .. } = self.nodes[node];
        Mono(drifting(self.now - started, ppm))
    }

    fn store_time(&self, region: usize) -> StoreTime {
        let Store { off, ppm, .. } = self.stores[region];
        StoreTime((START + drifting(self.now, ppm)).saturating_add_signed(off))
    }

    fn cluster_time(&self, node: usize) -> u64 {
        self.nodes[node].engine.cluster_time(self.mono(node)).0
    }

    /// The largest difference between two nodes' cluster times.
    fn spread(&self) -> u64 {
        let all = (0..self.nodes.len()).map(|node| self.cluster_time(node));
        let (least, most) = all.fold((u64::MAX, 0), |(a, b), time| (a.min(time), b.max(time)));
        most - least
    }

    fn connect(&self, a: usize, b: usize) {
        for (to, of) in [(a, b), (b, a)] {
            let session = self.nodes[of].engine.session().clone();
            self.nodes[to].engine.handle_connected(self.mono(to), &session).expect("taken");
        }
    }

    /// Lets time pass in steps of 10 ms; every store is asked for its clock once a second.
    fn run(&mut self, time: u64) {
        let end = self.now + time;
        while self.now < end {
            self.now += 10 * MS;
            let now = self.now;
            let (due, later) = mem::take(&mut self.mail).into_iter().partition(|l| l.0 <= now);
            self.mail = later;
            for Letter(_, from, to, bytes) in due {
                let to = (0..self.nodes.len()).find(|n| *self.nodes[*n].engine.session() == to);
                if let Some(to) = to {
                    let _ = self.nodes[to].engine.handle_frame(self.mono(to), &from, &bytes);
                }
            }
            for at in 0..self.nodes.len() {
                let mono = self.mono(at);
                let Node { engine, region, .. } = &self.nodes[at];
                if self.now.is_multiple_of(SECOND) {
                    engine.handle_store_clock(mono, mono, self.store_time(*region));
                }
                engine.handle_timeout(mono);
                let time = self.store_time(*region);
                while let Some((command, ticket)) = engine.poll_grants(&self.policies, mono) {
                    let reply = self.stores[*region].table.apply(&command, time).expect("room");
                    engine.handle_granted(mono, ticket, &Outcome::Reply(reply));
                }
                while let Some((to, bytes)) = engine.poll_frame(mono) {
                    self.mail.push(Letter(now + DELAY, engine.session().clone(), to, bytes));
                }
            }
        }
    }

    /// As after a start: everybody has met everybody, and read its store's clock.
    fn settle(&mut self) {
        self.run(1_500 * MS);
    }

    /// Asks a node, and its store as often as need be. The answer is the store's, and comes with no more
    /// than one relabel; a node's labels only grow.
    fn ask(&mut self, at: usize, route: &'static str) -> bool {
        let decision = self.check(at, route);
        let Node { labels, region, .. } = &mut self.nodes[at];
        assert!(!decision.degraded, "answered without the store at {} µs", self.now);
        let label = decision.limits[0].label;
        let latest = labels.entry(route).or_insert(label);
        assert!(*latest <= label, "{latest:?} then {label:?}");
        *latest = label;
        let whose = if route == "/region" { *region } else { 0 };
        *self.admitted.entry((route, whose, label)).or_default() += u64::from(decision.allowed);
        decision.allowed
    }

    /// Asks a node, and its store as often as need be.
    fn check(&mut self, at: usize, route: &'static str) -> Decision {
        self.check_cost(at, route, 1)
    }

    fn check_cost(&mut self, at: usize, route: &'static str, cost: u64) -> Decision {
        let mono = self.mono(at);
        let attributes: &Attributes<'_> = &[("route", route), ("api_key", "k")];
        let Node { engine, region, .. } = &self.nodes[at];
        let time = self.store_time(*region);
        let subject = [Subject { attributes, cost }];
        let plan = engine.plan(&self.policies, &SECRET, mono, &subject, Purpose::Charge);
        let Ok(Plan::Ask(mut command, mut ticket)) = plan else { panic!("{plan:?}") };
        loop {
            let reply = self.stores[*region].table.apply(&command, time).expect("room");
            match engine.complete(mono, ticket, Outcome::Reply(reply)) {
                Completion::Decided(decision) => return decision,
                Completion::Again(again, same) => (command, ticket) = (again, same),
                Completion::OtherRequest => panic!("it has no name"),
            }
        }
    }

    /// Asks a node whose store has no room. Returns the label, and what the node knows to be used in it.
    fn ask_in_vain(&self, at: usize, route: &'static str) -> (Label, u64) {
        let mono = self.mono(at);
        let attributes: &Attributes<'_> = &[("route", route), ("api_key", "k")];
        let engine = &self.nodes[at].engine;
        let subject = [Subject { attributes, cost: 1 }];
        let plan = engine.plan(&self.policies, &SECRET, mono, &subject, Purpose::Charge);
        let Ok(Plan::Ask(_, ticket)) = plan else { panic!("{plan:?}") };
        let completion = engine.complete(mono, ticket, Outcome::Cancelled);
        let Completion::Decided(decision) = completion else { panic!("{completion:?}") };
        assert!(decision.allowed && decision.degraded);
        (decision.limits[0].label, decision.limits[0].used)
    }

    /// A store says what time it is, off by so much, and its nodes look after their cells.
    fn tell_time(&mut self, off: i64) {
        self.stores[0].off = off;
        for (at, Node { engine, region, .. }) in self.nodes.iter().enumerate() {
            engine.handle_store_clock(self.mono(at), self.mono(at), self.store_time(*region));
        }
        self.run(110 * MS);
    }

    /// More than all limits allow: each node in turn, with time for the others to hear of it.
    fn load(&mut self, time: u64) {
        let end = self.now + time;
        while self.now < end {
            for at in 0..self.nodes.len() {
                self.ask(at, "/global");
                self.ask(at, "/region");
                self.run(100 * MS);
            }
        }
    }

    fn relabelled(&self) -> Vec<u64> {
        self.nodes.iter().map(|node| node.engine.stats().relabelled).collect()
    }

    /// What was admitted in each label: no limit was passed, and those labels that a full minute of load
    /// fell into were filled. Returns how many labels there were.
    fn examine(&self, first: Label, last: Label) -> usize {
        let mut labels = 0;
        for ((route, region, label), admitted) in &self.admitted {
            let quantity = if *route == "/global" { 100 } else { 40 };
            let whole = *label > first && *label < last;
            assert!(
                *admitted == quantity || (!whole && *admitted < quantity),
                "{admitted} of {quantity} on {route} in region {region}, {label:?} of {first:?} to {last:?}"
            );
            labels += usize::from(*route == "/global");
        }
        labels
    }
}

fn region_number(region: usize) -> RegionNumber {
    RegionNumber::of(&RegionName::new(REGIONS[region]).expect("a name"))
}

/// The label of a minute that a cluster time lies in.
fn minute(time: u64) -> Label {
    Label(time / MINUTE as u64)
}

#[test]
fn a_region_whose_store_is_minutes_off_cuts_the_same_labels() {
    for off in [5 * MINUTE, -5 * MINUTE] {
        let mut world = World::new(&[0, off, 3 * MS as i64], &[0, 1, 2]);
        world.settle();
        assert!(world.spread() <= 10 * MS, "{} µs", world.spread());
        world.load(150 * SECOND);
        assert_eq!(world.relabelled(), [0, 0, 0]);
        assert_eq!(world.examine(minute(START), minute(world.cluster_time(0))), 3);
        let status = |at: usize| world.nodes[at].engine.clock_status(world.mono(at));
        assert_eq!([0, 1, 2].map(|at| status(at).alarm), [false, true, false]);
        assert!(status(1).error.is_some_and(|error| error.abs_diff(off) <= 20 * MS));
    }
}

#[test]
fn a_store_clock_that_is_set_under_load_costs_one_relabel_and_no_count() {
    let mut world = World::new(&[0, 0, 0], &[0, 1, 2]);
    world.settle();
    for step in [5 * MINUTE, -10 * MINUTE, 10 * MINUTE, -5 * MINUTE] {
        world.load(20 * SECOND);
        // In the middle of a label: on the way forward all records are over, on the way back none is.
        world.stores[0].off += step;
        world.load(20 * SECOND);
    }
    assert!(
        world.relabelled()[0] <= 4 && world.relabelled()[1..] == [0, 0],
        "{:?}",
        world.relabelled()
    );
    assert_eq!(world.examine(minute(START), minute(world.cluster_time(0))), 3);
    assert!(world.spread() <= 10 * MS, "{} µs", world.spread());
}

#[test]
fn the_only_store_is_followed_forward_at_once_and_backward_slowly() {
    // Two nodes of one region, which is all there is.
    let mut world = World::new(&[0], &[0, 0]);
    world.settle();
    world.load(10 * SECOND);
    world.stores[0].off += 5 * MINUTE;
    world.load(10 * SECOND);
    let ahead = world.cluster_time(0) as i64 - (START + world.now) as i64;
    assert!((ahead - 5 * MINUTE).abs() < MINUTE / 60, "{ahead}");
    world.stores[0].off -= 8 * MINUTE;
    // Eight minutes are made up for in sixteen, at half the speed.
    world.load(16 * 60 * SECOND + 10 * SECOND);
    let behind = world.cluster_time(0) as i64 - (START + world.now) as i64;
    assert!((behind + 3 * MINUTE).abs() < MINUTE / 60, "{behind}");
    assert!(world.spread() <= 10 * MS, "{} µs", world.spread());
    assert!(world.relabelled().iter().sum::<u64>() <= 4, "{:?}", world.relabelled());
    // Windows that were passed over, and those at either end, need not be full.
    let last = minute(world.cluster_time(0));
    world.examine(Label(minute(START).0 + 5), last);
}

#[test]
fn a_node_that_is_alone_learns_from_the_records_how_far_its_region_is() {
    let mut world = World::new(&[5 * MINUTE], &[0]);
    world.settle();
    assert!(world.ask(0, "/region"));
    // The store's clock is set back, and the node starts anew: nobody else knows of the labels in use.
    world.stores[0].off = 0;
    world.restart(0, 3 * MINUTE);
    assert!(world.ask(0, "/region"));
    assert_eq!(world.relabelled(), [1]);
    assert_eq!(world.admitted.values().copied().collect::<Vec<_>>(), [2], "in one label");
    world.load(130 * SECOND);
    assert_eq!(world.relabelled(), [1]);
}

#[test]
fn a_node_that_starts_joins_its_region_before_its_first_check() {
    for (off, guess) in [(-5 * MINUTE, 0), (0, 9 * MINUTE), (0, -9 * MINUTE)] {
        let mut world = World::new(&[0], &[0, 0]);
        world.settle();
        world.ask(0, "/region");
        // The region's labels stay where they are; only what is read of the store is off.
        world.stores[0].off = off;
        world.run(2 * SECOND);
        world.restart(1, guess);
        world.connect(0, 1);
        world.run(500 * MS);
        assert!(world.spread() <= 20 * MS, "{} µs", world.spread());
        world.ask(1, "/region");
        assert_eq!(world.admitted.len(), 1, "one label");
    }
}

#[test]
fn clocks_that_drift_stay_together() {
    let mut world = World::new(&[0, 0, 0], &[0, 0, 1, 2]);
    for (node, ppm) in world.nodes.iter_mut().zip([200, -200, 200, -200]) {
        node.ppm = ppm;
    }
    for (store, ppm) in world.stores.iter_mut().zip([200, 0, -200]) {
        store.ppm = ppm;
    }
    world.settle();
    (0..4).for_each(|at| assert!(world.ask(at, "/global")));
    for _ in 0..10 {
        world.run(60 * SECOND);
        // The median is the store that does not drift; the others are 120 ms away at the end.
        let off = (0..4).map(|at| world.cluster_time(at).abs_diff(START + world.now)).max();
        assert!(off.is_some_and(|off| off <= 15 * MS), "{off:?} µs after {} s", world.now / SECOND);
    }
}

#[test]
fn a_region_that_lies_about_its_clock_moves_nobody() {
    let mut world = World::new(&[0, 0, 0], &[0, 1, 2]);
    world.settle();
    world.load(5 * SECOND);
    for off in [60 * MINUTE, -60 * MINUTE, 30_000_000 * MINUTE, -5_000_000 * MINUTE] {
        world.stores[2].off = off;
        world.run(3 * SECOND);
        for at in [0, 1] {
            let wrong = world.cluster_time(at).abs_diff(START + world.now);
            assert!(wrong <= 15 * MS, "{wrong} µs at {at}, with {off}");
        }
        let status = world.nodes[2].engine.clock_status(world.mono(2));
        assert!(status.alarm, "{status:?}");
    }
}

#[test]
fn a_restarted_node_whose_clock_numbers_it_lower_is_taken_as_its_latest_run() {
    let world = World::new(&[0, 0], &[0, 1]);
    let us = &world.nodes[1].engine;
    let later = world.nodes[0].engine.session().clone();
    let earlier = Session { boot: Boot(0), ..later.clone() };
    us.handle_disconnected(Mono(1), &later);
    assert_eq!(us.handle_connected(Mono(2), &earlier), Ok(()));
    // Should the end of the one before be told late, that changes nothing.
    us.handle_disconnected(Mono(2), &later);
    let peers = us.peers(Mono(2));
    assert!(peers.iter().all(|peer| peer.connected));
    assert_eq!(peers.iter().map(|peer| &peer.session).collect::<Vec<_>>(), vec![&earlier]);
}

#[test]
fn what_a_starting_node_is_told_before_it_knows_the_time_is_not_lost() {
    for guess in [9 * MINUTE, 100 * SECOND as i64, 60 * MINUTE, -9 * MINUTE] {
        let mut world = World::new(&[0, 0, 0], &[0, 1, 2]);
        world.settle();
        for _ in 0..100 {
            world.ask(0, "/global");
        }
        world.run(500 * MS);
        // It loses its counts, and its store's clock is off as its own guess is.
        world.stores[0] = Store { table: Table::new(1_000, StoreEpoch(2)), off: guess, ppm: 0 };
        world.restart(0, guess);
        (1..3).for_each(|other| world.connect(0, other));
        let mut waited = 0;
        while world.nodes[0].engine.peers(world.mono(0)).iter().any(|peer| !peer.answered) {
            world.run(10 * MS);
            waited += 10;
            assert!(waited <= 1_500, "{guess}");
        }
        assert!(!world.ask(0, "/global"), "{guess}, after {waited} ms");
    }
}

#[test]
fn what_was_counted_without_a_store_outlives_a_clock_that_jumps_ahead_and_back() {
    let mut world = World::new(&[0], &[0]);
    world.tell_time(0);
    let label = world.ask_in_vain(0, "/region").0;
    (1..10).for_each(|_| assert_eq!(world.ask_in_vain(0, "/region").0, label));
    // The label is over for longer than a cell is kept, and then it is not.
    world.tell_time(5 * MINUTE);
    assert!(world.cluster_time(0) > START + 4 * MINUTE as u64);
    world.tell_time(0);
    assert_eq!(world.ask_in_vain(0, "/region"), (label, 11), "the same slot goes on");
}

#[test]
fn a_node_that_counts_without_a_store_takes_its_clock_for_what_it_is_after_three_seconds() {
    let mut world = World::new(&[0], &[0]);
    world.tell_time(5 * MINUTE);
    world.ask_in_vain(0, "/region");
    world.run(3 * SECOND);
    let shown = world.cluster_time(0);
    world.tell_time(0);
    assert!(world.cluster_time(0) >= shown, "it does not run back");
    // So what is over is over, and is forgotten.
    assert_eq!(world.nodes[0].engine.stats().cells, 1);
    world.tell_time(8 * MINUTE);
    assert_eq!(world.nodes[0].engine.stats().cells, 1, "a check may still be on its way");
    world.run(4 * SECOND);
    assert_eq!(world.nodes[0].engine.stats().cells, 0);
}
