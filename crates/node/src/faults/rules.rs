//! What can be set for a region, as it is asked for, kept and shown.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

/// Stands for all other regions.
pub(super) const EVERYONE: &str = "*";
/// The longest delay and jitter that can be set, in milliseconds.
const DELAY_MS_MAX: f64 = 60_000.0;
/// Jitter of a baseline, as a share of its delay.
const BASELINE_JITTER: f64 = 0.2;

/// The body of `PUT /v1/faults`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultsRequest {
    /// A region, or `"*"` for all others.
    pub to: String,
    /// Drop every datagram.
    #[serde(default)]
    pub cut: bool,
    /// One-way delay in milliseconds, 0 to 60,000; absent: the baseline's.
    pub delay_ms: Option<f64>,
    /// Up to how much longer a datagram takes, in milliseconds, 0 to 60,000; absent: the baseline's.
    pub jitter_ms: Option<f64>,
    /// The share of datagrams that is lost, 0 to 1; absent: none.
    pub loss: Option<f64>,
}

/// A request that cannot be obeyed; nothing was changed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FaultsError {
    /// No such region; a client error 404.
    #[error("there is no other region `{0}` that this node knows; `\"*\"` means all others")]
    UnknownRegion(String),
    /// A value out of its range; a client error 400.
    #[error("`{field}` is {value}, but must be from 0 to {max}")]
    OutOfRange {
        /// Which field.
        field: &'static str,
        /// What it was.
        value: f64,
        /// The largest that it may be.
        max: f64,
    },
}

/// The answer of `/v1/faults`: what holds now.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FaultsTable {
    /// This node's region.
    pub region: String,
    /// What is done to datagrams, by the receiver's region.
    pub to: BTreeMap<String, RuleView>,
    /// Datagrams dropped by cuts since the start.
    pub dropped_cut: u64,
    /// Datagrams dropped by loss since the start.
    pub dropped_loss: u64,
    /// Datagrams dropped because too many were being delayed.
    pub dropped_full: u64,
}

/// What holds for one region, the baseline included.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RuleView {
    /// Every datagram is dropped.
    pub cut: bool,
    /// One-way delay in milliseconds.
    pub delay_ms: f64,
    /// Up to how much longer it takes, in milliseconds.
    pub jitter_ms: f64,
    /// The share that is lost.
    pub loss: f64,
}

/// The way to a region as it is without rules.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Baseline {
    /// One-way delay.
    pub delay: Duration,
    /// Up to how much longer a datagram takes.
    pub jitter: Duration,
}

impl Baseline {
    /// The baseline of a link with this round trip: half of it each way, with 0 to 20 % jitter.
    pub fn of_round_trip(round_trip: Duration) -> Self {
        let delay = round_trip / 2;
        Self { delay, jitter: delay.mul_f64(BASELINE_JITTER) }
    }
}

/// A rule as it is kept: checked, and with what returns to the baseline left open.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Rule {
    pub(super) cut: bool,
    pub(super) loss: f64,
    delay: Option<Duration>,
    jitter: Option<Duration>,
}

impl Rule {
    pub(super) fn from_request(request: &FaultsRequest) -> Result<Self, FaultsError> {
        let millis = |field, value: Option<f64>| {
            value
                .map(|v| in_range(field, v, DELAY_MS_MAX))
                .transpose()
                .map(|v| v.map(|ms| Duration::from_secs_f64(ms / 1000.0)))
        };
        Ok(Self {
            cut: request.cut,
            delay: millis("delay_ms", request.delay_ms)?,
            jitter: millis("jitter_ms", request.jitter_ms)?,
            loss: in_range("loss", request.loss.unwrap_or(0.0), 1.0)?,
        })
    }

    pub(super) fn delay(&self, baseline: Baseline) -> Duration {
        self.delay.unwrap_or(baseline.delay)
    }

    pub(super) fn jitter(&self, baseline: Baseline) -> Duration {
        self.jitter.unwrap_or(baseline.jitter)
    }
}

impl RuleView {
    pub(super) fn new(rule: Rule, baseline: Baseline) -> Self {
        let millis = |d: Duration| d.as_secs_f64() * 1000.0;
        Self {
            cut: rule.cut,
            delay_ms: millis(rule.delay(baseline)),
            jitter_ms: millis(rule.jitter(baseline)),
            loss: rule.loss,
        }
    }
}

fn in_range(field: &'static str, value: f64, max: f64) -> Result<f64, FaultsError> {
    if (0.0..=max).contains(&value) {
        Ok(value)
    } else {
        Err(FaultsError::OutOfRange { field, value, max })
    }
}
