//! Metrics under the contract's names. No label ever holds what a caller sent.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text::encode_registry},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use tidegate_core::{
    check::{Decision, LimitVerdict, Reason},
    ids::LimitId,
    policy::{OnStoreFailure, PolicySet},
};

use super::sample::NodeSample;

#[cfg(test)]
mod tests;

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
    together: Counter,
    store_errors: Family<KindLabels, Counter>,
    reloads: Family<ReloadLabels, Counter>,
    certificate_reloads: Family<ReloadLabels, Counter>,
    policy_info: Family<HashLabels, Gauge>,
    /// The counters of each limit in force, so that a check looks up a number, not labels.
    limits: ArcSwap<HashMap<LimitId, LimitCounters>>,
}

/// What became of an attempt to load the policies or the certificates anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReloadResult {
    /// The new ones are in force.
    Loaded,
    /// They are wrong; the old ones stay in force.
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
            together: Counter::default(),
            store_errors: Family::default(),
            reloads: Family::default(),
            certificate_reloads: Family::default(),
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
            "tidegate_joint_checks",
            "Checks that were asked in one call with others over the same records",
            metrics.together.clone(),
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
            "tidegate_certificate_reload",
            "Attempts to load the certificates anew",
            metrics.certificate_reloads.clone(),
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
        let failed = matches!(decision.reason, Some(Reason::StoreUnavailable | Reason::Overload));
        let limits = self.limits.load();
        for verdict in &decision.limits {
            // What was decided by policies that have been replaced since counts if the limit is still there: the
            // series of others have ended, and would end no more.
            if let Some(counters) = limits.get(&verdict.limit().id) {
                counters.count(verdict, failed);
            }
        }
    }

    /// Counts checks that were asked in one call.
    pub fn asked_together(&self, checks: usize) {
        self.together.inc_by(checks as u64);
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

    /// Counts an attempt to load the certificates anew.
    pub fn certificates_reloaded(&self, result: ReloadResult) {
        self.certificate_reloads.get_or_create(&ReloadLabels { result }).inc();
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

    /// Everything, with what others count, in Prometheus' text format (version 0.0.4).
    pub fn render(&self, sample: NodeSample) -> String {
        let mut others = Registry::default();
        others.register_collector(Box::new(sample));
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)
            .and_then(|()| encode_registry(&mut text, &others))
            .expect("a string takes every text");
        plain_text(&text)
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
    /// Counts one verdict; `failed`: the store did not answer.
    fn count(&self, verdict: &LimitVerdict, failed: bool) {
        // Only `degrade` weighs what is known; the others answer without looking.
        let unweighed = failed && verdict.policy.on_store_failure != OnStoreFailure::Degrade;
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

/// Turns the library's OpenMetrics text into the older format, which every tool reads: there, a
/// counter is declared by the name that its samples bear, with `_total`.
fn plain_text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len() + 512);
    let mut lines = open_metrics.lines().peekable();
    while let Some(line) = lines.next() {
        let declared = match line.strip_prefix("# HELP ") {
            // The next line says of what type it is.
            Some(help) => {
                lines.peek().is_some_and(|next| next.ends_with(" counter")).then_some(help)
            }
            None => line.strip_prefix("# TYPE ").filter(|kind| kind.ends_with(" counter")),
        };
        match declared.and_then(|rest| rest.split_once(' ')) {
            Some((name, rest)) => text.extend([&line[..7], name, "_total ", rest, "\n"]),
            None => text.extend([line, "\n"]),
        }
    }
    text
}

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}
