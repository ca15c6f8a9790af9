//! Loads, as they are written in a scenario file.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};

use tidegate_core::time::Span;

use super::file::{Length, one};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Load {
    #[serde(default)]
    pub(super) attributes: BTreeMap<String, String>,
    pub(super) caller: Option<String>,
    #[serde(default = "one")]
    pub(super) callers: u64,
    pub(super) cost: Option<Cost>,
    pub(super) multiple: Option<f64>,
    pub(super) per_second: Option<f64>,
    #[serde(default, deserialize_with = "name_or_table")]
    pub(super) split: Option<Split>,
    pub(super) weights: Option<BTreeMap<String, f64>>,
    pub(super) bursty: Option<Bursty>,
    pub(super) trace: Option<String>,
    pub(super) start: Option<Length>,
    pub(super) end: Option<Length>,
}

/// What can be set of a shape; by its name alone all else is usual.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Split {
    pub(super) shape: String,
    pub(super) region: Option<String>,
    pub(super) period: Option<Length>,
    pub(super) share: Option<f64>,
    pub(super) swing: Option<f64>,
    pub(super) base: Option<f64>,
    pub(super) add: Option<f64>,
    pub(super) every: Option<Length>,
    pub(super) lasts: Option<Length>,
}

fn name_or_table<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Split>, D::Error> {
    struct Either;
    impl<'de> Visitor<'de> for Either {
        type Value = Split;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(
                "a name such as \"moving\", or a table such as { shape = \"moving\", period = \"5s\" }",
            )
        }
        fn visit_str<E: Error>(self, name: &str) -> Result<Split, E> {
            Ok(Split { shape: name.to_owned(), ..Split::default() })
        }
        fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Split, M::Error> {
            Split::deserialize(MapAccessDeserializer::new(map))
        }
    }
    deserializer.deserialize_any(Either).map(Some)
}

/// A whole number, or one distribution.
#[derive(Debug)]
pub(super) enum Cost {
    Constant(u64),
    Drawn(Distribution),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Distribution {
    Uniform([u64; 2]),
    Geometric(f64),
    Pareto(Pareto),
    List(Vec<(u64, f64)>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pareto {
    pub(super) shape: f64,
    #[serde(default = "one")]
    pub(super) least: u64,
    pub(super) most: u64,
}

impl<'de> Deserialize<'de> for Cost {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Cost;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number, or a table such as { uniform = [1, 10] }")
            }
            fn visit_u64<E: Error>(self, cost: u64) -> Result<Cost, E> {
                Ok(Cost::Constant(cost))
            }
            fn visit_i64<E: Error>(self, cost: i64) -> Result<Cost, E> {
                // Below 0 is as wrong as 0, and told with all other mistakes.
                Ok(Cost::Constant(u64::try_from(cost).unwrap_or(0)))
            }
            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Cost, M::Error> {
                Distribution::deserialize(MapAccessDeserializer::new(map)).map(Cost::Drawn)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Bursty {
    pub(super) rates: [f64; 2],
    pub(super) stays: [Length; 2],
    pub(super) together: bool,
}

impl Default for Bursty {
    fn default() -> Self {
        let stays = [Length(Span::secs(3)), Length(Span::secs(1))];
        Self { rates: [1.0, 9.0], stays, together: false }
    }
}
