//! One copy per region: told to one node there, passed on inside, and nothing lost with the one.

use super::*;

/// One node in `eu`, three in `us` (at 1, 2 and 3).
fn with_relays() -> World {
    with_relays_in(&["eu", "us"])
}

/// The same, with relays on in these regions only.
fn with_relays_in(regions: &[&str]) -> World {
    let sessions: Vec<_> = [("eu", "eu-0"), ("us", "us-0"), ("us", "us-1"), ("us", "us-2")]
        .into_iter()
        .map(|(region, node)| session(region, node, 1))
        .collect();
    let mut world = World::new(sessions.clone());
    for (node, session) in world.nodes.iter_mut().zip(sessions) {
        let relays = regions.contains(&session.id.region.as_str());
        let settings = Settings { shards: 4, relays, ..Settings::new(session) };
        let random = Box::new(Xoshiro256PlusPlus::seed_from_u64(5));
        node.0 = Engine::new(settings, Mono(0), START, random);
    }
    for b in 0..4 {
        (0..b).for_each(|a| world.connect(a, b));
    }
    world.run(2_000, |_, _| true);
    world
}

/// Changes that eu told each node of us.
fn told(world: &World) -> Vec<u64> {
    let peers = world.nodes[0].0.peers(world.now);
    peers.iter().map(|peer| peer.sent.changes).collect()
}

/// The node of us that eu tells: it told it something last.
fn relay_of(world: &mut World) -> usize {
    let before = told(world);
    assert!(world.ask(0, "probe", 1));
    world.run(300, |_, _| true);
    let after = told(world);
    let relay = (0..3).find(|n| after[*n] > before[*n]).expect("somebody is told");
    relay + 1
}

#[test]
fn a_change_crosses_once_and_reaches_everybody() {
    let mut world = with_relays();
    let before: u64 = told(&world).iter().sum();
    for n in 0..100 {
        assert!(world.ask(0, &alloc::format!("key-{n}"), 2));
    }
    world.run(400, |_, _| true);
    for at in 1..4 {
        assert_eq!(world.used(at, "key-7"), 2, "node {at}");
    }
    assert_eq!(told(&world).iter().sum::<u64>() - before, 100);
    // And the other way: each node of us tells eu, which is alone.
    assert!(world.ask(2, "key-7", 3));
    world.run(400, |_, _| true);
    assert_eq!((world.used(0, "key-7"), world.used(3, "key-7")), (5, 5));
}

#[test]
fn nothing_is_lost_with_a_relay() {
    let mut world = with_relays();
    let relay = relay_of(&mut world);
    let others: Vec<_> = (1..4).filter(|n| *n != relay).collect();
    // It takes and acknowledges, but passes on nothing any more; then it dies.
    for n in 0..100 {
        assert!(world.ask(0, &alloc::format!("key-{n}"), 2));
        world.run(10, |from, to| from != relay || to == 0);
    }
    world.run(1_000, |from, to| from != relay || to == 0);
    assert_eq!(world.used(others[0], "key-99"), 0);
    for other in (0..4).filter(|other| *other != relay) {
        world.disconnect(relay, other);
    }
    world.run(500, |from, to| from != relay && to != relay);
    for at in others {
        assert_eq!((world.used(at, "key-0"), world.used(at, "key-99")), (2, 2), "node {at}");
    }
}

#[test]
fn what_is_passed_on_is_as_old_as_it_is() {
    let mut world = with_relays();
    let relay = relay_of(&mut world);
    let other = (1..4).find(|n| *n != relay).expect("two more");
    let staleness = |world: &mut World| {
        let decision = world.ask_with(other, "k", 1, Purpose::Usage, true);
        decision.limits[0].staleness.expect("eu was heard").as_millis()
    };
    world.run(5_000, |_, _| true);
    assert!(staleness(&mut world) < 2_200);
    // eu is heard directly all the time, but what it tells is not passed on.
    world.run(8_000, |from, to| from != relay || to == 0);
    assert!(staleness(&mut world) > 7_000);
}

#[test]
fn who_returns_is_told_what_it_missed() {
    let mut world = with_relays();
    let relay = relay_of(&mut world);
    let other = (1..4).find(|n| *n != relay).expect("two more");
    for to in (0..4).filter(|to| *to != other) {
        world.disconnect(other, to);
    }
    assert!(world.ask(0, "k", 9));
    world.run(6_000, |from, to| from != other && to != other);
    for to in (0..4).filter(|to| *to != other) {
        world.connect(other, to);
    }
    world.run(500, |_, _| true);
    assert_eq!(world.used(other, "k"), 9);
}

#[test]
fn a_relay_that_does_not_hear_is_replaced_once_and_chosen_again_when_it_does() {
    let mut world = with_relays();
    let relay = relay_of(&mut world);
    // It is heard all the time, so that nothing but its silence about what it is told shows the cut.
    let cut = |from: usize, to: usize| (from, to) != (0, relay);
    let mut told_it = Vec::new();
    for n in 0..300 {
        assert!(world.ask(0, &alloc::format!("key-{n}"), 1));
        world.run(100, cut);
        told_it.push(told(&world)[relay - 1]);
    }
    assert_eq!(told_it[40], told_it[299], "told again and again: {told_it:?}");
    for at in (1..4).filter(|at| *at != relay) {
        assert_eq!(world.used(at, "key-299"), 1, "node {at}");
    }
    world.run(3_000, |_, _| true);
    assert_eq!(relay_of(&mut world), relay);
}

/// Just before the next time that the cursors of those who are not told follow.
fn run_to_a_round(world: &mut World, arrives: impl FnMut(usize, usize) -> bool) {
    let round = 2_000_000;
    world.run((round - world.now.0 % round) / 1_000, arrives);
}

#[test]
fn what_one_relay_took_says_nothing_of_the_next() {
    let mut world = with_relays();
    let relay = relay_of(&mut world);
    run_to_a_round(&mut world, |_, _| true);
    world.run(500, |_, _| true);
    let die = |world: &World, dead: usize| {
        (0..4).filter(|other| *other != dead).for_each(|other| world.disconnect(dead, other));
    };
    // The relay takes it and passes it on to nobody, for less long than it is given; then it dies.
    assert!(world.ask(0, "k", 9));
    world.run(3_700, |from, to| from != relay || to == 0);
    die(&world, relay);
    // So does the one after it.
    let before = told(&world);
    world.run(100, |from, _| from == 0);
    let after = told(&world);
    let second = (1..4).find(|at| after[at - 1] > before[at - 1]).expect("another is told");
    assert_ne!(second, relay);
    run_to_a_round(&mut world, |from, to| from != second || to == 0);
    world.run(100, |from, to| from != second || to == 0);
    die(&world, second);
    let last = (1..4).find(|at| ![relay, second].contains(at)).expect("one more");
    assert_eq!(world.used(last, "k"), 0);
    world.run(500, |_, _| true);
    assert_eq!(world.used(last, "k"), 9);
}

#[test]
fn who_is_not_connected_is_not_taken_to_be_told_by_a_relay() {
    let mut world = with_relays();
    let relay = relay_of(&mut world);
    let other = (1..4).find(|n| *n != relay).expect("two more");
    for to in (0..4).filter(|to| *to != other) {
        world.disconnect(other, to);
    }
    assert!(world.ask(0, "k", 9));
    world.run(9_000, |_, _| true);
    // It returns to eu alone.
    world.connect(other, 0);
    for to in (1..4).filter(|to| *to != other) {
        world.disconnect(0, to);
    }
    world.run(500, |_, _| true);
    assert_eq!(world.used(other, "k"), 9);
}

#[test]
fn a_region_without_relays_passes_on_what_a_region_with_them_tells_one_node() {
    let mut world = with_relays_in(&["eu"]);
    let before: u64 = told(&world).iter().sum();
    assert!(world.ask(0, "k", 2));
    world.run(400, |_, _| true);
    assert_eq!(told(&world).iter().sum::<u64>() - before, 1);
    for at in 1..4 {
        assert_eq!(world.used(at, "k"), 2, "node {at}");
        let decision = world.ask_with(at, "k", 1, Purpose::Usage, true);
        assert!(decision.limits[0].staleness.is_some_and(|age| age < Span::secs(2)), "node {at}");
    }
    world.run(8_000, |_, _| true);
    for at in 1..4 {
        let decision = world.ask_with(at, "k", 1, Purpose::Usage, true);
        assert!(decision.limits[0].staleness.is_some_and(|age| age < Span::secs(3)), "node {at}");
    }
    // And the other way: all of us tell eu, which is alone.
    assert!(world.ask(2, "k", 3));
    world.run(400, |_, _| true);
    assert_eq!(world.used(0, "k"), 5);
}
