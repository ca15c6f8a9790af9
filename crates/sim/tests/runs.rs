//! Whole runs: they repeat, they come out as the algorithms' notes say, and every shipped scenario holds.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tidegate_sim::{
    report::Report,
    run,
    scenario::{Scenario, Source, Variants},
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/scenarios")
}

/// A shipped scenario with some of its text replaced.
fn shipped(name: &str, changes: &[(&str, &str)]) -> Scenario {
    let mut text = fs::read_to_string(folder().join(name)).expect("it is shipped");
    for (from, to) in changes {
        assert!(text.contains(from), "{name} no longer says {from:?}");
        text = text.replace(from, to);
    }
    Scenario::parse(&text, name, &folder()).expect("a good scenario")
}

fn result(scenario: &Scenario, seed: u64) -> Report {
    run(scenario, seed).expect("little to measure")
}

fn assert_holds(report: &Report) {
    assert!(report.holds(), "{report}");
    assert!(report.convergence_ms.is_some(), "{report}");
}

#[test]
fn one_seed_is_one_run_and_another_seed_another() {
    let faulty = shipped("store-faults.toml", &[("windows = 30", "windows = 17")]);
    let (first, again, other) = (result(&faulty, 7), result(&faulty, 7), result(&faulty, 8));
    assert_eq!(first, again);
    assert_eq!(first.to_json(), again.to_json());
    assert_ne!(first.trace_hash, other.trace_hash);
    assert_eq!(first.trace_hash.len(), 16);
}

#[test]
fn naive_accuracy_is_what_the_prototype_measured() {
    // Three regions, gossip every 50 ms, uniform load: mean over-admission in percent.
    for (file, expected) in [("three-regions.toml", 15.4), ("naive-10x.toml", 51.0)] {
        let scenario = shipped(file, &[("windows = 30", "windows = 12")]);
        let report = result(&scenario, 3);
        let ratio = report.over.mean_pct / expected;
        assert!((0.67..1.33).contains(&ratio), "{file}: {} %", report.over.mean_pct);
        assert_eq!(report.under.worst_pct, 0.0, "{file}: a plain limit refuses nothing needlessly");
        assert_holds(&report);
    }
}

#[test]
fn what_is_offered_is_admitted_refused_or_unanswered() {
    let report = result(&shipped("restart.toml", &[]), 5);
    for region in report.regions.values() {
        let answered = region.admitted + region.refused;
        assert_eq!(region.offered, answered + region.unanswered);
    }
    assert!(report.regions["eu-west"].unanswered > 0, "{report}");
    assert_eq!(report.regions["us-east"].unanswered, 0, "{report}");
}

#[test]
fn a_cut_is_paid_for_and_heals() {
    let report = result(&shipped("cut-and-heal.toml", &[]), 5);
    assert_holds(&report);
    // 5,000 in the Americas and 3,000 in Europe where 6,000 are allowed.
    assert!((30.0..37.0).contains(&report.over.worst_pct), "{report}");
    let converged = report.convergence_ms.expect("it held");
    assert!((100.0..1_000.0).contains(&converged), "a handshake and a gossip period: {report}");
}

#[test]
fn what_was_told_into_a_cut_is_told_again_after_it() {
    // Callers so rare that most of what is lost in the cut does not change again by itself.
    let changes = [
        ("quantity = 6000", "quantity = 6"),
        ("caller = \"api_key\"", "caller = \"api_key\"\ncallers = 300"),
    ];
    assert_holds(&result(&shipped("cut-and-heal.toml", &changes), 5));
}

#[test]
fn restarts_and_faulty_stores_hold() {
    for seed in [1, 2] {
        assert_holds(&result(&shipped("restart.toml", &[]), seed));
        let short = shipped("store-faults.toml", &[("windows = 30", "windows = 18")]);
        assert_holds(&result(&short, seed));
    }
}

#[test]
fn several_nodes_share_a_region_with_regional_limits_and_many_callers() {
    let text = r#"
name = "two by two"
windows = 6
warm_up = 1
policies = """
[[policy]]
name = "api"
key = ["user"]
[[policy.limit]]
name = "all"
quantity = 200
window = "1s"
algorithm = "fixed-window"
scope = "global"
consistency = "plain"
[[policy.limit]]
name = "here"
quantity = 120
window = "1s"
algorithm = "fixed-window"
scope = "region"
"""
[topology]
regions = ["eu", "us"]
nodes_per_region = 2
duplication = 0.1
[store]
delay = "1ms"
[[load]]
caller = "user"
callers = 5
multiple = 2.0
split = "80/20"
"#;
    let scenario = Scenario::parse(text, "test", Path::new(".")).expect("a good scenario");
    let report = result(&scenario, 1);
    assert_holds(&report);
    let accuracy = |name: &str| {
        report.limits.iter().find(|(limit, _)| limit == name).expect("it is measured").1
    };
    assert_eq!(accuracy("api/here").windows, 5 * 5 * 2, "windows, callers and regions");
    assert_eq!(accuracy("api/here").over.worst_pct, 0.0, "regional limits are exact");
    assert_eq!(accuracy("api/all").windows, 5 * 5);
}

#[test]
fn lost_frames_are_told_again() {
    let changes =
        [("loss = 0.0", "loss = 0.2"), ("windows = 30", "windows = 8\nconverge_within = \"1s\"")];
    let report = result(&shipped("three-regions.toml", &changes), 4);
    assert_holds(&report);
}

#[test]
fn every_shipped_scenario_is_good() {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder()).expect("scenarios are shipped") {
        let path = entry.expect("a readable folder").path();
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        if name == "compare.toml" {
            let variants = Variants::load(&path).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(variants.all.len(), 8);
            names.push(name);
        } else if path.is_file() {
            let source = Source::load(&path).unwrap_or_else(|error| panic!("{error}"));
            let scenario = source.scenario(1).unwrap_or_else(|error| panic!("{error}"));
            assert!(!scenario.name.is_empty());
            names.push(name);
        }
    }
    names.sort();
    let expected = [
        "compare.toml",
        "cut-and-heal.toml",
        "daylight-saving.toml",
        "naive-10x.toml",
        "restart.toml",
        "rights-many.toml",
        "rights.toml",
        "store-faults.toml",
        "swarm.toml",
        "three-regions.toml",
    ];
    assert_eq!(names, expected);
}

/// What was admitted in all, by the report.
fn admitted(report: &Report) -> u64 {
    report.regions.values().map(|region| region.admitted).sum()
}

#[test]
fn days_of_a_time_zone_end_where_its_clocks_say() {
    let at = |zone, date, begin| {
        [("Asia/Beirut", zone), ("date = \"2027-03-26\"", date), ("begin = \"86392s\"", begin)]
    };
    let (left_out, apia) = ("date = \"2011-12-29\"", "begin = \"86392s\"");
    for changes in [
        // No midnight.
        &[][..],
        // Days of 23 and of 25 hours, which end where others would not.
        &at("Europe/Zurich", "date = \"2027-03-27\"", "begin = \"82792s\""),
        &at("Europe/Zurich", "date = \"2027-10-30\"", "begin = \"89992s\""),
        // Behind the 29th comes the 31st.
        &at("Pacific/Apia", left_out, apia),
    ] {
        let scenario = shipped("daylight-saving.toml", changes);
        let report = result(&scenario, 1);
        assert_holds(&report);
        assert_eq!(report, result(&scenario, 1), "one seed is one run");
        // 120 a second ask for each limit, 8 s long on either side: 300 of `strict` are spent twice, and no more;
        // of `eventual` about as many.
        let all = admitted(&report);
        assert!((1_160..=1_230).contains(&all), "{all} {report}");
    }
    // Without the end of the day there is one of each.
    let whole = [("begin = \"86392s\"", "begin = \"3600s\"")];
    let report = result(&shipped("daylight-saving.toml", &whole), 1);
    assert_holds(&report);
    assert!((580..=615).contains(&admitted(&report)), "{report}");
}

#[test]
fn a_store_that_is_too_slow_is_left_alone_while_the_policies_answer() {
    let slow =
        |changes: &[(&str, &str)]| result(&shipped("faults/store-too-slow.toml", changes), 1);
    let (with, without) = (slow(&[]), slow(&[("p95 = \"50ms\"", "p95 = \"off\"")]));
    assert_eq!(without.breaker_opened.values().sum::<u64>(), 0, "{without}");
    assert_eq!(without.regions["us-east"].without_store, 0, "its answers are in time: {without}");
    for (region, counts) in &with.regions {
        assert_eq!(counts.without_store > 50, region == "us-east", "{with}");
    }
    // Each policy answers in its own way, and what it admits is known to all in the end.
    for only in ["open", "closed"] {
        let changes: Vec<_> =
            [("open", "\"open\"\n"), ("closed", "\"closed\"\n"), ("degrade", "\"degrade\"\n")]
                .map(|(name, said)| {
                    (
                        format!("on_store_failure = {said}"),
                        format!("on_store_failure = \"{only}\" # not {name}\n"),
                    )
                })
                .to_vec();
        let changes: Vec<_> = changes.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        // Without a limit in the way, only what the policy says decides.
        let roomy =
            [("quantity = 110", "quantity = 100000"), ("quantity = 40", "quantity = 40000")];
        let report = slow(&[changes.as_slice(), &roomy].concat());
        assert_holds(&report);
        let us_east = &report.regions["us-east"];
        let refused = if only == "closed" { us_east.without_store } else { 0 };
        assert_eq!(us_east.refused, refused, "{report}");
    }
}

#[test]
fn what_a_store_cannot_carry_out_is_shed_before_a_queue_grows() {
    let surge = |calls_max: &str| {
        let changes = [("calls_max = 8192", calls_max)];
        result(&shipped("faults/store-overloaded.toml", &changes), 2)
    };
    let (found, few) = (surge("calls_max = 8192"), surge("calls_max = 64"));
    // With few enough from the beginning nobody waits in vain, and no breaker needs to open.
    assert_eq!(few.breaker_opened.values().sum::<u64>(), 0, "{few}");
    assert_eq!(few.regions["us-east"].without_store, few.regions["us-east"].shed, "{few}");
    for report in [&found, &few] {
        assert_holds(report);
        let us_east = &report.regions["us-east"];
        assert!(us_east.shed > 5_000, "{report}");
        assert!(us_east.offered - us_east.without_store > 8_000, "the store works: {report}");
    }
}

#[test]
fn the_readme_shows_what_is_printed() {
    let readme = include_str!("../../../README.md");
    let report = result(&shipped("three-regions.toml", &[]), 1).to_string();
    // But for the trace, which every change of the engine changes.
    for line in report.lines().filter(|line| !line.starts_with("Seed ")) {
        assert!(readme.contains(line), "{line}");
    }
}
