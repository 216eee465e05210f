//! Which machines are meant: an address, or all that begin alike (CIDR).

use std::net::{IpAddr, Ipv6Addr};

/// `127.0.0.0/8`, `::1`: an address and how many of its bits count.
///
/// IPv4 addresses are held as IPv6 ones (`::ffff:127.0.0.0/104`), as which a socket of both kinds sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    bits: u128,
    mask: u128,
}

impl Network {
    /// Reads a network, or says what one looks like.
    pub fn parse(text: &str) -> Result<Network, String> {
        let parsed = Network::read(text);
        parsed.ok_or_else(|| format!("expected a network such as \"10.0.0.0/8\" or \"::1\", found {text:?}"))
    }

    fn read(text: &str) -> Option<Network> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u32>().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        let host_bits = bits_max - bits.unwrap_or(bits_max).min(bits_max);
        if bits.is_some_and(|bits| bits > bits_max) {
            return None;
        }
        let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
        Some(Network { bits: as_v6(address) & mask, mask })
    }

    /// Whether the address is one of the network's.
    pub fn contains(&self, address: IpAddr) -> bool {
        as_v6(address) & self.mask == self.bits
    }
}

fn as_v6(address: IpAddr) -> u128 {
    let address: Ipv6Addr = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    address.to_bits()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(network: &str, address: &str, contained: bool) {
        let network = Network::parse(network).expect("the network is sound");
        assert_eq!(network.contains(address.parse().expect("an address")), contained, "{address}");
    }

    #[test]
    fn as_many_bits_count_as_were_written() {
        check("127.0.0.0/8", "127.255.0.1", true);
        check("127.0.0.0/8", "128.0.0.1", false);
        check("127.0.0.1/8", "127.9.9.9", true);
        check("10.1.2.3", "10.1.2.3", true);
        check("10.1.2.3", "10.1.2.4", false);
        check("0.0.0.0/0", "8.8.8.8", true);
        check("::1", "::1", true);
        check("fe80::/10", "fe80::1", true);
        check("fe80::/10", "fec0::1", false);
        check("::/0", "8.8.8.8", true);
    }

    #[test]
    fn a_socket_of_both_kinds_sees_the_same_machine() {
        check("127.0.0.0/8", "::ffff:127.0.0.1", true);
        check("0.0.0.0/0", "::1", false);
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["", "localhost", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/x", "10.0.0.0/-1"] {
            assert!(Network::parse(text).is_err(), "{text}");
        }
    }
}
