//! Makes of what was written what the node runs with, and tells everything that contradicts.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::{Range, RangeInclusive},
    path::Path,
};

use tidegate_core::{
    ids::{NodeId, NodeName, RegionName},
    time::Span,
};
use toml::Spanned;

use super::{Cluster, Config, ConfigError, Identity, Listen, Network, Problem, Redis, Store, raw};

mod breaker;
mod cluster;
mod store;
mod values;

pub use cluster::CLOCK_ERROR;

const HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);
const REGION: &str = "local";
const REMEMBER: Span = Span::secs(3_600);
const REMEMBER_RANGE: RangeInclusive<Span> = Span::secs(1)..=Span::secs(86_400);
const CONNECTIONS: usize = 10_000;
const CONNECTIONS_MAX: usize = 1_000_000;

/// Checks a configuration as a whole. Paths in it are relative to `directory`.
pub(super) fn config(
    raw: &raw::Config,
    text: &str,
    directory: &Path,
) -> Result<Config, ConfigError> {
    let mut resolver = Resolver { text, directory, problems: Vec::new() };
    let config = resolver.config(raw);
    let mut problems = resolver.problems;
    problems.sort_by_key(|problem| problem.line);
    config.filter(|_| problems.is_empty()).ok_or(ConfigError { file: None, problems })
}

/// Notes problems on its way; whoever finds one answers `None`, and the others go on.
struct Resolver<'a> {
    text: &'a str,
    directory: &'a Path,
    problems: Vec<Problem>,
}

impl Resolver<'_> {
    /// Notes what is wrong with what was written.
    fn refuse<T>(
        &mut self,
        field: &str,
        written: &Spanned<impl Sized>,
        message: impl fmt::Display,
    ) -> Option<T> {
        self.problems.push(Problem::at(self.text, Some(written.span()), field, message));
        None
    }

    /// Notes that a field is missing where another, at `place`, makes it necessary.
    fn missing<T>(
        &mut self,
        field: &str,
        place: Range<usize>,
        message: impl fmt::Display,
    ) -> Option<T> {
        let message = format_args!("is missing: {message}");
        self.problems.push(Problem::at(self.text, Some(place), field, message));
        None
    }

    fn config(&mut self, raw: &raw::Config) -> Option<Config> {
        let id = self.id(raw);
        let policies = match &raw.policies {
            Some(path) => self.path("policies", path).map(Some),
            None => Some(None),
        };
        let listen = self.listen(&raw.listen);
        let store = self.store(&raw.store);
        let written = raw.store.remember.as_ref();
        let remember = self.span("store.remember", written, REMEMBER, REMEMBER_RANGE);
        let cluster = match &raw.cluster {
            Some(cluster) => self.cluster(cluster, id.as_ref().map(|id| &id.region)).map(Some),
            None => Some(None),
        };
        let identity = self.identity(&raw.identity);
        if let (Some(Store::Redis(redis)), Some(Some(cluster))) = (&store, &cluster) {
            self.fence(raw, redis, cluster);
        }
        Some(Config {
            id: id?,
            policies: policies?,
            listen: listen?,
            store: store?,
            remember: remember?,
            cluster: cluster?,
            identity: identity?,
        })
    }

    /// Refuses a fence that is shorter than former nodes of the region may have been ahead of new ones: rights would
    /// be spent twice where a store forgets.
    fn fence(&mut self, raw: &raw::Config, redis: &Redis, cluster: &Cluster) {
        let apart = cluster.clock_error.saturating_mul(2);
        if cluster.regions.is_none() || redis.fence >= apart {
            return;
        }
        let clock_error = raw.cluster.as_ref().and_then(|c| c.get_ref().clock_error.as_ref());
        // By default the fence is twenty times as long: one of the two was written.
        let written = raw.store.fence.as_ref().or(clock_error);
        let message = format_args!(
            "{:?} is less than twice cluster.clock_error, which is {:?}: of limits that are bounded or strict more might be spent; lengthen it, or shorten that",
            redis.fence, cluster.clock_error,
        );
        if let Some(written) = written {
            self.refuse::<()>("store.fence", written, message);
        }
    }

    /// Who the node is. One without peers needs no names.
    fn id(&mut self, raw: &raw::Config) -> Option<NodeId> {
        for (field, text, example) in
            [("region", &raw.region, "\"eu\""), ("node", &raw.node, "\"eu-0\"")]
        {
            if let (None, Some(cluster)) = (text, &raw.cluster) {
                let message = format_args!("a cluster needs it, such as {field} = {example}");
                self.missing::<()>(field, cluster.span(), message);
            }
        }
        let region = match &raw.region {
            Some(text) => self.taken("region", text, RegionName::new(text.get_ref())),
            None => RegionName::new(REGION).ok(),
        };
        let node = match (&raw.node, &raw.region) {
            (Some(text), _) => self.taken("node", text, NodeName::new(text.get_ref())),
            (None, None) => NodeName::new(&first_of(REGION)).ok(),
            (None, Some(text)) => {
                let name = first_of(region.as_ref()?.as_str());
                let message = format_args!("and \"{name}\" is too long: write node = \"…\"");
                NodeName::new(&name).ok().or_else(|| self.missing("node", text.span(), message))
            }
        };
        Some(NodeId { region: region?, node: node? })
    }

    fn listen(&mut self, raw: &raw::Listen) -> Option<Listen> {
        let http = match &raw.http {
            Some(text) => self.address("listen.http", text),
            None => Some(HTTP),
        };
        let admin = match &raw.admin {
            Some(text) => self.address("listen.admin", text),
            None => Some(ADMIN),
        };
        if let Some(text) = &raw.grpc {
            self.refuse::<()>("listen.grpc", text, "gRPC is not built yet: leave it out");
        }
        let connections_max = self.connections_max(raw);
        let (http, admin) = (http?, admin?);
        // The defaults differ, so that one of the two was written if they collide.
        if let (true, Some(text)) = (collide(http, admin), raw.admin.as_ref().or(raw.http.as_ref()))
        {
            let message = format_args!(
                "{admin} meets listen.http, which is {http}: give them different ports"
            );
            return self.refuse("listen.admin", text, message);
        }
        Some(Listen { http, admin, connections_max: connections_max? })
    }

    fn connections_max(&mut self, raw: &raw::Listen) -> Option<usize> {
        let Some(written) = &raw.connections_max else { return Some(CONNECTIONS) };
        let max = usize::try_from(*written.get_ref()).ok();
        max.filter(|max| (1..=CONNECTIONS_MAX).contains(max)).or_else(|| {
            let message = format_args!("{} is not 1 to {CONNECTIONS_MAX}", written.get_ref());
            let field = "listen.connections_max";
            self.problems.push(Problem::at(self.text, Some(written.span()), field, message));
            None
        })
    }

    fn identity(&mut self, raw: &raw::Identity) -> Option<Identity> {
        const FIELD: &str = "identity.trusted_proxies";
        let networks = raw.trusted_proxies.iter();
        let networks = networks.map(|text| {
            let network: Result<Network, _> = text.get_ref().parse();
            let network = network.map_err(|error| format!("{:?} is {error}", text.get_ref()));
            self.taken(FIELD, text, network)
        });
        // Every network is read before any decides, so that all problems are noted.
        let networks: Vec<_> = networks.collect();
        Some(Identity { trusted_proxies: networks.into_iter().collect::<Option<_>>()? })
    }
}

/// The name of a region's first node.
fn first_of(region: &str) -> String {
    format!("{region}-0")
}

/// Whether one process cannot listen on both.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let meet = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && meet
}
