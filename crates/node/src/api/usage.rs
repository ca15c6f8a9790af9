//! `GET /v1/usage`: how much a caller has used, without charging anything.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::StatusCode,
    response::Response,
};
use serde::{Serialize, Serializer};
use tidegate_core::{
    check::{LimitVerdict, RegionUse},
    policy::Attributes,
    time::Span,
};

use super::{Api, Limiter, UsageError, answer, bounds::borrowed, problem::Problem, query};

#[derive(Debug, Serialize)]
struct Usage<'a> {
    region: &'a str,
    policies: Vec<PolicyUsage<'a>>,
}

#[derive(Debug, Serialize)]
struct PolicyUsage<'a> {
    policy: &'a str,
    key: Key<'a>,
    limits: Vec<LimitUsage<'a>>,
}

#[derive(Debug, Serialize)]
struct LimitUsage<'a> {
    name: &'a str,
    quantity: u64,
    window_ms: u64,
    label: u64,
    algorithm: &'static str,
    scope: &'static str,
    consistency: Option<&'static str>,
    used: u64,
    remaining: u64,
    reset_after_ms: u64,
    regions: Regions<'a>,
    staleness_ms: Option<u64>,
    /// Null for a regional limit, and while peers are expected and none was ever met.
    worst_over_admission: Option<u64>,
    rights: Option<Rights>,
}

/// The attributes that name the caller, as an object.
#[derive(Debug)]
struct Key<'a>(Vec<(&'a str, &'a str)>);

impl Serialize for Key<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().copied())
    }
}

/// How the region stands with its rights.
#[derive(Debug, Serialize)]
struct Rights {
    held: u64,
    granted: u64,
    stranded: u64,
}

/// Use by region, as an object.
#[derive(Debug)]
struct Regions<'a>(&'a [RegionUse]);

#[derive(Debug, Serialize)]
struct OneRegion {
    used: u64,
    refunded: u64,
    staleness_ms: Option<u64>,
}

impl Serialize for Regions<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|one| {
            let view = OneRegion {
                used: one.counts.used,
                refunded: one.counts.refunded,
                staleness_ms: one.staleness.map(Span::as_millis),
            };
            (one.region.as_str(), view)
        }))
    }
}

pub(crate) async fn get<L: Limiter>(
    State(api): State<Arc<Api<L>>>,
    request: Request,
) -> Result<Response, Problem> {
    let query = query::attributes(request.uri().query().unwrap_or_default())?;
    if query.cost.is_some() {
        return Err(Problem::field("cost", "use is asked for without a cost"));
    }
    let attributes = borrowed(&query.attributes);
    let decision = api.limiter.usage(&attributes).await?;
    let policies = decision
        .limits
        .chunk_by(|one, next| Arc::ptr_eq(&one.policy, &next.policy))
        .map(|limits| policy_usage(limits, &attributes))
        .collect();
    let usage = Usage { region: api.region.as_str(), policies };
    Ok(answer::json(StatusCode::OK, &usage))
}

/// What the limits of one policy say; there is at least one.
fn policy_usage<'a>(limits: &'a [LimitVerdict], attributes: &Attributes<'a>) -> PolicyUsage<'a> {
    let policy = &limits[0].policy;
    PolicyUsage {
        policy: &policy.name,
        key: Key(policy.identity(attributes)),
        limits: limits.iter().map(limit_usage).collect(),
    }
}

fn limit_usage(verdict: &LimitVerdict) -> LimitUsage<'_> {
    let limit = verdict.limit();
    LimitUsage {
        name: &limit.name,
        quantity: limit.quantity,
        window_ms: verdict.window_length().as_millis(),
        label: verdict.label.0,
        algorithm: limit.algorithm.as_str(),
        scope: answer::scope(limit),
        consistency: answer::consistency(limit),
        used: verdict.used,
        remaining: verdict.remaining,
        reset_after_ms: verdict.reset_after.as_millis_ceil(),
        regions: Regions(&verdict.regions),
        staleness_ms: verdict.staleness.map(Span::as_millis),
        worst_over_admission: verdict.worst_over_admission,
        rights: verdict.rights.map(|rights| Rights {
            held: rights.held,
            granted: rights.granted,
            stranded: rights.stranded,
        }),
    }
}

impl From<UsageError> for Problem {
    fn from(error: UsageError) -> Self {
        match error {
            UsageError::Plan(error) => error.into(),
            UsageError::StoreUnavailable { .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
            }
        }
    }
}
