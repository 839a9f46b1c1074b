//! The record that one sampled drop leaves in the ring.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An IP address as the programs write it: 16 bytes in network order, an IPv4 address in the first four.
pub type Address = [u8; 16];

/// One sampled drop. Addresses and ports are zero when the packet could not be read so far.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drop {
    /// [`crate::PodConfig::pod_number`] of the pod.
    pub pod_number: u32,
    /// Number of the [`crate::Hook`].
    pub hook: u32,
    /// Number of the [`crate::Verdict`].
    pub verdict: u32,
    /// Index of the interface in the pod's namespace.
    pub interface: u32,
    /// Drops of this kind on this cpu so far, this one included.
    pub seen: u64,
    /// 4, 6, or 0 when unknown.
    pub ip_version: u32,
    /// Source port, host order.
    pub source_port: u16,
    /// Destination port, host order.
    pub destination_port: u16,
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
}

impl Drop {
    /// Bytes of a record.
    pub const SIZE: usize = size_of::<Self>();

    /// Reads a record from the bytes of the ring; none when the length is not [`Self::SIZE`].
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::SIZE] = bytes.try_into().ok()?;
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let half = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let address = |at: usize| core::array::from_fn(|i| bytes[at + i]);
        Some(Self {
            pod_number: word(0),
            hook: word(4),
            verdict: word(8),
            interface: word(12),
            seen: u64::from_ne_bytes(core::array::from_fn(|i| bytes[16 + i])),
            ip_version: word(24),
            source_port: half(28),
            destination_port: half(30),
            source: address(32),
            destination: address(48),
        })
    }

    /// Source and destination, where the packet could be read that far.
    pub fn flow(&self) -> Option<(SocketAddr, SocketAddr)> {
        let ip = |bytes: &Address| match self.ip_version {
            4 => Some(IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))),
            6 => Some(IpAddr::V6(Ipv6Addr::from(*bytes))),
            _ => None,
        };
        Some((
            SocketAddr::new(ip(&self.source)?, self.source_port),
            SocketAddr::new(ip(&self.destination)?, self.destination_port),
        ))
    }
}
