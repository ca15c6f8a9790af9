//! Which nodes a local cluster has, and where they listen. Pure: the same request, the same places.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddrV4},
};

use tidegate_core::ids::NodeId;

use crate::cli::{
    arguments::{Dev, Store},
    exit::Failure,
    join::without_credentials,
};

/// More regions would run into the ports of the next hundred.
const REGIONS_MAX: usize = 10;

/// One node of the cluster, and its four ports on the loopback address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) id: NodeId,
    pub(super) http: SocketAddrV4,
    /// Kept free for gRPC, which nodes do not serve yet.
    pub(super) grpc: SocketAddrV4,
    pub(super) admin: SocketAddrV4,
    /// UDP.
    pub(super) cluster: SocketAddrV4,
    /// The cluster addresses it starts from.
    pub(super) seeds: Vec<SocketAddrV4>,
}

/// The store of one region.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum RegionStore {
    /// In the node.
    Memory,
    /// A Redis that the cluster starts on this port of the loopback address.
    OwnRedis(SocketAddrV4),
    /// A Redis that runs already.
    GivenRedis {
        /// Where it is.
        url: String,
        /// What the region's keys begin with: two regions may have been given one server.
        namespace: String,
    },
}

impl RegionStore {
    /// How a ready line names it: `memory`, or the URL without user and password.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Memory => "memory".into(),
            Self::OwnRedis(address) => format!("redis://{address}/0"),
            Self::GivenRedis { url, .. } => without_credentials(url),
        }
    }
}

/// Without user and password.
impl fmt::Debug for RegionStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

/// One region: a name, a store, nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) name: String,
    pub(super) store: RegionStore,
    pub(super) nodes: Vec<Place>,
}

/// Lays out the cluster that was asked for, or says what cannot be.
pub(super) fn regions(asked: &Dev) -> Result<Vec<Region>, Failure> {
    refuse_contradictions(asked)?;
    let mut regions = (0..asked.regions.len())
        .map(|index| region(asked, index))
        .collect::<Result<Vec<_>, _>>()?;
    let seeds: Vec<_> = regions.iter().map(|region| region.nodes[0].cluster).collect();
    let neighbour = regions[0].nodes.get(1).map(|node| node.cluster);
    for node in regions.iter_mut().flat_map(|region| &mut region.nodes) {
        // Everybody starts from the first node. That one starts from another region, so that it
        // finds the others again after it has died.
        let seed = if node.cluster == seeds[0] {
            seeds.get(1).copied().or(neighbour)
        } else {
            Some(seeds[0])
        };
        node.seeds = seed.into_iter().collect();
    }
    Ok(regions)
}

fn refuse_contradictions(asked: &Dev) -> Result<(), Failure> {
    let names = &asked.regions;
    if names.len() > REGIONS_MAX {
        let count = names.len();
        return Err(Failure::usage(format_args!(
            "--regions names {count} regions; a local cluster has at most {REGIONS_MAX}"
        )));
    }
    if let Some(twice) = names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)) {
        return Err(Failure::usage(format_args!("--regions names `{}` twice", twice.1)));
    }
    if asked.nodes_per_region > 1 && asked.store == Store::Memory {
        return Err(Failure::usage(
            "--nodes-per-region above 1 needs --store redis: the nodes of a region share one store, \
             and a memory store is inside one node",
        ));
    }
    let urls = asked.redis_url.len();
    if urls > 0 && asked.store == Store::Memory {
        return Err(Failure::usage("--redis-url needs --store redis"));
    }
    if urls > 0 && urls != names.len() {
        return Err(Failure::usage(format_args!(
            "--redis-url names {urls} stores for {} regions; it takes one per region, in their order",
            names.len()
        )));
    }
    Ok(())
}

fn region(asked: &Dev, index: usize) -> Result<Region, Failure> {
    let name = &asked.regions[index];
    let own = loopback(asked.base_port, 0, index, 4)?;
    let store = match (asked.store, asked.redis_url.get(index)) {
        (Store::Memory, _) => RegionStore::Memory,
        (Store::Redis, None) => RegionStore::OwnRedis(own),
        (Store::Redis, Some(url)) => {
            RegionStore::GivenRedis { url: url.0.clone(), namespace: format!("tidegate-{index}") }
        }
    };
    let nodes = (0..asked.nodes_per_region).map(|number| place(asked, index, number));
    Ok(Region { name: name.clone(), store, nodes: nodes.collect::<Result<_, _>>()? })
}

fn place(asked: &Dev, index: usize, number: u16) -> Result<Place, Failure> {
    let region = &asked.regions[index];
    let id = NodeId::new(region, &format!("{region}-{number}"))
        .map_err(|error| Failure::usage(format_args!("--regions: {error}")))?;
    let port = |offset| loopback(asked.base_port, number, index, offset);
    let (http, grpc, admin, cluster) = (port(0)?, port(1)?, port(2)?, port(3)?);
    Ok(Place { id, http, grpc, admin, cluster, seeds: Vec::new() })
}

/// Port `base + 100 * node + 10 * region + offset`.
fn loopback(base: u16, node: u16, region: usize, offset: u16) -> Result<SocketAddrV4, Failure> {
    let port = usize::from(base) + 100 * usize::from(node) + 10 * region + usize::from(offset);
    let port = u16::try_from(port).map_err(|_| {
        Failure::usage(format_args!(
            "--base-port {base} is too high: this cluster would need port {port}, and ports end at \
             65535"
        ))
    })?;
    Ok(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::arguments::{Arguments, Command};

    fn asked(arguments: &str) -> Dev {
        let words = "tidegate dev --policies p.toml".split(' ').chain(arguments.split(' '));
        match Arguments::try_parse_from(words).expect("fits the tree").command {
            Command::Dev(dev) => dev,
            other => panic!("not dev: {other:?}"),
        }
    }

    fn refusal(arguments: &str) -> String {
        regions(&asked(arguments)).expect_err("contradicts itself").to_string()
    }

    #[test]
    fn ports_follow_region_and_node() {
        let laid =
            regions(&asked("--regions eu,us --store redis --nodes-per-region 2")).expect("fits");
        let us_1 = &laid[1].nodes[1];
        assert_eq!(us_1.id.to_string(), "us/us-1");
        let ports = [us_1.http, us_1.grpc, us_1.admin, us_1.cluster].map(|at| at.port());
        assert_eq!(ports, [18110, 18111, 18112, 18113]);
        assert_eq!(laid[1].store.name(), "redis://127.0.0.1:18014/0");
        assert_eq!(laid[0].nodes[0].http.port(), 18000);
    }

    #[test]
    fn the_password_of_a_given_store_is_not_shown() {
        let asked = asked("--regions eu --store redis --redis-url redis://me:p@ss@redis.test:1/0");
        let store = &regions(&asked).expect("fits")[0].store;
        assert_eq!(store.name(), "redis://redis.test:1/0");
        let RegionStore::GivenRedis { url, .. } = store else { panic!("{store:?}") };
        assert_eq!(url, "redis://me:p@ss@redis.test:1/0", "the node is told it all");
    }

    #[test]
    fn all_nodes_start_from_the_first_and_that_one_from_another_region() {
        let laid =
            regions(&asked("--regions eu,us,ap --store redis --nodes-per-region 2")).expect("fits");
        let first = laid[0].nodes[0].cluster;
        for node in laid.iter().flat_map(|region| &region.nodes) {
            let expected = if node.cluster == first { laid[1].nodes[0].cluster } else { first };
            assert_eq!(node.seeds, [expected], "{}", node.id);
        }
    }

    #[test]
    fn a_lone_region_starts_from_its_own_second_node_or_from_nobody() {
        let alone = regions(&asked("--regions eu")).expect("fits");
        assert!(alone[0].nodes[0].seeds.is_empty());
        let pair =
            regions(&asked("--regions eu --store redis --nodes-per-region 2")).expect("fits");
        assert_eq!(pair[0].nodes[0].seeds, [pair[0].nodes[1].cluster]);
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let eleven: Vec<_> = (0..11).map(|i| format!("r{i}")).collect();
        assert!(refusal(&format!("--regions {}", eleven.join(","))).contains("at most 10"));
        assert!(refusal("--regions eu,us,eu").contains("`eu` twice"));
        assert!(refusal("--regions eu,-us").contains("`-us`"));
        assert!(refusal("--regions eu --nodes-per-region 2").contains("--store redis"));
        assert!(refusal("--regions eu --redis-url a").contains("--store redis"));
        assert!(refusal("--regions eu,us --store redis --redis-url a").contains("one per region"));
        assert!(refusal("--regions eu,us --base-port 65525").contains("65535"));
    }
}
