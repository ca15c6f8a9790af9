//! What operators ask, on a listener of its own: health, readiness, the cluster, metrics, faults.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};

use super::{answer, front::Front, method_not_allowed, not_found};

pub use faults::{Fault, FaultControl, FaultView, UnknownRegion};
pub use views::{ClusterView, ConnectionState, NodeView, Readiness, RegionView};

mod faults;
mod views;

/// The format that metrics are written in.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a node says about itself. Every method answers from memory, without waiting.
pub trait Admin: Send + Sync + 'static {
    /// Whether checks should be sent here.
    fn ready(&self) -> Readiness;

    /// What this node knows of its cluster.
    fn cluster(&self) -> ClusterView;

    /// Control over what this node sends; `None` unless faults were enabled at the start.
    fn faults(&self) -> Option<&dyn FaultControl>;

    /// All metrics, in Prometheus' text format.
    fn render_metrics(&self) -> String;
}

type Node = State<Arc<dyn Admin>>;

/// The endpoints for operators.
pub fn admin_service(admin: Arc<dyn Admin>) -> Front {
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/v1/cluster", get(cluster))
        .route("/v1/faults", get(faults::read).put(faults::set).delete(faults::clear))
        .route("/metrics", get(metrics))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(admin);
    Front::new(router)
}

async fn readyz(State(node): Node) -> Response {
    let readiness = node.ready();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    answer::json(status, &readiness)
}

async fn cluster(State(node): Node) -> Response {
    answer::json(StatusCode::OK, &node.cluster())
}

async fn metrics(State(node): Node) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static(METRICS_TYPE))], node.render_metrics())
        .into_response()
}
