//! `POST /v1/check` and `GET /check`: one request, one answer.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, StatusCode},
    response::Response,
};
use tidegate_core::{
    check::{Decision, PlanError},
    policy::Attributes,
};

use super::{
    Api, CheckError, Limiter, Wish, answer,
    body::{self, BODY_BYTES_MAX},
    bounds::borrowed,
    headers, json,
    problem::Problem,
    query,
};

pub(crate) async fn post<L: Limiter>(
    State(api): State<Arc<Api<L>>>,
    request: Request,
) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    let name = idempotency_key(&head.headers)?;
    let body = body::read(body, BODY_BYTES_MAX).await?;
    let (pairs, cost) = json::check(&body)?;
    api.answer_once(&borrowed(&pairs), cost, name).await
}

pub(crate) async fn get<L: Limiter>(
    State(api): State<Arc<Api<L>>>,
    request: Request,
) -> Result<Response, Problem> {
    let name = idempotency_key(request.headers())?;
    let query = query::attributes(request.uri().query().unwrap_or_default())?;
    let attributes = borrowed(&query.attributes);
    api.answer_once(&attributes, query.cost.unwrap_or(1), name).await
}

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The longest name of a request, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// The name that a request was given, under which it is charged once.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let wrong = |message| Err(Problem::field("Idempotency-Key", message));
    if values.next().is_some() {
        return wrong("given twice");
    }
    match value.to_str() {
        Ok(name) if (1..=NAME_BYTES_MAX).contains(&name.len()) => Ok(Some(name)),
        _ => wrong("expected 1 to 255 visible characters of ASCII"),
    }
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

    /// The same of a check that may have a name.
    async fn answer_once(
        &self,
        attributes: &Attributes<'_>,
        cost: u64,
        name: Option<&str>,
    ) -> Result<Response, Problem> {
        if name.is_none() {
            return self.answer(attributes, cost, StatusCode::TOO_MANY_REQUESTS).await;
        }
        let wish = Wish { name, reserve: None };
        let decision = self.limiter.check_in(attributes, cost, &wish).await?;
        Ok(self.respond(&decision, cost, StatusCode::TOO_MANY_REQUESTS))
    }

    fn respond(&self, decision: &Decision, cost: u64, denied: StatusCode) -> Response {
        let status = if decision.allowed { StatusCode::OK } else { denied };
        let headers = headers::of(decision, self.reset, &*self.unix_now);
        answer::respond(status, headers, answer::body(decision, cost))
    }
}

impl From<CheckError> for Problem {
    fn from(error: CheckError) -> Self {
        match error {
            CheckError::Plan(error) => error.into(),
            CheckError::OtherRequest => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())
            }
        }
    }
}

impl From<PlanError> for Problem {
    fn from(error: PlanError) -> Self {
        let PlanError::TooManyLimits { .. } = error;
        Self::field("attributes", error.to_string())
    }
}
