//! Drives the whole interface in process, with a limiter that answers as it is told.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, Request, StatusCode},
};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use serde_json::Value;
use tidegate_core::{
    check::{Decision, LimitVerdict, PlanError, Reason, Reservation},
    ids::{Caller, CallerHasher, LimitId, RegionName, Secret},
    policy::{Algorithm, Attributes, Consistency, Limit, OnStoreFailure, Policy, Scope, attribute},
    time::{Label, Span, Window},
};
use tower::ServiceExt as _;

use super::{Api, CheckError, Front, Limiter, ResetStyle, SettleError, UsageError, Wish, service};

mod admin;
mod authorize;
mod batch;
mod check;
mod malformed;
mod reserve;
mod serving;
mod usage;

/// The time at which every test takes place, since 1970.
const NOW: Duration = Duration::from_micros(1_700_000_000_250_000);

/// A response, read to its end.
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e} in {:?}", self.body))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("visible ASCII"))
    }

    /// The status and the fields complained about, of a problem in its right form.
    fn problem(&self) -> (u16, Vec<String>) {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{}", self.body);
        let problem = self.json();
        let keys: Vec<_> = problem.as_object().unwrap().keys().cloned().collect();
        for key in ["type", "title", "status", "detail", "errors"] {
            assert!(keys.iter().any(|k| k == key), "{key} is missing in {}", self.body);
        }
        assert_eq!(keys.len(), 5, "{}", self.body);
        assert_eq!(problem["status"], self.status.as_u16());
        assert!(!problem["detail"].as_str().unwrap().is_empty());
        let errors = problem["errors"].as_array().unwrap();
        let fields = errors.iter().map(|error| {
            assert!(!error["message"].as_str().unwrap().is_empty());
            error["field"].as_str().unwrap().to_owned()
        });
        (self.status.as_u16(), fields.collect())
    }
}

async fn send(front: Front, request: Request<Body>) -> Reply {
    let response = front.oneshot(request).await.unwrap_or_else(|never| match never {});
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("bodies are in memory").to_bytes();
    let body = String::from_utf8(body.to_vec()).expect("bodies are text");
    assert!(parts.headers.contains_key("x-request-id"), "every response has an id");
    Reply { status: parts.status, headers: parts.headers, body }
}

async fn get(front: &Front, uri: &str) -> Reply {
    send(front.clone(), Request::get(uri).body(Body::empty()).unwrap()).await
}

async fn post(front: &Front, uri: &str, body: impl Into<Body>) -> Reply {
    send(front.clone(), Request::post(uri).body(body.into()).unwrap()).await
}

type Asked = (Vec<(String, String)>, u64);
type Decide = dyn Fn(&Attributes<'_>, u64) -> Result<Decision, PlanError> + Send + Sync;

/// Answers as told, and remembers what it was asked.
struct Fake {
    decide: Box<Decide>,
    usage: Result<Decision, UsageError>,
    asked: Mutex<Vec<Asked>>,
    /// Names and times of reservations that checks came with.
    wishes: Mutex<Vec<(Option<String>, Option<Duration>)>>,
    /// What it was asked to settle, and what it answers.
    settled: Mutex<Vec<(String, u64)>>,
    settles: Result<u64, SettleError>,
}

impl Fake {
    fn new(
        decide: impl Fn(&Attributes<'_>, u64) -> Result<Decision, PlanError> + Send + Sync + 'static,
    ) -> Self {
        let usage = Err(UsageError::StoreUnavailable { store: "test", why: "is not there" });
        Self {
            decide: Box::new(decide),
            usage,
            asked: Mutex::default(),
            wishes: Mutex::default(),
            settled: Mutex::default(),
            settles: Ok(0),
        }
    }

    fn deciding(decision: Decision) -> Self {
        Self::new(move |_, _| Ok(decision.clone()))
    }

    fn remember(&self, attributes: &Attributes<'_>, cost: u64) {
        let owned = attributes.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        self.asked.lock().push((owned, cost));
    }

    fn into_front(self) -> (Arc<Self>, Front) {
        let limiter = Arc::new(self);
        (limiter.clone(), service(api(limiter, ResetStyle::UnixSeconds)))
    }
}

impl Limiter for Fake {
    async fn check(&self, attributes: &Attributes<'_>, cost: u64) -> Result<Decision, PlanError> {
        self.remember(attributes, cost);
        (self.decide)(attributes, cost)
    }

    async fn check_in(
        &self,
        attributes: &Attributes<'_>,
        cost: u64,
        wish: &Wish<'_>,
    ) -> Result<Decision, CheckError> {
        self.wishes.lock().push((wish.name.map(str::to_owned), wish.reserve));
        if wish.name == Some("another's") {
            return Err(CheckError::OtherRequest);
        }
        Ok(self.check(attributes, cost).await?)
    }

    fn token(&self, reservation: &Reservation) -> String {
        format!("token-{}", reservation.id.0)
    }

    async fn settle(&self, reservation: &str, actual: u64) -> Result<u64, SettleError> {
        self.settled.lock().push((reservation.to_owned(), actual));
        self.settles.clone()
    }

    async fn give_back(
        &self,
        attributes: &Attributes<'_>,
        cost: u64,
        label: u64,
        name: Option<&str>,
    ) -> Result<u64, SettleError> {
        self.remember(attributes, cost);
        self.settled.lock().push((format!("{label} {name:?}"), cost));
        self.settles.clone()
    }

    async fn usage(&self, attributes: &Attributes<'_>) -> Result<Decision, UsageError> {
        self.remember(attributes, 0);
        self.usage.clone()
    }

    fn few_enough_limits(&self, attributes: &Attributes<'_>) -> Result<(), PlanError> {
        match attribute(attributes, "crowded") {
            Some(_) => Err(PlanError::TooManyLimits { found: 17 }),
            None => Ok(()),
        }
    }

    fn callers(&self, attributes: &Attributes<'_>) -> Vec<Caller> {
        callers_of(attributes)
    }
}

/// One caller for `api_key`, one for `user`.
fn callers_of(attributes: &Attributes<'_>) -> Vec<Caller> {
    let of = |name| attribute(attributes, name).map(|v| (name, v));
    let hash = |(name, value)| CallerHasher::new(&Secret([1; 16])).part(name).part(value).finish();
    ["api_key", "user"].into_iter().filter_map(of).map(hash).collect()
}

fn api<L: Limiter>(limiter: Arc<L>, reset: ResetStyle) -> Api<L> {
    Api {
        limiter,
        region: RegionName::new("eu").unwrap(),
        trusted_proxies: Arc::new(|ip: IpAddr| ip.is_loopback()),
        unix_now: Arc::new(|| NOW),
        reset,
    }
}

fn limit(name: &str, quantity: u64, window: Span, scope: Scope) -> Limit {
    Limit {
        name: name.into(),
        quantity,
        window: Window::new(window).unwrap(),
        algorithm: Algorithm::FixedWindow,
        scope,
        consistency: Consistency::Plain,
        id: LimitId::of(&[name]),
    }
}

fn policy(name: &str, limits: Vec<Limit>) -> Arc<Policy> {
    Arc::new(Policy {
        name: name.into(),
        matches: Vec::new(),
        key: vec![vec!["api_key".into()], vec!["user".into()]],
        on_store_failure: OnStoreFailure::Degrade,
        shadow: false,
        limits,
    })
}

/// The policy of the contract's examples: `burst` 10 a second, `hourly` 5000 an hour.
fn public_api() -> Arc<Policy> {
    let burst = limit("burst", 10, Span::secs(1), Scope::Region);
    let hourly = limit("hourly", 5000, Span::secs(3600), Scope::Global);
    policy("public-api", vec![burst, hourly])
}

fn verdict(policy: &Arc<Policy>, index: usize, used: u64, reset_after: Span) -> LimitVerdict {
    let quantity = policy.limits[index].quantity;
    LimitVerdict {
        policy: policy.clone(),
        index,
        cost: 1,
        label: Label(480_211),
        allowed: true,
        used,
        remaining: quantity - used,
        reset_after,
        retry_after: None,
        delay: None,
        staleness: (policy.limits[index].scope == Scope::Global).then(|| Span::millis(140)),
        regions: Vec::new(),
        worst_over_admission: None,
        rights: None,
    }
}

/// The answer of the contract's example, with both limits.
fn admitted() -> Decision {
    let policy = public_api();
    let burst = verdict(&policy, 0, 1, Span::millis(400));
    let hourly = verdict(&policy, 1, 813, Span::secs(123));
    Decision {
        allowed: true,
        reason: None,
        shadow: false,
        degraded: false,
        binding: Some(1),
        limits: vec![burst, hourly],
        reservation: None,
    }
}

/// Refused by `hourly`, for another 122.3 seconds.
fn refused() -> Decision {
    let mut decision = admitted();
    decision.allowed = false;
    decision.reason = Some(Reason::Limit);
    let hourly = &mut decision.limits[1];
    (hourly.allowed, hourly.used, hourly.remaining) = (false, 5000, 0);
    hourly.retry_after = Some(Span::millis(122_300));
    decision
}

/// No policy matches.
fn unmatched() -> Decision {
    Decision {
        allowed: true,
        reason: None,
        shadow: false,
        degraded: false,
        binding: None,
        limits: Vec::new(),
        reservation: None,
    }
}
