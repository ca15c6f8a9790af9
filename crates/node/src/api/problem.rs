//! Errors as people and programs read them: `application/problem+json`.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde::Serialize;

/// The most mistakes that one answer lists; the rest would only repeat them.
pub(crate) const MISTAKES_MAX: usize = 32;

/// One thing wrong in a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Mistake {
    /// Where: `cost`, `attributes.api_key`, `checks[3].cost`, `body`, or a header's name.
    pub(crate) field: String,
    /// What is wrong and what was expected.
    pub(crate) message: String,
}

/// Everything found wrong in one request, up to [`MISTAKES_MAX`].
#[derive(Debug, Default)]
pub(crate) struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// Notes one more.
    pub(crate) fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        if !self.is_full() {
            self.0.push(Mistake { field: field.into(), message: message.into() });
        }
    }

    /// Whether more would not be listed.
    pub(crate) fn is_full(&self) -> bool {
        self.0.len() >= MISTAKES_MAX
    }

    /// `value` if nothing was wrong, else a 400 that lists what was.
    pub(crate) fn or_else_ok<T>(self, value: T) -> Result<T, Problem> {
        if self.0.is_empty() { Ok(value) } else { Err(self.into_problem()) }
    }

    /// A 400 that lists what was wrong; something was.
    pub(crate) fn into_problem(self) -> Problem {
        Problem::malformed(self.0)
    }
}

/// Why a request is not answered as asked.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    detail: String,
    errors: Vec<Mistake>,
}

/// The fields as they are written, in this order.
#[derive(Serialize)]
struct Written<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    errors: &'a [Mistake],
}

impl Problem {
    /// A problem without a field to point at.
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), errors: Vec::new() }
    }

    /// 400 with everything that is wrong.
    pub(crate) fn malformed(errors: Vec<Mistake>) -> Self {
        let detail = match &errors[..] {
            [only] => format!("{}: {}", only.field, only.message),
            several => format!("the request has {} mistakes, listed in `errors`", several.len()),
        };
        Self { status: StatusCode::BAD_REQUEST, detail, errors }
    }

    /// 400 with one thing that is wrong.
    pub(crate) fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::malformed(vec![Mistake { field: field.into(), message: message.into() }])
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let written = Written {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            errors: &self.errors,
        };
        let body = serde_json::to_vec(&written).expect("strings and numbers always become JSON");
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }
}
