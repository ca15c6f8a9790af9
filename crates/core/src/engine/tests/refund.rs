//! What is given back.

use super::*;
use crate::{
    check::Charged,
    counts::Tally,
    store::{COUNT_MAX, Counts},
};

impl World {
    /// Has a node give back a cost of both limits of a key, in the windows of now but so many.
    fn refund(&mut self, at: usize, key: &str, cost: u64, ago: u64, store_up: bool) -> Vec<u64> {
        let attributes: &Attributes<'_> = &[("route", "/api/x"), ("api_key", key)];
        let policy = self.policies.matching(attributes).next().expect("a policy").clone();
        let caller = policy.caller(&SECRET, attributes);
        let (engine, store) = &mut self.nodes[at];
        let cluster = engine.cluster_time(self.now);
        let charged = policy.limits.iter().map(|limit| {
            let label = Label(limit.window.label_at(cluster).0 - ago);
            Charged { key: Key { caller, limit: limit.id }, label, cost }
        });
        let charged: Vec<_> = charged.collect();
        let (given, told) = engine.refund(&self.policies, self.now, &charged);
        if let Some((command, ticket)) = told {
            let outcome = if store_up {
                Outcome::Reply(store.apply(&command, wall(self.now)).expect("room"))
            } else {
                Outcome::Unknown
            };
            engine.handle_refunded(self.now, ticket, &outcome);
        }
        given
    }

    fn used_everywhere(&mut self, key: &str) -> Vec<u64> {
        (0..self.nodes.len()).map(|at| self.used(at, key)).collect()
    }
}

#[test]
fn what_is_given_back_may_be_spent_again_also_by_who_had_heard_of_it() {
    let mut world = three_regions();
    assert!(world.ask(0, "k", 40));
    world.run(200, |_, _| true);
    assert_eq!(world.used_everywhere("k"), [40, 40, 40]);
    assert_eq!(world.refund(0, "k", 15, 0, true), [15, 15]);
    assert_eq!(world.used(0, "k"), 25, "at once where it was spent");
    world.run(200, |_, _| true);
    assert_eq!(world.used_everywhere("k"), [25, 25, 25]);
    assert!(world.ask(0, "k", 25), "of the minute's 50");
    // A wiped store hears from its node what is left.
    world.wipe(0);
    assert_eq!(world.used(0, "k"), 50);
}

#[test]
fn nobody_gives_back_more_than_it_admitted() {
    let mut world = three_regions();
    assert!(world.ask(0, "k", 10) && world.ask(1, "k", 20));
    world.run(200, |_, _| true);
    assert_eq!(world.refund(0, "k", 12, 0, true), [10, 10]);
    assert_eq!(world.refund(0, "k", 12, 0, true), [0, 0]);
    assert_eq!(world.refund(2, "k", 1, 0, true), [0, 0], "it has admitted nothing");
    world.run(200, |_, _| true);
    assert_eq!(world.used_everywhere("k"), [20, 20, 20]);
    let refunds = world.nodes[0].0.stats().refunds;
    assert_eq!((refunds.given, refunds.late, refunds.lost), (20, 28, 0));
}

#[test]
fn a_window_that_has_just_ended_takes_refunds_and_one_that_is_forgotten_does_not() {
    let mut world = three_regions();
    assert!(world.ask(0, "k", 10));
    world.run(70_000, |_, _| true);
    // The hour's label before was never in use; the minute's is the one that has ended.
    assert_eq!(world.refund(0, "k", 4, 1, true), [0, 4]);
    world.run(200_000, |_, _| true);
    assert_eq!(world.refund(0, "k", 4, 4, true), [0, 0]);
    assert_eq!(world.used(0, "k"), 10);
}

#[test]
fn a_refund_that_the_store_did_not_hear_is_lost_to_its_region_only() {
    let mut world = three_regions();
    assert!(world.ask(0, "k", 50));
    assert_eq!(world.refund(0, "k", 10, 0, false), [10, 10]);
    assert!(!world.ask(0, "k", 1), "of the minute's 50");
    world.run(200, |_, _| true);
    assert_eq!(world.used(1, "k"), 40);
    assert_eq!(world.nodes[0].0.stats().refunds.lost, 20);
}

#[test]
fn who_has_stopped_spends_what_it_gives_back() {
    let mut world = World::new(vec![session("eu", "eu-0", 1), session("us", "us-0", 1)]);
    let eventual = "[[policy]]\nname = \"api\"\nmatch = { route = \"/api/**\" }\nkey = [\"api_key\"]\n\
                    [[policy.limit]]\nname = \"about\"\nquantity = 1000\nwindow = \"10s\"\nscope = \"global\"\n";
    world.policies = PolicySet::parse(eventual).expect("the policies are right");
    world.connect(0, 1);
    world.run(500, |_, _| true);
    let spend = |world: &mut World, most: u64| (0..most).filter(|_| world.ask(0, "k", 1)).count();
    for _ in 0..20 {
        spend(&mut world, 60);
        world.run(50, |_, _| true);
    }
    assert!(!world.ask(0, "k", 1), "it has stopped");
    assert_eq!(world.refund(0, "k", 300, 0, true), [300]);
    for _ in 0..40 {
        spend(&mut world, 20);
        world.run(50, |_, _| true);
    }
    assert!(world.used(0, "k") > 990, "{}", world.used(0, "k"));
}

#[test]
fn what_a_peer_claims_to_have_given_back_weighs_against_nobody_else() {
    use crate::counts::{Asked, Shape, Tick};
    let mut world = three_regions();
    assert!(world.ask(1, "k", 50));
    // What another session claims: all there can be, and all of it given back.
    let limit = world.policies.policies[0].limits[0].clone();
    let attributes: &Attributes<'_> = &[("route", "/api/x"), ("api_key", "k")];
    let caller = world.policies.policies[0].caller(&SECRET, attributes);
    let label = limit.window.label_at(world.nodes[2].0.cluster_time(world.now));
    let shape = Shape { limit: limit.id, window: limit.window, scope: limit.scope };
    let counts = Counts { used: COUNT_MAX, refunded: COUNT_MAX };
    let add = Tally { counts, offered: COUNT_MAX };
    let asked = Asked { caller, shape, label, quantity: limit.quantity, add, tell: true };
    let (key, now) = (Key { caller, limit: limit.id }, world.now);
    world.nodes[2].0.with_shard(key, |shard| shard.add_own(&asked, Tick::of(now)));
    world.run(500, |_, _| true);
    assert_eq!(world.used(0, "k"), 50);
}

#[test]
fn refunds_of_siblings_add_up_in_their_store() {
    let mut world = World::new(vec![session("eu", "eu-0", 1), session("eu", "eu-1", 1)]);
    world.connect(0, 1);
    let swap = |world: &mut World| {
        let (left, right) = world.nodes.split_at_mut(1);
        mem::swap(&mut left[0].1, &mut right[0].1);
    };
    assert!(world.ask(0, "k", 20));
    swap(&mut world);
    assert!(world.ask(1, "k", 30));
    // Neither knows of the other's, and one store takes both.
    assert_eq!(world.refund(1, "k", 6, 0, true), [6, 6]);
    swap(&mut world);
    assert_eq!(world.refund(0, "k", 5, 0, true), [5, 5]);
    world.run(200, |_, _| true);
    assert_eq!(world.used(0, "k"), 39);
    assert!(!world.ask(0, "k", 12) && world.ask(0, "k", 11));
}
