//! `/v1/faults`: delay, lose or cut what this node sends to other regions, to see what becomes of the
//! promises. There only if it was enabled at the start; it changes what this node sends, nothing else.

use axum::{body::Body, extract::State, http::StatusCode, response::Response};
use serde::{Deserialize, Serialize};

use super::Node;
use crate::api::{
    answer,
    body::{self, BODY_BYTES_MAX},
    problem::{Mistakes, Problem},
};

/// The longest delay and jitter, in milliseconds.
const DELAY_MS_MAX: f64 = 60_000.0;

/// Changes what a node sends.
pub trait FaultControl: Send + Sync {
    /// Sets all that is done to what goes to region `to` (`*`: every other region). What `fault`
    /// leaves out returns to the baseline.
    fn set(&self, to: &str, fault: Fault) -> Result<(), UnknownRegion>;

    /// What is done at present, one line for each other region.
    fn table(&self) -> Vec<FaultView>;

    /// Returns every region to the baseline.
    fn clear(&self);
}

/// No region of that name is known here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no other region is called `{0}`")]
pub struct UnknownRegion(pub String);

/// What is asked for; `None` is the baseline.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Fault {
    /// Drop every datagram.
    pub cut: Option<bool>,
    /// Hold every datagram back, 0 to 60,000 ms.
    pub delay_ms: Option<f64>,
    /// Hold each back for up to so much longer, at random, 0 to 60,000 ms.
    pub jitter_ms: Option<f64>,
    /// Drop so large a part of the datagrams, 0 to 1, at random.
    pub loss: Option<f64>,
}

/// What is done to all that goes to one region.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FaultView {
    /// Which region.
    pub to: String,
    /// Whether every datagram is dropped.
    pub cut: bool,
    /// How long every datagram is held back, in milliseconds.
    pub delay_ms: f64,
    /// For how much longer at most, at random, in milliseconds.
    pub jitter_ms: f64,
    /// How large a part of the datagrams is dropped, at random.
    pub loss: f64,
}

#[derive(Debug, Serialize)]
struct Table {
    faults: Vec<FaultView>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    to: String,
    cut: Option<bool>,
    delay_ms: Option<f64>,
    jitter_ms: Option<f64>,
    loss: Option<f64>,
}

impl Asked {
    fn checked(self) -> Result<(String, Fault), Problem> {
        let mut mistakes = Mistakes::default();
        for (field, span) in [("delay_ms", self.delay_ms), ("jitter_ms", self.jitter_ms)] {
            if span.is_some_and(|span| !(0.0..=DELAY_MS_MAX).contains(&span)) {
                mistakes.add(field, format!("expected 0 to {DELAY_MS_MAX}"));
            }
        }
        if self.loss.is_some_and(|loss| !(0.0..=1.0).contains(&loss)) {
            mistakes.add("loss", "expected a part from 0 to 1");
        }
        let Self { to, cut, delay_ms, jitter_ms, loss } = self;
        mistakes.or_else_ok((to, Fault { cut, delay_ms, jitter_ms, loss }))
    }
}

pub(crate) async fn read(State(node): Node) -> Result<Response, Problem> {
    Ok(table(enabled(node.faults())?))
}

pub(crate) async fn set(State(node): Node, body: Body) -> Result<Response, Problem> {
    enabled(node.faults())?;
    let body = body::read(body, BODY_BYTES_MAX).await?;
    let asked: Asked =
        serde_json::from_slice(&body).map_err(|error| Problem::field("body", error.to_string()))?;
    let (to, fault) = asked.checked()?;
    let control = enabled(node.faults())?;
    control
        .set(&to, fault)
        .map_err(|error| Problem::new(StatusCode::NOT_FOUND, error.to_string()))?;
    Ok(table(control))
}

pub(crate) async fn clear(State(node): Node) -> Result<Response, Problem> {
    let control = enabled(node.faults())?;
    control.clear();
    Ok(table(control))
}

fn enabled(control: Option<&dyn FaultControl>) -> Result<&dyn FaultControl, Problem> {
    control.ok_or_else(|| {
        let detail = "faults are not enabled; start the node with `--enable-faults`";
        Problem::new(StatusCode::NOT_FOUND, detail)
    })
}

fn table(control: &dyn FaultControl) -> Response {
    answer::json(StatusCode::OK, &Table { faults: control.table() })
}
