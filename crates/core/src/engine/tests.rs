//! Engines over a lossy network, with stores that fail: what the whole must keep.

use alloc::{boxed::Box, vec, vec::Vec};

use proptest::prelude::*;
use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};

use super::*;
use crate::{
    check::{Purpose, Reason, Subject},
    guard::OneThread,
    ids::{Boot, NodeId, Secret, StoreEpoch},
    policy::{Attributes, PolicySet},
    store::{Records, StoreReply, Table},
    time::StoreTime,
};

mod audit;
mod buckets;
mod calendar;
mod heal;
mod join;
mod meters;
mod refund;
mod relay;
mod repair;
mod reserve;

const POLICIES: &str = r#"
[[policy]]
name = "api"
match = { route = "/api/**" }
key = ["api_key"]

[[policy.limit]]
name = "hourly"
quantity = 100
window = "1h"
scope = "global"
consistency = "plain"

[[policy.limit]]
name = "burst"
quantity = 50
window = "1m"
"#;

pub(super) const SECRET: Secret = Secret([3; 16]);
/// Half past some hour, so that no label ends within a test.
pub(super) const START: ClusterTime = ClusterTime(1_700_001_000_000_000);

pub(super) fn policies() -> PolicySet {
    PolicySet::parse(POLICIES).expect("the policies are right")
}

pub(super) fn session(region: &str, node: &str, boot: u64) -> Session {
    Session { id: NodeId::new(region, node).expect("names"), boot: Boot(boot) }
}

fn engine(session: Session) -> Engine<OneThread> {
    let seed = session.boot.0 + session.id.region.as_str().len() as u64;
    let settings = Settings { shards: 4, cells_max: 10_000, ..Settings::new(session) };
    let random = Box::new(Xoshiro256PlusPlus::seed_from_u64(seed));
    Engine::new(settings, Mono(0), START, random)
}

/// Some engines, a store for each, and a clock.
pub(super) struct World {
    pub(super) now: Mono,
    pub(super) nodes: Vec<(Engine<OneThread>, Table)>,
    policies: PolicySet,
}

fn wall(now: Mono) -> StoreTime {
    StoreTime(START.0 + now.0)
}

impl World {
    pub(super) fn new(sessions: Vec<Session>) -> Self {
        let nodes =
            sessions.into_iter().map(|s| (engine(s), Table::new(1_000, StoreEpoch(1)))).collect();
        Self { now: Mono(0), nodes, policies: policies() }
    }

    pub(super) fn connect(&self, a: usize, b: usize) {
        for (to, of) in [(a, b), (b, a)] {
            let (session, now) = (self.nodes[of].0.session().clone(), self.now);
            self.nodes[to].0.handle_connected(now, &session).expect("taken");
        }
    }

    fn disconnect(&self, a: usize, b: usize) {
        for (to, of) in [(a, b), (b, a)] {
            self.nodes[to].0.handle_disconnected(self.now, self.nodes[of].0.session());
        }
    }

    /// A new run of a node, with an empty store; not connected yet.
    pub(super) fn restart(&mut self, at: usize) {
        for other in (0..self.nodes.len()).filter(|other| *other != at) {
            self.disconnect(at, other);
        }
        let Session { id, boot } = self.nodes[at].0.session().clone();
        let started = engine(Session { id, boot: Boot(boot.0 + 1) });
        started.clock.with(|clock| {
            *clock = Clock::new(self.now, ClusterTime(wall(self.now).0), Span::millis(500));
        });
        self.nodes[at] = (started, self.another_table(at));
    }

    /// An empty store, in an epoch after that of a node's.
    fn another_table(&self, at: usize) -> Table {
        Table::new(1_000, StoreEpoch(self.nodes[at].1.epoch().0 + 1))
    }

    fn wipe(&mut self, at: usize) {
        self.nodes[at].1 = self.another_table(at);
    }

    pub(super) fn ask_with(
        &mut self,
        at: usize,
        key: &str,
        cost: u64,
        purpose: Purpose,
        store_up: bool,
    ) -> Decision {
        let attributes: &Attributes<'_> = &[("route", "/api/x"), ("api_key", key)];
        let subject = Subject { attributes, cost };
        let (engine, store) = &mut self.nodes[at];
        let plan = engine.plan(&self.policies, &SECRET, self.now, &[subject], purpose);
        let Plan::Ask(command, ticket) = plan.expect("planned") else { panic!("nothing to ask") };
        let outcome = if store_up {
            Outcome::Reply(store.apply(&command, wall(self.now)).expect("room"))
        } else {
            Outcome::Cancelled
        };
        match engine.complete(self.now, ticket, outcome) {
            Completion::Decided(decision) => decision,
            other => panic!("the clocks agree, and it has no name: {other:?}"),
        }
    }

    pub(super) fn ask(&mut self, at: usize, key: &str, cost: u64) -> bool {
        self.ask_with(at, key, cost, Purpose::Charge, true).allowed
    }

    /// Net use of the global limit as a node and its store see it.
    pub(super) fn used(&mut self, at: usize, key: &str) -> u64 {
        self.ask_with(at, key, 1, Purpose::Usage, true).limits[0].used
    }

    /// Lets time pass; `arrives` says of each frame whether it does.
    pub(super) fn run(&mut self, ms: u64, mut arrives: impl FnMut(usize, usize) -> bool) {
        for _ in 0..ms / 10 {
            self.now += Span::millis(10);
            for from in 0..self.nodes.len() {
                self.nodes[from].0.handle_timeout(self.now);
                while let Some((to, bytes)) = self.nodes[from].0.poll_frame(self.now) {
                    let sender = self.nodes[from].0.session().clone();
                    let to = self.nodes.iter().position(|(e, _)| *e.session() == to);
                    if let Some(to) = to.filter(|to| arrives(from, *to)) {
                        let _ = self.nodes[to].0.handle_frame(self.now, &sender, &bytes);
                    }
                }
            }
        }
    }

    fn settle(&mut self) {
        self.run(12_000, |_, _| true);
    }
}

fn three_regions() -> World {
    let world = World::new(vec![
        session("eu", "eu-0", 1),
        session("us", "us-0", 1),
        session("ap", "ap-0", 1),
    ]);
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        world.connect(a, b);
    }
    world
}

#[test]
fn without_the_store_a_policy_says_what_becomes_of_a_check() {
    for (word, allowed) in [("open", true), ("closed", false), ("degrade", true)] {
        let mut world = World::new(vec![session("eu", "eu-0", 1)]);
        let text =
            POLICIES.replace("key =", &alloc::format!("on_store_failure = \"{word}\"\nkey ="));
        world.policies = PolicySet::parse(&text).expect("the policies are right");
        let decision = world.ask_with(0, "k", 1, Purpose::Charge, false);
        assert_eq!((decision.allowed, decision.degraded), (allowed, true), "{word}");
        assert_eq!(decision.reason, Some(Reason::StoreUnavailable), "{word}");
        // The store may be back long before the window ends.
        assert!(decision.limits.iter().all(|limit| limit.retry_after.is_none()), "{word}");
    }
}

#[test]
fn a_global_limit_spent_in_one_region_is_refused_in_the_others() {
    let mut world = three_regions();
    assert!(world.ask(0, "k", 50));
    world.run(70_000, |_, _| true);
    assert!(world.ask(0, "k", 50), "the minute's burst limit has passed");
    world.run(200, |_, _| true);
    for at in 0..3 {
        assert!(!world.ask(at, "k", 1), "node {at}");
        assert_eq!(world.used(at, "k"), 100);
    }
    assert!(world.ask(1, "another", 1));
}

#[test]
fn how_stale_a_count_is_cannot_be_said_before_anybody_was_met() {
    let mut world = three_regions();
    let settings =
        Settings { expects_peers: true, shards: 1, ..Settings::new(session("eu", "eu-0", 2)) };
    let random = Box::new(Xoshiro256PlusPlus::seed_from_u64(1));
    world.nodes[0].0 = Engine::new(settings, Mono(0), START, random);
    assert_eq!(world.ask_with(0, "k", 1, Purpose::Charge, true).limits[0].staleness, None);
    world.connect(0, 1);
    assert_eq!(world.ask_with(0, "k", 1, Purpose::Charge, true).limits[0].staleness, None);
    world.run(200, |_, _| true);
    let staleness = world.ask_with(0, "k", 1, Purpose::Charge, true).limits[0].staleness;
    assert!(staleness.is_some_and(|age| age <= Span::secs(1)), "{staleness:?}");
}

#[test]
fn what_a_dead_node_told_only_its_sibling_reaches_the_other_regions() {
    let (eu_0, eu_1, us) = (0, 1, 2);
    let mut world = World::new(vec![
        session("eu", "eu-0", 1),
        session("eu", "eu-1", 1),
        session("us", "us-0", 1),
    ]);
    for (a, b) in [(eu_0, eu_1), (eu_0, us), (eu_1, us)] {
        world.connect(a, b);
    }
    world.run(500, |_, _| true);
    assert!(world.ask(eu_1, "k", 10));
    world.run(100, |from, to| (from, to) != (eu_1, us));
    assert_eq!((world.used(eu_0, "k"), world.used(us, "k")), (10, 0));
    // eu-1 dies.
    world.disconnect(eu_0, eu_1);
    world.disconnect(us, eu_1);
    world.run(5_000, |_, _| true);
    assert_eq!(world.used(us, "k"), 10);
}

#[test]
fn a_regional_limit_is_nobody_elses_business() {
    let mut world = three_regions();
    for at in 0..2 {
        assert!(world.ask(at, "k", 50));
    }
    world.settle();
    let decision = world.ask_with(0, "k", 1, Purpose::Usage, true);
    assert_eq!(decision.limits[1].limit().name.as_ref(), "burst");
    assert_eq!(decision.limits[1].used, 50);
    assert_eq!(decision.limits[0].used, 100);
}

#[test]
fn spent_on_both_sides_of_a_cut_adds_up_after_the_heal() {
    let mut world = three_regions();
    world.run(500, |_, _| true);
    let cut = |from: usize, to: usize| from != 0 && to != 0;
    assert!(world.ask(0, "k", 10));
    assert!(world.ask(1, "k", 20));
    world.run(5_000, cut);
    assert_eq!((world.used(0, "k"), world.used(1, "k"), world.used(2, "k")), (10, 20, 20));
    world.run(2_000, |_, _| true);
    assert_eq!((world.used(0, "k"), world.used(1, "k"), world.used(2, "k")), (30, 30, 30));
}

#[test]
fn a_wiped_store_is_healed_by_the_first_check() {
    let mut world = three_regions();
    assert!(world.ask(0, "k", 40));
    world.wipe(0);
    assert_eq!(world.used(0, "k"), 40);
    assert!(!world.ask(0, "k", 11), "the burst limit of 50 remembers");
    assert!(world.ask(0, "k", 10));
}

#[test]
fn a_restarted_node_with_an_empty_store_learns_its_regions_count_from_peers() {
    let mut world = three_regions();
    assert!(world.ask(0, "k", 40));
    world.run(200, |_, _| true);
    world.restart(0);
    world.connect(0, 1);
    world.run(200, |_, _| true);
    assert!(world.nodes[0].0.peers(world.now).iter().any(|peer| peer.answered));
    assert_eq!(world.used(0, "k"), 40, "one peer is enough");
    // A peer that never heard the first run directly hears of it from the second.
    world.nodes[2] = (engine(session("ap", "ap-0", 7)), Table::new(1_000, StoreEpoch(1)));
    world.connect(0, 2);
    world.run(200, |_, _| true);
    assert_eq!(world.used(2, "k"), 40);
}

#[test]
fn two_nodes_of_one_region_heal_their_shared_store_to_the_exact_sum() {
    let mut world = World::new(vec![session("eu", "eu-0", 1), session("eu", "eu-1", 1)]);
    world.connect(0, 1);
    // One store for both: node 0's, lent to whoever asks.
    let ask = |world: &mut World, at: usize, cost: u64| {
        if at == 1 {
            let (left, right) = world.nodes.split_at_mut(1);
            mem::swap(&mut left[0].1, &mut right[0].1);
        }
        let allowed = world.ask(at, "k", cost);
        if at == 1 {
            let (left, right) = world.nodes.split_at_mut(1);
            mem::swap(&mut left[0].1, &mut right[0].1);
        }
        allowed
    };
    assert!(ask(&mut world, 0, 10));
    assert!(ask(&mut world, 1, 15));
    world.run(200, |_, _| true);
    world.wipe(0);
    assert!(!ask(&mut world, 0, 26), "25 + 26 > 50");
    assert!(ask(&mut world, 1, 25));
    assert!(!ask(&mut world, 0, 1));
}

#[test]
fn an_unreachable_store_is_answered_by_what_is_known_and_charged_once_afterwards() {
    let mut world = three_regions();
    assert!(world.ask(0, "k", 30));
    let down = world.ask_with(0, "k", 15, Purpose::Charge, false);
    assert!(down.allowed && down.degraded);
    assert_eq!(down.reason, Some(Reason::StoreUnavailable));
    let more = world.ask_with(0, "k", 6, Purpose::Charge, false);
    assert!(!more.allowed, "30 + 15 + 6 > 50");
    assert_eq!(world.used(0, "k"), 45);
    assert!(world.ask(0, "k", 5));
    assert!(!world.ask(0, "k", 1));
}

#[test]
fn labels_are_collected_when_they_are_over() {
    let mut world = three_regions();
    for key in ["a", "b", "c"] {
        assert!(world.ask(0, key, 1));
    }
    world.run(500, |_, _| true);
    assert_eq!(world.nodes[0].0.stats().cells, 6);
    assert_eq!(world.nodes[1].0.stats().cells, 3, "the regional ones stay at home");
    world.run(200_000, |_, _| true);
    assert_eq!(world.nodes[0].0.stats().cells, 3, "two minutes later the burst labels are gone");
}

#[test]
fn a_label_that_does_not_fit_the_stores_clock_is_asked_once_more() {
    let mut world = three_regions();
    // The node's clock is two hours late.
    world.nodes[0].0.clock.with(|c| {
        *c = Clock::new(Mono(0), ClusterTime(START.0 - 7_200_000_000), Span::millis(500));
    });
    let attributes: &Attributes<'_> = &[("route", "/api/x"), ("api_key", "k")];
    let (engine, store) = &mut world.nodes[0];
    let subject = [Subject { attributes, cost: 1 }];
    let plan = engine.plan(&world.policies, &SECRET, Mono(0), &subject, Purpose::Charge);
    let Ok(Plan::Ask(command, ticket)) = plan else { panic!("{plan:?}") };
    let reply = store.apply(&command, wall(Mono(0))).expect("room");
    let (newest, epoch) = (vec![Label(0); 2], StoreEpoch(1));
    assert_eq!(reply, StoreReply::Relabel { now: wall(Mono(0)), epoch, newest });
    let Completion::Again(command, ticket) =
        engine.complete(Mono(0), ticket, Outcome::Reply(reply))
    else {
        panic!("decided with the wrong label")
    };
    let reply = store.apply(&command, wall(Mono(0))).expect("room");
    let Completion::Decided(decision) = engine.complete(Mono(0), ticket, Outcome::Reply(reply))
    else {
        panic!("asked a third time")
    };
    assert!(decision.allowed && !decision.degraded);
    assert_eq!(engine.stats().relabelled, 1);
}

/// A call that was given up is told as a floor: carried out after that, it would be charged twice.
#[test]
fn a_call_that_was_given_up_is_not_carried_out_any_more() {
    let mut world = three_regions();
    world.nodes[0].0.settings.call_max = Some(Span::millis(30));
    let attributes: &Attributes<'_> = &[("route", "/api/x"), ("api_key", "k")];
    let subject = [Subject { attributes, cost: 1 }];
    let (engine, store) = &mut world.nodes[0];
    let ask = |engine: &Engine<OneThread>, at: Mono| {
        let plan = engine.plan(&world.policies, &SECRET, at, &subject, Purpose::Charge);
        let Ok(Plan::Ask(command, ticket)) = plan else { panic!("{plan:?}") };
        (command, ticket)
    };
    let done = |reply: &StoreReply| matches!(reply, StoreReply::Done { .. });
    // Before the store's clock was read, nothing can be said.
    let (command, ticket) = ask(engine, Mono(0));
    let reply = store.apply(&command, wall(Mono(31_000))).expect("room");
    assert!(done(&reply));
    let reply = store.apply(&command, wall(Mono(0))).expect("room");
    let _ = engine.complete(Mono(0), ticket, Outcome::Reply(reply));

    let (command, ticket) = ask(engine, Mono(1_000_000));
    let reply = store.apply(&command, wall(Mono(1_030_000))).expect("room");
    assert!(!done(&reply), "{reply:?}");
    // Who waits all the same, since the store's clock is ahead of what was believed, is heard.
    let Completion::Again(command, ticket) =
        engine.complete(Mono(1_001_000), ticket, Outcome::Reply(reply))
    else {
        panic!("decided")
    };
    let reply = store.apply(&command, wall(Mono(1_059_000))).expect("room");
    assert!(done(&reply), "{reply:?}");
    let _ = engine.complete(Mono(1_002_000), ticket, Outcome::Reply(reply));
}

#[test]
fn a_frame_may_not_speak_for_another_region_or_contradict_itself() {
    use crate::wire::{Frame, Header, Section, SlotEntry, Slots, Speaker};
    let mut world = three_regions();
    world.run(500, |_, _| true);
    let (eu, us) = (&world.nodes[0].0, session("us", "us-0", 1));
    eu.clock.with(Clock::settle);
    let frame = |of: Option<Speaker>, refunded: u64, label: u64| {
        let entry = SlotEntry { caller: [1; 16], used: 5, refunded, refused: 0, note: 0 };
        let slots =
            Slots { of, limit: 9, window: 1_000_000, global: true, label, entries: vec![entry] };
        let header =
            Header { number: 1_000, open: 1, acknowledged: 0, unmerged: 0, sent: 0, echo: None };
        Frame { header, sections: vec![Section::Slots(slots)] }.encode()
    };
    let now_label = (START.0 + world.now.0) / 1_000_000;
    let speaker = |region: &str| Some(Speaker { region: region.into(), node: "n".into(), boot: 1 });
    let take = |bytes: &[u8]| eu.handle_frame(world.now, &us, bytes);
    assert_eq!(take(&frame(speaker("ap"), 0, now_label)), Err(FrameError::SpeaksForAnother));
    assert_eq!(take(&frame(None, 0, now_label + 5)), Err(FrameError::LabelAhead));
    assert_eq!(eu.stats().cells, 0);
    assert_eq!(take(&frame(speaker("eu"), 0, now_label)), Ok(()));
    assert_eq!(eu.stats().cells, 1, "an earlier run of eu, which cannot speak for itself");
    assert_eq!(take(&frame(None, 6, now_label)), Err(FrameError::Unsound));
    assert_eq!(eu.stats().cells, 1);
    assert_eq!(take(&frame(speaker("us"), 0, now_label)), Ok(()));
    assert_eq!(take(&frame(None, 0, now_label - 9)), Ok(()));
    assert_eq!(eu.stats().exchange.closed, 1);
    assert_eq!(eu.stats().exchange.dropped.len(), 3);
    let stranger = session("us", "us-9", 1);
    let stranger = eu.handle_frame(world.now, &stranger, &frame(None, 0, now_label));
    assert_eq!(stranger, Err(FrameError::UnknownSender));
}

#[test]
fn thousands_of_keys_are_told_once_each() {
    let mut world = three_regions();
    world.run(500, |_, _| true);
    for node in &mut world.nodes {
        node.1 = Table::new(100_000, StoreEpoch(1));
    }
    let keys: Vec<_> = (0..3_000).map(|n| alloc::format!("key-{n}")).collect();
    for key in &keys {
        assert!(world.ask(0, key, 2));
    }
    world.run(1_000, |_, _| true);
    for key in &keys {
        assert_eq!(world.used(1, key), 2);
    }
    let sent = world.nodes[0].0.peers(world.now)[0].sent;
    assert_eq!(sent.changes, 3_000, "each change once");
    assert!(sent.bytes < 3_000 * 24, "{} bytes", sent.bytes);
}

#[test]
fn a_driver_that_sleeps_until_the_deadline_never_spins() {
    let mut world = three_regions();
    let mut turns = 0;
    // Nothing arrives, so that everything is told again and again.
    world.ask(0, "k", 1);
    while world.now < Mono(10_000_000) {
        let engine = &world.nodes[0].0;
        engine.handle_timeout(world.now);
        while engine.poll_frame(world.now).is_some() {}
        let next = engine.next_deadline(world.now);
        assert!(next > world.now, "asked to come back at once");
        world.now = next;
        turns += 1;
    }
    // Two peers, a period of 50 ms each, and upkeep every 100 ms.
    assert!(turns < 10 * (2 * 20 + 10) + 50, "{turns} turns");
    assert!(engine_resends(&world) > 3);
}

fn engine_resends(world: &World) -> u64 {
    world.nodes[0].0.stats().exchange.resends
}

#[test]
fn a_walk_that_is_told_again_after_its_acknowledgement_was_lost_is_taken() {
    let mut world = World::new(vec![session("eu", "eu-0", 1), session("us", "us-0", 1)]);
    world.connect(0, 1);
    assert!(world.ask(0, "k", 10));
    world.run(200, |_, _| true);
    world.restart(0);
    world.connect(0, 1);
    // The walk arrives, but for a second nothing comes back.
    world.run(1_000, |from, _| from == 1);
    assert_eq!(world.used(0, "k"), 10);
    assert!(world.ask(1, "k", 7));
    world.run(3_000, |_, _| true);
    assert_eq!(world.used(0, "k"), 17, "us is still heard");
    let resends = engine_resends(&world);
    world.run(20_000, |_, _| true);
    let dropped = &world.nodes[0].0.stats().exchange.dropped;
    assert!(dropped.is_empty(), "{dropped:?}");
    assert_eq!(engine_resends(&world), resends);
    let told_again = world.nodes[1].0.stats().exchange.resends;
    assert!(told_again < 10, "{told_again} resends");
}

#[test]
fn no_number_of_a_frame_is_too_large() {
    use crate::wire::{Frame, Header, Section, WalkEnd};
    let world = three_regions();
    let (eu, us) = (&world.nodes[0].0, session("us", "us-0", 1));
    for (number, open) in [
        (u64::MAX, 0),
        (u64::MAX, 1),
        (u64::MAX, u64::MAX),
        (1, 0),
        (1, u64::MAX),
        (u64::MAX - 1, 1),
    ] {
        let header =
            Header { number, open, acknowledged: u64::MAX, unmerged: 0, sent: 0, echo: None };
        let _ = eu.handle_frame(
            world.now,
            &us,
            &Frame { header, sections: vec![Section::WalkEnd(WalkEnd { retold: 0 })] }.encode(),
        );
    }
    while eu.poll_frame(world.now).is_some() {}
}

#[test]
fn new_keys_beyond_the_bound_take_no_place() {
    let settings = Settings { shards: 1, cells_max: 16, ..Settings::new(session("eu", "eu-0", 1)) };
    let random = Box::new(Xoshiro256PlusPlus::seed_from_u64(1));
    let mut world = World::new(vec![session("eu", "eu-0", 1)]);
    world.nodes[0].0 = Engine::new(settings, Mono(0), START, random);
    let policies = world.policies.clone();
    let mut ask = |key: &str| {
        let attributes: &Attributes<'_> = &[("route", "/api/x"), ("api_key", key)];
        let subject = [Subject { attributes, cost: 1 }];
        let (engine, store) = &mut world.nodes[0];
        let plan = engine.plan(&policies, &SECRET, Mono(0), &subject, Purpose::Charge);
        let (ticket, outcome) = match plan.expect("planned") {
            Plan::Ask(command, ticket) => {
                (ticket, Outcome::Reply(store.apply(&command, wall(Mono(0))).expect("room")))
            }
            Plan::Full(ticket) => (ticket, Outcome::Cancelled),
            other => panic!("{other:?}"),
        };
        let Completion::Decided(decision) = engine.complete(Mono(0), ticket, outcome) else {
            panic!("the clocks agree")
        };
        (decision, engine.stats().cells)
    };
    for n in 0..100 {
        let (decision, cells) = ask(&alloc::format!("key-{n}"));
        assert!(cells <= 17, "{cells} cells after {n} keys");
        // What could not be counted is not admitted: `degrade` limits by what is counted.
        assert_eq!(decision.allowed, n < 8, "key {n}");
        assert_eq!(decision.degraded, n >= 8);
    }
    assert!(ask("key-0").0.allowed, "a key that has a place goes on");
}

#[test]
fn a_node_whose_clock_is_ahead_of_its_stores_at_the_start_takes_the_stores() {
    let mut world = three_regions();
    world.nodes[0].0.clock.with(|c| {
        *c = Clock::new(Mono(0), ClusterTime(START.0 + 7_200_000_000), Span::millis(500));
    });
    world.nodes[0].0.handle_timeout(Mono(0)); // upkeep has seen that clock
    let attributes: &Attributes<'_> = &[("route", "/api/x"), ("api_key", "k")];
    let (engine, store) = &mut world.nodes[0];
    let subject = [Subject { attributes, cost: 1 }];
    let plan = engine.plan(&world.policies, &SECRET, Mono(0), &subject, Purpose::Charge);
    let Ok(Plan::Ask(command, ticket)) = plan else { panic!("{plan:?}") };
    let reply = store.apply(&command, wall(Mono(0))).expect("room");
    let Completion::Again(command, ticket) =
        engine.complete(Mono(0), ticket, Outcome::Reply(reply))
    else {
        panic!("decided with the wrong label")
    };
    let reply = store.apply(&command, wall(Mono(0))).expect("room");
    let completion = engine.complete(Mono(0), ticket, Outcome::Reply(reply));
    let Completion::Decided(decision) = completion else { panic!("asked a third time") };
    assert!(decision.allowed && !decision.degraded, "{decision:?}");
}

#[test]
fn a_peers_counts_that_no_store_could_hold_are_refused() {
    use crate::wire::{Frame, Header, Section, SlotEntry, Slots};
    let mut world = three_regions();
    world.run(500, |_, _| true);
    let (eu, us) = (&world.nodes[0].0, session("us", "us-0", 1));
    for (used, refused) in [(u64::MAX, 0), (1 << 53, 0), (1, u64::MAX)] {
        let entry = SlotEntry { caller: [1; 16], used, refunded: 0, refused, note: 0 };
        let label = START.0 / 1_000_000;
        let slots = Slots {
            of: None,
            limit: 9,
            window: 1_000_000,
            global: true,
            label,
            entries: vec![entry],
        };
        let header =
            Header { number: 1_000, open: 1, acknowledged: 0, unmerged: 0, sent: 0, echo: None };
        let bytes = Frame { header, sections: vec![Section::Slots(slots)] }.encode();
        assert_eq!(eu.handle_frame(world.now, &us, &bytes), Err(FrameError::Unsound));
    }
}

#[test]
fn a_peer_that_was_forgotten_does_not_acknowledge_what_it_never_got() {
    let mut world = World::new(vec![session("eu", "eu-0", 1), session("us", "us-0", 1)]);
    world.connect(0, 1);
    for _ in 0..5 {
        assert!(world.ask(0, "k", 1));
        world.run(100, |_, _| true);
    }
    // So many others come that eu forgets what it had told us; us has forgotten nothing.
    world.disconnect(0, 1);
    let (eu, now) = (&world.nodes[0].0, world.now);
    let others: Vec<_> =
        (0..exchange::PEERS_MAX).map(|n| session("ap", &alloc::format!("ap-{n}"), 1)).collect();
    for other in &others {
        eu.handle_connected(now, other).expect("taken");
    }
    assert!(!eu.peers(now).iter().any(|peer| peer.session.id.region.as_str() == "us"));
    for other in &others {
        eu.handle_disconnected(now, other);
    }
    world.connect(0, 1);
    world.run(100, |_, _| true);
    // What eu tells now is lost, while us says how much of what eu told before has come.
    assert!(world.ask(0, "k", 1) && world.ask(1, "k", 1));
    world.run(80, |from, _| from == 1);
    world.run(3_000, |_, _| true);
    assert_eq!(world.used(1, "k"), 7);
}

#[test]
fn a_limit_whose_number_another_shape_holds_is_not_charged_uncounted() {
    use crate::wire::{Frame, Header, Section, SlotEntry, Slots};
    let mut world = three_regions();
    world.run(500, |_, _| true);
    let limit = world.policies.policies[0].limits[0].id;
    let (eu, us) = (&world.nodes[0].0, session("us", "us-0", 1));
    let attributes: &Attributes<'_> = &[("route", "/api/x"), ("api_key", "k")];
    let caller = world.policies.policies[0].caller(&SECRET, attributes);
    let entry = SlotEntry { caller: caller.to_bytes(), used: 5, refunded: 0, refused: 0, note: 0 };
    let slots = Slots {
        of: None,
        limit: limit.0,
        window: 2_000_000,
        global: true,
        label: START.0 / 2_000_000,
        entries: vec![entry],
    };
    let header =
        Header { number: 1_000, open: 1, acknowledged: 0, unmerged: 0, sent: 0, echo: None };
    let bytes = Frame { header, sections: vec![Section::Slots(slots)] }.encode();
    assert_eq!(eu.handle_frame(world.now, &us, &bytes), Ok(()));
    let subject = [Subject { attributes, cost: 1 }];
    let plan = eu.plan(&world.policies, &SECRET, world.now, &subject, Purpose::Charge);
    let Ok(Plan::Full(ticket)) = plan else { panic!("{plan:?}") };
    let Completion::Decided(decision) = eu.complete(world.now, ticket, Outcome::Cancelled) else {
        panic!("nothing to ask again")
    };
    assert!(!decision.allowed && decision.degraded);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Whatever the network loses and whoever restarts: once it heals, every node sees the exact sum of
    /// what was admitted (INV-1, INV-2, INV-8), as long as somebody who knew survived.
    #[test]
    fn counts_converge_to_what_was_admitted(
        steps in prop::collection::vec((0_usize..3, 0_u8..12, 1_u64..5, any::<u32>()), 1..40)
    ) {
        let mut world = three_regions();
        let mut admitted = 0;
        for (at, what, cost, luck) in steps {
            match what {
                0..=4 => admitted += if world.ask(at, "k", cost) { cost } else { 0 },
                5 => admitted += {
                    let decision = world.ask_with(at, "k", cost, Purpose::Charge, false);
                    if decision.allowed { cost } else { 0 }
                },
                6 => world.wipe(at),
                7 => {
                    let other = (at + 1) % 3;
                    world.disconnect(at, other);
                    world.run(30, |_, _| true);
                    world.connect(at, other);
                }
                8 => {
                    // As soon as others know what it knows.
                    world.run(5_000, |_, _| true);
                    world.restart(at);
                    (0..3).filter(|other| *other != at).for_each(|other| world.connect(at, other));
                }
                _ => {
                    let mut luck = luck | 1;
                    world.run(300, |_, _| {
                        luck = luck.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        luck >> 31 == 0
                    });
                }
            }
        }
        world.settle();
        for at in 0..3 {
            prop_assert_eq!(world.used(at, "k"), admitted);
            prop_assert_eq!(world.nodes[at].0.quarantined(world.now), []);
        }
    }
}

#[test]
fn sessions_whose_counts_are_over_are_forgotten() {
    let mut world = World::new(vec![session("eu", "eu-0", 1), session("us", "us-0", 1)]);
    world.connect(0, 1);
    for boot in 2..80 {
        // Ten keys of the one-hour limit in the first half, none later.
        if boot < 40 {
            assert!(world.ask(1, &alloc::format!("key-{boot}"), 1));
        }
        world.run(300, |_, _| true);
        world.restart(1);
        world.connect(0, 1);
    }
    world.run(2_000, |_, _| true);
    let eu = world.nodes[0].0.stats();
    // Who has counts in the live hour stays known, and so does who is there.
    assert!((40..=42).contains(&eu.sessions), "{} sessions", eu.sessions);
    assert_eq!(world.used(0, "key-7"), 1);
    // Places that were freed are taken again, and nobody's counts are taken for another's.
    for boot in 80..100 {
        assert!(world.ask(1, "late", 1));
        world.run(300, |_, _| true);
        assert_eq!(world.used(0, "late"), boot - 79);
        world.restart(1);
        world.connect(0, 1);
        world.run(300, |_, _| true);
    }
    assert_eq!((world.used(0, "key-7"), world.used(1, "key-39")), (1, 1));
}
