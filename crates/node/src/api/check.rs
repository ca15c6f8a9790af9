//! `POST /v1/check` and `GET /check`: one request, one answer.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::StatusCode,
    response::Response,
};
use tidegate_core::{
    check::{Decision, PlanError},
    policy::Attributes,
};

use super::{
    Api, Limiter, answer,
    body::{self, BODY_BYTES_MAX},
    bounds::borrowed,
    headers, json, later,
    problem::Problem,
    query,
};

pub(crate) async fn post<L: Limiter>(
    State(api): State<Arc<Api<L>>>,
    request: Request,
) -> Result<Response, Problem> {
    later::refuse_idempotency_key(request.headers())?;
    let body = body::read(request.into_body(), BODY_BYTES_MAX).await?;
    let (pairs, cost) = json::check(&body)?;
    api.answer(&borrowed(&pairs), cost, StatusCode::TOO_MANY_REQUESTS).await
}

pub(crate) async fn get<L: Limiter>(
    State(api): State<Arc<Api<L>>>,
    request: Request,
) -> Result<Response, Problem> {
    later::refuse_idempotency_key(request.headers())?;
    let query = query::attributes(request.uri().query().unwrap_or_default())?;
    let attributes = borrowed(&query.attributes);
    api.answer(&attributes, query.cost.unwrap_or(1), StatusCode::TOO_MANY_REQUESTS).await
}

impl<L: Limiter> Api<L> {
    /// Checks, and answers with 200 or, when refused, `denied`.
    pub(crate) async fn answer(
        &self,
        attributes: &Attributes<'_>,
        cost: u64,
        denied: StatusCode,
    ) -> Result<Response, Problem> {
        let decision = self.limiter.check(attributes, cost).await?;
        Ok(self.respond(&decision, cost, denied))
    }

    fn respond(&self, decision: &Decision, cost: u64, denied: StatusCode) -> Response {
        let status = if decision.allowed { StatusCode::OK } else { denied };
        let headers = headers::of(decision, self.reset, &*self.unix_now);
        answer::respond(status, headers, answer::body(decision, cost))
    }
}

impl From<PlanError> for Problem {
    fn from(error: PlanError) -> Self {
        Self::field("attributes", error.to_string())
    }
}
