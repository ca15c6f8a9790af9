//! Targets: what is asked of the command line, and of the files that come with the project.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tidegate_sim::targets;

use scratch::folder;

mod scratch;

const BASE: &str = r#"
name = "small"
windows = 3
warm_up = 1
policies = """
[[policy]]
name = "api"
key = ["user"]
on_store_failure = "closed"
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
multiple = 1.0
"#;

const OPTIONS: &str = "[calm]\nload = { multiple = 0.2 }\n[hot]\nload = { multiple = 5.0 }\n\
    [flash]\nload = { split = { shape = \"flash\", add = 4.0 } }\n";

/// A folder with a scenario, options, and targets of these names and grids.
fn targets_in(test: &str, targets: &[(&str, &str)]) -> PathBuf {
    let folder = folder(&format!("targets-{test}"));
    let write = |name: &str, text: &str| {
        fs::write(folder.join(name), text).expect("a writable folder");
    };
    write("base.toml", BASE);
    write("options.toml", OPTIONS);
    for (id, grids) in targets {
        let head = format!(
            "[target]\nid = \"{id}\"\nwhat = \"a test\"\nscenario = \"base.toml\"\noptions = \"options.toml\"\n\
             seeds = 2\nshort = {{ seeds = 1, set = {{ windows = 2 }} }}\n"
        );
        write(&format!("{id}.toml"), &format!("{head}{grids}"));
    }
    folder
}

fn measure(folder: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate-sim"));
    command.arg("targets").arg(folder).args(more).output().expect("it can be run")
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("text")
}

fn last_line(output: &Output) -> &str {
    text(&output.stdout).lines().last().unwrap_or_default()
}

/// Far below the limit nothing can go over or be refused.
const MET: &str =
    "[[grid]]\nmode = \"plain\"\ncells = [[[\"calm\"]]]\nover_worst = 0.0\nunder_mean = 0.0\n";
/// Of two oceans' worth of requests more pass than should.
const MISSED: &str =
    "[[grid]]\nmode = \"plain\"\ncells = [[[\"calm\", \"hot\"]]]\nover_mean = 0.5\n";

#[test]
fn all_met_is_exit_zero() {
    let folder = targets_in("met", &[("A", MET), ("B", MET)]);
    let output = measure(&folder, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(last_line(&output), "2 of 2 targets met");
    assert!(text(&output.stderr).contains("4 of 4 runs"), "{}", text(&output.stderr));
    let short = measure(&folder, &["--short", "--jobs", "1"]);
    assert_eq!((short.status.code(), last_line(&short)), (Some(0), "2 of 2 targets met"));
    assert!(text(&short.stderr).contains("2 of 2 runs"), "{}", text(&short.stderr));
}

#[test]
fn a_miss_is_exit_one_names_the_worst_cell_and_can_be_run_again() {
    let folder = targets_in("missed", &[("A", MET), ("B", MISSED)]);
    let kept = folder.join("kept");
    let output = measure(&folder, &["--keep", &kept.display().to_string()]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(last_line(&output), "1 of 2 targets met");
    let line = text(&output.stdout).lines().find(|line| line.contains("| B ")).expect("a row");
    assert!(line.contains(" hot |") && line.contains("|  NO |"), "{line}");

    let scenario = kept.join("b-plain-hot-over-mean.toml");
    let again = Command::new(env!("CARGO_BIN_EXE_tidegate-sim"))
        .arg("run")
        .arg(&scenario)
        .arg("--json")
        .output()
        .expect("it can be run");
    assert_eq!(again.status.code(), Some(0), "{}", text(&again.stderr));
    let json: serde_json::Value = serde_json::from_slice(&again.stdout).expect("JSON");
    assert!(json["over"]["mean_pct"].as_f64().is_some_and(|over| over > 0.5), "{json}");
}

#[test]
fn an_accepted_miss_is_shown_and_not_counted() {
    let accepted = |limit: &str| {
        MISSED.replace(
            "over_mean = 0.5",
            &format!(
                "over_mean = {{ at_most = 0.5, accepted_miss = {{ limit = {limit}, reason = \"it is plain\" }} }}"
            ),
        )
    };
    let folder = targets_in("accepted", &[("A", &accepted("500.0")), ("B", &accepted("0.6"))]);
    let output = measure(&folder, &[]);
    let out = text(&output.stdout);
    assert_eq!((output.status.code(), last_line(&output)), (Some(1), "0 of 2 targets met"));
    assert_eq!(out.matches("| NO, accepted |").count(), 1, "{out}");
    assert!(out.contains("a miss up to 500 is accepted: it is plain"), "{out}");
}

#[test]
fn mistakes_are_exit_two_and_all_told() {
    let accepted = "{ at_most = 0.0, accepted_miss = { limit = 1.0, reason = \"no\" } }";
    let bound =
        format!("[[grid]]\nmode = \"strict\"\ncells = [[[\"calm\"]]]\nover_worst = {accepted}\n");
    let violations =
        format!("[[grid]]\nmode = \"eventual\"\ncells = [[[\"calm\"]]]\nviolations = {accepted}\n");
    let unknown = MET.replace("calm", "wild");
    let none = "[[grid]]\nmode = \"plain\"\ncells = [[[\"calm\"]]]\n";
    let both = "[[grid]]\nmode = \"plain\"\nover_mean = 1.0\n";
    let wrong = "set = { gossip = \"0ms\" }\n[[grid]]\nmode = \"plain\"\ncells = [[[\"calm\"]]]\nover_mean = 1.0\n";
    let all = [
        ("bound", &*bound),
        ("violations", &*violations),
        ("unknown", &*unknown),
        ("none", none),
        ("both", both),
        ("wrong", wrong),
    ];
    let folder = targets_in("mistakes", &all);
    let output = measure(&folder, &[]);
    assert_eq!(output.status.code(), Some(2));
    let told = text(&output.stderr);
    for (id, part) in [
        ("bound", "over, worst window: no miss of a bound is accepted"),
        ("violations", "violations: no miss of a bound is accepted"),
        ("unknown", "no option is called `wild`; there are calm, flash, hot"),
        ("none", "nothing is wanted of it"),
        ("both", "give either `cells` or `worlds`"),
        ("wrong", "gossip"),
    ] {
        let found =
            told.lines().any(|line| line.contains(&format!("{id}.toml")) && line.contains(part));
        assert!(found, "{id}: {part} is not in {told}");
    }
    assert!(output.stdout.is_empty());

    let good = targets_in("only", &[("A", MET), ("B", MISSED)]);
    assert_eq!(measure(&good, &["--only", "A"]).status.code(), Some(0));
    let output = measure(&good, &["--only", "A,C"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("no target is called `C`; there are A, B"));
    assert_eq!(measure(&good.join("nowhere"), &[]).status.code(), Some(2));
    assert_eq!(measure(&folder_without_targets(), &[]).status.code(), Some(2));
}

fn folder_without_targets() -> PathBuf {
    targets_in("empty", &[])
}

#[test]
fn a_mode_that_is_refused_is_a_row_and_a_miss() {
    let unknown = MET.replace("\"plain\"", "\"perfect\"");
    let folder = targets_in("refused", &[("A", &unknown)]);
    let output = measure(&folder, &[]);
    assert_eq!((output.status.code(), last_line(&output)), (Some(1), "0 of 1 targets met"));
    assert_eq!(text(&output.stdout).matches("NO, refused").count(), 2);
    assert!(text(&output.stdout).contains("The mode \"perfect\" is refused"));
}

#[test]
fn json_is_one_line() {
    let folder = targets_in("json", &[("A", MET), ("B", MISSED)]);
    let output = measure(&folder, &["--json"]);
    assert_eq!(text(&output.stdout).lines().count(), 1);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((json["targets"].as_u64(), json["met"].as_u64()), (Some(2), Some(1)));
    assert_eq!(json["lines"][0]["verdict"], "met");
    assert_eq!(json["lines"][2]["verdict"], "missed");
}

#[test]
fn random_worlds_are_measured_too() {
    let worlds = "[[grid]]\nmode = \"eventual\"\nviolations = { checkers = [\"gate\", \"plain-bound\"], at_most = 0.0 }\n\
        [grid.worlds]\nregions = [2, 4]\nnodes_per_region = [1, 2]\nquantity = [7, 100]\n\
        gossip = [\"10ms\", \"1s\"]\nmultiple = [0.5, 10.0]\nloss = 0.3\nclocks = \"400ms\"\ncuts_within = \"2s\"\n";
    let folder =
        targets_in("worlds", &[("A", &format!("set = {{ converge_within = \"1s\" }}\n{worlds}"))]);
    let output = measure(&folder, &[]);
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stderr).contains("2 of 2 runs"));
}

#[test]
fn the_projects_targets_are_all_there_in_short_too() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/scenarios/targets");
    let load = |short| targets::load(&folder, &[], short).unwrap_or_else(|error| panic!("{error}"));
    let (whole, short) = (load(false), load(true));
    let ids: Vec<_> = whole.iter().map(|target| target.id.as_str()).collect();
    let expected = "T1 T2 T3 T4 T5 T6 T6b T7 T8 T9 T10 T11 T12 T13 T18 T19";
    assert_eq!(ids.join(" "), expected);
    for (whole, short) in whole.iter().zip(&short) {
        assert_eq!((&whole.id, whole.grids.len()), (&short.id, short.grids.len()));
        for (a, b) in whole.grids.iter().zip(&short.grids) {
            assert_eq!((&a.mode, &a.wanted), (&b.mode, &b.wanted), "{}", whole.id);
            assert!(b.runs() <= a.runs() && b.runs() > 0, "{}", whole.id);
        }
    }
}
