//! Loads as scenario files say them: each has the mean that it asks for, and mistakes are told.

use std::fs;

use tidegate_core::time::Span;
use tidegate_sim::{
    queue::Instant,
    report::Report,
    run,
    scenario::{Scenario, ScenarioError},
    workload::{Arrival, Source},
};

use scratch::folder;

mod scratch;

/// A limit of 200 in a second, in three regions; `LOAD` is what each test puts in.
const TEXT: &str = r#"
name = "loads"
windows = 12
policies = """
[[policy]]
name = "api"
key = ["user"]
[[policy.limit]]
name = "second"
quantity = 200
window = "1s"
algorithm = "fixed-window"
scope = "global"
consistency = "plain"
"""
[topology]
regions = ["eu", "us", "ap"]
[[load]]
caller = "user"
LOAD
"#;

fn parse_in(folder: &str, load: &str) -> Result<Scenario, ScenarioError> {
    Scenario::parse(&TEXT.replace("LOAD", load), "s.toml", &self::folder(folder))
}

#[track_caller]
fn parse(load: &str) -> Scenario {
    parse_in("loads", load).unwrap_or_else(|error| panic!("{error}"))
}

/// All requests of a scenario's loads in so many seconds, whatever its own length is.
fn requests(scenario: &Scenario, seconds: u64) -> Vec<(Instant, Arrival)> {
    // All tests have one load, or loads of one caller each.
    let first: Vec<usize> = (0..scenario.loads.len()).collect();
    let mut made = Vec::new();
    for source in &mut Source::all(&scenario.loads, &first, 5, Span::secs(seconds)) {
        while let Some(at) = source.next(Instant(0)) {
            made.push((at, source.arrival()));
        }
    }
    made
}

/// Requests per second by region, and what they cost per second, over 840 seconds: whole periods of all
/// that moves.
fn rates(load: &str) -> ([f64; 3], f64) {
    const SECONDS: u64 = 840;
    let (mut regions, mut units) = ([0.0; 3], 0.0);
    for (_, arrival) in requests(&parse(load), SECONDS) {
        regions[arrival.region] += 1.0 / SECONDS as f64;
        units += arrival.cost as f64 / SECONDS as f64;
    }
    (regions, units)
}

#[test]
fn the_mean_of_every_load_is_the_multiple_that_it_says() {
    let third = [200.0; 3];
    for (load, expected) in [
        ("split = \"uniform\"", third),
        ("split = \"80/20\"", [480.0, 60.0, 60.0]),
        ("weights = { us = 3.0, ap = 1.0 }", [0.0, 450.0, 150.0]),
        ("split = \"one\"", [600.0, 0.0, 0.0]),
        ("split = { shape = \"one\", region = \"ap\" }", [0.0, 0.0, 600.0]),
        ("split = \"moving\"", third),
        ("split = { shape = \"moving\", period = \"2s\", share = 0.5 }", third),
        ("split = \"sine\"", third),
        ("split = { shape = \"sine\", period = \"7s\", swing = 1.0 }", third),
        // 0.5 always and evenly, the other 2.5 in flashes from one region.
        ("split = \"flash\"", [500.0 + 100.0 / 3.0, 100.0 / 3.0, 100.0 / 3.0]),
        (
            "split = { shape = \"flash\", base = 1.5, region = \"us\", every = \"4s\", lasts = \"1s\" }",
            [100.0, 400.0, 100.0],
        ),
        ("bursty = {}", third),
        ("bursty = { rates = [0.0, 1.0], stays = [\"500ms\", \"250ms\"], together = true }", third),
        ("split = \"80/20\"\nbursty = { rates = [4.0, 1.0] }", [480.0, 60.0, 60.0]),
    ] {
        let (regions, units) = rates(&format!("multiple = 3.0\n{load}"));
        // Bursts last for seconds: of 840 there are not that many.
        let tolerance = if load.contains("bursty") { 0.12 } else { 0.02 };
        for (rate, expected) in regions.iter().zip(expected) {
            assert!((rate - expected).abs() <= tolerance * expected, "{load}: {regions:?}");
        }
        assert!((units / 600.0 - 1.0).abs() < tolerance, "{load}: {units}");
    }
}

#[test]
fn a_flash_may_be_given_in_multiples_of_the_limit() {
    let load = "split = { shape = \"flash\", add = 10.0 }";
    let (regions, units) = rates(load);
    let mean = 0.5 + 10.0 * 2.0 / 7.0;
    assert!((units / (200.0 * mean) - 1.0).abs() < 0.02, "{regions:?}");
    // In the sixth and seventh second 10.5 times the limit comes.
    let during = requests(&parse(load), 7);
    let during = during.iter().filter(|(at, _)| at.0 >= 5_000_000).count();
    assert!((during as f64 / 4_200.0 - 1.0).abs() < 0.05, "{during}");
}

#[test]
fn a_multiple_counts_what_requests_cost() {
    for cost in [
        "cost = 4",
        "cost = { uniform = [1, 9] }",
        "cost = { geometric = 4.0 }",
        "cost = { pareto = { shape = 1.5, most = 100 } }",
        "cost = { list = [[1, 9], [31, 1]] }",
    ] {
        let (regions, units) = rates(&format!("multiple = 3.0\n{cost}"));
        assert!((units / 600.0 - 1.0).abs() < 0.03, "{cost}: {units}");
        let requests: f64 = regions.iter().sum();
        assert!((100.0..310.0).contains(&requests), "{cost}: {requests}");
        // One list adds to the next: requests are counted in callers too.
        let (_, for_two) = rates(&format!("callers = 2\nmultiple = 3.0\n{cost}"));
        assert!((for_two / 1_200.0 - 1.0).abs() < 0.03, "{cost}: {for_two}");
    }
}

fn result(load: &str) -> Report {
    let report = run(&parse(load), 3).expect("little to measure");
    assert!(report.holds(), "{load}: {report}");
    report
}

#[test]
fn runs_with_every_load_hold() {
    for load in [
        "multiple = 3.0\nsplit = \"moving\"",
        "multiple = 1.5\nsplit = \"sine\"\ncost = { uniform = [1, 5] }",
        "split = { shape = \"flash\", add = 10.0 }",
        "multiple = 2.0\nbursty = { together = true }",
        "callers = 5\nmultiple = 2.0\ncost = { pareto = { shape = 1.2, most = 50 } }",
    ] {
        let report = result(load);
        assert_eq!(report, run(&parse(load), 3).expect("little"), "{load}: it repeats");
    }
}

#[test]
fn plain_refuses_nothing_needlessly_and_is_unfair_to_who_is_far_away() {
    let report = result("multiple = 3.0\nsplit = \"80/20\"");
    assert_eq!(report.needless.worst_pct, 0.0, "{report}");
    // The prototype measured 5.1 for three other regions.
    assert!((1.0..12.0).contains(&report.fairness_points), "{report}");
    assert!((3.0..60.0).contains(&report.bytes_per_admitted), "{report}");
}

#[test]
fn what_a_dead_store_refuses_is_needless() {
    let text = TEXT
        .replace("key = [\"user\"]", "key = [\"user\"]\non_store_failure = \"closed\"")
        .replace("LOAD", "multiple = 0.5\n[[store_fault]]\nregion = \"us\"\nstart = \"3s\"\nend = \"9s\"\ngone = 1.0");
    let scenario = Scenario::parse(&text, "s.toml", &folder("loads")).expect("good");
    let report = run(&scenario, 3).expect("little");
    // A third of the half comes to a region that refuses all of it, in six windows of the ten measured.
    assert!((15.0..24.0).contains(&report.needless.worst_pct), "{report}");
    assert!((8.0..13.0).contains(&report.needless.mean_pct), "{report}");
    assert!((55.0..65.0).contains(&report.fairness_points), "{report}");
}

#[test]
fn a_trace_is_what_comes() {
    let mut text = String::from("time,region,key,cost\n");
    for n in 0..2_400 {
        let region = ["eu", "us", "us", "ap"][n % 4];
        text += &format!("{:.4},{region},who-{},{}\n", n as f64 / 200.0, n % 3, 1 + n % 2);
    }
    fs::write(folder("trace").join("t.csv"), &text).expect("a writable folder");
    let scenario = parse_in("trace", "trace = \"t.csv\"").unwrap_or_else(|error| panic!("{error}"));
    let report = run(&scenario, 1).expect("little");
    assert!(report.holds(), "{report}");
    let offered = ["eu", "us", "ap"].map(|region| report.regions[region].offered);
    assert_eq!(offered, [600, 1_200, 600]);
    assert_eq!(report.admitted, 2_400, "100 units a second of each caller, of 200");
    // Twelve windows less two, of three callers.
    assert_eq!(report.limits[0].1.windows, 30);
    assert_eq!(report.seed, 1);
}

#[test]
fn mistakes_in_a_trace_are_told_with_file_and_line() {
    let file = |name: &str, text: &str| {
        fs::write(folder("bad-trace").join(name), text).expect("a writable folder");
    };
    file("mars.csv", "time,region\n1,eu\n2,mars\n0.5,eu\n");
    file("long.csv", "time,region\n1,eu\n900,eu\n");
    file("named.csv", "time,region,caller\n1,eu,a\n");
    let long = "trace = \"long.csv\"\nend = \"9s\"";
    parse_in("bad-trace", long).unwrap_or_else(|error| panic!("{error}"));
    for (load, parts) in [
        (
            "trace = \"mars.csv\"",
            &[
                "load 1",
                "mars.csv: line 3: no region is called `mars`; there are eu, us, ap",
                "line 4: time 0.5 is before 1",
            ] as &[_],
        ),
        ("trace = \"none.csv\"", &["none.csv"]),
        ("trace = \"long.csv\"", &["900000 ms", "`end`"]),
        ("trace = \"named.csv\"\ncallers = 3", &["`callers` beside a trace"]),
        (
            "trace = \"named.csv\"\nmultiple = 3.0\nbursty = {}\ncost = 2",
            &["`multiple` beside `trace`", "`bursty`", "`cost`"],
        ),
    ] {
        let said = parse_in("bad-trace", load).expect_err(load).to_string();
        for part in parts {
            assert!(said.contains(part), "{part:?} is not in {said:?}");
        }
    }
    let text = TEXT
        .replace("caller = \"user\"\nLOAD", "trace = \"named.csv\"\nattributes = { user = \"x\" }");
    let said = Scenario::parse(&text, "s.toml", &folder("bad-trace")).expect_err("whose?");
    assert!(said.to_string().contains("its trace names callers"), "{said}");
}

#[test]
fn mistakes_in_loads_are_told_all_at_once() {
    for (load, parts) in [
        ("multiple = 3.0\nsplit = \"odd\"", &["\"odd\"", "\"moving\"", "`weights`"] as &[_]),
        (
            "multiple = 3.0\nsplit = { shape = \"moving\", share = 1.5, swing = 0.1, period = \"0ms\" }",
            &[
                "split.share: 1.5",
                "split.swing is for \"sine\", not for \"moving\"",
                "split.period must be 1ms",
            ],
        ),
        (
            "multiple = 3.0\nsplit = { shape = \"one\", region = \"mars\" }",
            &["no region is called `mars`"],
        ),
        ("multiple = 3.0\nsplit = { shape = \"moving\", speed = 2 }", &["speed"]),
        ("multiple = 3.0\nsplit = 7", &["a name such as"]),
        ("multiple = 0.3\nsplit = \"flash\"", &["split.base is 0.5 times", "0.3"]),
        ("multiple = 3.0\nsplit = { shape = \"flash\", add = 1.0 }", &["`add` of a flash"]),
        (
            "split = { shape = \"flash\", add = 1.0, every = \"1s\" }",
            &["split.every must be longer"],
        ),
        ("split = \"uniform\"", &["give either `multiple`"]),
        ("multiple = 3.0\nsplit = \"one\"\nweights = { eu = 1.0 }", &["contradict"]),
        (
            "multiple = 3.0\nbursty = { rates = [0.0, 0.0], stays = [\"1s\", \"0ms\"] }",
            &["bursty.rates", "bursty.stays"],
        ),
        ("multiple = 3.0\nbursty = { speed = 3 }", &["speed"]),
        ("multiple = 3.0\ncost = 0", &["`cost` must be 1 to 1000000"]),
        ("multiple = 3.0\ncost = -3", &["`cost` must be 1"]),
        ("multiple = 3.0\ncost = \"dear\"", &["{ uniform = [1, 10] }"]),
        ("multiple = 3.0\ncost = { uniform = [9, 1] }", &["the least first"]),
        ("multiple = 3.0\ncost = { geometric = 1.0 }", &["above 1"]),
        (
            "multiple = 3.0\ncost = { pareto = { shape = 0.0, most = 2000000 } }",
            &["pareto.shape", "1000000"],
        ),
        ("multiple = 3.0\ncost = { list = [[1, 0.0]] }", &["weights must be above 0"]),
        ("multiple = 3.0\ncost = { list = [] }", &["1 to 1000"]),
        ("multiple = 3.0\ncost = { normal = 3 }", &["normal", "geometric"]),
    ] {
        let said = parse_in("loads", load).expect_err(load).to_string();
        for part in parts.iter().chain(&["s.toml"]) {
            assert!(said.contains(part), "{part:?} is not in {said:?}");
        }
    }
}
