//! Which addresses are somewhere on the internet, and which are not.
//!
//! By the special-purpose registries of IANA (RFC 6890 and what updates it), and by the addresses under which clouds
//! answer with a machine's secrets. Addresses that carry an IPv4 address inside are judged by it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use thiserror::Error;

/// Why an address may not be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// This machine.
    #[error("a loopback address")]
    Loopback,
    /// No address at all.
    #[error("an unspecified address")]
    Unspecified,
    /// The network that this machine stands in.
    #[error("a link-local address")]
    LinkLocal,
    /// A private network.
    #[error("a private address")]
    Private,
    /// What clouds tell a machine about itself.
    #[error("a metadata address")]
    Metadata,
    /// Reserved, for documentation, for many receivers, or for a transition that leads anywhere.
    #[error("an address that is not on the internet")]
    Special,
}

/// Checks an address.
///
/// # Errors
/// Why it may not be reached.
pub fn check(address: IpAddr) -> Result<(), Refused> {
    match address {
        IpAddr::V4(address) => check_v4(address),
        IpAddr::V6(address) => check_v6(address),
    }
}

/// Networks of IPv4: address, length of the prefix, what they are. The first that holds decides.
const V4: &[([u8; 4], u32, Refused)] = &[
    ([169, 254, 169, 254], 32, Refused::Metadata),
    // Amazon's for containers, and where its credentials come from.
    ([169, 254, 170, 0], 24, Refused::Metadata),
    ([100, 100, 100, 200], 32, Refused::Metadata),
    ([192, 0, 0, 192], 32, Refused::Metadata),
    // Among the public ones, but a machine's own host in Azure.
    ([168, 63, 129, 16], 32, Refused::Metadata),
    ([0, 0, 0, 0], 8, Refused::Unspecified),
    ([127, 0, 0, 0], 8, Refused::Loopback),
    ([169, 254, 0, 0], 16, Refused::LinkLocal),
    ([10, 0, 0, 0], 8, Refused::Private),
    ([172, 16, 0, 0], 12, Refused::Private),
    ([192, 168, 0, 0], 16, Refused::Private),
    // Shared between a carrier and its customers.
    ([100, 64, 0, 0], 10, Refused::Private),
    ([192, 0, 0, 0], 24, Refused::Special),
    ([192, 0, 2, 0], 24, Refused::Special),
    ([192, 88, 99, 0], 24, Refused::Special),
    ([198, 18, 0, 0], 15, Refused::Special),
    ([198, 51, 100, 0], 24, Refused::Special),
    ([203, 0, 113, 0], 24, Refused::Special),
    ([224, 0, 0, 0], 4, Refused::Special),
    ([240, 0, 0, 0], 4, Refused::Special),
];

fn check_v4(address: Ipv4Addr) -> Result<(), Refused> {
    let bits = address.to_bits();
    let holds = |&&(network, length, _): &&([u8; 4], u32, Refused)| {
        let mask = u32::MAX << (32 - length);
        bits & mask == Ipv4Addr::from(network).to_bits()
    };
    V4.iter().find(holds).map_or(Ok(()), |(_, _, why)| Err(*why))
}

/// Networks of IPv6, as those of IPv4.
const V6: &[(Ipv6Addr, u32, Refused)] = &[
    (Ipv6Addr::UNSPECIFIED, 128, Refused::Unspecified),
    (Ipv6Addr::LOCALHOST, 128, Refused::Loopback),
    (Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), 128, Refused::Metadata),
    (Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254), 128, Refused::Metadata),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10, Refused::LinkLocal),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, Refused::Private),
    // Site-local, given up in favour of the above and still in use.
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10, Refused::Private),
    // A translation that an operator has for its own use.
    (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48, Refused::Private),
    // Protocols, benchmarks, and Teredo, which leads to whatever its servers say.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, Refused::Special),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, Refused::Special),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, Refused::Special),
];

fn check_v6(address: Ipv6Addr) -> Result<(), Refused> {
    let bits = address.to_bits();
    let within =
        |network: Ipv6Addr, length: u32| bits >> (128 - length) == network.to_bits() >> (128 - length);
    if let Some((_, _, why)) = V6.iter().find(|(network, length, _)| within(*network, *length)) {
        return Err(*why);
    }
    if let Some(inside) = inside(address) {
        return check_v4(inside);
    }
    // Only this eighth is handed out; everything else is reserved or for many receivers.
    if within(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3) { Ok(()) } else { Err(Refused::Special) }
}

/// The IPv4 address that an IPv6 address stands for.
fn inside(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let segments = address.segments();
    let of = |high: u16, low: u16| Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match segments {
        // Mapped (::ffff:0:0/96), and compatible (::/96), which was given up.
        [0, 0, 0, 0, 0, 0xffff | 0, high, low] => of(high, low),
        // Mapped once more, by translators (::ffff:0:0:0/96).
        [0, 0, 0, 0, 0xffff, 0, high, low] => of(high, low),
        // NAT64.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => of(high, low),
        // 6to4.
        [0x2002, high, low, ..] => of(high, low),
        // ISATAP, under whatever prefix.
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => of(high, low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(text: &str) -> Result<(), Refused> {
        check(text.parse().expect(text))
    }

    #[test]
    fn what_is_on_the_internet_may_be_reached() {
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.1",
            "100.63.255.255",
            "100.128.0.1",
            "126.255.255.255",
            "128.0.0.1",
            "169.253.1.1",
            "172.15.255.255",
            "172.32.0.1",
            "192.167.1.1",
            "192.169.1.1",
            "198.17.255.255",
            "198.20.0.1",
            "223.255.255.255",
            "2001:4860:4860::8888",
            "2606:4700:4700::1111",
            "2a00:1450:4001::1",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
        ] {
            assert_eq!(verdict(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_is_not_is_refused_and_said_why() {
        use Refused::{LinkLocal, Loopback, Metadata, Private, Special, Unspecified};
        for (text, why) in [
            ("0.0.0.0", Unspecified),
            ("0.1.2.3", Unspecified),
            ("127.0.0.1", Loopback),
            ("127.255.255.254", Loopback),
            ("10.0.0.1", Private),
            ("10.255.255.255", Private),
            ("172.16.0.1", Private),
            ("172.31.255.255", Private),
            ("192.168.0.1", Private),
            ("100.64.0.1", Private),
            ("100.127.255.255", Private),
            ("100.100.100.200", Metadata),
            ("169.254.0.1", LinkLocal),
            ("169.254.169.254", Metadata),
            ("169.254.170.2", Metadata),
            ("168.63.129.16", Metadata),
            ("192.0.0.192", Metadata),
            ("192.0.0.1", Special),
            ("192.0.2.1", Special),
            ("192.88.99.1", Special),
            ("198.18.0.1", Special),
            ("198.19.255.255", Special),
            ("198.51.100.7", Special),
            ("203.0.113.7", Special),
            ("224.0.0.1", Special),
            ("239.255.255.250", Special),
            ("240.0.0.1", Special),
            ("255.255.255.255", Special),
            ("::", Unspecified),
            ("::1", Loopback),
            ("fe80::1", LinkLocal),
            ("febf::1", LinkLocal),
            ("fec0::1", Private),
            ("fc00::1", Private),
            ("fd12:3456::1", Private),
            ("fd00:ec2::254", Metadata),
            ("fd20:ce::254", Metadata),
            ("ff02::1", Special),
            ("100::1", Special),
            ("2001::1", Special),
            ("2001:0:4136:e378:8000:63bf:3fff:fdd2", Special),
            ("2001:db8::1", Special),
            ("3fff::1", Special),
            ("5f00::1", Special),
            ("4000::1", Special),
            ("::ffff:127.0.0.1", Loopback),
            ("::ffff:10.1.2.3", Private),
            ("::ffff:169.254.169.254", Metadata),
            ("::ffff:0.0.0.0", Unspecified),
            ("::127.0.0.1", Loopback),
            ("::ffff:0:127.0.0.1", Loopback),
            ("64:ff9b::7f00:1", Loopback),
            ("64:ff9b::a9fe:a9fe", Metadata),
            ("64:ff9b:1::808:808", Private),
            ("2002:7f00:1::1", Loopback),
            ("2002:a9fe:a9fe::1", Metadata),
            ("2002:c0a8:1::1", Private),
            ("2606:4700::5efe:10.0.0.1", Private),
            ("2606:4700::200:5efe:127.0.0.1", Loopback),
        ] {
            assert_eq!(verdict(text), Err(why), "{text}");
        }
    }
}
