//! A configuration as it is written: typed, but nothing checked yet.
//!
//! Values keep their place in the text, so that whatever is wrong later is told with its line.

use std::collections::BTreeMap;

use serde::Deserialize;
use tidegate_core::policy::too_deep;
use toml::Spanned;

use super::{ConfigError, Problem};

/// Text with its place.
pub(super) type Text = Spanned<String>;

// Neither this nor the store can be shown by `Debug`: the URL may hold a password.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    pub(super) region: Option<Text>,
    pub(super) node: Option<Text>,
    pub(super) policies: Option<Text>,
    #[serde(default)]
    pub(super) listen: Listen,
    #[serde(default)]
    pub(super) store: Store,
    pub(super) cluster: Option<Spanned<Cluster>>,
    #[serde(default)]
    pub(super) identity: Identity,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listen {
    pub(super) http: Option<Text>,
    pub(super) grpc: Option<Text>,
    pub(super) admin: Option<Text>,
    pub(super) connections_max: Option<Spanned<i64>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Store {
    pub(super) kind: Option<Text>,
    pub(super) url: Option<Text>,
    pub(super) ca: Option<Text>,
    pub(super) cert: Option<Text>,
    pub(super) key: Option<Text>,
    pub(super) timeout: Option<Text>,
    pub(super) remember: Option<Text>,
    pub(super) namespace: Option<Text>,
    pub(super) calls_max: Option<Spanned<u64>>,
    pub(super) fence: Option<Text>,
    pub(super) records_max: Option<Spanned<u64>>,
    pub(super) snapshot: Option<Text>,
    pub(super) snapshot_every: Option<Text>,
    pub(super) breaker: Option<Spanned<Breaker>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Breaker {
    pub(super) failures: Option<Spanned<u64>>,
    pub(super) p95: Option<Text>,
    pub(super) calls_min: Option<Spanned<u64>>,
    pub(super) in_a_row: Option<Spanned<u64>>,
    pub(super) window: Option<Text>,
    pub(super) backoff: Option<Text>,
    pub(super) backoff_max: Option<Text>,
    pub(super) probes: Option<Spanned<u64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cluster {
    pub(super) listen: Option<Text>,
    pub(super) advertise: Option<Text>,
    #[serde(default)]
    pub(super) seeds: Vec<Text>,
    pub(super) ca: Option<Text>,
    pub(super) cert: Option<Text>,
    pub(super) key: Option<Text>,
    pub(super) secret_file: Option<Text>,
    pub(super) gossip: Option<Text>,
    #[serde(default)]
    pub(super) relays: bool,
    pub(super) clock_error: Option<Text>,
    pub(super) reclaim_after: Option<Text>,
    pub(super) regions: Option<Spanned<BTreeMap<String, u32>>>,
    pub(super) config_epoch: Option<Spanned<u64>>,
    pub(super) config_effective: Option<Spanned<u64>>,
    pub(super) regions_before: Option<Spanned<BTreeMap<String, u32>>>,
    pub(super) regions_gone: Option<Spanned<Vec<String>>>,
    pub(super) founded: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Identity {
    #[serde(default)]
    pub(super) trusted_proxies: Vec<Text>,
}

/// Reads the text of a configuration; one that is not TOML, or has unknown fields or other types, has
/// one problem only.
pub(super) fn parse(text: &str) -> Result<Config, ConfigError> {
    if let Some(at) = too_deep(text) {
        return Err(Problem::at(text, Some(at..at), "", "nests too deeply").into());
    }
    toml::from_str(text).map_err(|error| {
        let message = error.message().replace('\n', " ");
        Problem::at(text, error.span(), "", message).into()
    })
}
