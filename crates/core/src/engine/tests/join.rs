//! A node that has just begun, and what it leaves to regions that it does not know yet.

use super::*;
use crate::{
    ids::RegionNumber,
    rights::{Regions, Split},
};

const QUANTITY: u64 = 1_000;

/// A new node of `eu`, whose weight is 2 of 5; the others are connected and not told of it.
fn joins(consistency: &str) -> World {
    let mut world = World::new(vec![
        session("eu", "eu-0", 1),
        session("us", "us-0", 1),
        session("ap", "ap-0", 1),
    ]);
    let text = alloc::format!(
        "[[policy]]\nname = \"api\"\nmatch = {{ route = \"/api/**\" }}\nkey = [\"api_key\"]\n\
         [[policy.limit]]\nname = \"about\"\nquantity = {QUANTITY}\nwindow = \"1h\"\n\
         scope = \"global\"\nconsistency = \"{consistency}\"\n"
    );
    world.policies = PolicySet::parse(&text).expect("the policies are right");
    let weights = [("eu", 2), ("us", 2), ("ap", 1)];
    let weights =
        weights.map(|(name, weight)| (RegionNumber::of(&session(name, "x", 1).id.region), weight));
    let regions = Regions::first(Split::new(&weights).expect("a split"));
    for (engine, _) in &mut world.nodes {
        let session = engine.session().clone();
        let settings = Settings { shards: 4, regions: regions.clone(), ..Settings::new(session) };
        let random = Box::new(Xoshiro256PlusPlus::seed_from_u64(1));
        *engine = Engine::new(settings, Mono(0), START, random);
    }
    world.connect(1, 2);
    world
}

/// What node 0 still admits, one by one.
fn admits(world: &mut World) -> u64 {
    (0..=QUANTITY).take_while(|_| world.ask(0, "k", 1)).count() as u64
}

#[test]
fn who_knows_no_other_region_keeps_to_its_own_part() {
    assert_eq!(admits(&mut joins("eventual")), 400);
    assert_eq!(admits(&mut joins("plain")), QUANTITY, "plain refuses nothing that may still fit");
}

#[test]
fn a_region_that_is_met_is_counted_and_those_that_are_not_have_their_parts() {
    let mut world = joins("eventual");
    assert!(world.ask(1, "k", 100));
    world.connect(0, 1);
    world.run(500, |_, _| true);
    // 200 are ap's.
    assert_eq!(admits(&mut world), QUANTITY - 100 - 200);
    world.connect(0, 2);
    world.run(500, |_, _| true);
    assert_eq!(admits(&mut world), 200);
}

#[test]
fn a_region_that_was_met_is_not_new_when_it_is_gone() {
    let mut world = joins("eventual");
    world.connect(0, 1);
    world.connect(0, 2);
    world.run(500, |_, _| true);
    world.disconnect(0, 1);
    world.disconnect(0, 2);
    assert_eq!(admits(&mut world), QUANTITY);
}

#[test]
fn who_is_alone_for_long_takes_the_others_for_dead() {
    let mut world = joins("eventual");
    world.run(29_900, |_, _| true);
    assert_eq!(admits(&mut world), 400);
    world.run(200, |_, _| true);
    assert_eq!(admits(&mut world), 600);
}
