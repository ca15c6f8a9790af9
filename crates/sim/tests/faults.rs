//! Every fault by itself: its scenario holds, the fault is felt, and the documents say what it came to.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tidegate_sim::{
    report::{RegionReport, Report},
    run,
    scenario::Scenario,
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/scenarios/faults")
}

fn result(scenario: &Scenario, seed: u64) -> Report {
    run(scenario, seed).expect("little to measure")
}

/// How often breakers opened for a reason.
fn opened(report: &Report, cause: &str) -> u64 {
    report.breaker_opened.get(cause).copied().unwrap_or_default()
}

/// A line of the table in docs/simulator.md.
fn line(name: &str, report: &Report) -> String {
    let all = |of: fn(&RegionReport) -> u64| report.regions.values().map(of).sum::<u64>();
    let normal = report.normal_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.0} ms"));
    format!(
        "| [`{name}`](../config/scenarios/faults/{name}.toml) | {} | {} | {} | {} | {} | {} | {} | {} | {normal} |",
        report.offered,
        all(|r| r.without_store),
        all(|r| r.shed),
        report.breaker_opened.values().sum::<u64>(),
        all(|r| r.unanswered),
        report.wrong_admits,
        report.lost,
        report.lost_though_known,
    )
}

#[test]
fn every_fault_by_itself_holds_and_is_felt() {
    // By name: what must be seen of it in the report, so that none is a fault in name only.
    type Felt = fn(&Report) -> bool;
    let without_store: Felt = |r| r.regions["us-east"].without_store > 20;
    let normal: Felt = |r| r.normal_ms.is_some();
    let slow: Felt = |r| r.normal_ms.is_some_and(|ms| ms > 100.0);
    let unanswered: Felt = |r| r.regions["us-east"].unanswered > 0;
    let any: Felt = |_| true;
    let expected: [(&str, Felt); 42] = [
        ("clock-of-a-node", any),
        ("clock-skew", any),
        // Both regions spend all that they have: of what `scripts/mutations` breaks they would have more.
        ("grants-told-late", |r| {
            r.regions["us-west"].refused > 1_000 && r.regions["us-east"].refused > 1_000
        }),
        // Of 13 one for each of four other regions, and of `eventual` one more that was under way.
        ("leftovers", |r| {
            let of = |name| r.limits.iter().find(|(n, _)| n == name).map(|(_, a)| a);
            let (about, exact) = (of("about/budget"), of("exact/budget"));
            about.is_some_and(|a| a.over.worst_pct <= 38.5 && a.under.worst_pct <= 30.8)
                && exact.is_some_and(|a| a.over.worst_pct == 0.0 && a.under.worst_pct <= 30.8)
        }),
        ("link-corrupt", slow),
        ("link-cut", slow),
        ("link-duplicates", normal),
        ("link-flapping", slow),
        ("link-half-open", normal),
        ("link-loss", slow),
        ("link-reordering", slow),
        ("link-slow", slow),
        ("node-crashed", slow),
        ("node-crashed-with-store", slow),
        ("node-gone", |r| r.lost_though_known == 0),
        ("node-paused", slow),
        // The others believe that everything is used, and not that everything was granted.
        ("peer-lies", |r| {
            let exact = r.limits.iter().find(|(name, _)| name == "exact/budget");
            r.under.worst_pct > 40.0 && exact.is_some_and(|(_, a)| a.over.worst_pct == 0.0)
        }),
        ("quantity-changed", |r| {
            let exact = r.limits.iter().find(|(name, _)| name == "api/exact");
            exact.is_some_and(|(_, a)| a.over.worst_pct == 0.0 && a.under.mean_pct < 2.0)
        }),
        ("refunds", |r| r.refunded > 5_000 && r.under.mean_pct < 6.0 && r.normal_ms.is_some()),
        ("region-crashed", unanswered),
        // Its third is stranded for nine seconds, and then shared by the others.
        ("region-gone", |r| {
            let there = &r.regions["us-west"];
            there.admitted > 4_700 && r.under.mean_pct > 10.0 && r.over.worst_pct == 0.0
        }),
        // A third is left to it until it is taken for dead; without that a third would be to the end.
        ("region-gone-eventual", |r| r.under.mean_pct < 8.0 && r.under.worst_pct > 25.0),
        // Both parts of the cut keep to what is theirs.
        ("region-joins", |r| r.over.mean_pct < 1.0 && r.regions["eu-west"].refused > 2_000),
        ("relay-killed", |r| r.relays_died >= 4 && r.lost == 0 && r.convergence_ms.is_some()),
        ("store-clock-ahead", slow),
        // Nothing is spent while the clocks disagree, and by both regions before and after.
        ("store-clock-rights", |r| {
            r.regions.values().all(|of| of.refused > 1_000 && of.admitted > 200)
        }),
        ("store-clock-steps", normal),
        ("store-failing", |r| opened(r, "in_a_row") > 0 && opened(r, "probe") > 0),
        ("store-full", without_store),
        ("store-gone", |r| {
            r.regions["us-east"].without_store > 20 && opened(r, "unreachable") == 2
        }),
        ("store-late", without_store),
        ("store-overloaded", |r| r.regions["us-east"].shed > 1_000),
        ("store-refusing", |r| {
            r.regions["us-east"].without_store > 20 && opened(r, "in_a_row") > 0
        }),
        ("store-rolled-back", normal),
        ("store-silent", |r| r.regions["us-east"].without_store > 20 && opened(r, "in_a_row") > 0),
        ("store-slow", without_store),
        // Both servers are asked, and together admit no more than one may.
        ("store-split", |r| r.by_replaced > 5 && r.over.worst_pct == 0.0),
        ("store-too-slow", |r| opened(r, "slow") == 2 && opened(r, "probe") > 0),
        ("store-twice", normal),
        ("store-wiped", normal),
        // Without recovery it would refuse all but what came in the first third.
        ("store-wiped-long-label", |r| {
            let there = &r.regions["us-east"];
            there.refused > 60 && there.admitted * 10 > there.offered * 9
        }),
        ("weights-changed", |r| r.under.mean_pct < 0.1 && r.over.worst_pct == 0.0),
    ];
    let folder = folder();
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).expect("scenarios are shipped") {
        let path = entry.expect("a readable folder").path();
        names.push(path.file_stem().expect("a file").to_string_lossy().into_owned());
    }
    names.sort();
    assert_eq!(names, expected.map(|(name, _)| name));
    let calm = result(&Scenario::load(&folder.join("store-full.toml")).expect("good"), 1);
    let mut lines = Vec::new();
    for (name, felt) in expected {
        let path = folder.join(format!("{name}.toml"));
        let scenario = Scenario::load(&path).unwrap_or_else(|error| panic!("{error}"));
        let report = result(&scenario, 1);
        assert!(report.holds() && report.convergence_ms.is_some(), "{report}");
        lines.push(line(name, &report));
        assert!(felt(&report), "{name}: {report}");
        assert_eq!((report.wrong_admits, report.lost_though_known), (0, 0), "{name}: {report}");
        // Three policies have a load each, a surge is one more, and some have other regions.
        let other_traffic = [
            "grants-told-late",
            "leftovers",
            "peer-lies",
            "quantity-changed",
            "refunds",
            "region-gone",
            "region-gone-eventual",
            "region-joins",
            "relay-killed",
            "store-clock-ahead",
            "store-clock-rights",
            "store-failing",
            "store-overloaded",
            "store-split",
            "store-too-slow",
            "store-wiped-long-label",
            "weights-changed",
        ];
        if !other_traffic.contains(&name) {
            assert_eq!(
                report.offered, calm.offered,
                "{name}: the same traffic, but for its callers"
            );
        }
    }
    let documented = include_str!("../../../docs/simulator.md");
    let (_, table) = documented.split_once("<!-- faults -->\n").expect("it is marked");
    let (table, _) = table.split_once("<!-- faults end -->").expect("it is marked");
    let table: Vec<_> = table.lines().skip(2).collect();
    assert!(table == lines, "docs/simulator.md should say\n{}", lines.join("\n"));
}

#[test]
fn every_fault_holds_under_every_mode() {
    let modes = [
        ("eventual", "consistency = \"eventual\""),
        ("bounded", "consistency = \"bounded\"\noverdraft = \"5%\""),
        ("strict", "consistency = \"strict\""),
    ];
    let mut looked_at = 0;
    for entry in fs::read_dir(folder()).expect("scenarios are shipped") {
        let path = entry.expect("a readable folder").path();
        let text = fs::read_to_string(&path).expect("a readable file");
        let plain = "consistency = \"plain\"";
        for (mode, line) in modes.iter().filter(|_| text.contains(plain)) {
            // Under rights a policy may not let everybody pass without its store.
            let text = text
                .replace(plain, line)
                .replace("on_store_failure = \"open\"", "on_store_failure = \"closed\"");
            let name = format!("{} under {mode}", path.display());
            let scenario = Scenario::parse(&text, &name, &folder());
            let scenario = scenario.unwrap_or_else(|error| panic!("{error}"));
            let report = result(&scenario, 1);
            let lost = (report.wrong_admits, report.lost_though_known);
            assert!(report.holds() && lost == (0, 0), "{name}: {report}");
            looked_at += 1;
        }
    }
    assert!(looked_at > 60, "{looked_at}");
}
