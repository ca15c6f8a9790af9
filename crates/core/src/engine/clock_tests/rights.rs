//! Rights and clocks: nothing is spent in labels that cannot be told from others', or that were used before.

use super::*;
use crate::check::Reason;

/// Until shortly after the next minute begins by true time.
fn run_to_the_next_minute(world: &mut World) {
    let into = (START + world.now) % MINUTE as u64;
    world.run(MINUTE as u64 - into + 100 * MS);
}

/// Asks once, and says whether it was admitted, or why not.
fn spend(world: &mut World, at: usize) -> Result<(), Option<Reason>> {
    let decision = world.check(at, "/strict");
    if decision.allowed { Ok(()) } else { Err(decision.reason) }
}

/// All have told their stores when labels are whole, and it is a minute in which they are.
fn open(off: &[i64]) -> World {
    let nodes: Vec<_> = (0..off.len()).collect();
    let mut world = World::new(off, &nodes);
    world.settle();
    for at in nodes {
        // The first answer tells the store's epoch, the second check says when it opens.
        for _ in 0..2 {
            assert_eq!(spend(&mut world, at), Err(Some(Reason::Limit)));
        }
    }
    run_to_the_next_minute(&mut world);
    world
}

#[test]
fn a_region_whose_store_is_off_spends_no_rights_until_it_is_set_right() {
    for step in [20 * SECOND as i64, -20 * SECOND as i64] {
        let mut world = open(&[0, 0, 0]);
        assert_eq!([0, 1, 2].map(|at| spend(&mut world, at)), [Ok(()); 3]);
        world.stores[1].off = step;
        let suspended = Err(Some(Reason::StoreUnavailable));
        world.run(1_100 * MS);
        assert_eq!([0, 1, 2].map(|at| spend(&mut world, at)), [Ok(()), suspended, Ok(())]);
        let node = &world.nodes[1];
        assert!(node.engine.rights_are_suspended(world.mono(1)));
        assert!(node.engine.poll_grants(&world.policies, world.mono(1)).is_none());
        world.stores[1].off = 0;
        world.run(1_100 * MS);
        assert_eq!([0, 1, 2].map(|at| spend(&mut world, at)), [Ok(()); 3]);
    }
}

#[test]
fn of_two_regions_that_disagree_on_the_time_neither_spends() {
    let mut world = open(&[0, 0]);
    assert_eq!([0, 1].map(|at| spend(&mut world, at)), [Ok(()); 2]);
    world.stores[1].off = -20 * SECOND as i64;
    world.run(1_100 * MS);
    let suspended = Err(Some(Reason::StoreUnavailable));
    assert_eq!([0, 1].map(|at| spend(&mut world, at)), [suspended; 2]);
}

#[test]
fn cluster_time_that_ran_ahead_of_a_clock_is_waited_for() {
    // The only region that is heard of: nobody else can say that its clock is off.
    let mut world = open(&[0]);
    assert_eq!(spend(&mut world, 0), Ok(()));
    world.stores[0].off = 20 * SECOND as i64;
    assert_eq!(spend(&mut world, 0), Ok(()));
    world.stores[0].off = 0;
    world.run(1_100 * MS);
    assert_eq!(spend(&mut world, 0), Err(Some(Reason::StoreUnavailable)));
    world.run(41 * SECOND);
    assert_ne!(spend(&mut world, 0), Err(Some(Reason::StoreUnavailable)));
}

#[test]
fn a_region_that_begins_anew_with_a_clock_behind_does_not_open_labels_that_were_used() {
    let mut world = open(&[0, 0]);
    assert_eq!(spend(&mut world, 1), Ok(()));
    // It dies with its store, and when it is back the other store's clock has been set back: what both
    // show in the middle is long past.
    world.stores[0].off = -204 * SECOND as i64;
    world.stores[1].table = Table::new(1_000, StoreEpoch(2));
    world.restart(1, 0);
    world.connect(0, 1);
    world.settle();
    assert!(world.cluster_time(1) < START + world.now - 90 * SECOND);
    assert_eq!(spend(&mut world, 1), Err(Some(Reason::StoreUnavailable)));
    world.stores[0].off = 0;
    world.run(2_000 * MS);
    for _ in 0..3 {
        assert_eq!(spend(&mut world, 1), Err(Some(Reason::Limit)), "it was spent before");
    }
    run_to_the_next_minute(&mut world);
    assert_eq!(spend(&mut world, 1), Ok(()));
}

#[test]
fn a_region_that_begins_anew_opens_nothing_before_it_has_heard_of_another() {
    let mut world = open(&[0, 0]);
    world.stores[1].table = Table::new(1_000, StoreEpoch(2));
    world.restart(1, 0);
    for _ in 0..2 {
        run_to_the_next_minute(&mut world);
        assert_eq!(spend(&mut world, 1), Err(Some(Reason::Limit)));
    }
    world.connect(0, 1);
    world.settle();
    assert_eq!(spend(&mut world, 1), Err(Some(Reason::Limit)));
    run_to_the_next_minute(&mut world);
    assert_eq!(spend(&mut world, 1), Ok(()));
}

#[test]
fn a_store_that_forgets_is_not_spent_from() {
    let mut world = open(&[0]);
    world.nodes[0].engine.suspend_rights(true);
    assert_eq!(spend(&mut world, 0), Err(Some(Reason::StoreUnavailable)));
    world.nodes[0].engine.suspend_rights(false);
    assert_eq!(spend(&mut world, 0), Ok(()));
}
