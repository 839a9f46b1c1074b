//! The facts of one connection: whose it is, where it came from, where it was going, and when.
//!
//! The pod is known from the namespace the listening socket lives in, never from an address.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

pub use common::connection::{HBONE_PORT, OUTBOUND_PORT, PLAINTEXT_PORT, is_own_port};

use crate::pods::Pod;

/// One connection as it was accepted in a pod's namespace.
#[derive(Debug, Clone)]
pub struct Flow {
    /// The pod whose listener accepted it.
    pub pod: Arc<Pod>,
    /// The connecting side's address.
    pub client: SocketAddr,
    /// Where the connecting side wanted to go.
    pub original: SocketAddr,
    /// When it was accepted.
    pub since: Instant,
}

impl Flow {
    /// Makes a flow from an accepted socket's two addresses; v4-mapped addresses become IPv4.
    pub fn new(pod: Arc<Pod>, client: SocketAddr, original: SocketAddr) -> Self {
        Self { pod, client: canonical(client), original: canonical(original), since: Instant::now() }
    }
}

/// The address with a v4-mapped IPv6 address turned into IPv4.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether `ip` can be the address of a pod at all.
pub fn is_pod_address(ip: IpAddr) -> bool {
    !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast())
        && match ip {
            IpAddr::V4(v4) => !v4.is_broadcast() && !v4.is_link_local(),
            IpAddr::V6(v6) => !v6.is_unicast_link_local() && v6.to_ipv4_mapped().is_none(),
        }
}
