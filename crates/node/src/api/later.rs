//! What the contract names and this version does not do yet. It is refused, never ignored: a caller
//! who believes that an amount is reserved, or a repeat harmless, would be wrong without noticing.

use axum::http::{HeaderMap, HeaderName, StatusCode};

use super::problem::Problem;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// `/v1/reserve`, `/v1/settle`, `/v1/refund`: 501.
pub(crate) async fn reservations() -> Problem {
    let detail = "reservations, settling and refunds are not part of this version; \
                  charge with `POST /v1/check` what will be used";
    Problem::new(StatusCode::NOT_IMPLEMENTED, detail)
}

/// A check with `Idempotency-Key`: 400.
pub(crate) fn refuse_idempotency_key(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.contains_key(IDEMPOTENCY_KEY) {
        let message = "not part of this version: a repeated check would be charged again; \
                       leave the header out";
        return Err(Problem::field("Idempotency-Key", message));
    }
    Ok(())
}
