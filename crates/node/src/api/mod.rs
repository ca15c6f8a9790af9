//! The HTTP interface: what callers ask, and what operators ask.
//!
//! Requests are read and answered here; what decides stands behind [`Limiter`] and [`Admin`].
//! [`serve`] and [`serve_admin`] take their listener and the signal to stop as arguments.

use std::{future::Future, io, net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    http::StatusCode,
    routing::{any, get, post},
};
use tidegate_core::{
    check::{Decision, PlanError, Reservation},
    ids::{Caller, RegionName},
    policy::Attributes,
};
use tokio::net::TcpListener;

pub use admin::{
    Admin, ClusterView, ConnectionState, Fault, FaultControl, FaultView, NodeView, Readiness,
    RegionView, UnknownRegion, admin_service,
};
pub use connections::{ConnectionStats, Connections};
pub use front::Front;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use fuzzing::{fuzz_batch, fuzz_check, fuzz_query};

pub(crate) use body::refused as bodies_refused;
pub(crate) use refuse::TURNED_AWAY_MAX;

use problem::Problem;

mod admin;
mod answer;
mod authorize;
mod batch;
mod body;
mod bounds;
mod check;
mod connections;
mod front;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzzing;
mod headers;
mod json;
mod problem;
mod query;
mod refuse;
mod reserve;
mod usage;

#[cfg(test)]
mod tests;

/// What decides.
pub trait Limiter: Send + Sync + 'static {
    /// Weighs a request of `cost` (1 to 1,000,000) and charges it if it may pass.
    ///
    /// The future may be dropped before its end (the client went away); what the store then answers
    /// must still be counted.
    fn check(
        &self,
        attributes: &Attributes<'_>,
        cost: u64,
    ) -> impl Future<Output = Result<Decision, PlanError>> + Send;

    /// The same of a check that is more than one.
    fn check_in(
        &self,
        attributes: &Attributes<'_>,
        cost: u64,
        wish: &Wish<'_>,
    ) -> impl Future<Output = Result<Decision, CheckError>> + Send;

    /// A reservation as callers are told it.
    fn token(&self, reservation: &Reservation) -> String;

    /// Keeps so much of what was reserved, gives back the rest, and says how much stays charged: of one that was
    /// settled before, as it was said then. As with checks, it is done to its end if the future is dropped.
    fn settle(
        &self,
        reservation: &str,
        actual: u64,
    ) -> impl Future<Output = Result<u64, SettleError>> + Send;

    /// Gives back what a check was charged in the window of that label, and says how much of it stays charged.
    fn give_back(
        &self,
        attributes: &Attributes<'_>,
        cost: u64,
        label: u64,
        name: Option<&str>,
    ) -> impl Future<Output = Result<u64, SettleError>> + Send;

    /// How much the caller of a request has used, read from the store; charges nothing. The limits
    /// carry their use by region.
    fn usage(
        &self,
        attributes: &Attributes<'_>,
    ) -> impl Future<Output = Result<Decision, UsageError>> + Send;

    /// Whether few enough limits apply to a request. A batch asks this of all its checks before it
    /// charges the first.
    fn few_enough_limits(&self, attributes: &Attributes<'_>) -> Result<(), PlanError>;

    /// Whom a request counts under, one for each policy that applies. A batch makes two checks that
    /// share a caller one after the other; others run side by side.
    fn callers(&self, attributes: &Attributes<'_>) -> Vec<Caller>;
}

/// What a check is beside a check.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish<'a> {
    /// The name that its caller gave it: however often it is asked under that, it is charged once.
    pub name: Option<&'a str>,
    /// For how long what it charges is reserved.
    pub reserve: Option<Duration>,
}

/// Why a check with a wish is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// As for any check.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Its name was given to another one.
    #[error(
        "`Idempotency-Key` was sent with another request, or the limits have changed since: give this          request a key of its own"
    )]
    OtherRequest,
}

/// Why nothing is settled or given back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettleError {
    /// More than was reserved.
    #[error("is more than was reserved, {reserved}: charge the rest with `POST /v1/check`")]
    TooMuch {
        /// What was reserved.
        reserved: u64,
    },
    /// There is nothing to settle.
    #[error(
        "there is no such reservation or window: its time is over, or it was never made, or this          region's store has forgotten it. If its time is over, all of it was given back"
    )]
    Unknown,
    /// Its name was given to something else.
    #[error("`Idempotency-Key` was sent with another request: give this request a key of its own")]
    OtherRequest,
    /// The store did not answer, and may have done it or not.
    #[error(
        "the region's store does not answer, and may have given it back or not; with an \
         `Idempotency-Key` it would be safe to ask again"
    )]
    Unsure,
    /// The store did not answer; it is safe to ask again.
    #[error("the region's store does not answer; ask again in a moment, it is settled only once")]
    StoreUnavailable,
}

/// Why use cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// As for a check.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The store did not answer; asking again later may help. What it said itself is for the log: it may
    /// name hosts, users and keys.
    #[error(
        "what is used cannot be told now, since the {store} store of this region {why}; ask again in a \
         moment. Checks are answered meanwhile. To its operators the node says more in `/readyz` and its log"
    )]
    StoreUnavailable {
        /// Which kind of store it is.
        store: &'static str,
        /// What is wrong with it, as the end of a sentence that began with it.
        why: &'static str,
    },
}

/// What `X-RateLimit-Reset` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResetStyle {
    /// When the window ends, in seconds since 1970.
    #[default]
    UnixSeconds,
    /// After how many seconds it ends.
    Delta,
}

/// Everything that the endpoints for callers need.
pub struct Api<L> {
    /// What decides.
    pub limiter: Arc<L>,
    /// The region of this node.
    pub region: RegionName,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Arc<dyn Fn(IpAddr) -> bool + Send + Sync>,
    /// The time since 1970, for `X-RateLimit-Reset`.
    pub unix_now: Arc<dyn Fn() -> Duration + Send + Sync>,
    /// What `X-RateLimit-Reset` says.
    pub reset: ResetStyle,
}

/// The endpoints for callers, as a service for one connection each.
pub fn service<L: Limiter>(api: Api<L>) -> Front {
    let router = Router::new()
        .route("/v1/check", post(check::post::<L>))
        // HEAD would charge and tell nothing.
        .route("/check", get(check::get::<L>).head(method_not_allowed))
        .route("/v1/check/batch", post(batch::post::<L>))
        .route("/v1/authorize", any(authorize::any::<L>))
        .route("/v1/authorize/", any(authorize::any::<L>))
        .route("/v1/authorize/{*path}", any(authorize::any::<L>))
        .route("/v1/usage", get(usage::get::<L>))
        .route("/v1/reserve", post(reserve::reserve::<L>))
        .route("/v1/settle", post(reserve::settle::<L>))
        .route("/v1/refund", post(reserve::refund::<L>))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(Arc::new(api));
    Front::new(router)
}

/// Answers callers until `shutdown` completes and the requests under way are answered.
pub async fn serve<L: Limiter>(
    listener: TcpListener,
    api: Api<L>,
    connections: Arc<Connections>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    connections::serve(listener, service(api), connections, shutdown).await
}

/// Answers operators until `shutdown` completes and the requests under way are answered.
pub async fn serve_admin(
    listener: TcpListener,
    admin: Arc<dyn Admin>,
    connections: Arc<Connections>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    connections::serve(listener, admin_service(admin), connections, shutdown).await
}

async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is no such path")
}

async fn method_not_allowed() -> Problem {
    let detail = "this path does not take that method; `Allow` lists those that it takes";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
}
