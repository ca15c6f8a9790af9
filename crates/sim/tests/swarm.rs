//! Random worlds: whatever goes wrong with links, nodes, stores and clocks, every checker is content.

use std::path::Path;

use tidegate_sim::{explore::explore, scenario::Source};

/// Worlds per test run: enough to meet each kind of fault some forty times, alone and among others.
const WORLDS: u64 = 200;

fn swarm() -> Source {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/scenarios/swarm.toml");
    Source::load(&path).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn random_worlds_hold() {
    // The test runner runs other tests beside this one.
    let replay = |seed| format!("tidegate-sim run config/scenarios/swarm.toml --seed {seed}");
    let result = explore(&swarm(), 0..WORLDS, 1, &replay, |_, _| {});
    assert!(result.holds(), "{result}");
    assert_eq!(result.seeds, WORLDS);
    assert_eq!((result.wrong_admits, result.lost_though_known), (0, 0));
    // They would hold easily if nothing had gone wrong.
    assert!(result.worlds.values().all(|worlds| *worlds > WORLDS / 10), "{result}");
    assert!(result.without_store > WORLDS && result.unanswered > WORLDS, "{result}");
    assert!(result.lost > 0 && result.normal_ms > 500.0, "{result}");
}
