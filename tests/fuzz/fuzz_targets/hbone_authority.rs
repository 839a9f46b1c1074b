//! Where a CONNECT wants to go: one spelling means one destination, and never one that nobody may reach.

#![no_main]

use std::net::IpAddr;

use common::hbone::request::{Authority, MAX_AUTHORITY_BYTES};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(authority) = Authority::parse(text) else { return };
    assert!(text.len() <= MAX_AUTHORITY_BYTES);
    assert_ne!(authority.port(), 0, "port 0 was accepted");
    let printed = authority.to_string();
    assert_eq!(Authority::parse(&printed).as_ref(), Ok(&authority), "what is printed names another place");
    match &authority {
        Authority::Address(address) => {
            let ip = address.ip();
            assert!(!ip.is_unspecified() && !ip.is_multicast(), "{ip} is no host");
            if let IpAddr::V6(ip) = ip {
                assert_eq!(ip.to_ipv4_mapped(), None, "{ip} hides an IPv4 address from policy");
            } else {
                assert_eq!(printed, text, "an IPv4 address has a second spelling");
            }
        }
        Authority::Hostname { host, .. } => {
            assert!(host.parse::<IpAddr>().is_err(), "{host} is an address that was judged as a name");
            assert!(
                host.bytes().all(|byte| byte.is_ascii_graphic() && !b"/@:[]%".contains(&byte)),
                "{host:?}"
            );
        }
    }
});
