//! Limits of a day in a time zone, between engines.

use super::*;
use crate::wire::FrameError;

const EACH_DAY: &str = r#"
[[policy]]
name = "api"
match = { route = "/api/**" }
key = ["api_key"]
[[policy.limit]]
name = "each-day"
quantity = 100
window = "day"
time_zone = "Europe/Zurich"
scope = "global"
consistency = "plain"
"#;

/// It is 22:30 in UTC, so 23:30 in Zurich.
fn two_regions() -> World {
    let mut world = World::new(vec![session("eu", "eu-0", 1), session("us", "us-0", 1)]);
    world.policies = PolicySet::parse(EACH_DAY).expect("the policies are right");
    world.connect(0, 1);
    world.run(200, |_, _| true);
    world
}

#[test]
fn what_is_used_of_a_day_is_known_to_all_regions_until_its_midnight() {
    let mut world = two_regions();
    assert!(world.ask(0, "k", 60));
    world.run(200, |_, _| true);
    let decision = world.ask_with(1, "k", 41, Purpose::Charge, true);
    assert!(!decision.allowed, "60 + 41 > 100");
    let verdict = &decision.limits[0];
    assert_eq!((verdict.used, verdict.window_length()), (60, Span::secs(86_400)));
    let left = ClusterTime(1_700_002_800_000_000).since(START + Span(world.now.0));
    assert_eq!((verdict.reset_after, verdict.retry_after), (left, Some(left)));
    let day = verdict.label;
    assert_eq!(day.0, 19_675, "2023-11-14");

    // Half an hour later it is another day there, though not in UTC.
    world.run(1_800_000, |_, _| true);
    let decision = world.ask_with(1, "k", 100, Purpose::Charge, true);
    assert!(decision.allowed);
    assert_eq!(decision.limits[0].label, day.next());
    world.run(200, |_, _| true);
    assert!(!world.ask(0, "k", 1));
    // Of the day before the counts are kept as long as this one lasts.
    assert_eq!(world.nodes[0].0.stats().cells, 2);
}

#[test]
fn a_zone_that_a_node_does_not_know_is_skipped_and_the_rest_of_the_frame_is_taken() {
    let mut world = two_regions();
    assert!(world.ask(0, "k", 60));
    let (mut named, mut taken) = (0, Vec::new());
    for _ in 0..100 {
        world.now += Span::millis(10);
        world.nodes[0].0.handle_timeout(world.now);
        while let Some((_, mut bytes)) = world.nodes[0].0.poll_frame(world.now) {
            let name = b"Europe/Zurich";
            if let Some(at) = bytes.windows(name.len()).position(|part| part == name) {
                bytes[at] = b'X';
                named += 1;
            }
            let sender = world.nodes[0].0.session().clone();
            taken.push(world.nodes[1].0.handle_frame(world.now, &sender, &bytes));
        }
    }
    assert!(named > 0);
    assert!(taken.iter().all(|taken| *taken == Ok::<(), FrameError>(())), "{taken:?}");
    assert_eq!(world.used(1, "k"), 0);
    // The next that is told says all.
    assert!(world.ask(0, "k", 1));
    world.run(200, |_, _| true);
    assert_eq!(world.used(1, "k"), 61);
}
