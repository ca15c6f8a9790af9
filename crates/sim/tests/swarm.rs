//! Random worlds: whatever goes wrong with links, nodes, stores and clocks, every checker is content.
//!
//! Two hundred of them, in four tests that may run beside each other, and fifty of limits under rights.

use std::path::Path;

use tidegate_sim::{explore::explore, scenario::Source};

/// Runs the seeds from `first` on, in which so many relays die at least.
fn worlds_hold(first: u64, relays: u64) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/scenarios/swarm.toml");
    let swarm = Source::load(&path).unwrap_or_else(|error| panic!("{error}"));
    let replay = |seed| format!("tidegate-sim run config/scenarios/swarm.toml --seed {seed}");
    let result = explore(&swarm, first..first + 50, 1, &replay, |_, _| {});
    assert!(result.holds(), "{result}");
    assert_eq!(result.seeds, 50);
    assert_eq!((result.wrong_admits, result.lost_though_known), (0, 0));
    // They would hold easily if nothing had gone wrong.
    assert!(result.worlds.len() > 20 && result.worlds.values().all(|n| *n > 2), "{result}");
    assert!(result.without_store > 50 && result.unanswered > 50, "{result}");
    assert!(result.breaker_opened.values().sum::<u64>() > 20, "{result}");
    assert!(result.relays_died >= relays, "{result}");
    assert!(result.lost > 0 && result.normal_ms > 200.0, "{result}");
}

#[test]
fn the_first_fifty_worlds_hold() {
    worlds_hold(0, 6);
}

#[test]
fn fifty_more_worlds_hold() {
    worlds_hold(50, 6);
}

#[test]
fn the_third_fifty_worlds_hold() {
    worlds_hold(100, 6);
}

#[test]
fn the_last_fifty_worlds_hold() {
    worlds_hold(150, 0);
}

/// Limits under rights alone, which are never over, whatever happens to stores and however regions change.
#[test]
fn fifty_worlds_of_rights_hold() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/scenarios/rights.toml");
    let swarm = Source::load(&path).unwrap_or_else(|error| panic!("{error}"));
    let replay = |seed| format!("tidegate-sim run config/scenarios/rights.toml --seed {seed}");
    let result = explore(&swarm, 150..200, 1, &replay, |_, _| {});
    assert!(result.holds(), "{result}");
    assert_eq!((result.wrong_admits, result.lost_though_known), (0, 0));
    assert!(result.worlds.values().all(|n| *n > 5), "{result}");
}
