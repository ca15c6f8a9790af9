//! A scenario file as it is written: TOML, unknown fields refused, nothing checked yet beyond shape.

use std::{collections::BTreeMap, ops::RangeInclusive};

use serde::{Deserialize, Deserializer, de::Error};
use tidegate_core::{
    breaker,
    time::{ClusterTime, Span, day_of},
};

pub(super) use super::file_faults::{
    Clock, Config, Cut, Lie, LinkFault, Pause, Restart, StoreFault, StoreLoss,
};
pub(super) use super::file_load::{Bursty, Cost, Distribution, Load, Split};
use super::{ScenarioError, StoreSettings};

/// A span of time as people write it, such as `"50ms"`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Length(pub(crate) Span);

impl Length {
    pub(super) const ZERO: Self = Self(Span::ZERO);
}

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(D::Error::custom)
    }
}

/// The midnight in UTC that a date begins with, such as `"2027-03-28"`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Date(pub(super) ClusterTime);

/// The years that runs may be in.
const YEARS: RangeInclusive<i64> = 1970..=2200;

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || {
            D::Error::custom(format_args!(
                "\"{text}\" is no date of the years {} to {}, such as \"2027-03-28\"",
                YEARS.start(),
                YEARS.end()
            ))
        };
        let number = |part: &str| {
            let plain = part.len() <= 4 && part.bytes().all(|byte| byte.is_ascii_digit());
            part.parse::<i64>().ok().filter(|_| plain)
        };
        let parts: Option<Vec<i64>> = text.split('-').map(number).collect();
        let Some([year, month, day]) = parts.as_deref() else { return Err(wrong()) };
        let (year, month, day) = (*year, *month, *day);
        let is_date = text.len() == 10 && YEARS.contains(&year) && (1..=12).contains(&month);
        if !is_date {
            return Err(wrong());
        }
        let ends = if month == 12 { day_of(year + 1, 1, 1) } else { day_of(year, month + 1, 1) };
        let days = day_of(year, month, day);
        let days = u64::try_from(days).ok().filter(|_| day >= 1 && days < ends);
        Ok(Self(ClusterTime(days.ok_or_else(wrong)? * 86_400_000_000)))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) name: String,
    #[serde(default = "one")]
    pub(super) seed: u64,
    pub(super) policies: String,
    pub(super) windows: Option<u64>,
    pub(super) warm_up: Option<u64>,
    pub(super) duration: Option<Length>,
    pub(super) date: Option<Date>,
    pub(super) begin: Option<Length>,
    #[serde(default = "gossip")]
    pub(super) gossip: Length,
    #[serde(default = "reclaim_after")]
    pub(super) reclaim_after: Length,
    pub(super) tail: Option<Length>,
    pub(super) converge_within: Option<Length>,
    pub(super) topology: Topology,
    #[serde(default)]
    pub(super) store: Store,
    #[serde(default)]
    pub(super) load: Vec<Load>,
    pub(super) refunds: Option<Refunds>,
    /// Other quantities, one change after the other.
    #[serde(default)]
    pub(super) reload: Vec<Reload>,
    #[serde(default = "recover_within")]
    pub(super) recover_within: Length,
    #[serde(default)]
    pub(super) cut: Vec<Cut>,
    #[serde(default)]
    pub(super) link_fault: Vec<LinkFault>,
    #[serde(default)]
    pub(super) restart: Vec<Restart>,
    #[serde(default)]
    pub(super) pause: Vec<Pause>,
    #[serde(default)]
    pub(super) lie: Vec<Lie>,
    #[serde(default)]
    pub(super) store_fault: Vec<StoreFault>,
    #[serde(default)]
    pub(super) store_loss: Vec<StoreLoss>,
    #[serde(default)]
    pub(super) clock: Vec<Clock>,
    /// Later configurations of regions and weights, in their order.
    #[serde(default)]
    pub(super) config: Vec<Config>,
    /// For `compare`: what each sets otherwise.
    #[serde(default)]
    pub(super) variant: Vec<toml::Table>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reload {
    pub(super) at: Length,
    #[serde(default = "at_once")]
    pub(super) over: Length,
    pub(super) policies: String,
}

const fn at_once() -> Length {
    Length::ZERO
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Refunds {
    pub(super) share: f64,
    pub(super) after: Length,
}

/// Reads the file's shape. `name` is what mistakes call it.
pub(super) fn parse(text: &str, name: &str) -> Result<File, ScenarioError> {
    toml::from_str(text)
        .map_err(|error| ScenarioError(vec![format!("{name}: {}", error.to_string().trim())]))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Topology {
    pub(super) regions: Vec<String>,
    #[serde(default = "one_node")]
    pub(super) nodes_per_region: usize,
    #[serde(default)]
    pub(super) weights: BTreeMap<String, u32>,
    #[serde(default)]
    pub(super) relays: bool,
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
    pub(super) per_second: Option<u32>,
    pub(super) calls_max: u32,
    pub(super) fence: Length,
    pub(super) breaker: Breaker,
}

impl Default for Store {
    fn default() -> Self {
        let usual = StoreSettings::default();
        Self {
            delay: Length(usual.delay),
            timeout: Length(usual.timeout),
            records: usual.records,
            per_second: usual.per_second,
            calls_max: usual.calls_max,
            fence: Length(usual.fence),
            breaker: Breaker::default(),
        }
    }
}

/// A server's `[store.breaker]`, by the same names.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Breaker {
    pub(super) failures: u32,
    pub(super) p95: Bound,
    pub(super) calls_min: u32,
    pub(super) in_a_row: u32,
    pub(super) window: Length,
    pub(super) backoff: Length,
    pub(super) backoff_max: Length,
    pub(super) probes: u32,
}

impl Default for Breaker {
    fn default() -> Self {
        let usual = breaker::Settings::default();
        Self {
            failures: usual.failures_percent,
            p95: Bound(usual.p95),
            calls_min: usual.calls_min,
            in_a_row: usual.in_a_row,
            window: Length(usual.window),
            backoff: Length(usual.backoff),
            backoff_max: Length(usual.backoff_max),
            probes: usual.probes,
        }
    }
}

/// A span of time, or `"off"`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound(pub(super) Option<Span>);

impl<'de> Deserialize<'de> for Bound {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "off" => Ok(Self(None)),
            text => text.parse().map(|span| Self(Some(span))).map_err(D::Error::custom),
        }
    }
}

pub(super) fn one() -> u64 {
    1
}
fn recover_within() -> Length {
    Length(Span::secs(8))
}
fn one_node() -> usize {
    1
}
fn gossip() -> Length {
    Length(Span::millis(50))
}
fn reclaim_after() -> Length {
    Length(Span::secs(30))
}
fn jitter() -> f64 {
    0.2
}
fn jitter_tail() -> Length {
    Length(Span::millis(3))
}
