//! Labels of more than a minute under rights: they are spent up to what other regions hold, and recovered.

use super::*;

const LABEL: u64 = 600 * SECOND;
const QUANTITY: u64 = 1_000;

/// Regions that have told their stores when labels are whole, in a label that began after that.
fn open(regions: usize) -> World {
    let nodes: Vec<_> = (0..regions).collect();
    let mut world = World::new(&vec![0; regions], &nodes);
    world.settle();
    for at in nodes {
        // The first answer tells the store's epoch, the second check says when it opens.
        (0..2).for_each(|_| assert!(!world.check(at, "/long").allowed));
    }
    let into = (START + world.now) % LABEL;
    world.run(LABEL - into + 100 * MS);
    world
}

/// Spends as long as some is left, with time for the others to say that they hold more.
fn spend(world: &mut World, at: usize) -> u64 {
    let (mut spent, mut refused) = (0, 0);
    while refused < 10 {
        let passes = world.check(at, "/long").allowed;
        spent += u64::from(passes);
        refused = if passes { 0 } else { refused + 1 };
        world.run(if passes { 0 } else { 100 * MS });
    }
    spent
}

#[test]
fn a_region_that_is_alone_waits_for_nobody() {
    let mut world = open(1);
    assert_eq!((0..QUANTITY + 5).filter(|_| world.check(0, "/long").allowed).count(), 1_000);
    // And nobody tells it what it has spent: it waits for the next label.
    world.stores[0].table = Table::new(1_000, StoreEpoch(2));
    assert_eq!(spend(&mut world, 0), 0);
}

#[test]
fn what_is_asked_for_in_vain_costs_a_recovered_store_nothing() {
    let mut world = open(2);
    for cost in [1, 1_001, 1_000_000, 1] {
        assert_eq!(world.check_cost(1, "/long", cost).allowed, cost == 1, "{cost}");
        world.run(SECOND);
    }
    world.stores[1].table = Table::new(1_000, StoreEpoch(2));
    // It is taken to have spent the one block that it told, and another one.
    let spent = 2 + spend(&mut world, 1) + spend(&mut world, 0);
    assert!((QUANTITY - 102..=QUANTITY).contains(&spent), "{spent}");
}

#[test]
fn what_needs_a_higher_ceiling_has_it_after_a_round_trip() {
    let mut world = open(2);
    assert!(!world.check_cost(1, "/long", 300).allowed, "nobody holds so much");
    world.run(SECOND);
    assert!(world.check_cost(1, "/long", 300).allowed);
    world.run(SECOND);
    assert!(!world.check_cost(1, "/long", 300).allowed, "there is no more");
}
