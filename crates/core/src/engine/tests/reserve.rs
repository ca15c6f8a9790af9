//! Reservations, what is given back, and requests with a name.

use super::*;
use crate::{
    check::{Manner, Reservation, Reserve},
    engine::{GivenBack, Settled},
    policy::Algorithm,
    store::HoldId,
};

const ATTRIBUTES: fn(&str) -> [(&str, &str); 2] = |key| [("route", "/api/x"), ("api_key", key)];
const TTL: Span = Span::secs(5);
const KEPT: Span = Span::secs(60);

impl World {
    fn ask_in(&mut self, at: usize, cost: u64, manner: &Manner<'_>, store_up: bool) -> Decision {
        let attributes: &Attributes<'_> = &ATTRIBUTES("k");
        let subject = [Subject { attributes, cost }];
        let (engine, store) = &mut self.nodes[at];
        let charge = Purpose::Charge;
        let plan = engine.plan_in(&self.policies, &SECRET, self.now, &subject, charge, manner);
        let (command, ticket) = match plan.expect("planned") {
            Plan::Ask(command, ticket) => (command, ticket),
            Plan::Known(decision) => return *decision,
            other => panic!("{other:?}"),
        };
        let outcome = if store_up {
            Outcome::Reply(store.apply(&command, wall(self.now)).expect("room"))
        } else {
            Outcome::Unknown
        };
        match engine.complete(self.now, ticket, outcome) {
            Completion::Decided(decision) => decision,
            other => panic!("{other:?}"),
        }
    }

    fn reserve(&mut self, at: usize, cost: u64) -> Option<Reservation> {
        let id = self.nodes[at].0.hold_id();
        let reserve = Some(Reserve { id, lasts: TTL });
        let decision = self.ask_in(at, cost, &Manner { name: None, reserve }, true);
        assert_eq!(decision.allowed, decision.reservation.is_some());
        decision.reservation
    }

    /// Has node `at` settle what was reserved, on the store of node `store`.
    fn settle_at(
        &mut self,
        at: usize,
        store: usize,
        reservation: &Reservation,
        keep: u64,
    ) -> Settled {
        let (policies, reservation) = (self.policies.clone(), reservation.clone());
        let (command, ticket) = self.nodes[at].0.settle(&policies, self.now, reservation, keep);
        let reply = self.nodes[store].1.apply(&command, wall(self.now)).expect("room");
        self.nodes[at].0.handle_settled(self.now, ticket, &Outcome::Reply(reply))
    }

    /// Has all nodes of the first region look after what they reserved; their store is the first node's.
    fn look_after(&mut self, nodes: usize) {
        let policies = self.policies.clone();
        for at in 0..nodes {
            while let Some((command, ticket)) = self.nodes[at].0.poll_settle(&policies, self.now) {
                let reply = self.nodes[0].1.apply(&command, wall(self.now)).expect("room");
                self.nodes[at].0.handle_settled(self.now, ticket, &Outcome::Reply(reply));
            }
        }
    }
}

#[test]
fn what_is_not_used_of_a_reservation_can_be_spent_everywhere() {
    let mut world = three_regions();
    let reservation = world.reserve(0, 40).expect("there is room");
    world.run(200, |_, _| true);
    assert_eq!(world.used(1, "k"), 40, "others know of it at once");
    assert_eq!(world.settle_at(0, 0, &reservation, 15), Settled::Charged(15));
    assert_eq!(world.used(0, "k"), 15);
    world.run(200, |_, _| true);
    assert_eq!(world.used(1, "k"), 15);
    // Again it says the same, and gives nothing back.
    assert_eq!(world.settle_at(0, 0, &reservation, 3), Settled::Charged(15));
    world.run(200, |_, _| true);
    assert_eq!((world.used(0, "k"), world.used(1, "k")), (15, 15));
    assert_eq!(world.nodes[0].0.reserve_stats().open, 0);
}

#[test]
fn what_nobody_settles_comes_back_when_its_time_is_over() {
    let mut world = three_regions();
    let reservation = world.reserve(0, 40).expect("there is room");
    assert!(!world.ask(0, "k", 20), "of the minute's 50");
    world.run(5_100, |_, _| true);
    assert!(world.ask(0, "k", 20), "the store sees to it");
    world.run(1_000, |_, _| true);
    assert_eq!(world.used(1, "k"), 60, "and its node later");
    world.look_after(1);
    world.run(200, |_, _| true);
    assert_eq!((world.used(0, "k"), world.used(1, "k")), (20, 20));
    assert_eq!(world.settle_at(0, 0, &reservation, 3), Settled::Unknown);
}

#[test]
fn another_node_of_the_region_settles() {
    let mut world = World::new(vec![
        session("eu", "eu-0", 1),
        session("eu", "eu-1", 1),
        session("us", "us-0", 1),
    ]);
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        world.connect(a, b);
    }
    world.run(1_000, |_, _| true);
    let reservation = world.reserve(0, 40).expect("there is room");
    // Both are on the store of the first.
    assert_eq!(world.settle_at(1, 0, &reservation, 10), Settled::Charged(10));
    world.run(200, |_, _| true);
    assert_eq!((world.used(0, "k"), world.used(2, "k")), (10, 40), "the slot is another's");
    world.run(6_000, |_, _| true);
    world.look_after(2);
    world.run(200, |_, _| true);
    assert_eq!((world.used(0, "k"), world.used(2, "k")), (10, 10));
    let stats = world.nodes[0].0.reserve_stats();
    assert_eq!((stats.open, stats.unsettled), (0, 0));
}

#[test]
fn a_store_that_forgot_leaves_charged_what_was_reserved() {
    let mut world = three_regions();
    let reservation = world.reserve(0, 40).expect("there is room");
    world.wipe(0);
    assert_eq!(world.used(0, "k"), 40, "floors bring it back");
    assert_eq!(world.settle_at(0, 0, &reservation, 3), Settled::Unknown);
    world.run(6_100, |_, _| true);
    world.look_after(1);
    world.run(200, |_, _| true);
    assert_eq!((world.used(0, "k"), world.used(1, "k")), (40, 40));
    assert_eq!(world.nodes[0].0.reserve_stats().unsettled, 40);
}

#[test]
fn a_name_is_charged_once_whoever_is_asked() {
    let mut world = three_regions();
    let named = |name| Manner { name: Some((name, KEPT)), reserve: None };
    let first = world.ask_in(0, 30, &named("a"), true);
    let again = world.ask_in(0, 30, &named("a"), true);
    assert!(first.allowed && again.allowed);
    assert_eq!(again.limits[0].used, first.limits[0].used);
    assert!(!world.ask_in(0, 30, &named("b"), true).allowed);
    assert!(!world.ask_in(0, 30, &named("b"), true).allowed, "refusals as well");
    assert_eq!(world.used(0, "k"), 30);
    world.run(200, |_, _| true);
    assert_eq!(world.used(1, "k"), 30, "and counted once");
    // A reservation is the same one.
    let reserve = Some(Reserve { id: HoldId(1), lasts: TTL });
    let named = Manner { name: Some(("c", KEPT)), reserve };
    let first = world.ask_in(0, 5, &named, true).reservation.expect("reserved");
    world.run(200, |_, _| true);
    assert_eq!(world.ask_in(0, 5, &named, true).reservation, Some(first));
    assert_eq!(world.used(0, "k"), 35);
}

#[test]
fn a_name_stands_for_one_request() {
    let mut world = three_regions();
    let named = Manner { name: Some(("a", KEPT)), reserve: None };
    assert!(world.ask_in(0, 3, &named, true).allowed);
    let attributes: &Attributes<'_> = &ATTRIBUTES("k");
    let subject = [Subject { attributes, cost: 4 }];
    let (engine, store) = &mut world.nodes[0];
    let plan =
        engine.plan_in(&world.policies, &SECRET, world.now, &subject, Purpose::Charge, &named);
    let Ok(Plan::Ask(command, ticket)) = plan else { panic!("{plan:?}") };
    let reply = store.apply(&command, wall(world.now)).expect("room");
    let completed = engine.complete(world.now, ticket, Outcome::Reply(reply));
    assert!(matches!(completed, Completion::OtherRequest), "{completed:?}");
    assert_eq!(world.used(0, "k"), 3);
}

#[test]
fn what_was_answered_without_the_store_is_answered_again() {
    let mut world = three_regions();
    let named = |name| Manner { name: Some((name, KEPT)), reserve: None };
    let first = world.ask_in(0, 3, &named("a"), false);
    assert!(first.allowed && first.degraded);
    let again = world.ask_in(0, 3, &named("a"), true);
    assert_eq!(again, first);
    assert_eq!(world.used(0, "k"), 3);
    world.run(61_000, |_, _| true);
    assert!(!world.ask_in(0, 3, &named("a"), true).degraded, "it is forgotten in time");
}

/// A command with a name is sent again when no answer comes. If the first was carried out, nobody has counted it.
#[test]
fn who_sends_again_counts_what_was_carried_out_before() {
    let mut world = three_regions();
    let attributes: &Attributes<'_> = &ATTRIBUTES("k");
    let subject = [Subject { attributes, cost: 4 }];
    let named = Manner { name: Some(("a", KEPT)), reserve: None };
    let (engine, store) = &mut world.nodes[0];
    let plan =
        engine.plan_in(&world.policies, &SECRET, world.now, &subject, Purpose::Charge, &named);
    let Ok(Plan::Ask(command, mut ticket)) = plan else { panic!("{plan:?}") };
    store.apply(&command, wall(world.now)).expect("room");
    assert!(ticket.send_again() && !ticket.send_again(), "once more");
    let reply = store.apply(&command, wall(world.now)).expect("room");
    engine.complete(world.now, ticket, Outcome::Reply(reply));
    world.run(200, |_, _| true);
    assert_eq!((world.used(0, "k"), world.used(1, "k")), (4, 4));
}

#[test]
fn callers_give_back_without_a_reservation() {
    let mut world = three_regions();
    assert!(world.ask(0, "k", 40));
    let attributes: &Attributes<'_> = &ATTRIBUTES("k");
    let subject = Subject { attributes, cost: 15 };
    let cluster = world.nodes[0].0.cluster_time(world.now);
    let minute = &world.policies.policies[0].limits[1];
    let label = minute.window.label_at(cluster);
    for _ in 0..2 {
        let (engine, store) = &mut world.nodes[0];
        let name = Some(("a", KEPT));
        let planned =
            engine.plan_give_back(&world.policies, &SECRET, world.now, &subject, label, name);
        let (command, ticket) = planned.expect("the window is known");
        let reply = store.apply(&command, wall(world.now)).expect("room");
        let became = engine.handle_given_back(world.now, ticket, &Outcome::Reply(reply));
        assert_eq!(became, GivenBack::Settled(Settled::Charged(0)));
    }
    assert!(!world.ask(0, "k", 26) && world.ask(0, "k", 25), "15 of the minute's 50, once");
    let (engine, _) = &world.nodes[0];
    let nowhere = Label(label.0 + 5);
    assert!(
        engine
            .plan_give_back(&world.policies, &SECRET, world.now, &subject, nowhere, None)
            .is_none()
    );
}

/// Four places at a time, for ten seconds at most.
fn places() -> World {
    let text = "[[policy]]\nname = \"p\"\nkey = [\"api_key\"]\n[[policy.limit]]\nname = \"l\"\n\
                quantity = 4\nwindow = \"10s\"\nalgorithm = \"concurrency\"\n";
    let mut world = three_regions();
    world.policies = PolicySet::parse(text).expect("a policy");
    assert_eq!(world.policies.policies[0].limits[0].algorithm, Algorithm::Concurrency);
    world
}

#[test]
fn places_are_taken_and_given_back() {
    let mut world = places();
    let taken: Vec<_> = (0..4).map(|_| world.reserve(0, 1).expect("there is one")).collect();
    let refused = world.ask_in(0, 1, &Manner::default(), true);
    assert_eq!((refused.allowed, refused.limits[0].used), (false, 4));
    assert_eq!(refused.limits[0].retry_after, Some(TTL));
    assert_eq!(world.settle_at(0, 0, &taken[2], 0), Settled::Charged(0));
    assert!(world.ask_in(0, 1, &Manner::default(), true).allowed);
    assert!(!world.ask_in(0, 1, &Manner::default(), true).allowed);
    // Those of a check last as long as the window.
    world.run(5_010, |_, _| true);
    let used = world.ask_in(0, 1, &Manner::default(), true).limits[0].used;
    assert_eq!(used, 2, "three have ended, one was taken");
    assert_eq!(world.nodes[0].0.stats().cells, 0, "places are no counts");
}

#[test]
fn a_store_that_forgot_places_is_told_of_them() {
    let mut world = places();
    let taken = world.reserve(0, 2).expect("there are two");
    assert!(world.ask_in(0, 1, &Manner::default(), true).allowed);
    world.wipe(0);
    let policies = world.policies.clone();
    // Somebody asks first: by then the node knows that it is another epoch.
    assert!(world.ask_in(0, 1, &Manner::default(), true).allowed);
    let mut told = 0;
    for _ in 0..20 {
        world.now += Span::millis(100);
        let Some((command, ticket)) = world.nodes[0].0.poll_places(&policies, world.now) else {
            continue;
        };
        told += command.operations.len();
        // The first word gets lost.
        let outcome = if told <= 2 {
            Outcome::Unknown
        } else {
            Outcome::Reply(world.nodes[0].1.apply(&command, wall(world.now)).expect("room"))
        };
        world.nodes[0].0.handle_told(world.now, ticket, &outcome);
    }
    assert!(!world.ask_in(0, 1, &Manner::default(), true).allowed, "all four are taken again");
    assert_eq!(world.settle_at(0, 0, &taken, 0), Settled::Charged(0));
    assert!(world.ask_in(0, 2, &Manner::default(), true).allowed);
}

#[test]
fn one_place_that_cannot_be_told_holds_up_no_other() {
    let mut world = places();
    let taken: Vec<_> = (0..3).map(|_| world.reserve(0, 1).expect("there is one").id).collect();
    world.wipe(0);
    assert!(world.ask_in(0, 1, &Manner::default(), true).allowed);
    let (policies, first) = (world.policies.clone(), *taken.iter().min().expect("three"));
    let mut told = Vec::new();
    for _ in 0..30 {
        world.now += Span::millis(100);
        while let Some((command, ticket)) = world.nodes[0].0.poll_places(&policies, world.now) {
            let id = command.operations[0].hold.expect("a place").id;
            let outcome = if id == first {
                Outcome::Unknown
            } else {
                told.push(id);
                Outcome::Reply(world.nodes[0].1.apply(&command, wall(world.now)).expect("room"))
            };
            world.nodes[0].0.handle_told(world.now, ticket, &outcome);
        }
    }
    assert_eq!(told.len(), 2, "{told:?} of {taken:?}");
    assert!(!told.contains(&first));
}

/// A slot that moved begins a new epoch and has forgotten nothing: places that another node gave back stay free.
#[test]
fn a_place_that_was_given_back_elsewhere_is_not_held_again() {
    let mut world = places();
    let taken = world.reserve(0, 3).expect("there are three");
    // Another node settles, on the same store.
    let (policies, reservation) = (world.policies.clone(), taken.clone());
    let (command, _ticket) = world.nodes[1].0.settle(&policies, world.now, reservation, 0);
    world.nodes[0].1.apply(&command, wall(world.now)).expect("room");
    let later = StoreEpoch(world.nodes[0].1.epoch().0 + 1);
    world.nodes[0].1.begin_epoch(later);
    assert!(world.ask_in(0, 1, &Manner::default(), true).allowed);
    let mut told = 0;
    while let Some((command, ticket)) = world.nodes[0].0.poll_places(&policies, world.now) {
        told += 1;
        let reply = world.nodes[0].1.apply(&command, wall(world.now)).expect("room");
        world.nodes[0].0.handle_told(world.now, ticket, &Outcome::Reply(reply));
    }
    assert!(told >= 1);
    assert!(world.ask_in(0, 3, &Manner::default(), true).allowed, "three of four are free");
}

#[test]
fn two_that_are_sent_again_under_one_name_count_once() {
    let mut world = three_regions();
    let attributes: &Attributes<'_> = &ATTRIBUTES("k");
    let subject = [Subject { attributes, cost: 4 }];
    let named = Manner { name: Some(("a", KEPT)), reserve: None };
    let (engine, store) = &mut world.nodes[0];
    let mut tickets = Vec::new();
    for _ in 0..2 {
        let plan =
            engine.plan_in(&world.policies, &SECRET, world.now, &subject, Purpose::Charge, &named);
        let Ok(Plan::Ask(command, mut ticket)) = plan else { panic!("{plan:?}") };
        assert!(ticket.send_again());
        tickets.push((command, ticket));
    }
    for (command, _) in &tickets {
        store.apply(command, wall(world.now)).expect("room");
    }
    for (command, ticket) in tickets {
        let reply = store.apply(&command, wall(world.now)).expect("room");
        engine.complete(world.now, ticket, Outcome::Reply(reply));
    }
    assert_eq!(world.used(0, "k"), 4);
}

#[test]
fn two_without_the_store_under_one_name_count_once() {
    let mut world = three_regions();
    let attributes: &Attributes<'_> = &ATTRIBUTES("k");
    let subject = [Subject { attributes, cost: 4 }];
    let named = Manner { name: Some(("a", KEPT)), reserve: None };
    let (engine, _) = &mut world.nodes[0];
    let mut tickets = Vec::new();
    for _ in 0..2 {
        let plan =
            engine.plan_in(&world.policies, &SECRET, world.now, &subject, Purpose::Charge, &named);
        let Ok(Plan::Ask(_, ticket)) = plan else { panic!("{plan:?}") };
        tickets.push(ticket);
    }
    for ticket in tickets {
        engine.complete(world.now, ticket, Outcome::Unknown);
    }
    assert_eq!(world.used(0, "k"), 4);
}

#[test]
fn what_is_reserved_without_an_answer_and_admitted_is_not_given_back() {
    let mut world = three_regions();
    let attributes: &Attributes<'_> = &ATTRIBUTES("k");
    let subject = [Subject { attributes, cost: 40 }];
    let id = world.nodes[0].0.hold_id();
    let manner = Manner { name: None, reserve: Some(Reserve { id, lasts: TTL }) };
    let (engine, store) = &mut world.nodes[0];
    let plan =
        engine.plan_in(&world.policies, &SECRET, world.now, &subject, Purpose::Charge, &manner);
    let Ok(Plan::Ask(command, ticket)) = plan else { panic!("{plan:?}") };
    store.apply(&command, wall(world.now)).expect("room");
    let done = engine.complete(world.now, ticket, Outcome::Unknown);
    let Completion::Decided(decision) = done else { panic!("{done:?}") };
    assert!(decision.allowed && decision.degraded && decision.reservation.is_none());
    assert_eq!(world.used(0, "k"), 40);
    // As soon as the store answers again.
    world.look_after(1);
    world.run(7_000, |_, _| true);
    world.look_after(1);
    assert_eq!(world.used(0, "k"), 40, "admitted and counted, but the store has given it back");
}

#[test]
fn who_settles_too_late_does_not_keep_the_slot_from_being_given_back() {
    let mut world = three_regions();
    let reservation = world.reserve(0, 40).expect("there is room");
    world.run(5_100, |_, _| true);
    assert_eq!(world.settle_at(0, 0, &reservation, 3), Settled::Unknown);
    world.run(3_000, |_, _| true);
    world.look_after(1);
    world.run(200, |_, _| true);
    assert_eq!((world.used(0, "k"), world.used(1, "k")), (0, 0));
}

fn mixed() -> World {
    let text = "[[policy]]\nname = \"p\"\nkey = [\"api_key\"]\n[[policy.limit]]\nname = \"q\"\nquantity = 100\nwindow = \"1h\"\n\
                [[policy.limit]]\nname = \"l\"\nquantity = 50\nwindow = \"2s\"\nalgorithm = \"concurrency\"\n";
    let mut world = three_regions();
    world.policies = PolicySet::parse(text).expect("a policy");
    world
}

#[test]
fn a_reservation_longer_than_a_lease_can_be_settled() {
    let mut world = mixed();
    let reservation = world.reserve(0, 40).expect("there is room");
    world.run(3_000, |_, _| true);
    assert_eq!(world.settle_at(0, 0, &reservation, 40), Settled::Charged(40));
    world.run(7_000, |_, _| true);
    assert_eq!(world.used(0, "k"), 40);
}

#[test]
fn a_place_that_is_over_is_not_told() {
    let mut world = mixed();
    world.reserve(0, 40).expect("there is room");
    world.run(3_000, |_, _| true);
    world.wipe(0);
    world.used(0, "k");
    let policies = world.policies.clone();
    assert!(world.nodes[0].0.poll_places(&policies, world.now).is_none());
}

#[test]
fn a_place_that_shadow_refused_is_not_told() {
    let text = "[[policy]]\nname = \"p\"\nshadow = true\nkey = [\"api_key\"]\n[[policy.limit]]\nname = \"l\"\n\
                quantity = 1\nwindow = \"60s\"\nalgorithm = \"concurrency\"\n";
    let mut world = three_regions();
    world.policies = PolicySet::parse(text).expect("a policy");
    for _ in 0..3 {
        assert!(world.ask_in(0, 1, &Manner::default(), true).allowed);
    }
    assert_eq!(world.nodes[0].0.reserve_stats().open, 1);
}

#[test]
fn a_failover_that_lost_a_settling_does_not_give_back_what_was_used() {
    let mut world = three_regions();
    let reservation = world.reserve(0, 40).expect("there is room");
    // The replica has the reservation, and not what became of it.
    let mut replica = world.nodes[0].1.clone();
    assert_eq!(world.settle_at(0, 0, &reservation, 40), Settled::Charged(40));
    replica.begin_epoch(StoreEpoch(wall(world.now).0 + 1));
    world.nodes[0].1 = replica;
    assert_eq!(world.used(0, "k"), 40);
    world.run(7_000, |_, _| true);
    world.look_after(1);
    world.run(500, |_, _| true);
    assert_eq!((world.used(0, "k"), world.used(1, "k")), (40, 40));
}

#[test]
fn a_name_may_be_used_again_while_its_first_reservation_goes_on() {
    let mut world = three_regions();
    let manner = |id, lasts| Manner {
        name: Some(("a", Span::secs(2))),
        reserve: Some(Reserve { id, lasts }),
    };
    world.ask_in(0, 10, &manner(HoldId(1), TTL), true).reservation.expect("reserved");
    world.run(3_000, |_, _| true);
    let second = world.ask_in(0, 10, &manner(HoldId(2), TTL), true).reservation.expect("reserved");
    world.run(3_500, |_, _| true);
    world.look_after(1);
    assert_eq!(world.settle_at(0, 0, &second, 10), Settled::Charged(10));
}
