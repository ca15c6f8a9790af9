//! A node's configuration: what a person writes (`raw`), and what the node runs with ([`Config`]),
//! checked as a whole so that all contradictions are told at once.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use tidegate_core::{
    breaker,
    ids::{NodeId, Secret},
    rights::Regions,
};

pub use network::{BadNetwork, Network};
pub use problem::{ConfigError, Problem};
pub use resolve::CLOCK_ERROR;

mod network;
mod problem;
mod raw;
mod resolve;
mod secret;
#[cfg(test)]
mod tests;

/// The longest configuration file, in bytes.
pub const FILE_BYTES_MAX: u64 = 64 << 10;

/// What a node runs with. Paths are absolute, or relative to the working directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Who the node is.
    pub id: NodeId,
    /// The policy file; without one every request passes, unmatched.
    pub policies: Option<PathBuf>,
    /// Where it is asked.
    pub listen: Listen,
    /// Where its region counts.
    pub store: Store,
    /// How long a request with an `Idempotency-Key` is remembered there: 1 s to 24 h.
    pub remember: Duration,
    /// How it finds other nodes; `None` for a single region without peers.
    pub cluster: Option<Cluster>,
    /// Whom it believes about a request's origin.
    pub identity: Identity,
}

/// Addresses (TCP) on which a node is asked. Port 0 lets the system choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Checks.
    pub http: SocketAddr,
    /// Health, metrics, state; not for the public.
    pub admin: SocketAddr,
    /// Connections for checks that may be open at a time: 1 to 1,000,000.
    pub connections_max: usize,
}

/// The regional store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Store {
    /// In the process; for a region of one node.
    Memory(Memory),
    /// Shared by the nodes of a region.
    Redis(Redis),
}

/// The process' own memory as regional store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// Records that it holds at most: 64 to 4,000,000.
    pub records_max: usize,
    /// Where the records are kept over restarts; `None`: nowhere.
    pub snapshot: Option<Snapshot>,
}

/// A file in which the records of the memory store are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The file.
    pub path: PathBuf,
    /// How often it is written: 1 s to 1 h.
    pub every: Duration,
}

/// A Redis server as regional store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redis {
    /// Where it is.
    pub url: RedisUrl,
    /// By which certificates it is spoken to; `None`: in the clear.
    pub tls: Option<RedisTls>,
    /// The longest that a check waits for it: 1 ms to 5 s.
    pub timeout: Duration,
    /// What all its keys begin with: 1 to 32 of `A-Z`, `a-z`, `0-9`, `_`, `-`.
    pub namespace: String,
    /// Calls that may wait for it at a time, at most: 1 to 65,536.
    pub calls_max: u32,
    /// How long its server can go on without knowing that another has taken its place: 0 to 1 h.
    pub fence: Duration,
    /// When it is left alone since it fails or is slow.
    pub breaker: breaker::Settings,
}

/// Files in PEM by which a Redis server is known, and this node to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisTls {
    /// The authorities that vouch for the server; `None`: those that the system trusts.
    pub ca: Option<PathBuf>,
    /// The node's certificate and its key, if the server asks for one.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// The URL of a Redis server, which may hold a password and therefore does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(String);

impl RedisUrl {
    /// The whole URL, password included: for the client only.
    pub fn secret(&self) -> &str {
        &self.0
    }
}

/// Without user and password.
impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_credentials(&self.0))
    }
}

/// A URL as it may be shown: without user and password.
pub fn without_credentials(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("redis", url));
    let server = rest.rsplit_once('@').map_or(rest, |(_, server)| server);
    format!("{scheme}://{server}")
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// How a node and its peers find and trust each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Where it listens (UDP).
    pub listen: SocketAddr,
    /// What peers dial.
    pub advertise: SocketAddr,
    /// Peers to begin with; its own address among them is harmless.
    pub seeds: Vec<Seed>,
    /// The certificate of the authority that signs all nodes, PEM.
    pub ca: PathBuf,
    /// The node's certificate, PEM.
    pub cert: PathBuf,
    /// The key of that certificate, PEM.
    pub key: PathBuf,
    /// Keys the fingerprints; the same on all nodes of all regions.
    pub secret: Secret,
    /// How often changes go to peers: 10 ms to 10 s.
    pub gossip: Duration,
    /// Whether one node of each other region is told what changed, and passes it on inside.
    pub relays: bool,
    /// How far the store's clock may be from the other regions' before that is an alarm: 10 ms to 1 h.
    pub clock_error: Duration,
    /// After which a node that cannot be heard is taken for dead by forecasts: 1 s to 1 h.
    pub reclaim_after: Duration,
    /// All regions that share limits under rights, with their weights; without, there are no such limits.
    pub regions: Option<Regions>,
    /// When the cluster was founded, in Unix milliseconds: nothing was spent under rights before.
    pub founded: Option<u64>,
}

/// Where a peer may be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seed {
    /// An address that can be dialled.
    Address(SocketAddr),
    /// `name:port`; a name may have several addresses, and others later.
    Name(String),
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Whom a node believes about a request's origin.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// Networks of proxies whose `X-Forwarded-For` counts; none by default.
    pub trusted_proxies: Vec<Network>,
}

impl Identity {
    /// Whether what the proxy at this address says about its client is believed.
    pub fn trusts(&self, proxy: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(proxy))
    }
}

impl Config {
    /// Reads a configuration file. Without one: one region, memory store, and addresses of this
    /// machine only.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let Some(file) = file else { return Self::parse("", Path::new("")) };
        read(file)
            .map_err(|error| ConfigError::whole(format!("cannot be read: {error}")))
            .and_then(|text| Self::parse(&text, file.parent().unwrap_or(Path::new(""))))
            .map_err(|error| error.in_file(file))
    }

    /// Reads the text of a configuration file whose paths are relative to `directory`.
    pub fn parse(text: &str, directory: &Path) -> Result<Self, ConfigError> {
        resolve::config(&raw::parse(text)?, text, directory)
    }
}

/// The text of a file that is not too long.
fn read(file: &Path) -> io::Result<String> {
    use io::Read;
    let mut text = String::new();
    std::fs::File::open(file)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}
