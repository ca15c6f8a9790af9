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
use crate::cli::{arguments::Wan, exit::Failure, join};

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
    let secret = root.join("secret");
    written(&secret, &format!("{:032x}\n", rand::random::<u128>()))?;
    let mut files = Vec::new();
    for region in regions {
        for node in &region.nodes {
            let home = root.join(node.id.node.as_str());
            made(&home)?;
            join::certs_node(&ca, node.id.region.as_str(), node.id.node.as_str(), &home)?;
            let shared = Shared { policies, ca: &ca, secret: &secret };
            let own = NodeFiles {
                config: home.join("node.toml"),
                wan: home.join("wan.toml"),
                log: home.join("log"),
            };
            written(&own.config, &config(node, &region.store, &home, &shared))?;
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

/// What all nodes read.
struct Shared<'a> {
    policies: &'a Path,
    ca: &'a Path,
    secret: &'a Path,
}

/// The text of a `node.toml`; all paths are absolute.
fn config(node: &Place, store: &RegionStore, home: &Path, shared: &Shared<'_>) -> String {
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
        }
        RegionStore::GivenRedis(url) => {
            put("kind = \"redis\"");
            put(&format!("url = {}", quoted(Path::new(url))));
            // Two regions may have been given one server.
            put(&format!("namespace = \"tidegate-{}\"", node.id.region));
        }
    }
    put("\n[cluster]");
    put(&format!("listen = \"{}\"", node.cluster));
    put(&format!("seeds = [{}]", seeds.join(", ")));
    put(&format!("ca = {}", quoted(&shared.ca.join("ca.pem"))));
    put(&format!("cert = {}", quoted(&home.join("node.pem"))));
    put(&format!("key = {}", quoted(&home.join("node.key"))));
    put(&format!("secret_file = {}", quoted(shared.secret)));
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

    fn parsed(store: &RegionStore) -> toml::Table {
        let shared = Shared {
            policies: Path::new("/etc/a \"b\".toml"),
            ca: Path::new("/ca"),
            secret: Path::new("/secret"),
        };
        config(&node(), store, Path::new("/home"), &shared).parse().expect("is TOML")
    }

    #[test]
    fn a_configuration_says_all_that_the_contract_asks_for() {
        let own = RegionStore::OwnRedis(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 5));
        let table = parsed(&own);
        assert_eq!(table["policies"].as_str(), Some("/etc/a \"b\".toml"));
        assert_eq!(table["listen"]["admin"].as_str(), Some("127.0.0.1:3"));
        assert_eq!(table["store"]["url"].as_str(), Some("redis://127.0.0.1:5/0"));
        assert_eq!(table["cluster"]["seeds"][0].as_str(), Some("127.0.0.1:14"));
        assert_eq!(table["cluster"]["ca"].as_str(), Some("/ca/ca.pem"));
        assert_eq!(table["cluster"]["key"].as_str(), Some("/home/node.key"));
    }

    #[test]
    fn a_given_redis_keeps_regions_apart() {
        let table = parsed(&RegionStore::GivenRedis("redis://h/1".into()));
        assert_eq!(table["store"]["url"].as_str(), Some("redis://h/1"));
        assert_eq!(table["store"]["namespace"].as_str(), Some("tidegate-eu"));
        assert_eq!(parsed(&RegionStore::Memory)["store"].as_table().map(|t| t.len()), Some(1));
    }
}
