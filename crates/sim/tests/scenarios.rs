//! Mistakes in scenarios: all told at once, with place and remedy.

use std::path::Path;

use tidegate_sim::{
    scenario::{Requests, Scenario, ScenarioError},
    workload::Shape,
};

const GOOD: &str = r#"
name = "good"
windows = 5
policies = """
[[policy]]
name = "api"
key = ["user"]
[[policy.limit]]
name = "second"
quantity = 100
window = "1s"
algorithm = "fixed-window"
scope = "global"
consistency = "plain"
"""
[topology]
regions = ["eu", "us"]
[[load]]
caller = "user"
multiple = 2.0
"#;

fn parse(text: &str) -> Result<Scenario, ScenarioError> {
    Scenario::parse(text, "s.toml", Path::new(env!("CARGO_MANIFEST_DIR")))
}

/// What is said about the good scenario with one thing changed.
#[track_caller]
fn mistakes(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from:?}");
    parse(&GOOD.replace(from, to)).expect_err("it is bad").to_string()
}

#[track_caller]
fn assert_said(from: &str, to: &str, parts: &[&str]) {
    let said = mistakes(from, to);
    for part in parts.iter().chain(&["s.toml"]) {
        assert!(said.contains(part), "{part:?} is not in {said:?}");
    }
}

#[test]
fn the_good_one_is_good() {
    let scenario = parse(GOOD).expect("good");
    let Requests::Random(traffic) = &scenario.loads[0].requests else { panic!("nothing recorded") };
    assert_eq!(traffic.per_second, 200.0);
    assert_eq!(traffic.shape, Shape::Still(vec![0.5, 0.5]));
    assert_eq!(scenario.seed, 1);
    let schedule = scenario.schedule;
    assert_eq!(schedule.measured_to.since(schedule.measured_from).as_millis(), 3_000);
    let first = schedule.cluster_time(schedule.load_start);
    assert_eq!(first.0 % 1_000_000, 0, "the load begins with a window");
}

#[test]
fn unknown_fields_and_bad_spans_are_told_with_their_line() {
    assert_said("windows = 5", "windows = 5\nwindoes = 6", &["line 4", "windoes"]);
    assert_said("windows = 5", "windows = 5\ngossip = \"fast\"", &["line 4", "250ms"]);
    assert_said("windows = 5", "", &["windows"]);
}

#[test]
fn a_day_is_no_length_to_count_windows_by() {
    let day = "window = \"day\"\ntime_zone = \"Europe/Zurich\"";
    assert_said("window = \"1s\"", day, &["windows", "give `duration`"]);
    let text = GOOD.replace("window = \"1s\"", day).replace("windows = 5", "duration = \"5s\"");
    assert!(parse(&text).is_ok());
    let dated = |line: &str| parse(&text.replace("policies =", &format!("{line}\npolicies =")));
    for bad in [
        "2027-02-29",
        "2027-13-01",
        "2027-3-28",
        "1969-12-31",
        "27-03-28",
        "today",
        "2027-03-28T00",
    ] {
        let said = dated(&format!("date = \"{bad}\"")).expect_err(bad).to_string();
        assert!(said.contains("is no date"), "{said}");
    }
    // Midnight of the 28th in Zurich is the first after midnight of the 27th in UTC; that day has 23 hours.
    let scenario = dated("date = \"2027-03-27\"\nbegin = \"82799s\"").expect("good");
    let begins = scenario.schedule.cluster_time(scenario.schedule.load_start);
    assert_eq!(begins.0, 1_806_271_199_000_000, "2027-03-28T21:59:59Z");
    let said = dated("date = \"2027-03-27\"\nbegin = \"82800s\"").expect_err("too far").to_string();
    assert!(said.contains("shorter than a window"), "{said}");
}

#[test]
fn mistakes_in_policies_are_told_with_their_line() {
    assert_said("quantity = 100", "quantity = 0", &["policies:6", "quantity"]);
    assert_said("scope = \"global\"", "scope = \"galactic\"", &["policies:9", "galactic"]);
}

#[test]
fn a_policy_file_that_is_not_there_is_named() {
    let text = GOOD.split("policies").next().expect("a beginning").to_owned()
        + "policies = \"no-such.toml\"\n[topology]\nregions = [\"eu\"]\n";
    let said = parse(&text).expect_err("no file").to_string();
    assert!(said.contains("no-such.toml"), "{said}");
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = GOOD.replace("multiple = 2.0", "multiple = 2.0\nper_second = 5.0\nsplit = \"odd\"")
        + "[[cut]]\nfrom = \"eu\"\nto = \"mars\"\nstart = \"3s\"\nend = \"2s\"\n"
        + "[[restart]]\nnode = \"eu-7\"\nat = \"1s\"\ndown = \"90s\"\nstore = \"kept\"\n"
        + "[[store_fault]]\nregion = \"eu\"\nstart = \"1s\"\nend = \"2s\"\nlate = 0.7\nnever = 0.7\n";
    let said = parse(&text).expect_err("bad").to_string();
    for part in [
        "either `multiple`",
        "\"odd\"",
        "no region is called `mars`; there are eu, us",
        "`end` must be after `start`",
        "no node is called `eu-7`; there are eu-0, us-0",
        "after the load's end",
        "add up to more than 1",
        "`late` without `late_by`",
    ] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    assert!(said.lines().all(|line| line.starts_with("s.toml: ")), "{said}");
}

#[test]
fn what_stands_before_a_store_is_set_as_on_a_server() {
    let store = |lines: &str| GOOD.replace("[[load]]", &format!("[store]\n{lines}\n[[load]]"));
    let good = "calls_max = 5\nper_second = 9000\n[store.breaker]\np95 = \"off\"\nwindow = \"2s\"";
    let scenario = parse(&store(good)).expect("good");
    assert_eq!((scenario.store.calls_max, scenario.store.per_second), (5, Some(9_000)));
    assert_eq!(scenario.store.breaker.p95, None);
    let bad = "calls_max = 0\nper_second = 0\n[store.breaker]\nfailures = 101\nwindow = \"1ms\"\nbackoff = \"6s\"";
    let said = parse(&store(bad)).expect_err("bad").to_string();
    for part in ["store.calls_max", "store.per_second", "failures", "window", "backoff_max"] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
}

#[test]
fn what_cannot_be_simulated_is_refused() {
    assert_said("windows = 5", "windows = 2", &["warm_up", "none to measure"]);
    assert_said(
        "window = \"1s\"",
        "window = \"100ms\"",
        &["converge_within", "lengthen the window"],
    );
    assert_said("windows = 5", "windows = 5\ntail = \"1s\"", &["tail", "shorter than a window"]);
    assert_said("[\"eu\", \"us\"]", "[]", &["topology.regions"]);
    assert_said("[\"eu\", \"us\"]", "[\"eu\", \"eu\"]", &["stands twice"]);
    assert_said(
        "[\"eu\", \"us\"]",
        "[\"eu\", \"us\"]\njitter = 1.5",
        &["topology.jitter", "0 to 1"],
    );
    assert_said("multiple = 2.0", "multiple = -2.0", &["load 1", "above 0"]);
    assert_said("caller = \"user\"", "callers = 3", &["load 1", "`caller`"]);
    assert_said("multiple = 2.0", "multiple = 2.0\nweights = { mars = 1.0 }", &["mars", "eu, us"]);
    assert_said(
        "multiple = 2.0",
        "multiple = 2.0\nstart = \"2s\"\nend = \"1s\"",
        &["load 1", "`end`"],
    );
    assert_said("multiple = 2.0", "multiple = 2.0\nstart = \"90s\"", &["load 1", "after all load"]);
    let unmatched =
        GOOD.replace("key = [\"user\"]", "match = { route = \"/x\" }\nkey = [\"user\"]");
    let said = parse(&unmatched).expect_err("nothing matches").to_string();
    assert!(said.contains("no policy applies"), "{said}");
}
