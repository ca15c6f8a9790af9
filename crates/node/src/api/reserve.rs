//! `POST /v1/reserve`, `/v1/settle`, `/v1/refund`: what is charged for a while, and what is given back.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::StatusCode,
    response::Response,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Api, Limiter, SettleError, Wish, answer,
    body::{self, BODY_BYTES_MAX},
    bounds::{COST_MAX, borrowed},
    check::idempotency_key,
    headers,
    json::{self, Extra},
    problem::Problem,
};

/// How long something may be reserved.
const TTL: Extra = Extra {
    name: "ttl_ms",
    range: 1..=86_400_000,
    expected: "expected how many milliseconds it is reserved, from 1 to 86400000",
};
/// Names a window, as answers do.
const LABEL: Extra = Extra {
    name: "label",
    range: 0..=(1 << 53) - 1,
    expected: "expected the `label` of one of the limits that a check was answered with",
};

/// What becomes of a reservation.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settle {
    reservation: String,
    actual: Value,
}

/// A reservation that is not used.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cancel {
    reservation: String,
}

#[derive(Serialize)]
struct Settled {
    settled: bool,
    charged: u64,
}

pub(crate) async fn reserve<L: Limiter>(
    State(api): State<Arc<Api<L>>>,
    request: Request,
) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    let name = idempotency_key(&head.headers)?;
    let body = body::read(body, BODY_BYTES_MAX).await?;
    let (pairs, cost, ttl) = json::check_with(&body, &TTL)?;
    let attributes = borrowed(&pairs);
    let wish = Wish { name, reserve: Some(Duration::from_millis(ttl)) };
    let decision = api.limiter.check_in(&attributes, cost, &wish).await?;
    let token = decision.reservation.as_ref().map(|reserved| api.limiter.token(reserved));
    let status = if decision.allowed { StatusCode::OK } else { StatusCode::TOO_MANY_REQUESTS };
    let headers = headers::of(&decision, api.reset, &*api.unix_now);
    Ok(answer::respond(status, headers, answer::body_with(&decision, cost, token.as_deref())))
}

pub(crate) async fn settle<L: Limiter>(
    State(api): State<Arc<Api<L>>>,
    request: Request,
) -> Result<Response, Problem> {
    let body = body::read(request.into_body(), BODY_BYTES_MAX).await?;
    let Settle { reservation, actual } = read(&body)?;
    let Some(actual) = actual.as_u64().filter(|actual| *actual <= COST_MAX) else {
        return Err(Problem::field("actual", "expected a whole number from 0 to 1000000"));
    };
    let settled = api.limiter.settle(&reservation, actual).await;
    settled.map(answered).map_err(Problem::from)
}

pub(crate) async fn refund<L: Limiter>(
    State(api): State<Arc<Api<L>>>,
    request: Request,
) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    let name = idempotency_key(&head.headers)?;
    let body = body::read(body, BODY_BYTES_MAX).await?;
    let of_reservation = serde_json::from_slice::<Value>(&body)
        .is_ok_and(|value| value.get("reservation").is_some());
    let settled = if of_reservation {
        let Cancel { reservation } = read(&body)?;
        api.limiter.settle(&reservation, 0).await
    } else {
        let (pairs, cost, label) = json::check_with(&body, &LABEL)?;
        api.limiter.give_back(&borrowed(&pairs), cost, label, name).await
    };
    settled.map(answered).map_err(Problem::from)
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| Problem::field("body", error.to_string()))
}

fn answered(charged: u64) -> Response {
    answer::json(StatusCode::OK, &Settled { settled: true, charged })
}

impl From<SettleError> for Problem {
    fn from(error: SettleError) -> Self {
        match error {
            SettleError::TooMuch { .. } => Self::field("actual", error.to_string()),
            SettleError::Unknown => Self::new(StatusCode::NOT_FOUND, error.to_string()),
            SettleError::OtherRequest => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())
            }
            SettleError::StoreUnavailable | SettleError::Unsure => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
            }
        }
    }
}
