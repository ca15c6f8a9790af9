//! Variants of one scenario: they see the same requests, and differ in what they name.

use std::{fs, process::Command};

use tidegate_core::time::Span;
use tidegate_sim::{
    compare::{Comparison, compare},
    ledger::Deviation,
    queue::Instant,
    scenario::{Scenario, ScenarioError, Variants},
    workload::Source,
};

use scratch::folder;

mod scratch;

const BASE: &str = r#"
name = "quick"
windows = 6
warm_up = 1
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
[[policy.limit]]
name = "here"
quantity = 5000
window = "1s"
algorithm = "fixed-window"
scope = "region"
"""
[topology]
regions = ["eu", "us"]
[[load]]
caller = "user"
multiple = 2.0
split = "moving"
cost = { uniform = [1, 3] }
"#;

fn parse(variants: &str) -> Result<Variants, ScenarioError> {
    Variants::parse(&format!("{BASE}{variants}"), "s.toml", &folder("compare"))
}

#[track_caller]
fn result(variants: &str) -> Comparison {
    let variants = parse(variants).unwrap_or_else(|error| panic!("{error}"));
    compare(&variants, 7).expect("little to measure")
}

const TWO: &str =
    "[[variant]]\nname = \"plain\"\n[[variant]]\nname = \"slow\"\ngossip = \"250ms\"\n";

#[test]
fn all_variants_see_the_same_requests() {
    let more = "[[variant]]\nname = \"two nodes\"\ntopology.nodes_per_region = 2\n\
        [[variant]]\nname = \"dead store\"\nstore_fault = [{ region = \"eu\", start = \"1s\", end = \"3s\", gone = 1.0 }]\n";
    let variants = parse(&format!("{TWO}{more}")).unwrap_or_else(|error| panic!("{error}"));
    let requests = |scenario: &Scenario| {
        let mut made = Vec::new();
        for source in &mut Source::all(&scenario.loads, &[0], 7, Span::secs(6)) {
            while let Some(at) = source.next(Instant(0)) {
                made.push((at, source.arrival()));
            }
        }
        made
    };
    let first = requests(&variants.all[0].scenario);
    assert!(first.len() > 1_000);
    assert!(variants.all.iter().all(|variant| requests(&variant.scenario) == first));

    let comparison = compare(&variants, 7).expect("little");
    let report = |n: usize| &comparison.variants[n].report;
    for n in 1..4 {
        assert_eq!(report(n).offered, report(0).offered);
        assert_ne!(report(n).trace_hash, report(0).trace_hash);
        for (region, counts) in &report(n).regions {
            assert_eq!(counts.offered, report(0).regions[region].offered);
        }
    }
    assert_eq!(report(0).regions["eu"].without_store, 0);
    assert!(report(3).regions["eu"].without_store > 50);
}

#[test]
fn a_variant_differs_in_what_it_names_and_repeats() {
    let comparison = result(TWO);
    assert_eq!(comparison, result(TWO));
    let [plain, slow] = &comparison.variants[..] else { panic!("two") };
    assert!(slow.report.over.mean_pct > 1.5 * plain.report.over.mean_pct, "{comparison}");
    assert!(slow.report.bytes_per_admitted < 0.7 * plain.report.bytes_per_admitted, "{comparison}");
    assert_eq!(plain.report.needless, Deviation::default(), "{comparison}");
    // Alone it is the same run.
    let alone = BASE.to_owned();
    let scenario = Scenario::parse(&alone, "s.toml", &folder("compare")).expect("good");
    assert_eq!(tidegate_sim::run(&scenario, 7).expect("little"), plain.report);
}

#[test]
fn policies_may_differ_in_place_and_in_a_file() {
    let wider = "[[policy]]\nname = \"api\"\nkey = [\"user\"]\n[[policy.limit]]\nname = \"second\"\nquantity = 200\n\
        window = \"1s\"\nalgorithm = \"fixed-window\"\nscope = \"global\"\nconsistency = \"plain\"\n";
    fs::write(folder("compare").join("wider.toml"), wider).expect("a writable folder");
    let comparison = result(&format!(
        "{TWO}[[variant]]\nname = \"file\"\npolicies = \"wider.toml\"\n[[variant]]\nname = \"here\"\npolicies = '''\n{wider}'''\n"
    ));
    let names = |n: usize| {
        let limits = &comparison.variants[n].report.limits;
        limits.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(names(0), ["api/second", "api/here"]);
    assert_eq!((names(2), names(3)), (vec!["api/second"], vec!["api/second"]));
}

#[test]
fn a_mode_is_set_on_global_limits_and_what_is_not_built_is_refused() {
    let comparison = result("[[variant]]\nname = \"plain\"\nconsistency = \"plain\"\n");
    assert_eq!(comparison.variants[0].report.limits.len(), 2, "the regional one has no mode");
    let said =
        parse("[[variant]]\nname = \"exact\"\nconsistency = \"exactly\"\n").expect_err("no mode");
    for part in ["s.toml: variant \"exact\"", "limit \"second\"", "consistency", "exactly"] {
        assert!(said.to_string().contains(part), "{part:?} is not in {said}");
    }
}

#[test]
fn mistakes_are_told_with_the_variant() {
    let variant = |lines: &str| format!("[[variant]]\nname = \"v\"\n{lines}\n");
    for (variants, parts) in [
        (String::new(), &["nothing to compare", "[[variant]]"] as &[&str]),
        ("[[variant]]\ngossip = \"1s\"\n".into(), &["variant 1: it has no `name`"]),
        (TWO.replace("slow", "plain"), &["variant \"plain\"", "called so too"]),
        (variant("gosip = \"1s\""), &["variant \"v\"", "gosip"]),
        (
            variant("gossip = \"0ms\"\ntopology.loss = 7.0"),
            &["variant \"v\": gossip", "topology.loss: 7"],
        ),
        (
            variant("seed = 3\nwindows = 9"),
            &["`seed` is the same for all", "`windows` is the same"],
        ),
        (variant("load = []"), &["`load` is the same for all"]),
        (variant("policies = \"none.toml\""), &["variant \"v\"", "none.toml"]),
        (variant("overdraft = 3"), &["variant \"v\"", "overdraft"]),
        (variant("variant = 3"), &["`variant`"]),
        (
            format!(
                "{TWO}[[variant]]\nname = \"wider\"\npolicies = '''\n[[policy]]\nname = \"api\"\nkey = [\"user\"]\n[[policy.limit]]\nname = \"second\"\nquantity = 300\nwindow = \"1s\"\nalgorithm = \"fixed-window\"\nscope = \"region\"\n'''\n"
            ),
            &["variant \"wider\": other requests would come than in \"plain\"", "`per_second`"],
        ),
        (
            format!("{TWO}[[variant]]\nname = \"us only\"\ntopology.regions = [\"us\"]\n"),
            &["other requests"],
        ),
    ] {
        let said = parse(&variants).expect_err(&variants).to_string();
        for part in parts.iter().chain(&["s.toml"]) {
            assert!(said.contains(part), "{part:?} is not in {said:?}");
        }
    }
    let many: String = (0..17).map(|n| format!("[[variant]]\nname = \"{n}\"\n")).collect();
    assert!(parse(&many).expect_err("many").to_string().contains("at most 16"));
    // Mistakes that all share are told with their line.
    let said = Variants::parse(&format!("gosip = 3\n{BASE}{TWO}"), "s.toml", &folder("compare"));
    assert!(said.expect_err("unknown").to_string().contains("line 1"));
}

fn simulate(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate-sim")).args(arguments).output();
    let output = output.expect("it can be run");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_command_prints_one_table_or_json_and_exits_as_a_run() {
    let path = folder("command").join("compare.toml");
    fs::write(&path, format!("{BASE}{TWO}")).expect("a writable folder");
    let path = path.display().to_string();
    let (code, table, _) = simulate(&["compare", &path, "--seed", "7"]);
    assert_eq!(code, Some(0));
    let rows: Vec<_> = table.lines().filter(|line| line.starts_with('|')).collect();
    assert_eq!(rows.len(), 4, "{table}");
    assert!(rows[2].starts_with("| plain ") && rows[3].starts_with("| slow "), "{table}");

    let (code, json, _) = simulate(&["compare", &path, "--seed", "7", "--json"]);
    assert_eq!(code, Some(0));
    let json: serde_json::Value = serde_json::from_str(&json).expect("only JSON");
    assert_eq!((&json["name"], &json["seed"]), (&"quick".into(), &7.into()));
    for (n, name) in ["plain", "slow"].into_iter().enumerate() {
        let variant = &json["variants"][n];
        assert_eq!(variant["variant"], name);
        for field in ["over", "under", "needless"] {
            assert!(variant[field]["worst_pct"].is_f64(), "{field}: {json}");
        }
        assert!(variant["fairness_points"].is_f64() && variant["trace_hash"].is_string(), "{json}");
        let offered = variant["offered"].to_string();
        assert!(rows[n + 2].contains(&offered), "{offered} is not in {table}");
    }

    // Counts cannot cross an ocean in five milliseconds.
    let hasty =
        format!("{BASE}{TWO}").replace("windows = 6", "windows = 6\nconverge_within = \"5ms\"");
    let hasty_path = folder("command").join("hasty.toml").display().to_string();
    fs::write(&hasty_path, hasty).expect("a writable folder");
    let (code, table, _) = simulate(&["compare", &hasty_path]);
    assert_eq!(code, Some(1), "{table}");
    assert!(table.contains("slow, convergence:"), "{table}");

    let (code, out, said) = simulate(&["run", &path]);
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(said.contains("compare"), "{said}");
}
