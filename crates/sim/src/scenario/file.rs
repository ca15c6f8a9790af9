//! A scenario file as it is written: TOML, unknown fields refused, nothing checked yet beyond shape.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de::Error};
use tidegate_core::time::Span;

/// A span of time as people write it, such as `"50ms"`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Length(pub(super) Span);

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(D::Error::custom)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) name: String,
    #[serde(default = "one")]
    pub(super) seed: u64,
    pub(super) policies: String,
    pub(super) windows: u64,
    #[serde(default = "two")]
    pub(super) warm_up: u64,
    #[serde(default = "gossip")]
    pub(super) gossip: Length,
    pub(super) tail: Option<Length>,
    pub(super) converge_within: Option<Length>,
    pub(super) topology: Topology,
    #[serde(default)]
    pub(super) store: Store,
    #[serde(default)]
    pub(super) load: Vec<Load>,
    #[serde(default)]
    pub(super) cut: Vec<Cut>,
    #[serde(default)]
    pub(super) restart: Vec<Restart>,
    #[serde(default)]
    pub(super) store_fault: Vec<StoreFault>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Topology {
    pub(super) regions: Vec<String>,
    #[serde(default = "one_node")]
    pub(super) nodes_per_region: usize,
    #[serde(default)]
    pub(super) round_trips: BTreeMap<String, BTreeMap<String, Length>>,
    #[serde(default = "jitter")]
    pub(super) jitter: f64,
    #[serde(default = "jitter_tail")]
    pub(super) jitter_tail: Length,
    #[serde(default)]
    pub(super) loss: f64,
    #[serde(default)]
    pub(super) duplication: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Store {
    pub(super) delay: Length,
    pub(super) timeout: Length,
    pub(super) records: usize,
}

impl Default for Store {
    fn default() -> Self {
        Self { delay: Length(Span::ZERO), timeout: Length(Span::millis(30)), records: 1_000_000 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Load {
    #[serde(default)]
    pub(super) attributes: BTreeMap<String, String>,
    pub(super) caller: Option<String>,
    #[serde(default = "one")]
    pub(super) callers: u64,
    #[serde(default = "one")]
    pub(super) cost: u64,
    pub(super) multiple: Option<f64>,
    pub(super) per_second: Option<f64>,
    pub(super) split: Option<String>,
    pub(super) weights: Option<BTreeMap<String, f64>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cut {
    pub(super) from: String,
    pub(super) to: String,
    #[serde(default)]
    pub(super) both_ways: bool,
    pub(super) start: Length,
    pub(super) end: Length,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Restart {
    pub(super) node: String,
    pub(super) at: Length,
    pub(super) down: Length,
    pub(super) store: StoreFate,
}

/// What becomes of a region's store when a node restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreFate {
    /// It lives elsewhere and keeps its memory.
    Kept,
    /// It lived in the node and is empty.
    Lost,
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
}

fn one() -> u64 {
    1
}
fn two() -> u64 {
    2
}
fn one_node() -> usize {
    1
}
fn gossip() -> Length {
    Length(Span::millis(50))
}
fn jitter() -> f64 {
    0.2
}
fn jitter_tail() -> Length {
    Length(Span::millis(3))
}
