//! What is given back.

use super::*;
use crate::engine::Charged;

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
    // A wiped store hears it from its node.
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
fn a_refund_that_the_store_did_not_hear_comes_with_the_next_check_once() {
    let mut world = three_regions();
    assert!(world.ask(0, "k", 50));
    assert_eq!(world.refund(0, "k", 10, 0, false), [10, 10]);
    assert!(world.ask(0, "k", 10), "of the minute's 50");
    assert!(!world.ask(0, "k", 1));
    assert_eq!(world.nodes[0].0.stats().refunds.lost, 0);
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
