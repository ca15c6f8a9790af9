//! One copy per region: told to one node there, passed on inside, and nothing lost with the one.

use super::*;

/// One node in `eu`, three in `us` (at 1, 2 and 3).
fn with_relays() -> World {
    let sessions: Vec<_> = [("eu", "eu-0"), ("us", "us-0"), ("us", "us-1"), ("us", "us-2")]
        .into_iter()
        .map(|(region, node)| session(region, node, 1))
        .collect();
    let mut world = World::new(sessions.clone());
    for (node, session) in world.nodes.iter_mut().zip(sessions) {
        let settings = Settings { shards: 4, relays: true, ..Settings::new(session) };
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
