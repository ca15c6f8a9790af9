//! Where others may be found: addresses, and names that are looked up again and again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;

use super::MembershipError;

/// How often names are looked up, and how long that may take.
pub(super) const LOOK_UP: Duration = Duration::from_secs(10);
/// How many addresses one name may have.
const ADDRESSES_PER_NAME_MAX: usize = 64;

/// The seeds of the configuration.
pub(super) struct Seeds {
    addresses: BTreeSet<SocketAddr>,
    names: Vec<String>,
    found: Arc<Mutex<Found>>,
}

/// The addresses of each name, as last found.
type Found = BTreeMap<String, BTreeSet<SocketAddr>>;

impl Seeds {
    /// Takes `host:port` texts; an IPv6 address stands in brackets.
    pub(super) fn new(seeds: &[String]) -> Result<Self, MembershipError> {
        let (mut addresses, mut names) = (BTreeSet::new(), Vec::new());
        for seed in seeds {
            match seed.parse() {
                Ok(address) => {
                    addresses.insert(address);
                }
                Err(_) => names.push(checked_name(seed)?),
            }
        }
        Ok(Self { addresses, names, found: Arc::default() })
    }

    /// Looks the names up, beside the caller. One that cannot be found keeps its last addresses.
    pub(super) fn look_up(&self) {
        for name in &self.names {
            tokio::spawn(look_up(name.clone(), self.found.clone()));
        }
    }

    /// The seeds that were given as addresses.
    pub(super) fn addresses(&self) -> &BTreeSet<SocketAddr> {
        &self.addresses
    }

    /// The addresses of the seeds that were given as names.
    pub(super) fn found(&self) -> BTreeSet<SocketAddr> {
        self.found.lock().values().flatten().copied().collect()
    }
}

async fn look_up(name: String, found: Arc<Mutex<Found>>) {
    let addresses = match tokio::time::timeout(LOOK_UP, tokio::net::lookup_host(&name)).await {
        Ok(Ok(addresses)) => addresses.take(ADDRESSES_PER_NAME_MAX).collect(),
        Ok(Err(error)) => return tracing::warn!(seed = %name, %error, "a seed cannot be looked up"),
        Err(_) => return tracing::warn!(seed = %name, "looking a seed up takes too long"),
    };
    found.lock().insert(name, addresses);
}

fn checked_name(seed: &str) -> Result<String, MembershipError> {
    let port = seed.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
    match port.map(str::parse::<u16>) {
        Some(Ok(_)) => Ok(seed.to_owned()),
        _ => Err(MembershipError::Seed(seed.into())),
    }
}
