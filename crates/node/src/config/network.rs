//! Networks of addresses, such as `10.0.0.0/8` or `::1/128`.

use std::{fmt, net::IpAddr, str::FromStr};

/// A text that is not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadNetwork {
    /// No address, or no prefix length that fits it.
    #[error(
        "not a network: write an address and how many leading bits count, such as \"10.0.0.0/8\" or \"::1/128\""
    )]
    Form,
    /// The address has bits behind the prefix; here is what it was likely meant to be.
    #[error("not a network, since the address has bits beyond the prefix: write \"{0}\"")]
    HostBits(Network),
}

/// All addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// The lowest address.
    address: IpAddr,
    /// How many leading bits count.
    prefix: u32,
}

impl Network {
    /// Whether an address belongs to it. An IPv4 address may come mapped into IPv6.
    pub fn contains(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && lowest(address, self.prefix) == self.address
    }
}

/// The address with all bits behind the prefix cleared.
fn lowest(address: IpAddr, prefix: u32) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(u32::BITS - prefix).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(u128::BITS - prefix).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

impl FromStr for Network {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        let (address, prefix) = text.split_once('/').ok_or(BadNetwork::Form)?;
        let address: IpAddr = address.parse().map_err(|_| BadNetwork::Form)?;
        let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let bits = if address.is_ipv4() { u32::BITS } else { u128::BITS };
        let prefix = prefix.parse().ok().filter(|prefix| digits && *prefix <= bits);
        let prefix = prefix.ok_or(BadNetwork::Form)?;
        let network = Self { address: lowest(address, prefix), prefix };
        if network.address == address { Ok(network) } else { Err(BadNetwork::HostBits(network)) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_what_begins_like_it() {
        for (network, inside, outside) in [
            (
                "10.0.0.0/8",
                &["10.0.0.0", "10.255.1.2", "::ffff:10.1.2.3"][..],
                &["11.0.0.0", "::a00:0"][..],
            ),
            ("192.0.2.6/31", &["192.0.2.6", "192.0.2.7"], &["192.0.2.5", "192.0.2.8"]),
            ("192.0.2.7/32", &["192.0.2.7"], &["192.0.2.6"]),
            ("0.0.0.0/0", &["1.2.3.4"], &["::1"]),
            ("::1/128", &["::1"], &["::2", "127.0.0.1"]),
            ("2001:db8::/33", &["2001:db8:7fff::1"], &["2001:db8:8000::1"]),
            ("::/0", &["::1", "ffff::"], &["1.2.3.4"]),
        ] {
            let parsed: Network = network.parse().expect(network);
            assert_eq!(parsed.to_string(), network);
            for address in inside {
                assert!(parsed.contains(address.parse().expect(address)), "{network} {address}");
            }
            for address in outside {
                assert!(!parsed.contains(address.parse().expect(address)), "{network} {address}");
            }
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for bad in
            ["", "10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "::/129", "x/8", "10.0.0.0/+8", "10.0/8"]
        {
            assert_eq!(bad.parse::<Network>(), Err(BadNetwork::Form), "{bad}");
        }
        let error = "10.1.2.3/8".parse::<Network>().expect_err("host bits");
        assert!(error.to_string().ends_with("write \"10.0.0.0/8\""), "{error}");
    }
}
