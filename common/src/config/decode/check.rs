//! The alphabets and ranges that every value from outside must keep to.
//!
//! Kubernetes' own rules (RFC 1123 names, label values); a value that needs repair is refused, not repaired, with one
//! exception: an IPv4 address written as IPv6 (`::ffff:10.0.0.1`) is taken as the IPv4 address it is.

use std::net::IpAddr;

use ipnet::IpNet;

/// Longest DNS label in bytes (RFC 1123).
pub const MAX_LABEL_BYTES: usize = 63;
/// Longest DNS name in bytes (RFC 1123).
pub const MAX_NAME_BYTES: usize = 253;
/// Longest `ebb.dev/netns` path in bytes (Linux PATH_MAX).
pub const MAX_PATH_BYTES: usize = 4096;

/// Whether `name` is an RFC 1123 label: a namespace or a service.
pub fn is_dns_label(name: &str) -> bool {
    let inner = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
    (1..=MAX_LABEL_BYTES).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Whether `name` is an RFC 1123 name of one or more labels: a pod, a node, an account, a policy.
pub fn is_dns_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name.split('.').all(is_dns_label)
}

/// Whether `value` may be the value of a label (Kubernetes: 63 of letters, digits, `-_.`). It ends in metrics and
/// headers, where any other byte could be read as something else.
pub fn is_label_value(value: &str) -> bool {
    value.len() <= MAX_LABEL_BYTES && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// An address that a pod, service or endpoint can have, in canonical form.
///
/// # Errors
/// In words, when it is no address or one that nothing remote can have.
pub fn address(text: &str) -> Result<IpAddr, String> {
    let parsed: IpAddr = text.parse().map_err(|_| format!("{text:?} is not an IP address"))?;
    let canonical = parsed.to_canonical();
    if canonical.is_loopback() || canonical.is_unspecified() || canonical.is_multicast() {
        return Err(format!("{text} is a loopback, unspecified or multicast address"));
    }
    Ok(canonical)
}

/// A network: `10.0.0.0/8`, or one address.
///
/// # Errors
/// In words. IPv4 networks written as IPv6 are refused, because a policy that means one thing and says another is
/// better corrected by its author.
pub fn network(text: &str) -> Result<IpNet, String> {
    let parsed = if text.contains('/') {
        text.parse::<IpNet>().ok()
    } else {
        text.parse::<IpAddr>().ok().map(IpNet::from)
    };
    let network = parsed.ok_or_else(|| format!("{text:?} is not an IP address or CIDR"))?;
    if network.addr() != network.addr().to_canonical() {
        return Err(format!("{text} is an IPv4 network written as IPv6; write it as IPv4"));
    }
    Ok(network.trunc())
}

/// A port from a number.
///
/// # Errors
/// In words, unless it is 1..=65535.
pub fn port(number: u64) -> Result<u16, String> {
    u16::try_from(number)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| format!("{number} is not a port, 1 to 65535"))
}

/// A port from a policy's string.
///
/// # Errors
/// In words; a leading zero is refused, because some parsers read it as octal.
pub fn port_text(text: &str) -> Result<u16, String> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) || text.starts_with('0') {
        return Err(format!("{text:?} is not a port, 1 to 65535 without leading zeros"));
    }
    text.parse::<u64>().map_err(|_| format!("{text:?} is not a port")).and_then(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_kubernetes_takes_are_taken() {
        for good in ["a", "a-1", "0a", &"a".repeat(63)] {
            assert!(is_dns_label(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "a b", "a\0", "é", &"a".repeat(64)] {
            assert!(!is_dns_label(bad), "{bad:?}");
        }
        assert!(is_dns_name("a.b-1.c"));
        for bad in ["", ".", "a..b", "a.", ".a", "a.B", &"a.".repeat(200)] {
            assert!(!is_dns_name(bad), "{bad:?}");
        }
        assert!(is_label_value("") && is_label_value("v1.2_x-Y"));
        assert!(!is_label_value("a b") && !is_label_value("a,b") && !is_label_value(&"a".repeat(64)));
    }

    #[test]
    fn addresses_are_canonical_and_of_someone_else() {
        assert_eq!(address("::ffff:10.0.0.1").unwrap(), "10.0.0.1".parse::<IpAddr>().unwrap());
        assert_eq!(address("fd00::1").unwrap(), "fd00::1".parse::<IpAddr>().unwrap());
        for bad in [
            "",
            "10.0.0",
            "010.0.0.1",
            "127.0.0.1",
            "::1",
            "::ffff:127.0.0.1",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "fe80::1%eth0",
            " 10.0.0.1",
            "10.0.0.1:80",
        ] {
            assert!(address(bad).is_err(), "{bad:?}");
        }
        assert_eq!(network("10.1.2.3/8").unwrap(), "10.0.0.0/8".parse::<IpNet>().unwrap());
        assert_eq!(network("10.1.2.3").unwrap(), "10.1.2.3/32".parse::<IpNet>().unwrap());
        for bad in ["::ffff:10.0.0.0/104", "::ffff:10.0.0.1", "10.0.0.0/33", "10.0.0.0/", "x"] {
            assert!(network(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ports_are_1_to_65535() {
        assert_eq!((port(1), port(65535)), (Ok(1), Ok(65535)));
        assert!(port(0).is_err() && port(65536).is_err());
        assert_eq!(port_text("8080"), Ok(8080));
        for bad in ["", "0", "080", "65536", "-1", "+1", "http", "80 ", "99999999999999999999999"] {
            assert!(port_text(bad).is_err(), "{bad:?}");
        }
    }
}
