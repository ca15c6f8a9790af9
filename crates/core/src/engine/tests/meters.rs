//! Limits whose counts do not decide alone: what becomes of their meters when a store forgets or is away.

use super::*;

/// One node, whose limit has these lines: 10 in ten seconds.
fn world(lines: &str) -> World {
    let mut world = World::new(vec![session("eu", "eu-0", 1)]);
    let text = alloc::format!(
        "[[policy]]\nname = \"api\"\nmatch = {{ route = \"/api/**\" }}\nkey = [\"api_key\"]\n\
         [[policy.limit]]\nname = \"l\"\nquantity = 10\nwindow = \"10s\"\n{lines}\n"
    );
    world.policies = PolicySet::parse(&text).expect("the policies are right");
    world
}

const ALGORITHMS: [&str; 4] = ["sliding-window", "sliding-log", "token-bucket", "leaky-bucket"];

fn each(test: impl Fn(&str, World)) {
    for algorithm in ALGORITHMS {
        test(algorithm, world(&alloc::format!("algorithm = \"{algorithm}\"")));
    }
}

impl World {
    /// How many of so many requests pass; `answers`: whether the store does.
    fn passing(&mut self, asked: u64, answers: bool) -> u64 {
        let ask = |_: &u64| self.ask_with(0, "k", 1, Purpose::Charge, answers).allowed;
        (0..asked).filter(ask).count() as u64
    }

    /// The time until the label that is current ends.
    fn until_next_label(&self) -> u64 {
        10_000 - self.nodes[0].0.cluster_time(self.now).0 / 1_000 % 10_000
    }
}

#[test]
fn a_store_that_forgot_is_told_what_was_used() {
    each(|algorithm, mut world| {
        assert_eq!(world.passing(8, true), 8, "{algorithm}");
        world.wipe(0);
        assert_eq!(world.passing(5, true), 2, "{algorithm}");
    });
}

#[test]
fn what_was_admitted_without_the_store_weighs_when_it_is_back() {
    each(|algorithm, mut world| {
        assert_eq!(world.passing(3, true), 3, "{algorithm}");
        assert_eq!(world.passing(20, false), 7, "{algorithm}");
        assert_eq!(world.passing(5, true), 0, "{algorithm}");
    });
}

#[test]
fn what_was_admitted_without_the_store_weighs_in_the_next_label_too() {
    each(|algorithm, mut world| {
        let wait = world.until_next_label() - 1_000;
        world.run(wait, |_, _| true);
        assert_eq!(world.passing(20, false), 10, "{algorithm}");
        // Two seconds on, in the next label, two tokens have come back, and a tenth of the window is over.
        world.run(2_000, |_, _| true);
        let expected = match algorithm {
            "sliding-log" => 0,
            "sliding-window" => 1,
            // Nobody knows when in the label it was: at its end, for all that is known.
            _ => 1,
        };
        assert_eq!(world.passing(5, true), expected, "{algorithm}");
    });
}

#[test]
fn a_bucket_goes_on_at_its_rate_without_the_store() {
    let mut world = world("algorithm = \"token-bucket\"\nburst = 3");
    assert_eq!(world.passing(5, false), 3);
    // One token a second, whatever the labels.
    for _ in 0..25 {
        world.run(1_000, |_, _| true);
        assert_eq!(world.passing(5, false), 1);
    }
    assert_eq!(world.passing(5, true), 0);
}

#[test]
fn what_is_given_back_may_be_used_again() {
    use crate::check::Charged;
    each(|algorithm, mut world| {
        assert_eq!(world.passing(10, true), 10, "{algorithm}");
        let policy = &world.policies.policies[0];
        let attributes: &Attributes<'_> = &[("route", "/api/x"), ("api_key", "k")];
        let key = Key { caller: policy.caller(&SECRET, attributes), limit: policy.limits[0].id };
        let label = policy.limits[0].window.label_at(world.nodes[0].0.cluster_time(world.now));
        let charged = [Charged { key, label, cost: 4 }];
        let (engine, table) = &mut world.nodes[0];
        let (given, command) = engine.refund(&world.policies, world.now, &charged);
        assert_eq!(given, [4], "{algorithm}");
        let (command, ticket) = command.expect("something to tell");
        let reply = table.apply(&command, wall(world.now)).expect("room");
        engine.handle_refunded(world.now, ticket, &Outcome::Reply(reply));
        let again = world.passing(6, true);
        // Of a bucket what may have drained since its label began is not given back.
        let least = if algorithm.ends_with("bucket") { 0 } else { 4 };
        assert!((least..=4).contains(&again), "{algorithm}: {again}");
    });
}
