//! How far the regions of a local cluster are from each other, and the file that tells a node.

use std::fmt::Write;

use tidegate_core::wan::typical_round_trip;

use super::layout::Region;
use crate::cli::arguments::Wan;

/// The file for the nodes of `own`: every other region, its cluster addresses, and how far it is.
///
/// Without a round trip the region is as near as this machine; it is named all the same, so that a
/// node knows which addresses a fault towards that region means.
pub(super) fn file(own: &str, regions: &[Region], wan: Wan) -> String {
    let mut text = String::from("# What this node must know to imitate a wide area network.\n");
    for region in regions.iter().filter(|region| region.name != own) {
        let addresses: Vec<_> =
            region.nodes.iter().map(|node| format!("\"{}\"", node.cluster)).collect();
        let name = &region.name;
        let addresses = addresses.join(", ");
        let mut link = format!("\n[[link]]\nregion = \"{name}\"\naddresses = [{addresses}]\n");
        if wan == Wan::Typical {
            let ms = typical_round_trip(own, name).as_millis();
            writeln!(link, "round_trip = \"{ms}ms\"").expect("a string takes all text");
        }
        text.push_str(&link);
    }
    text
}

#[cfg(test)]
mod tests {
    use tidegate_core::ids::NodeId;

    use super::*;
    use crate::dev::layout::{Place, RegionStore};

    fn region(name: &str, ports: &[u16]) -> Region {
        let at = |port| std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, port);
        let node = |port: &u16| Place {
            id: NodeId::new(name, &format!("{name}-{port}")).expect("a name"),
            http: at(1),
            grpc: at(2),
            admin: at(3),
            cluster: at(*port),
            seeds: Vec::new(),
        };
        let nodes = ports.iter().map(node).collect();
        Region { name: name.into(), store: RegionStore::Memory, nodes }
    }

    #[test]
    fn the_file_names_every_other_region_with_all_its_nodes() {
        let regions = [region("eu", &[13]), region("us", &[23, 123]), region("ap", &[33])];
        let text = file("eu", &regions, Wan::Typical);
        let table: toml::Table = text.parse().expect("is TOML");
        let links = table["link"].as_array().expect("an array");
        assert_eq!(links.len(), 2);
        assert_eq!(links[0]["region"].as_str(), Some("us"));
        let addresses = links[0]["addresses"].as_array().expect("an array");
        assert_eq!(addresses[1].as_str(), Some("127.0.0.1:123"));
        assert_eq!(links[0]["round_trip"].as_str(), Some("80ms"));
        assert_eq!(links[1]["round_trip"].as_str(), Some("180ms"));
    }

    #[test]
    fn without_a_wide_area_there_is_no_round_trip() {
        let text = file("eu", &[region("eu", &[13]), region("us", &[23])], Wan::None);
        assert!(text.contains("\"us\"") && !text.contains("round_trip"));
    }
}
