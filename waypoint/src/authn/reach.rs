//! Which addresses keys may be fetched from. Pure.
//!
//! Whoever may write a RequestAuthentication may have this process call any URL. It calls no process of its own machine or
//! pod, and no service that clouds run on link-local addresses for whoever asks from there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Amazon's metadata service, which is not link-local over IPv6.
const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Whether keys may be fetched from an address.
pub fn may_reach(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => may_reach_v4(address),
        IpAddr::V6(address) => {
            !(address.is_loopback()
                || address.is_unspecified()
                || address.is_multicast()
                || address.is_unicast_link_local()
                || address == METADATA)
                && embedded(address).is_none_or(may_reach_v4)
        }
    }
}

fn may_reach_v4(address: Ipv4Addr) -> bool {
    // "This network" (RFC 1122) is this machine where it is anything.
    let this = address.octets()[0] == 0;
    !(this
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast())
}

/// The IPv4 address that a translator on the way would make of it: NAT64 (RFC 6052), 6to4, and the compatible form.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match [a, b, c, d, e, f] {
        [0x64, 0xff9b, 0, 0, 0, 0] | [0, 0, 0, 0, 0, 0] => Some(v4(g, h)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_own_machine_and_nothing_link_local_is_reached() {
        for text in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
        ] {
            assert!(!may_reach(text.parse().unwrap()), "{text}");
        }
        for text in ["10.0.0.1", "192.168.1.1", "8.8.8.8", "fd00::1", "2001:db8::1", "64:ff9b::808:808"] {
            assert!(may_reach(text.parse().unwrap()), "{text}");
        }
    }
}
