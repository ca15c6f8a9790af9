//! The JSON that answers a check.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::Response,
};
use serde::Serialize;
use tidegate_core::{
    check::{Decision, LimitVerdict, Reason},
    policy::{Limit, Scope},
    time::Span,
};

/// Roughly what the top level of an answer takes.
const TOP_BYTES: usize = 288;
/// Roughly what each limit adds.
const LIMIT_BYTES: usize = 288;

/// The limit that describes the answer.
pub(crate) fn binding(decision: &Decision) -> Option<&LimitVerdict> {
    decision.limits.get(decision.binding?)
}

/// Appends the answer to `buffer`, in the contract's order; what is absent is null.
///
/// Written by hand: an answer is most of the work that a check is for this node, and a general
/// serializer looks for escapes in every name of a field.
pub(crate) fn write(buffer: &mut Vec<u8>, decision: &Decision, cost: u64) {
    let binding = binding(decision);
    let limit = binding.map(LimitVerdict::limit);
    let mut out = JsonWriter(buffer);
    out.raw(r#"{"allowed":"#).flag(decision.allowed);
    out.raw(r#","policy":"#).text(binding.map(|verdict| &*verdict.policy.name));
    out.raw(r#","limit":"#).text(limit.map(|limit| &*limit.name));
    out.raw(r#","quantity":"#).number(limit.map(|limit| limit.quantity));
    out.raw(r#","cost":"#).number(Some(cost));
    out.raw(r#","remaining":"#).number(binding.map(|verdict| verdict.remaining));
    let reset_after = binding.map(|verdict| verdict.reset_after.as_millis_ceil());
    out.raw(r#","reset_after_ms":"#).number(reset_after);
    let retry_after = binding.and_then(|verdict| verdict.retry_after).map(Span::as_millis_ceil);
    out.raw(r#","retry_after_ms":"#).number(retry_after);
    out.raw(r#","reason":"#).text(decision.reason.map(reason));
    out.raw(r#","shadow":"#).flag(decision.shadow);
    out.raw(r#","degraded":"#).flag(decision.degraded);
    out.raw(r#","consistency":"#).text(limit.and_then(consistency));
    let staleness = binding.and_then(|verdict| verdict.staleness).map(Span::as_millis);
    out.raw(r#","staleness_ms":"#).number(staleness);
    let enforced = decision.limits.iter().filter(|verdict| !verdict.policy.shadow);
    let delay = enforced.filter_map(|verdict| verdict.delay).max();
    if decision.limits.iter().any(|verdict| verdict.limit().shapes()) {
        let delay = delay.filter(|_| decision.allowed).map(Span::as_millis_ceil);
        out.raw(r#","delay_ms":"#).number(delay);
    }
    out.raw(r#","limits":["#);
    for (index, verdict) in decision.limits.iter().enumerate() {
        if index > 0 {
            out.raw(",");
        }
        write_verdict(&mut out, verdict, decision.allowed);
    }
    out.raw("]}");
}

/// How one limit weighed.
fn write_verdict(out: &mut JsonWriter<'_>, verdict: &LimitVerdict, allowed: bool) {
    let limit = verdict.limit();
    out.raw(r#"{"policy":"#).text(Some(&verdict.policy.name));
    out.raw(r#","name":"#).text(Some(&limit.name));
    out.raw(r#","quantity":"#).number(Some(limit.quantity));
    out.raw(r#","window_ms":"#).number(Some(verdict.window_length().as_millis()));
    out.raw(r#","label":"#).number(Some(verdict.label.0));
    out.raw(r#","algorithm":"#).text(Some(limit.algorithm.as_str()));
    out.raw(r#","scope":"#).text(Some(scope(limit)));
    out.raw(r#","consistency":"#).text(consistency(limit));
    out.raw(r#","allowed":"#).flag(verdict.allowed);
    out.raw(r#","used":"#).number(Some(verdict.used));
    out.raw(r#","remaining":"#).number(Some(verdict.remaining));
    out.raw(r#","reset_after_ms":"#).number(Some(verdict.reset_after.as_millis_ceil()));
    out.raw(r#","retry_after_ms":"#).number(verdict.retry_after.map(Span::as_millis_ceil));
    if limit.shapes() {
        let delay = verdict.delay.filter(|_| allowed).map(Span::as_millis_ceil);
        out.raw(r#","delay_ms":"#).number(delay);
    }
    out.raw(r#","staleness_ms":"#).number(verdict.staleness.map(Span::as_millis));
    out.raw("}");
}

/// Appends JSON, piece by piece.
struct JsonWriter<'a>(&'a mut Vec<u8>);

impl JsonWriter<'_> {
    /// JSON as it stands.
    fn raw(&mut self, json: &'static str) -> &mut Self {
        self.0.extend_from_slice(json.as_bytes());
        self
    }

    fn flag(&mut self, value: bool) {
        self.raw(if value { "true" } else { "false" });
    }

    fn number(&mut self, value: Option<u64>) {
        match value {
            Some(number) => {
                self.0.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
            }
            None => {
                self.raw("null");
            }
        }
    }

    fn text(&mut self, value: Option<&str>) {
        match value {
            Some(text) => serde_json::to_writer(&mut *self.0, text)
                .expect("a string always becomes JSON, and a buffer takes it"),
            None => {
                self.raw("null");
            }
        }
    }
}

/// The answer alone, in a buffer of a size that seldom has to grow.
pub(crate) fn body(decision: &Decision, cost: u64) -> Vec<u8> {
    let mut buffer = Vec::with_capacity(TOP_BYTES + LIMIT_BYTES * decision.limits.len());
    write(&mut buffer, decision, cost);
    buffer
}

/// The same with the reservation that was made, if one was.
pub(crate) fn body_with(decision: &Decision, cost: u64, reservation: Option<&str>) -> Vec<u8> {
    let mut buffer = body(decision, cost);
    // In the place of the brace that ends it.
    buffer.pop();
    let mut out = JsonWriter(&mut buffer);
    out.raw(r#","reservation":"#).text(reservation);
    out.raw("}");
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

/// The contract's word for a scope.
pub(crate) fn scope(limit: &Limit) -> &'static str {
    match limit.scope {
        Scope::Region => "region",
        Scope::Global => "global",
    }
}

/// The contract's word for a consistency; a regional limit has none.
pub(crate) fn consistency(limit: &Limit) -> Option<&'static str> {
    (limit.scope == Scope::Global).then(|| limit.consistency.as_str())
}

fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Limit => "limit",
        Reason::CostExceedsLimit => "cost_exceeds_limit",
        Reason::StoreUnavailable => "store_unavailable",
        Reason::Overload => "overload",
    }
}
