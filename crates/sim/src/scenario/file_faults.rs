//! What goes wrong, as it is written in a scenario file: one table for each kind of fault.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Claims, StoreFate, file::Length};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cut {
    pub(super) from: String,
    pub(super) to: String,
    #[serde(default)]
    pub(super) both_ways: bool,
    pub(super) start: Length,
    pub(super) end: Length,
    /// Flapping: cut for so long …
    pub(super) on: Option<Length>,
    /// … and whole for so long, in turn.
    pub(super) off: Option<Length>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LinkFault {
    pub(super) from: String,
    pub(super) to: String,
    #[serde(default)]
    pub(super) both_ways: bool,
    pub(super) start: Length,
    pub(super) end: Length,
    #[serde(default)]
    pub(super) loss: f64,
    #[serde(default)]
    pub(super) duplication: f64,
    #[serde(default)]
    pub(super) reorder: f64,
    pub(super) reorder_by: Option<Length>,
    #[serde(default)]
    pub(super) corrupt: f64,
    pub(super) delay: Option<Length>,
}

/// Regions and weights that nodes have which start from then on.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    pub(super) at: Length,
    /// Regions that are not named have a weight of 0.
    pub(super) weights: BTreeMap<String, u32>,
    /// Regions that are no more.
    #[serde(default)]
    pub(super) gone: Vec<String>,
    /// Until then the one before is in force.
    pub(super) effective: Option<Length>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Restart {
    pub(super) node: String,
    pub(super) at: Length,
    pub(super) down: Option<Length>,
    pub(super) store: StoreFate,
    pub(super) clock_back: Option<Length>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pause {
    pub(super) node: String,
    pub(super) at: Length,
    pub(super) lasts: Length,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lie {
    pub(super) node: String,
    pub(super) start: Length,
    pub(super) end: Length,
    pub(super) claims: Claims,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoreFault {
    pub(super) region: String,
    pub(super) start: Length,
    pub(super) end: Length,
    #[serde(default)]
    pub(super) late: f64,
    pub(super) late_by: Option<Length>,
    #[serde(default)]
    pub(super) twice: f64,
    #[serde(default)]
    pub(super) never: f64,
    #[serde(default)]
    pub(super) slow: f64,
    pub(super) slow_by: Option<Length>,
    #[serde(default)]
    pub(super) gone: f64,
    #[serde(default)]
    pub(super) refuse: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoreLoss {
    pub(super) region: String,
    pub(super) at: Length,
    pub(super) back: Option<Length>,
    pub(super) lingers: Option<Length>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Clock {
    pub(super) node: Option<String>,
    pub(super) store: Option<String>,
    pub(super) at: Option<Length>,
    pub(super) ahead: Option<Length>,
    pub(super) behind: Option<Length>,
    #[serde(default)]
    pub(super) drift_ppm: i64,
}
