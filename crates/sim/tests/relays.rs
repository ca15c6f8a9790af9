//! One copy per region costs no accuracy: what a relay passes on, its siblings forecast and grant by.

use std::path::Path;

use tidegate_sim::{report::Report, run, scenario::Scenario};

/// Three regions of three nodes, most of it asked for in one of them.
const SCENARIO: &str = r#"
name = "relays"
seed = 1
duration = "20s"
policies = """
[[policy]]
name = "api"
key = ["user"]
on_store_failure = "closed"
[[policy.limit]]
name = "budget"
quantity = 1000
window = "1s"
scope = "global"
consistency = "MODE"
"""
[topology]
regions = ["us-east", "us-west", "eu-west"]
nodes_per_region = 3
relays = RELAYS
[store]
delay = "1ms"
timeout = "30ms"
[[load]]
caller = "user"
callers = 1
multiple = MULTIPLE
split = "80/20"
"#;

fn result(mode: &str, multiple: &str, relays: bool) -> Report {
    let text = SCENARIO.replace("MODE", mode).replace("MULTIPLE", multiple);
    let text = text.replace("RELAYS", if relays { "true" } else { "false" });
    let scenario = Scenario::parse(&text, "relays.toml", Path::new(".")).expect("a good scenario");
    let report = run(&scenario, 1).expect("little to measure");
    assert!(report.holds(), "{report}");
    report
}

#[test]
fn strict_leaves_hardly_more_unused_than_without() {
    let [with, without] = [true, false].map(|relays| result("strict", "1.0", relays));
    assert_eq!(with.over.worst_pct, 0.0, "{with}");
    assert!(with.under.mean_pct < 0.6 && without.under.mean_pct < 0.6, "{with}\n{without}");
    assert!(with.bytes_per_admitted < 0.7 * without.bytes_per_admitted, "{with}\n{without}");
}

#[test]
fn eventual_is_over_by_hardly_more_than_without() {
    let [with, without] = [true, false].map(|relays| result("eventual", "3.0", relays));
    assert!(with.over.mean_pct < 0.2 && without.over.mean_pct < 0.2, "{with}\n{without}");
    assert!(with.under.mean_pct < 0.1, "{with}");
}
