//! Lists of addresses and ranges of them.

use std::net::IpAddr;

/// Addresses and ranges (`10.0.0.0/8, ::1`). An IPv4 address mapped into IPv6 counts as the IPv4 address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(Vec<(IpAddr, u8)>);

impl Networks {
    /// Reads a list separated by commas; `None` where an entry is no address and no range.
    pub fn parse(text: &str) -> Option<Self> {
        text.split(',').map(|entry| network(entry.trim())).collect::<Option<_>>().map(Self)
    }

    /// Whether `address` is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|(base, bits)| match (base, address) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(*bits)).unwrap_or(0);
                base.to_bits() & mask == address.to_bits() & mask
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(*bits)).unwrap_or(0);
                base.to_bits() & mask == address.to_bits() & mask
            }
            _ => false,
        })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn network(entry: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = match entry.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse::<u8>().ok()?)),
        None => (entry, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.unwrap_or(most);
    // A mapped address has the same last bits as the one that it stands for.
    match (address, address.to_canonical()) {
        (IpAddr::V6(_), IpAddr::V4(inner)) => {
            (96..=128).contains(&bits).then(|| (IpAddr::V4(inner), bits - 96))
        }
        _ => (bits <= most).then_some((address, bits)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_hold_what_begins_alike() {
        let networks =
            Networks::parse("10.0.0.0/8, 192.168.1.7,2001:db8::/32 ,::ffff:172.16.0.0/108").unwrap();
        for inside in ["10.255.0.1", "192.168.1.7", "2001:db8:1::5", "::ffff:10.1.2.3", "172.31.0.1"] {
            assert!(networks.contains(address(inside)), "{inside}");
        }
        for outside in ["11.0.0.1", "192.168.1.8", "2001:db9::1", "::1", "172.32.0.1"] {
            assert!(!networks.contains(address(outside)), "{outside}");
        }
        let all = Networks::parse("0.0.0.0/0").unwrap();
        assert!(all.contains(address("1.2.3.4")) && !all.contains(address("::1")));
        assert!(Networks::parse("::/0").unwrap().contains(address("fe80::1")));
        assert!(Networks::default().is_empty());
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for bad in ["", "10.0.0.0/33", "10.0.0.0/x", "::/129", "localhost", "10.0.0.1,", "::ffff:10.0.0.0/8"]
        {
            assert_eq!(Networks::parse(bad), None, "{bad}");
        }
    }
}
