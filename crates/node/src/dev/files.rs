//! Writes what each node reads: configuration, certificates, secret, distances.

use std::{
    fmt::Write,
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    layout::{Place, Region, RegionStore},
    wan,
};
use tidegate_node::clock;

use crate::cli::{arguments::Wan, exit::Failure, join};

/// How long nodes wait for Redis. Far longer than by default: a whole cluster shares this machine, and
/// a stall of it should not look like a broken store.
const STORE_TIMEOUT: &str = "500ms";

/// Where the files of one node are.
#[derive(Debug, Clone)]
pub(super) struct NodeFiles {
    pub(super) config: PathBuf,
    pub(super) wan: PathBuf,
    pub(super) log: PathBuf,
}

/// Writes the files of all nodes below `root`; the result has them in the order of the nodes.
pub(super) fn write(
    root: &Path,
    regions: &[Region],
    policies: &Path,
    wan: Wan,
) -> Result<Vec<NodeFiles>, Failure> {
    let ca = root.join("ca");
    made(&ca)?;
    join::certs_ca(&ca)?;
    let founded = u64::try_from(clock::unix_time().as_millis()).unwrap_or(u64::MAX);
    let secret = root.join("secret");
    written(&secret, &fresh_secret())?;
    let mut files = Vec::new();
    for region in regions {
        for node in &region.nodes {
            let home = root.join(node.id.node.as_str());
            made(&home)?;
            join::certs_node(&ca, node.id.region.as_str(), node.id.node.as_str(), &home)?;
            let shared = Shared { policies, ca: &ca, secret: &secret, regions, founded };
            let own = NodeFiles {
                config: home.join("node.toml"),
                wan: home.join("wan.toml"),
                log: home.join("log"),
            };
            written(&own.config, &node_toml(node, &region.store, &home, &shared))?;
            written(&own.wan, &wan::file(&region.name, regions, wan))?;
            files.push(own);
        }
    }
    Ok(files)
}

/// Makes the home of a region's own Redis below `root`.
pub(super) fn redis_home(root: &Path, region: &str) -> Result<PathBuf, Failure> {
    let home = root.join("redis").join(region);
    made(&home)?;
    Ok(home)
}

/// 128 random bits in hexadecimal digits.
fn fresh_secret() -> String {
    format!("{:032x}\n", rand::random::<u128>())
}

/// What all nodes read.
struct Shared<'a> {
    policies: &'a Path,
    ca: &'a Path,
    secret: &'a Path,
    regions: &'a [Region],
    /// When the cluster was founded, in Unix milliseconds.
    founded: u64,
}

/// The text of a `node.toml`; all paths are absolute.
fn node_toml(node: &Place, store: &RegionStore, home: &Path, shared: &Shared<'_>) -> String {
    let seeds: Vec<_> = node.seeds.iter().map(|seed| format!("\"{seed}\"")).collect();
    let mut text = String::new();
    let mut put = |line: &str| writeln!(text, "{line}").expect("a string takes all text");
    put(&format!("region = \"{}\"", node.id.region));
    put(&format!("node = \"{}\"", node.id.node));
    put(&format!("policies = {}", quoted(shared.policies)));
    put("\n[listen]");
    put(&format!("http = \"{}\"", node.http));
    put(&format!("admin = \"{}\"", node.admin));
    put("\n[store]");
    match store {
        RegionStore::Memory => put("kind = \"memory\""),
        RegionStore::OwnRedis(_) => {
            put("kind = \"redis\"");
            put(&format!("url = \"{}\"", store.name()));
            put(&format!("timeout = \"{STORE_TIMEOUT}\""));
        }
        RegionStore::GivenRedis { url, namespace } => {
            put("kind = \"redis\"");
            put(&format!("url = {}", quoted(Path::new(url))));
            put(&format!("namespace = \"{namespace}\""));
            put(&format!("timeout = \"{STORE_TIMEOUT}\""));
        }
    }
    put("\n[cluster]");
    put(&format!("listen = \"{}\"", node.cluster));
    put(&format!("seeds = [{}]", seeds.join(", ")));
    put(&format!("ca = {}", quoted(&shared.ca.join("ca.pem"))));
    put(&format!("cert = {}", quoted(&home.join("node.pem"))));
    put(&format!("key = {}", quoted(&home.join("node.key"))));
    put(&format!("secret_file = {}", quoted(shared.secret)));
    let weights: Vec<_> = shared.regions.iter().map(|r| format!("\"{}\" = 1", r.name)).collect();
    put(&format!("regions = {{ {} }}", weights.join(", ")));
    put(&format!("founded = {}", shared.founded));
    text
}

/// A path as a TOML string; JSON's escapes are TOML's as well.
fn quoted(path: &Path) -> String {
    serde_json::Value::from(path.to_string_lossy()).to_string()
}

fn made(directory: &Path) -> Result<(), Failure> {
    fs::create_dir_all(directory).map_err(|error| unwritable(directory, &error))
}

fn written(file: &Path, text: &str) -> Result<(), Failure> {
    fs::write(file, text).map_err(|error| unwritable(file, &error))
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::broken(format_args!("cannot write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4};

    use tidegate_core::ids::NodeId;
    use tidegate_node::config::{self, Config};

    use super::*;

    fn node() -> Place {
        let at = |port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        Place {
            id: NodeId::new("eu", "eu-0").expect("a name"),
            http: at(1),
            grpc: at(2),
            admin: at(3),
            cluster: at(4),
            seeds: vec![at(14)],
        }
    }

    /// The configuration as a node reads it, with a secret that is there.
    fn parsed(store: &RegionStore) -> Config {
        let home = tempfile::tempdir().expect("a directory");
        let secret = home.path().join("secret");
        fs::write(&secret, fresh_secret()).expect("writes");
        let shared = Shared {
            policies: Path::new("/etc/a \"b\".toml"),
            ca: Path::new("/ca"),
            secret: &secret,
            regions: &[Region { name: "eu".into(), store: store.clone(), nodes: Vec::new() }],
            founded: 7,
        };
        let text = node_toml(&node(), store, Path::new("/home"), &shared);
        Config::parse(&text, home.path()).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    #[test]
    fn a_node_reads_what_was_written_for_it() {
        let own = RegionStore::OwnRedis(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 5));
        let config = parsed(&own);
        assert_eq!(config.id, node().id);
        assert_eq!(config.policies.as_deref(), Some(Path::new("/etc/a \"b\".toml")));
        assert_eq!(config.listen.http, node().http.into());
        assert_eq!(config.listen.admin, node().admin.into());
        let config::Store::Redis(redis) = &config.store else { panic!("{:?}", config.store) };
        assert_eq!(redis.url.secret(), "redis://127.0.0.1:5/0");
        let cluster = config.cluster.expect("a cluster");
        assert_eq!(cluster.advertise, node().cluster.into());
        assert_eq!(
            (cluster.regions.map(|r| r.iter().count()), cluster.founded),
            (Some(1), Some(7))
        );
        assert_eq!(cluster.seeds, [config::Seed::Address(node().seeds[0].into())]);
        assert_eq!(cluster.ca, Path::new("/ca/ca.pem"));
        assert_eq!(cluster.cert, Path::new("/home/node.pem"));
        assert_eq!(cluster.key, Path::new("/home/node.key"));
    }

    #[test]
    fn a_given_redis_keeps_regions_apart() {
        let (url, namespace) = ("redis://host:1/1".to_owned(), "tidegate-3".to_owned());
        let config = parsed(&RegionStore::GivenRedis { url, namespace });
        let config::Store::Redis(redis) = &config.store else { panic!("{:?}", config.store) };
        assert_eq!((redis.url.secret(), &*redis.namespace), ("redis://host:1/1", "tidegate-3"));
        assert!(matches!(parsed(&RegionStore::Memory).store, config::Store::Memory(_)));
    }

    #[test]
    fn every_cluster_has_another_secret() {
        assert_ne!(fresh_secret(), fresh_secret());
    }
}
