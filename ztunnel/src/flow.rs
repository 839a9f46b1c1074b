//! The facts of one connection: whose it is, where it came from, where it was going, and when.
//!
//! The pod is known from the namespace the listening socket lives in, never from an address.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use crate::pods::Pod;

/// Port of captured outbound connections, in each pod's namespace.
pub const OUTBOUND_PORT: u16 = 15001;
/// Port of captured inbound plaintext connections, in each pod's namespace.
pub const PLAINTEXT_PORT: u16 = 15006;
/// Port of HBONE tunnels.
pub const HBONE_PORT: u16 = 15008;

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

/// Whether `port` is one of the proxy's own, so that carrying a connection to it would loop.
pub fn is_own_port(port: u16) -> bool {
    matches!(port, OUTBOUND_PORT | PLAINTEXT_PORT | HBONE_PORT)
}

/// Whether `ip` can be the address of a pod at all.
pub fn is_pod_address(ip: IpAddr) -> bool {
    !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast())
        && match ip {
            IpAddr::V4(v4) => !v4.is_broadcast() && !v4.is_link_local(),
            IpAddr::V6(v6) => !v6.is_unicast_link_local() && v6.to_ipv4_mapped().is_none(),
        }
}
