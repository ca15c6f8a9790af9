//! The command line: what it prints where, and how it exits.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use scratch::folder;

mod scratch;

const QUICK: &str = r#"
name = "quick"
windows = 3
warm_up = 1
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

fn scenario(test: &str, text: &str) -> PathBuf {
    let path = folder(test).join("scenario.toml");
    fs::write(&path, text).expect("a writable folder");
    path
}

fn simulate(arguments: &[&str]) -> Output {
    let command = Command::new(env!("CARGO_BIN_EXE_tidegate-sim")).args(arguments).output();
    command.expect("it can be run")
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("text")
}

#[test]
fn json_stands_alone_on_stdout_with_the_promised_fields() {
    let path = scenario("json", QUICK);
    let output = simulate(&["run", &path.display().to_string(), "--seed", "9", "--json"]);
    assert_eq!(output.status.code(), Some(0));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("only JSON");
    assert_eq!(json["seed"], 9);
    assert_eq!(json["trace_hash"].as_str().map(str::len), Some(16));
    for field in ["events", "offered", "admitted", "convergence_ms", "bytes_per_admitted"] {
        assert!(json[field].as_f64().is_some_and(|n| n > 0.0), "{field}: {json}");
    }
    for field in ["over", "under"] {
        assert!(json[field]["mean_pct"].is_f64() && json[field]["worst_pct"].is_f64(), "{json}");
    }
    assert!(json["regions"]["eu"]["offered"].is_u64());
    let names: Vec<_> = json["checkers"].as_array().expect("a list").iter().collect();
    assert_eq!(names.len(), 9);
    assert!(names.iter().all(|c| c["name"].is_string() && c["violations"] == 0), "{json}");
}

#[test]
fn a_table_is_for_people_and_files_get_what_is_asked_for() {
    let path = scenario("table", QUICK);
    let (report, json) = (folder("table").join("r.md"), folder("table").join("r.json"));
    let output = simulate(&[
        "run",
        &path.display().to_string(),
        "--report",
        &report.display().to_string(),
        "--json",
        &json.display().to_string(),
    ]);
    assert_eq!(output.status.code(), Some(0));
    let table = text(&output.stdout);
    assert!(table.contains("| region") && table.contains("| plain-bound"), "{table}");
    assert_eq!(fs::read_to_string(report).expect("written"), table);
    let json = fs::read_to_string(json).expect("written");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let hash = json["trace_hash"].as_str().expect("text");
    assert!(table.contains(hash), "{hash} is not in {table}");
}

#[test]
fn a_violated_checker_is_exit_one() {
    // Counts cannot cross an ocean in five milliseconds.
    let path =
        scenario("violated", &QUICK.replace("windows", "converge_within = \"5ms\"\nwindows"));
    let output = simulate(&["run", &path.display().to_string(), "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("only JSON");
    assert!(json["convergence_ms"].is_null(), "{json}");
}

/// A swarm whose counts would have to cross an ocean in ten milliseconds: most of its worlds fail.
const HASTY: &str = "name = \"hasty\"\n[swarm]\nregions = [2, 2]\nnodes_per_region = [1, 1]\n\
    safety = \"2s\"\nrecover_within = \"5s\"\nconverge_within = \"10ms\"\nfaults = [\"store-slow\", \"cut\"]";

#[test]
fn a_seed_that_fails_is_told_with_the_command_that_runs_it_again() {
    let path = scenario("hasty", HASTY).display().to_string();
    let explore = ["explore", &path, "--seeds", "100..106", "--jobs", "2"];
    let output = simulate(&[&explore[..], &["--json"]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("6 of 6 seeds"), "{}", text(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("only JSON");
    assert_eq!(json["seeds"], 6);
    let failures = json["failures"].as_array().expect("a list");
    assert!(!failures.is_empty() && json["failed"] == failures.len(), "{json}");
    let seeds: Vec<_> = failures.iter().map(|f| f["seed"].as_u64().expect("a seed")).collect();
    assert!(seeds.is_sorted() && seeds.iter().all(|seed| (100..106).contains(seed)), "{seeds:?}");
    for failure in failures {
        // With many callers not all views are compared; then the frames tell it.
        let told = failure["told"][0].as_str().expect("a text");
        let expected = ["convergence", "conservation"];
        assert!(expected.iter().any(|name| told.starts_with(name)), "{json}");
        // No fault is needed for it.
        assert_eq!(failure["smallest"], serde_json::json!([]));
        let replay = failure["replay"].as_str().expect("a command");
        let words: Vec<&str> = replay.split(' ').collect();
        assert_eq!(words[0], "tidegate-sim");
        let again = simulate(&[&words[1..], &["--json"]].concat());
        assert_eq!(again.status.code(), Some(1));
        let again: serde_json::Value = serde_json::from_slice(&again.stdout).expect("only JSON");
        assert_eq!(again["trace_hash"], failure["trace_hash"], "bit for bit");
    }

    let output = simulate(&explore);
    let table = text(&output.stdout);
    for failure in failures {
        let replay = failure["replay"].as_str().expect("a command");
        assert!(table.contains(&format!("run it again: {replay}")), "{table}");
    }
}

#[test]
fn what_a_swarm_draws_is_a_scenario_that_runs_alike() {
    let path = scenario("drawn", HASTY).display().to_string();
    let drawn = folder("drawn").join("world.toml").display().to_string();
    let run = simulate(&["run", &path, "--seed", "5", "--json", "--drawn", &drawn]);
    let same = simulate(&["run", &drawn, "--json"]);
    assert_eq!(text(&run.stdout), text(&same.stdout));
}

#[test]
fn a_scenario_is_explored_too() {
    let path = scenario("explored", QUICK).display().to_string();
    let output = simulate(&["explore", &path, "--seeds", "0..3"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("over 3 seeds"));
}

#[test]
fn mistakes_are_exit_two_and_told_on_stderr() {
    let bad = scenario("mistakes", &QUICK.replace("windows = 3", "windows = 0"));
    let bad = bad.display().to_string();
    let quick = scenario("good", QUICK).display().to_string();
    for (arguments, said) in [
        (&["run", &bad] as &[&str], "windows"),
        (&["run", "no-such.toml"], "no-such.toml"),
        (&["run"], "SCENARIO"),
        (&["fly"], "fly"),
        (&["explore", &bad, "--seeds", "1..9"], "windows"),
        (&["explore", &bad], "--seeds"),
        (&["explore", &bad, "--seeds", "9..1"], "no seed"),
        (&["explore", &bad, "--seeds", "9"], "0..200"),
        (&["explore", &bad, "--seeds", "1..9", "--jobs", "0"], "--jobs"),
        (&["run", &quick, "--drawn", "x.toml"], "--drawn"),
        (&["compare", &quick], "nothing to compare"),
        (&["compare", "no-such.toml"], "no-such.toml"),
        (&["targets", "no-such-folder", "--short"], "no-such-folder"),
        (&["targets", "--only"], "--only"),
    ] {
        let output = simulate(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert!(text(&output.stderr).contains(said), "{arguments:?}: {}", text(&output.stderr));
    }
}
