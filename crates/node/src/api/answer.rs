//! The JSON that answers a check.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::Response,
};
use serde::{Serialize, Serializer};
use tidegate_core::{
    check::{Decision, LimitVerdict, Reason},
    policy::{Algorithm, Consistency, Limit, Scope},
    time::Span,
};

/// Roughly what the top level of an answer takes.
const TOP_BYTES: usize = 288;
/// Roughly what each limit adds.
const LIMIT_BYTES: usize = 288;

/// A check's answer, in the contract's order; what is absent is null.
#[derive(Serialize)]
struct Answer<'a> {
    allowed: bool,
    policy: Option<&'a str>,
    limit: Option<&'a str>,
    quantity: Option<u64>,
    cost: u64,
    remaining: Option<u64>,
    reset_after_ms: Option<u64>,
    retry_after_ms: Option<u64>,
    reason: Option<&'static str>,
    shadow: bool,
    degraded: bool,
    consistency: Option<&'static str>,
    staleness_ms: Option<u64>,
    limits: Verdicts<'a>,
}

/// How one limit weighed, in the contract's order.
#[derive(Serialize)]
struct Verdict<'a> {
    policy: &'a str,
    name: &'a str,
    quantity: u64,
    window_ms: u64,
    label: u64,
    algorithm: &'static str,
    scope: &'static str,
    consistency: Option<&'static str>,
    allowed: bool,
    used: u64,
    remaining: u64,
    reset_after_ms: u64,
    retry_after_ms: Option<u64>,
    staleness_ms: Option<u64>,
}

struct Verdicts<'a>(&'a [LimitVerdict]);

impl Serialize for Verdicts<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.0.iter().map(Verdict::of))
    }
}

impl<'a> Verdict<'a> {
    fn of(verdict: &'a LimitVerdict) -> Self {
        let limit = verdict.limit();
        Self {
            policy: &verdict.policy.name,
            name: &limit.name,
            quantity: limit.quantity,
            window_ms: limit.window.length().as_millis(),
            label: verdict.label.0,
            algorithm: algorithm(limit),
            scope: scope(limit),
            consistency: consistency(limit),
            allowed: verdict.allowed,
            used: verdict.used,
            remaining: verdict.remaining,
            reset_after_ms: verdict.reset_after.as_millis_ceil(),
            retry_after_ms: verdict.retry_after.map(Span::as_millis_ceil),
            staleness_ms: verdict.staleness.map(Span::as_millis),
        }
    }
}

/// The limit that describes the answer.
pub(crate) fn binding(decision: &Decision) -> Option<&LimitVerdict> {
    decision.limits.get(decision.binding?)
}

/// Appends the answer to `buffer`.
pub(crate) fn write(buffer: &mut Vec<u8>, decision: &Decision, cost: u64) {
    let binding = binding(decision);
    let limit = binding.map(LimitVerdict::limit);
    let answer = Answer {
        allowed: decision.allowed,
        policy: binding.map(|verdict| &*verdict.policy.name),
        limit: limit.map(|limit| &*limit.name),
        quantity: limit.map(|limit| limit.quantity),
        cost,
        remaining: binding.map(|verdict| verdict.remaining),
        reset_after_ms: binding.map(|verdict| verdict.reset_after.as_millis_ceil()),
        retry_after_ms: binding.and_then(|verdict| verdict.retry_after).map(Span::as_millis_ceil),
        reason: decision.reason.map(reason),
        shadow: decision.shadow,
        degraded: decision.degraded,
        consistency: limit.and_then(consistency),
        staleness_ms: binding.and_then(|verdict| verdict.staleness).map(Span::as_millis),
        limits: Verdicts(&decision.limits),
    };
    serde_json::to_writer(buffer, &answer).expect("strings and numbers always become JSON");
}

/// The answer alone, in a buffer of a size that seldom has to grow.
pub(crate) fn body(decision: &Decision, cost: u64) -> Vec<u8> {
    let mut buffer = Vec::with_capacity(TOP_BYTES + LIMIT_BYTES * decision.limits.len());
    write(&mut buffer, decision, cost);
    buffer
}

/// A JSON response.
pub(crate) fn respond(status: StatusCode, mut headers: HeaderMap, body: Vec<u8>) -> Response {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// `value` as JSON, with 200 or another status.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let body =
        serde_json::to_vec(value).expect("views hold only strings, numbers and maps of them");
    respond(status, HeaderMap::new(), body)
}

/// The contract's word for an algorithm.
pub(crate) fn algorithm(limit: &Limit) -> &'static str {
    match limit.algorithm {
        Algorithm::FixedWindow => "fixed-window",
    }
}

/// The contract's word for a scope.
pub(crate) fn scope(limit: &Limit) -> &'static str {
    match limit.scope {
        Scope::Region => "region",
        Scope::Global => "global",
    }
}

/// The contract's word for a consistency; a regional limit has none.
pub(crate) fn consistency(limit: &Limit) -> Option<&'static str> {
    match (limit.scope, limit.consistency) {
        (Scope::Region, _) => None,
        (Scope::Global, Consistency::Plain) => Some("plain"),
    }
}

fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Limit => "limit",
        Reason::CostExceedsLimit => "cost_exceeds_limit",
        Reason::StoreUnavailable => "store_unavailable",
        Reason::Overload => "overload",
    }
}
