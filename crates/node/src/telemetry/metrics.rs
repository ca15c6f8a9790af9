//! Metrics under the contract's names. No label ever holds what a caller sent.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use prometheus_client::{
    encoding::{
        EncodeLabelSet, EncodeLabelValue, LabelValueEncoder,
        text::{encode_eof, encode_registry},
    },
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use tidegate_core::{
    check::{Decision, LimitVerdict, Reason},
    ids::LimitId,
    policy::PolicySet,
};

use super::sample::NodeSample;

/// Upper bounds of the histograms' buckets, in seconds.
const BUCKETS: [f64; 15] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025,
    0.05, 0.1, 0.25, 1.0,
];

/// What a limit's word on a check may come to.
const RESULTS: [&str; 4] = ["allowed", "refused", "shadow_refused", "error"];

/// What a node counts about its work. Every method may be called from any thread.
pub struct Metrics {
    registry: Registry,
    requests: Family<VerdictLabels, Counter>,
    exceeded: Family<LimitLabels, Counter>,
    check_seconds: Histogram,
    store_seconds: Family<OpLabels, Histogram, fn() -> Histogram>,
    unmatched: Counter,
    store_errors: Family<KindLabels, Counter>,
    reloads: Family<ReloadLabels, Counter>,
    policy_info: Family<HashLabels, Gauge>,
    /// The counters of each limit in force, so that a check looks up a number, not labels.
    limits: ArcSwap<HashMap<LimitId, LimitCounters>>,
}

/// What became of an attempt to load the policies anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReloadResult {
    /// The new ones are in force.
    Loaded,
    /// They have mistakes; the old ones stay in force.
    Rejected,
}

impl EncodeLabelValue for ReloadResult {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        let word = match self {
            Self::Loaded => "loaded",
            Self::Rejected => "rejected",
        };
        EncodeLabelValue::encode(&word, encoder)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerdictLabels {
    policy: Arc<str>,
    limit: Arc<str>,
    /// Empty while there are no tiers.
    tier: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    policy: Arc<str>,
    limit: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OpLabels {
    op: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    result: ReloadResult,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HashLabels {
    hash: String,
}

/// The counters of one limit.
struct LimitCounters {
    labels: LimitLabels,
    allowed: Counter,
    refused: Counter,
    shadow_refused: Counter,
    error: Counter,
    exceeded: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Everything at zero.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let metrics = Self {
            requests: Family::default(),
            exceeded: Family::default(),
            check_seconds: histogram(),
            store_seconds: Family::new_with_constructor(histogram),
            unmatched: Counter::default(),
            store_errors: Family::default(),
            reloads: Family::default(),
            policy_info: Family::default(),
            limits: ArcSwap::default(),
            registry: Registry::default(),
        };
        // The library appends `_total` to the names of counters.
        registry.register(
            "rate_limit_requests",
            "Checks by limit, and whether it had room for them",
            metrics.requests.clone(),
        );
        registry.register(
            "rate_limit_exceeded",
            "Checks that a limit had no room for, in shadow or not",
            metrics.exceeded.clone(),
        );
        registry.register(
            "rate_limit_check_seconds",
            "Time to decide a check, the store's included",
            metrics.check_seconds.clone(),
        );
        registry.register(
            "rate_limit_store_seconds",
            "Time that the regional store took to answer",
            metrics.store_seconds.clone(),
        );
        registry.register(
            "tidegate_unmatched",
            "Checks to which no policy applied",
            metrics.unmatched.clone(),
        );
        registry.register(
            "tidegate_store_errors",
            "Calls of the regional store without a usable answer",
            metrics.store_errors.clone(),
        );
        registry.register(
            "tidegate_policy_reload",
            "Attempts to load the policies anew",
            metrics.reloads.clone(),
        );
        registry.register(
            "tidegate_policy_info",
            "The policies in force",
            metrics.policy_info.clone(),
        );
        Self { registry, ..metrics }
    }

    /// Counts one check, once: what its limits said, and how long it took from its arrival to its
    /// decision.
    pub fn observe(&self, decision: &Decision, elapsed: Duration) {
        self.check_seconds.observe(elapsed.as_secs_f64());
        if decision.limits.is_empty() && decision.reason.is_none() {
            self.unmatched.inc();
        }
        // `on_store_failure` answered without weighing the limits against anything.
        let unweighed = !decision.degraded
            && matches!(decision.reason, Some(Reason::StoreUnavailable | Reason::Overload));
        let limits = self.limits.load();
        for verdict in &decision.limits {
            match limits.get(&verdict.limit().id) {
                Some(counters) => counters.count(verdict, unweighed),
                // Decided by policies that have been replaced since.
                None => self
                    .counters(&verdict.policy.name, &verdict.limit().name)
                    .count(verdict, unweighed),
            }
        }
    }

    /// Notes how long the store took for `op`.
    pub fn store_answered(&self, op: &'static str, elapsed: Duration) {
        self.store_seconds.get_or_create(&OpLabels { op }).observe(elapsed.as_secs_f64());
    }

    /// Counts a call of the store without a usable answer.
    pub fn store_failed(&self, kind: &'static str) {
        self.store_errors.get_or_create(&KindLabels { kind }).inc();
    }

    /// Counts an attempt to load the policies anew.
    pub fn policies_reloaded(&self, result: ReloadResult) {
        self.reloads.get_or_create(&ReloadLabels { result }).inc();
    }

    /// Says which policies are in force, from the start and after each reload. Series of limits that
    /// are gone end, so that reloads do not pile them up.
    pub fn policies_in_force(&self, policies: &PolicySet) {
        self.policy_info.clear();
        self.policy_info.get_or_create(&HashLabels { hash: policies.hash.to_string() }).set(1);

        let mut counters = HashMap::new();
        for policy in &policies.policies {
            for limit in &policy.limits {
                counters.insert(limit.id, self.counters(&policy.name, &limit.name));
            }
        }
        let live: HashSet<LimitLabels> = counters.values().map(|c| c.labels.clone()).collect();
        let before = self.limits.swap(Arc::new(counters));
        for gone in before.values().map(|c| &c.labels).filter(|labels| !live.contains(labels)) {
            self.exceeded.remove(gone);
            for result in RESULTS {
                self.requests.remove(&gone.with(result));
            }
        }
    }

    /// Everything, in the text format, with what others count.
    pub fn render(&self, sample: NodeSample) -> String {
        let mut others = Registry::default();
        others.register_collector(Box::new(sample));
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)
            .and_then(|()| encode_registry(&mut text, &others))
            .and_then(|()| encode_eof(&mut text))
            .expect("a string takes every text");
        text
    }

    /// The counters of a limit, made if need be.
    fn counters(&self, policy: &str, limit: &str) -> LimitCounters {
        let labels = LimitLabels { policy: policy.into(), limit: limit.into() };
        let [allowed, refused, shadow_refused, error] =
            RESULTS.map(|result| self.requests.get_or_create_owned(&labels.with(result)));
        let exceeded = self.exceeded.get_or_create_owned(&labels);
        LimitCounters { labels, allowed, refused, shadow_refused, error, exceeded }
    }
}

impl LimitLabels {
    fn with(&self, result: &'static str) -> VerdictLabels {
        let (policy, limit) = (self.policy.clone(), self.limit.clone());
        VerdictLabels { policy, limit, tier: "", result }
    }
}

impl LimitCounters {
    fn count(&self, verdict: &LimitVerdict, unweighed: bool) {
        let result = match (unweighed, verdict.allowed, verdict.policy.shadow) {
            (true, ..) => &self.error,
            (false, true, _) => &self.allowed,
            (false, false, true) => &self.shadow_refused,
            (false, false, false) => &self.refused,
        };
        result.inc();
        if !unweighed && !verdict.allowed {
            self.exceeded.inc();
        }
    }
}

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

#[cfg(test)]
mod tests {
    use tidegate_core::{
        policy::{Algorithm, Consistency, Limit, OnStoreFailure, Policy, Scope},
        time::{Label, Span, Window},
    };

    use super::*;
    use crate::telemetry::{ClockSample, PeerSample, Traffic};

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
                on_store_failure: OnStoreFailure::Degrade,
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
            staleness: None,
            regions: Vec::new(),
        };
        let limits: Vec<_> = set.policies.iter().map(verdict).collect();
        let binding = (!limits.is_empty()).then_some(0);
        Decision { allowed: true, reason, shadow: false, degraded: false, binding, limits }
    }

    fn lines(metrics: &Metrics, sample: NodeSample) -> HashSet<String> {
        let text = metrics.render(sample);
        assert!(text.ends_with("# EOF\n"));
        text.lines().map(str::to_owned).collect()
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
        metrics.observe(&decision(&set, &["api"], Some(Reason::StoreUnavailable)), took);
        let mut degraded = decision(&set, &["api"], Some(Reason::StoreUnavailable));
        degraded.degraded = true;
        metrics.observe(&degraded, took);
        metrics.observe(&decision(&policies(&[]), &[], None), took);

        let lines = lines(&metrics, NodeSample::default());
        for (policy, result, count) in [
            ("api", "allowed", 2),
            ("api", "refused", 2),
            ("api", "shadow_refused", 0),
            ("api", "error", 1),
            ("trial", "allowed", 2),
            ("trial", "refused", 0),
            ("trial", "shadow_refused", 2),
            ("trial", "error", 1),
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
            peers: vec![peer, silent],
            clocks: vec![ClockSample { region: "us".into(), offset_seconds: -0.25 }],
            frames_dropped: vec![("malformed", 7)],
            peers_refused: vec![("certificate", 8)],
            keys: 9,
            memory_bytes: 1024,
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
        assert_has(&lines, "tidegate_keys 9");
        assert_has(&lines, "tidegate_memory_bytes 1024");
        assert!(
            !lines.iter().any(|l| l.starts_with("tidegate_peer_staleness_seconds{region=\"ap\""))
        );
    }

    #[test]
    fn the_text_is_what_parsers_expect() {
        let metrics = Metrics::new();
        metrics.policies_in_force(&policies(&[("api", false)]));
        let sample = NodeSample { frames_dropped: vec![("late", 1)], ..NodeSample::default() };
        let mut families = HashSet::new();
        let text = metrics.render(sample);
        for line in text.lines() {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                assert!(families.insert(family.to_owned()), "{family} is declared twice");
            } else if !line.starts_with('#') {
                let (series, value) = line.rsplit_once(' ').expect("name and value");
                assert!(value.parse::<f64>().is_ok(), "{line}");
                assert!(!series.contains("{}"), "{line}");
                assert!(!series.contains("_total_total"), "{line}");
            }
        }
        assert!(families.contains("rate_limit_requests counter"));
        assert!(families.contains("rate_limit_check_seconds histogram"));
        assert!(families.contains("tidegate_keys gauge"));
    }
}
