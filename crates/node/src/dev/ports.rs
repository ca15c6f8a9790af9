//! Finds out whether all ports are free before anything starts.

use std::{
    io,
    net::{SocketAddrV4, TcpListener, UdpSocket},
};

use super::layout::{Region, RegionStore};
use crate::cli::exit::Failure;

/// Fails with the first port that cannot be had.
///
/// Somebody may still take a port between the probe and the start; then the node says so itself.
pub(super) fn must_be_free(regions: &[Region]) -> Result<(), Failure> {
    // All are held until the last has been tried: two uses of one port are found as well.
    let mut held = Vec::new();
    for region in regions {
        if let RegionStore::OwnRedis(address) = region.store {
            held.push(Held::tcp(address).map_err(|error| taken("Redis", address, &error))?);
        }
        for node in &region.nodes {
            for (purpose, address) in
                [("HTTP", node.http), ("gRPC", node.grpc), ("admin", node.admin)]
            {
                held.push(Held::tcp(address).map_err(|error| taken(purpose, address, &error))?);
            }
            let udp = Held::udp(node.cluster);
            held.push(udp.map_err(|error| taken("cluster, UDP", node.cluster, &error))?);
        }
    }
    drop(held);
    Ok(())
}

/// A port that is ours for the moment.
enum Held {
    Tcp { _listener: TcpListener },
    Udp { _socket: UdpSocket },
}

impl Held {
    fn tcp(address: SocketAddrV4) -> io::Result<Self> {
        Ok(Self::Tcp { _listener: TcpListener::bind(address)? })
    }

    fn udp(address: SocketAddrV4) -> io::Result<Self> {
        Ok(Self::Udp { _socket: UdpSocket::bind(address)? })
    }
}

fn taken(purpose: &str, address: SocketAddrV4, error: &io::Error) -> Failure {
    let port = address.port();
    let what = match error.kind() {
        io::ErrorKind::AddrInUse => "is in use".into(),
        _ => format!("cannot be had: {error}"),
    };
    Failure::usage(format_args!(
        "port {port} ({purpose}) {what}; nothing was started. Free it, or choose another --base-port"
    ))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tidegate_core::ids::NodeId;

    use super::*;
    use crate::{cli::exit::Exit, dev::layout::Place};

    /// Five ports that are free now, and one region that uses them.
    fn region() -> Region {
        let listeners: Vec<_> =
            (0..4).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port")).collect();
        let port = |i: usize| {
            let port = listeners[i].local_addr().expect("bound").port();
            SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)
        };
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let cluster =
            SocketAddrV4::new(Ipv4Addr::LOCALHOST, udp.local_addr().expect("bound").port());
        let place = Place {
            id: NodeId::new("eu", "eu-0").expect("a name"),
            http: port(0),
            grpc: port(1),
            admin: port(2),
            cluster,
            seeds: Vec::new(),
        };
        let store = RegionStore::OwnRedis(port(3));
        Region { name: "eu".into(), store, nodes: vec![place] }
    }

    #[test]
    fn a_taken_port_is_named() {
        let region = region();
        let node = &region.nodes[0];
        let tcp = TcpListener::bind(node.admin).expect("was free");
        let failure = must_be_free(std::slice::from_ref(&region)).expect_err("admin is taken");
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.to_string().contains(&format!("port {} (admin)", node.admin.port())));
        drop(tcp);

        let _udp = UdpSocket::bind(node.cluster).expect("was free");
        let failure = must_be_free(std::slice::from_ref(&region)).expect_err("cluster is taken");
        assert!(failure.to_string().contains(&format!("port {} (clu", node.cluster.port())));
    }

    #[test]
    fn one_port_for_two_uses_is_found() {
        let mut region = region();
        region.nodes[0].grpc = region.nodes[0].http;
        assert!(must_be_free(&[region]).is_err());
    }
}
