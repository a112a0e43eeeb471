//! A list of IP networks, such as `127.0.0.1/32,10.0.0.0/8,fd00::/8`; an address alone is a network of its own.

use std::net::IpAddr;
use std::str::FromStr;

/// More than a person writes by hand.
const NETWORKS_MAX: usize = 64;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(Vec<Network>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    prefix_bits: u32,
}

impl Networks {
    /// True if one of them holds this address. An IPv4 address mapped to IPv6 counts as the IPv4 address.
    pub fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(address))
    }
}

impl FromStr for Networks {
    type Err = ();

    fn from_str(text: &str) -> Result<Networks, ()> {
        let networks: Vec<Network> = text.split(',').map(|part| part.trim().parse()).collect::<Result<_, _>>()?;
        if networks.len() > NETWORKS_MAX { Err(()) } else { Ok(Networks(networks)) }
    }
}

impl FromStr for Network {
    type Err = ();

    fn from_str(text: &str) -> Result<Network, ()> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(drop)?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix_bits = prefix.map_or(Ok(bits), |prefix| prefix.parse().map_err(drop))?;
        if prefix_bits > bits { Err(()) } else { Ok(Network { address, prefix_bits }) }
    }
}

impl Network {
    fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let difference = u32::from(own) ^ u32::from(other);
                difference.leading_zeros() >= self.prefix_bits
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let difference = u128::from(own) ^ u128::from(other);
                difference.leading_zeros() >= self.prefix_bits
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::check;

    #[test]
    fn an_address_lies_in_a_network_by_its_first_bits() {
        let networks: Networks = "127.0.0.1, 10.1.0.0/16,fd00::/8,0.0.0.0/32".parse().unwrap();
        let addresses = [
            ("127.0.0.1", true),
            ("127.0.0.2", false),
            ("10.1.255.255", true),
            ("10.2.0.0", false),
            ("::ffff:10.1.2.3", true),
            ("fdff::1", true),
            ("fe00::1", false),
            ("0.0.0.0", true),
            ("::", false),
        ];
        check(addresses, |address| networks.contain(address.parse().unwrap()));
        let all: Networks = "0.0.0.0/0".parse().unwrap();
        assert!(all.contain("255.1.2.3".parse().unwrap()) && !all.contain("::1".parse().unwrap()));
        assert!(!Networks::default().contain("127.0.0.1".parse().unwrap()));
        let bad = ["", "localhost", "10.0.0.0/33", "fd00::/129", "10.0.0.0/", "10.0.0.0/-1", "10.0.0.1,"];
        check(bad.map(|text| (text, true)), |text| text.parse::<Networks>().is_err());
    }
}
