//! What a check is answered: several subjects, shadow, hopeless costs, and stores that fail.

use alloc::{boxed::Box, format, string::String, vec::Vec};

use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};

use super::*;
use crate::{
    engine::{Completion, Engine, Outcome, Plan, Settings},
    guard::OneThread,
    ids::{Boot, NodeId, Secret, Session, StoreEpoch},
    policy::PolicySet,
    store::{StoreReply, Table},
    time::{ClusterTime, Mono, StoreTime},
};

const SECRET: Secret = Secret([3; 16]);
/// Half past some hour, so that no label ends within a test.
const START: ClusterTime = ClusterTime(1_700_001_000_000_000);
const NOW: StoreTime = StoreTime(START.0);

struct Bench {
    engine: Engine<OneThread>,
    store: Table,
    policies: PolicySet,
}

/// A policy of one limit per hour.
fn policy(name: &str, quantity: u64, more: &str) -> String {
    format!(
        "[[policy]]\nname = \"{name}\"\nkey = [\"user\"]\nmatch = {{ {name} = \"*\" }}\n{more}\n\
         [[policy.limit]]\nname = \"hourly\"\nquantity = {quantity}\nwindow = \"1h\"\n"
    )
}

impl Bench {
    fn new(policies: &[String]) -> Self {
        let session = Session { id: NodeId::new("eu", "eu-0").expect("names"), boot: Boot(1) };
        let random = Box::new(Xoshiro256PlusPlus::seed_from_u64(1));
        Self {
            engine: Engine::new(Settings::new(session), Mono(0), START, random),
            store: Table::new(100, StoreEpoch(1)),
            policies: PolicySet::parse(&policies.concat()).expect("the policies are right"),
        }
    }

    fn plan(&self, subjects: &[(&str, &[&str], u64)]) -> Result<Plan, PlanError> {
        let attributes: Vec<Vec<(&str, &str)>> = subjects
            .iter()
            .map(|(user, policies, _)| {
                policies.iter().map(|p| (*p, "x")).chain([("user", *user)]).collect()
            })
            .collect();
        let subjects: Vec<_> = attributes
            .iter()
            .zip(subjects)
            .map(|(attributes, (_, _, cost))| Subject { attributes, cost: *cost })
            .collect();
        self.engine.plan(&self.policies, &SECRET, Mono(0), &subjects, Purpose::Charge)
    }

    /// Asks for subjects, each a user, the policies that apply, and a cost.
    fn ask(&mut self, subjects: &[(&str, &[&str], u64)]) -> Decision {
        let Ok(Plan::Ask(command, ticket)) = self.plan(subjects) else { panic!("not planned") };
        let reply = self.store.apply(&command, NOW).expect("room");
        self.complete(ticket, Outcome::Reply(reply))
    }

    fn fail(&self, subjects: &[(&str, &[&str], u64)], outcome: Outcome) -> Decision {
        let Ok(Plan::Ask(_, ticket)) = self.plan(subjects) else { panic!("not planned") };
        self.complete(ticket, outcome)
    }

    fn complete(&self, ticket: Ticket, outcome: Outcome) -> Decision {
        match self.engine.complete(Mono(0), ticket, outcome) {
            Completion::Decided(decision) => decision,
            other => panic!("the clocks agree, and it has no name: {other:?}"),
        }
    }
}

fn used(decision: &Decision) -> Vec<u64> {
    decision.limits.iter().map(|limit| limit.used).collect()
}

#[test]
fn several_subjects_are_one_step_that_charges_all_or_nothing() {
    let mut bench = Bench::new(&[policy("api", 10, "")]);
    assert!(bench.ask(&[("ann", &["api"], 6), ("ben", &["api"], 9)]).allowed);
    let refused = bench.ask(&[("ann", &["api"], 4), ("ben", &["api"], 2)]);
    assert!(!refused.allowed);
    assert_eq!((used(&refused), refused.binding), (Vec::from([6, 9]), Some(1)));
    // The same caller twice: the second sees what the first takes.
    assert!(!bench.ask(&[("ann", &["api"], 3), ("ann", &["api"], 2)]).allowed);
    let both = bench.ask(&[("ann", &["api"], 2), ("ann", &["api"], 2)]);
    assert!(both.allowed);
    assert_eq!(used(&both), [10, 10]);
}

#[test]
fn more_limits_than_one_check_may_weigh_are_an_error() {
    let policies: Vec<_> = (0..17).map(|n| policy(&format!("p{n}"), 10, "")).collect();
    let names: Vec<_> = (0..17).map(|n| format!("p{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let bench = Bench::new(&policies);
    let found = bench.plan(&[("ann", &names, 1)]).map(|_| ());
    assert_eq!(found, Err(PlanError::TooManyLimits { found: 17 }));
    assert!(matches!(bench.plan(&[("ann", &names[1..], 1)]), Ok(Plan::Ask(..))));
    assert!(matches!(bench.plan(&[("ann", &[], 1)]), Ok(Plan::Unmatched)));
}

#[test]
fn a_cost_above_the_quantity_never_passes_and_describes_the_answer() {
    let mut bench = Bench::new(&[policy("full", 10, ""), policy("small", 5, "")]);
    assert!(bench.ask(&[("ann", &["full"], 10)]).allowed);
    let decision = bench.ask(&[("ann", &["full", "small"], 6)]);
    assert_eq!(decision.reason, Some(Reason::CostExceedsLimit));
    assert_eq!(decision.binding, Some(1));
    assert!(decision.limits[0].retry_after.is_some());
    assert_eq!(decision.limits[1].retry_after, None);
    assert_eq!(bench.ask(&[("ann", &["full"], 1)]).reason, Some(Reason::Limit));
}

#[test]
fn the_limit_with_the_smallest_part_left_describes_an_admission() {
    let mut bench = Bench::new(&[policy("wide", 1_000, ""), policy("narrow", 10, "")]);
    let decision = bench.ask(&[("ann", &["wide", "narrow"], 5)]);
    assert_eq!(decision.binding, Some(1), "half is left of one, nearly all of the other");
}

#[test]
fn a_shadow_policy_refuses_nothing_and_is_not_charged_where_it_has_no_room() {
    let mut bench = Bench::new(&[policy("watch", 5, "shadow = true"), policy("api", 10, "")]);
    let decision = bench.ask(&[("ann", &["watch", "api"], 6)]);
    assert!(decision.allowed && decision.shadow);
    assert_eq!((decision.reason, decision.binding), (None, Some(1)));
    assert_eq!(used(&decision), [0, 6]);
    assert!(!decision.limits[0].allowed);
    // Where the enforced one refuses, the one in shadow is not charged either.
    let decision = bench.ask(&[("ann", &["watch", "api"], 5)]);
    assert!(!decision.allowed && !decision.shadow);
    assert_eq!(used(&decision), [0, 6]);
}

#[test]
fn each_policy_says_what_a_failed_store_means() {
    let on = |failure: &str| policy(failure, 10, &format!("on_store_failure = \"{failure}\""));
    let mut bench = Bench::new(&[on("degrade"), on("open"), on("closed")]);
    let fail = |policies: &[&str], cost| bench.fail(&[("ann", policies, cost)], Outcome::Cancelled);
    assert!(fail(&["open"], 60).allowed, "beyond its quantity");
    assert!(!fail(&["closed"], 1).allowed);
    assert!(fail(&["degrade"], 10).allowed);
    let refused = fail(&["degrade"], 1);
    assert!(!refused.allowed && refused.degraded);
    assert_eq!(refused.reason, Some(Reason::StoreUnavailable));
    // All of them decide together.
    assert!(!fail(&["open", "closed"], 1).allowed);
    let shed = bench.fail(&[("ben", &["degrade"], 1)], Outcome::Shed);
    assert_eq!((shed.allowed, shed.reason), (true, Some(Reason::Overload)));
    // What was admitted is in the floor of the next step; what was refused is not.
    assert_eq!(used(&bench.ask(&[("ann", &["degrade", "open", "closed"], 1)])), [10, 60, 0]);
}

#[test]
fn degraded_nodes_share_what_is_left() {
    let bench = Bench::new(&[policy("api", 10, "")]);
    let peer = Session { id: NodeId::new("eu", "eu-1").expect("names"), boot: Boot(1) };
    bench.engine.handle_connected(Mono(0), &peer).expect("taken");
    let admits = || bench.fail(&[("ann", &["api"], 1)], Outcome::Cancelled).allowed;
    let admitted = (0..20).filter(|_| admits()).count();
    assert_eq!(admitted, 5, "the other half is the other node's");
    // One check that weighs one key twice leaves room for both, and one that is refused takes nothing.
    let twice = |cost| [("ben", &["api"][..], cost), ("ben", &["api"][..], cost)];
    assert!(!bench.fail(&twice(3), Outcome::Cancelled).allowed, "6 of 5");
    assert!(bench.fail(&twice(2), Outcome::Cancelled).allowed);
}

#[test]
fn a_step_whose_answer_got_lost_is_charged_once() {
    let mut bench = Bench::new(&[policy("api", 10, "")]);
    let Ok(Plan::Ask(command, ticket)) = bench.plan(&[("ann", &["api"], 4)]) else {
        panic!("not planned")
    };
    let reply = bench.store.apply(&command, NOW);
    assert!(matches!(reply, Ok(StoreReply::Done { admitted: true, .. })));
    assert!(bench.complete(ticket, Outcome::Unknown).allowed);
    assert_eq!(used(&bench.ask(&[("ann", &["api"], 1)])), [5]);
}

#[test]
fn a_second_relabel_is_answered_like_a_failed_store() {
    let bench = Bench::new(&[policy("api", 10, "")]);
    let Ok(Plan::Ask(_, ticket)) = bench.plan(&[("ann", &["api"], 4)]) else {
        panic!("not planned")
    };
    let relabel = || {
        let (newest, epoch) = (Vec::new(), StoreEpoch(1));
        Outcome::Reply(StoreReply::Relabel { now: NOW, epoch, newest })
    };
    let Completion::Again(_, ticket) = bench.engine.complete(Mono(0), ticket, relabel()) else {
        panic!("decided without a label that fits")
    };
    let decision = bench.complete(ticket, relabel());
    assert!(decision.allowed && decision.degraded);
}
