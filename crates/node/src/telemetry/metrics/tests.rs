//! Metrics, by the names and labels that a scrape sees.

use tidegate_core::{
    RepairStats,
    check::RightsUse,
    policy::{Algorithm, Consistency, Limit, Policy, Scope},
    time::{Label, Span, Window},
};

use super::*;
use crate::memory::ProcessMemory;
use crate::telemetry::{
    ClockSample, ConfigSample, GuardSample, ListenerSample, OverSample, PeerSample, StoreSample,
    Traffic,
};

fn policies(names: &[(&str, bool)]) -> PolicySet {
    let policy = |(name, shadow): &(&str, bool)| {
        let limit = Limit {
            name: "hourly".into(),
            quantity: 10,
            window: Window::new(Span::secs(3600)).unwrap(),
            algorithm: Algorithm::FixedWindow,
            scope: Scope::Global,
            consistency: Consistency::Plain,
            id: LimitId::of(&[name, "hourly"]),
        };
        Arc::new(Policy {
            name: (*name).into(),
            matches: Vec::new(),
            key: vec![vec!["api_key".into()]],
            on_store_failure: match *shadow {
                true => OnStoreFailure::Open,
                false => OnStoreFailure::Degrade,
            },
            shadow: *shadow,
            limits: vec![limit],
        })
    };
    let policies: Vec<_> = names.iter().map(policy).collect();
    PolicySet { policies, hash: "00112233aabbccdd".into() }
}

/// A decision of every limit in `set`, of which `full` say no.
fn decision(set: &PolicySet, full: &[&str], reason: Option<Reason>) -> Decision {
    let verdict = |policy: &Arc<Policy>| LimitVerdict {
        policy: policy.clone(),
        index: 0,
        cost: 1,
        label: Label(1),
        allowed: !full.contains(&&*policy.name),
        used: 1,
        remaining: 9,
        reset_after: Span::secs(1),
        retry_after: None,
        delay: None,
        staleness: None,
        regions: Vec::new(),
        worst_over_admission: None,
        rights: None,
    };
    let limits: Vec<_> = set.policies.iter().map(verdict).collect();
    let binding = (!limits.is_empty()).then_some(0);
    Decision {
        allowed: true,
        reason,
        shadow: false,
        degraded: false,
        binding,
        limits,
        reservation: None,
    }
}

fn lines(metrics: &Metrics, sample: NodeSample) -> HashSet<String> {
    metrics.render(sample).lines().map(str::to_owned).collect()
}

#[track_caller]
fn assert_has(lines: &HashSet<String>, line: &str) {
    assert!(lines.contains(line), "{line} is missing in {lines:#?}");
}

#[test]
fn verdicts_are_counted_by_policy_and_limit() {
    let metrics = Metrics::new();
    let set = policies(&[("api", false), ("trial", true)]);
    metrics.policies_in_force(&set);
    let took = Duration::from_micros(60);
    metrics.observe(&decision(&set, &[], None), took);
    metrics.observe(&decision(&set, &["api", "trial"], Some(Reason::Limit)), took);
    metrics.observe(&decision(&set, &["trial"], None), took);
    // Without the store, `trial` lets pass and `api` weighs what is known.
    metrics.observe(&decision(&set, &[], Some(Reason::StoreUnavailable)), took);
    metrics.observe(&decision(&set, &["api"], Some(Reason::Overload)), took);
    metrics.observe(&decision(&policies(&[]), &[], None), took);

    let lines = lines(&metrics, NodeSample::default());
    for (policy, result, count) in [
        ("api", "allowed", 3),
        ("api", "refused", 2),
        ("api", "shadow_refused", 0),
        ("api", "error", 0),
        ("trial", "allowed", 1),
        ("trial", "refused", 0),
        ("trial", "shadow_refused", 2),
        ("trial", "error", 2),
    ] {
        let labels = format!(r#"policy="{policy}",limit="hourly",tier="",result="{result}""#);
        assert_has(&lines, &format!("rate_limit_requests_total{{{labels}}} {count}"));
    }
    assert_has(&lines, r#"rate_limit_exceeded_total{policy="api",limit="hourly"} 2"#);
    assert_has(&lines, r#"rate_limit_exceeded_total{policy="trial",limit="hourly"} 2"#);
    assert_has(&lines, "tidegate_unmatched_total 1");
    assert_has(&lines, "rate_limit_check_seconds_count 6");
    assert_has(&lines, r#"rate_limit_check_seconds_bucket{le="0.00005"} 0"#);
    assert_has(&lines, r#"rate_limit_check_seconds_bucket{le="0.0001"} 6"#);
    assert_has(&lines, r#"tidegate_policy_info{hash="00112233aabbccdd"} 1"#);
}

#[test]
fn series_of_limits_that_are_gone_end_and_others_go_on() {
    let metrics = Metrics::new();
    let before = policies(&[("old", false), ("kept", false)]);
    metrics.policies_in_force(&before);
    metrics.observe(&decision(&before, &["old", "kept"], None), Duration::ZERO);
    metrics.policies_in_force(&policies(&[("kept", false), ("new", false)]));
    let text = metrics.render(NodeSample::default());
    assert!(!text.contains(r#"policy="old""#), "{text}");
    assert!(text.contains(r#"rate_limit_exceeded_total{policy="kept",limit="hourly"} 1"#));
    assert!(text.contains(r#"rate_limit_exceeded_total{policy="new",limit="hourly"} 0"#));
    // A check that was under way when the policies changed is still counted.
    metrics.observe(&decision(&before, &["kept"], None), Duration::ZERO);
    let lines = lines(&metrics, NodeSample::default());
    assert_has(&lines, r#"rate_limit_exceeded_total{policy="kept",limit="hourly"} 2"#);
}

#[test]
fn the_store_and_reloads_are_counted() {
    let metrics = Metrics::new();
    metrics.store_answered("check", Duration::from_millis(2));
    metrics.store_failed("timeout");
    metrics.policies_reloaded(ReloadResult::Loaded);
    metrics.policies_reloaded(ReloadResult::Rejected);
    let lines = lines(&metrics, NodeSample::default());
    assert_has(&lines, r#"rate_limit_store_seconds_count{op="check"} 1"#);
    assert_has(&lines, r#"rate_limit_store_seconds_bucket{le="0.0025",op="check"} 1"#);
    assert_has(&lines, r#"tidegate_store_errors_total{kind="timeout"} 1"#);
    assert_has(&lines, r#"tidegate_policy_reload_total{result="loaded"} 1"#);
    assert_has(&lines, r#"tidegate_policy_reload_total{result="rejected"} 1"#);
}

#[test]
fn what_others_count_is_asked_for_at_each_scrape() {
    let peer = PeerSample {
        region: "us".into(),
        node: "us-0".into(),
        connected: true,
        staleness: Some(Duration::from_millis(140)),
        received: Traffic { frames: 1, bytes: 2, changes: 3 },
        sent: Traffic { frames: 4, bytes: 5, changes: 6 },
    };
    let silent = PeerSample {
        region: "ap".into(),
        node: "ap-0".into(),
        connected: false,
        staleness: None,
        received: Traffic::default(),
        sent: Traffic::default(),
    };
    let sample = NodeSample {
        listeners: vec![ListenerSample { listener: "http", open: 3, refused: 2, stalled: 1 }],
        bodies_refused: 24,
        peers: vec![peer, silent],
        clocks: vec![ClockSample { region: "us".into(), offset_seconds: -0.25 }],
        clock_error: Some(0.75),
        clock_alarm: true,
        rights_suspended: true,
        config: ConfigSample { acting: 3, adopted: 2, agreed: false },
        policies_agree: true,
        relabelled: 11,
        unwatched: 12,
        frames_dropped: vec![("malformed", 7)],
        peers_refused: vec![("certificate", 8)],
        broken_invariants: vec![("INV-7", 3)],
        over: vec![OverSample {
            policy: "api".into(),
            limit: "hourly".into(),
            admitted: 11,
            unmeasured: 12,
            possible: Some(13),
            rights: Some(RightsUse { held: 30, granted: 31, stranded: 32 }),
        }],
        repair: RepairStats { compared: 14, differing: 15, repaired: 16 },
        slots_refused: 23,
        store: StoreSample {
            epoch: Some(11),
            epochs: 2,
            old_answers: 4,
            healed: 12,
            reserved: [7, 8],
            may_evict: true,
            snapshots: [5, 6],
        },
        certificate_expires: Some(Duration::from_secs(1_900_000_000)),
        quarantined: vec![("us".into(), "us-1".into())],
        keys: 9,
        tables: vec![("counts", 1_000), ("peers", 24)],
        process: Some(ProcessMemory { allocated: 2_048, resident: 4_096 }),
        guard: Some(GuardSample { state: 2, opened: vec![("slow", 4)], calls: 5, calls_limit: 6 }),
    };
    let metrics = Metrics::new();
    let lines = lines(&metrics, sample);
    let us = r#"region="us",node="us-0""#;
    assert_has(&lines, &format!("tidegate_peer_connected{{{us}}} 1"));
    assert_has(&lines, r#"tidegate_peer_connected{region="ap",node="ap-0"} 0"#);
    assert_has(&lines, &format!("tidegate_peer_staleness_seconds{{{us}}} 0.14"));
    for (name, received, sent) in [("frames", 1, 4), ("bytes", 2, 5), ("changes", 3, 6)] {
        for (direction, count) in [("received", received), ("sent", sent)] {
            let labels = format!(r#"{us},direction="{direction}""#);
            assert_has(&lines, &format!("tidegate_peer_{name}_total{{{labels}}} {count}"));
        }
    }
    assert_has(&lines, r#"tidegate_frames_dropped_total{reason="malformed"} 7"#);
    assert_has(&lines, r#"tidegate_peer_refused_total{reason="certificate"} 8"#);
    assert_has(&lines, r#"tidegate_clock_offset_seconds{region="us"} -0.25"#);
    assert_has(&lines, "tidegate_clock_error_seconds 0.75");
    assert_has(&lines, "tidegate_clock_alarm 1");
    assert_has(&lines, "tidegate_rights_suspended 1");
    for (name, value) in [("held", 30), ("granted", 31), ("stranded", 32)] {
        let labels = r#"policy="api",limit="hourly""#;
        assert_has(&lines, &format!("tidegate_rights_{name}{{{labels}}} {value}"));
    }
    assert_has(&lines, "tidegate_config_epoch 3");
    assert_has(&lines, "tidegate_config_adopted 2");
    assert_has(&lines, "tidegate_config_agreed 0");
    assert_has(&lines, "tidegate_policies_agree 1");
    assert_has(&lines, "tidegate_checks_relabelled_total 11");
    assert_has(&lines, "tidegate_forecasts_refused_total 12");
    assert_has(&lines, r#"tidegate_broken_invariants_total{invariant="INV-7"} 3"#);
    let hourly = r#"policy="api",limit="hourly""#;
    assert_has(&lines, &format!("tidegate_over_admitted_total{{{hourly}}} 11"));
    assert_has(&lines, &format!("tidegate_over_admitted_unmeasured_total{{{hourly}}} 12"));
    assert_has(&lines, &format!("tidegate_over_admission_possible{{{hourly}}} 13"));
    assert_has(&lines, r#"tidegate_compared_ranges_total{result="all"} 14"#);
    assert_has(&lines, r#"tidegate_compared_ranges_total{result="different"} 15"#);
    assert_has(&lines, "tidegate_repaired_total 16");
    assert_has(&lines, "tidegate_slots_refused_total 23");
    assert_has(&lines, "tidegate_breaker_state 2");
    assert_has(&lines, r#"tidegate_breaker_opened_total{reason="slow"} 4"#);
    assert_has(&lines, "tidegate_store_calls 5");
    assert_has(&lines, "tidegate_store_calls_limit 6");
    assert_has(&lines, "tidegate_store_epoch 11");
    assert_has(&lines, "tidegate_store_epochs_total 2");
    assert_has(&lines, "tidegate_store_old_epoch_answers_total 4");
    assert_has(&lines, "tidegate_healed_records_total 12");
    assert_has(&lines, "tidegate_reservations 7");
    assert_has(&lines, "tidegate_reservations_unsettled_total 8");
    assert_has(&lines, "tidegate_store_may_evict 1");
    assert_has(&lines, r#"tidegate_store_snapshots_total{result="written"} 5"#);
    assert_has(&lines, r#"tidegate_store_snapshots_total{result="failed"} 6"#);
    for (name, value) in [("", 3), ("_refused_total", 2), ("_stalled_total", 1)] {
        let series = format!(r#"tidegate_http_connections{name}{{listener="http"}}"#);
        assert_has(&lines, &format!("{series} {value}"));
    }
    assert_has(&lines, "tidegate_http_bodies_refused_total 24");
    assert_has(&lines, "tidegate_certificate_expiry_timestamp_seconds 1900000000");
    assert_has(&lines, r#"tidegate_peer_quarantined{region="us",node="us-1"} 1"#);
    assert_has(&lines, "tidegate_keys 9");
    assert_has(&lines, "tidegate_memory_bytes 1024");
    assert_has(&lines, r#"tidegate_table_bytes{table="peers"} 24"#);
    assert_has(&lines, "tidegate_allocated_bytes 2048");
    assert_has(&lines, "tidegate_resident_bytes 4096");
    assert!(!lines.iter().any(|l| l.starts_with("tidegate_peer_staleness_seconds{region=\"ap\"")));
}

#[test]
fn the_text_is_what_parsers_expect() {
    let metrics = Metrics::new();
    metrics.policies_in_force(&policies(&[("api", false)]));
    let sample = NodeSample {
        listeners: vec![ListenerSample { listener: "http", open: 3, refused: 2, stalled: 1 }],
        frames_dropped: vec![("late", 1)],
        ..NodeSample::default()
    };
    let mut families = HashSet::new();
    let (mut helped, mut declared) = (None, "");
    let text = metrics.render(sample);
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            helped = help.split(' ').next();
        } else if let Some(family) = line.strip_prefix("# TYPE ") {
            let (name, _) = family.split_once(' ').expect("name and type");
            assert_eq!(helped, Some(name));
            assert!(families.insert(family.to_owned()), "{family} is declared twice");
            declared = name;
        } else {
            let (series, value) = line.rsplit_once(' ').expect("name and value");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(!series.contains("{}"), "{line}");
            let name = series.split('{').next().unwrap();
            let suffix = name.strip_prefix(declared).expect("samples follow their declaration");
            assert!(["", "_sum", "_count", "_bucket"].contains(&suffix), "{line}");
        }
    }
    assert!(families.contains("rate_limit_requests_total counter"));
    assert!(families.contains("tidegate_frames_dropped_total counter"));
    assert!(families.contains("rate_limit_check_seconds histogram"));
    assert!(families.contains("tidegate_keys gauge"));
}
