//! What a global limit was exceeded by, and what it may be exceeded by.

use super::*;

const EACH_SECOND: &str = r#"
[[policy]]
name = "api"
match = { route = "/api/**" }
key = ["api_key"]
[[policy.limit]]
name = "each-second"
quantity = 10
window = "1s"
scope = "global"
consistency = "plain"
"#;

fn two_regions() -> World {
    let mut world = World::new(vec![session("eu", "eu-0", 1), session("us", "us-0", 1)]);
    world.policies = PolicySet::parse(EACH_SECOND).expect("the policies are right");
    world.connect(0, 1);
    world
}

fn over(world: &World, at: usize) -> (u64, u64) {
    let over = world.nodes[at].0.stats().over_admitted.into_values().next().unwrap_or_default();
    (over.admitted, over.unmeasured)
}

#[test]
fn what_was_admitted_on_both_sides_of_a_cut_is_measured_when_it_heals() {
    let mut world = two_regions();
    world.run(1_000, |_, _| true);
    // For twenty seconds each spends the whole limit.
    for _ in 0..20 {
        for at in 0..2 {
            assert!(world.ask(at, "k", 8));
        }
        world.run(1_000, |_, _| false);
    }
    assert_eq!((over(&world, 0), over(&world, 1)), ((0, 0), (0, 0)));
    world.run(9_000, |_, _| true);
    // 16 of 10, twenty times.
    assert_eq!((over(&world, 0), over(&world, 1)), ((120, 0), (120, 0)));
    world.run(20_000, |_, _| true);
    assert_eq!(world.nodes[0].0.stats().cells, 0, "nothing is held any more");
    assert_eq!((over(&world, 0), over(&world, 1)), ((120, 0), (120, 0)));
}

#[test]
fn how_much_may_come_on_top_is_said_before_it_does() {
    let mut world = two_regions();
    world.run(1_000, |_, _| true);
    let possible = |world: &mut World| {
        let key = world.ask_with(0, "k", 1, Purpose::Usage, true).limits[0].worst_over_admission;
        let limit = world.nodes[0].0.stats().over_admission_possible;
        (key, limit.expect("all are known").into_values().next())
    };
    assert_eq!(possible(&mut world), (Some(0), None), "no traffic");
    assert!(world.ask(0, "k", 1) && world.ask(1, "k", 4));
    world.run(300, |_, _| true);
    let (of_key, of_limit) = possible(&mut world);
    // 4 in 300 ms, and some tenths of a second old: less than the 6 that us could admit at all.
    assert!(of_key < Some(6) && of_key > Some(0), "{of_key:?}");
    assert!(of_limit < Some(6) && of_limit > Some(0), "{of_limit:?}");
    world.run(2_700, |_, _| false);
    assert!(world.ask(0, "k", 1));
    world.run(200, |_, _| false);
    assert_eq!(possible(&mut world), (Some(10), Some(10)), "us may admit all of it unheard");
}

#[test]
fn what_there_was_no_room_for_may_come_on_top() {
    let mut world = two_regions();
    let settings = Settings { shards: 4, cells_max: 64, ..Settings::new(session("eu", "eu-0", 1)) };
    let random = Box::new(Xoshiro256PlusPlus::seed_from_u64(1));
    world.nodes[0].0 = Engine::new(settings, Mono(0), START, random);
    world.connect(0, 1);
    world.run(1_000, |_, _| true);
    let possible = |world: &mut World| {
        world.ask_with(0, "k", 1, Purpose::Usage, true).limits[0].worst_over_admission
    };
    assert_eq!(possible(&mut world), Some(0));
    for n in 0..200 {
        assert!(world.ask(1, &std::format!("caller-{n}"), 1));
    }
    world.run(300, |_, _| true);
    assert!(world.nodes[0].0.stats().exchange.dropped[&FrameError::Full] > 0);
    assert_eq!(possible(&mut world), Some(10), "us may have used any of it");
}

/// A node of eu that has met nobody, with its sibling.
fn anew(configured: bool) -> World {
    let mut world = World::new(vec![session("eu", "eu-0", 1), session("eu", "eu-1", 1)]);
    world.policies = PolicySet::parse(EACH_SECOND).expect("the policies are right");
    let own = session("eu", "eu-0", 1);
    let numbers = ["eu", "us", "ap"]
        .map(|name| RegionNumber::of(&NodeId::new(name, "n").expect("names").region));
    let alone = Settings { shards: 4, expects_peers: true, ..Settings::new(own) };
    let regions = Regions::first(Split::even(&numbers).expect("three regions"));
    let settings = if configured { Settings { regions, ..alone } } else { alone };
    let random = Box::new(Xoshiro256PlusPlus::seed_from_u64(1));
    world.nodes[0].0 = Engine::new(settings, Mono(0), START, random);
    world
}

#[test]
fn regions_that_a_new_node_has_not_met_may_admit_anything() {
    let possible = |world: &mut World| {
        assert!(world.ask(0, "k", 1));
        world.run(200, |_, _| true);
        let used = world.ask_with(0, "k", 1, Purpose::Usage, true);
        let limit = world.nodes[0].0.stats().over_admission_possible;
        let key = &used.limits[0];
        (key.staleness, key.worst_over_admission, limit.and_then(|all| all.into_values().next()))
    };
    let mut world = anew(true);
    assert_eq!(possible(&mut world), (None, Some(20), Some(20)), "each of two regions the whole");
    // A sibling is no other region.
    world.connect(0, 1);
    assert_eq!(possible(&mut world), (None, Some(20), Some(20)));
    let mut world = anew(false);
    assert_eq!(possible(&mut world), (None, None, None), "nobody knows which others there are");
}

#[test]
fn under_rights_what_may_be_overdrawn_may_come_on_top_whatever_is_known() {
    let world = anew(true);
    let possible = |consistency: &str| {
        let text = EACH_SECOND.replace("quantity = 10", "quantity = 1000");
        let text = text.replace("consistency = \"plain\"", consistency);
        let policies = PolicySet::parse(&text).expect("the policies are right");
        world.nodes[0].0.possible(&policies.policies[0].limits[0], 7)
    };
    assert_eq!(possible("consistency = \"plain\""), 7);
    assert_eq!(possible("consistency = \"strict\""), 0);
    // A tenth of 333.3, thrice, each rounded down.
    assert_eq!(possible("consistency = \"bounded\"\noverdraft = \"10%\""), 99);
}
