//! What a node answers.

use bytes::Bytes;
use serde::Deserialize;

/// The answer to one check.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status: 200 if the request may pass, 429 if not.
    pub status: u16,
    /// Whether it may pass.
    pub allowed: bool,
    /// Everything that was said.
    pub check: Check,
    /// The same as it came, JSON on one line.
    pub raw: Bytes,
}

/// The body of an answer. The top level describes the *binding* limit: the refusing one with the
/// longest wait, else the one with the smallest part remaining. It is `None` where no policy applies.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Check {
    /// Whether the request may pass.
    pub allowed: bool,
    /// The policy of the binding limit.
    pub policy: Option<String>,
    /// The binding limit.
    pub limit: Option<String>,
    /// How much it allows in one window.
    pub quantity: Option<u64>,
    /// What the request costs.
    pub cost: u64,
    /// What is left.
    pub remaining: Option<u64>,
    /// Until its window ends.
    pub reset_after_ms: Option<u64>,
    /// After which the same request passes if nobody else asks; `None` if it may pass, or never will.
    pub retry_after_ms: Option<u64>,
    /// `limit`, `cost_exceeds_limit`, `store_unavailable`, `overload`, or `None`.
    pub reason: Option<String>,
    /// It may pass only because the limit without room is in shadow.
    pub shadow: bool,
    /// The store did not decide; what the node knew did.
    pub degraded: bool,
    /// What a global limit promises.
    pub consistency: Option<String>,
    /// Age of what the node knows of other regions.
    pub staleness_ms: Option<u64>,
    /// By limits that shape: how long the request is to wait before it goes on.
    #[serde(default)]
    pub delay_ms: Option<u64>,
    /// Every limit that weighed, in file order.
    pub limits: Vec<Verdict>,
    /// What was reserved, to be settled; `None` of a check, of what was refused, and of what was admitted without the
    /// store.
    #[serde(default)]
    pub reservation: Option<String>,
}

/// What became of a reservation, or of what was given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Settled {
    /// Whether it is settled; it is.
    pub settled: bool,
    /// How much stays charged.
    pub charged: u64,
}

/// How one limit weighed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Verdict {
    /// The policy it belongs to.
    pub policy: String,
    /// Its name.
    pub name: String,
    /// How much it allows in one window.
    pub quantity: u64,
    /// How long a window is.
    pub window_ms: u64,
    /// The integer name of the window.
    pub label: u64,
    /// How use is counted.
    pub algorithm: String,
    /// `region` or `global`.
    pub scope: String,
    /// What a global limit promises.
    pub consistency: Option<String>,
    /// Whether it had room.
    pub allowed: bool,
    /// What is used, this request included if it was charged.
    pub used: u64,
    /// What is left.
    pub remaining: u64,
    /// Until the window ends.
    pub reset_after_ms: u64,
    /// After which the same request passes if nobody else asks.
    pub retry_after_ms: Option<u64>,
    /// Age of what the node knows of other regions.
    pub staleness_ms: Option<u64>,
    /// By a limit that shapes: how long the request is to wait before it goes on.
    #[serde(default)]
    pub delay_ms: Option<u64>,
}
