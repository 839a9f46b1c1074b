//! The `:authority` of a CONNECT, typed so that what was judged is what is connected to.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;

/// The longest authority accepted, in bytes: a full DNS name, a colon and five digits.
pub const MAX_AUTHORITY_BYTES: usize = MAX_HOSTNAME_BYTES + 6;

const MAX_HOSTNAME_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

/// Where a tunnel is to end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Authority {
    /// `10.0.0.7:8080` or `[fd00::7]:8080`: never v4-mapped, unspecified, multicast or port 0.
    Address(SocketAddr),
    /// `web.shop.svc.cluster.local:80`: a service on another network. Lower case, no trailing dot, and never a
    /// name that some resolver would read as an IPv4 address.
    Hostname {
        /// The name.
        host: Arc<str>,
        /// The service port.
        port: NonZeroU16,
    },
}

/// Why a string is not an authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAuthority {
    /// Empty.
    #[error("missing")]
    Missing,
    /// Longer than [`MAX_AUTHORITY_BYTES`].
    #[error("longer than {MAX_AUTHORITY_BYTES} bytes")]
    TooLong,
    /// No port, port 0, or not a plain decimal up to 65535.
    #[error("the port is not 1 to 65535 in plain decimal")]
    Port,
    /// Neither an address nor a DNS name, or with user information or a zone.
    #[error("neither an IP address nor a DNS name")]
    Host,
    /// An address nobody can be at: v4-mapped, unspecified, multicast or broadcast.
    #[error("not the address of one host")]
    Address,
}

impl Authority {
    /// Reads an authority. There is one spelling of each IPv4 address and port; IPv6 is taken in any valid text form
    /// without a zone and printed canonically.
    ///
    /// # Errors
    /// [`InvalidAuthority`] for everything else.
    pub fn parse(text: &str) -> Result<Self, InvalidAuthority> {
        if text.is_empty() {
            return Err(InvalidAuthority::Missing);
        }
        if text.len() > MAX_AUTHORITY_BYTES {
            return Err(InvalidAuthority::TooLong);
        }
        if let Some(rest) = text.strip_prefix('[') {
            let (address, port) = rest.split_once("]:").ok_or(InvalidAuthority::Port)?;
            let port = parse_port(port)?;
            let address: Ipv6Addr = address.parse().map_err(|_| InvalidAuthority::Host)?;
            return Self::address(SocketAddr::new(address.into(), port.get()));
        }
        let (host, port) = text.split_once(':').ok_or(InvalidAuthority::Port)?;
        let port = parse_port(port)?;
        if let Ok(address) = host.parse::<Ipv4Addr>() {
            return Self::address(SocketAddr::new(address.into(), port.get()));
        }
        if !is_hostname(host) {
            return Err(InvalidAuthority::Host);
        }
        Ok(Self::Hostname { host: host.into(), port })
    }

    /// The authority that stands for `address`.
    ///
    /// # Errors
    /// [`InvalidAuthority`] when it cannot be the address of one host, or has port 0.
    pub fn address(address: SocketAddr) -> Result<Self, InvalidAuthority> {
        if address.port() == 0 {
            return Err(InvalidAuthority::Port);
        }
        if !is_one_host(address.ip()) {
            return Err(InvalidAuthority::Address);
        }
        // Scope and flow label are not part of what is printed, so they must not be part of what is compared.
        Ok(Self::Address(SocketAddr::new(address.ip(), address.port())))
    }

    /// The port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Address(address) => address.port(),
            Self::Hostname { port, .. } => port.get(),
        }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Hostname { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

fn is_one_host(address: IpAddr) -> bool {
    if address.is_unspecified() || address.is_multicast() {
        return false;
    }
    match address {
        IpAddr::V4(v4) => !v4.is_broadcast(),
        // The v4 address inside would be judged as one thing and connected to as another.
        IpAddr::V6(v6) => v6.to_ipv4_mapped().is_none(),
    }
}

/// Plain decimal: no sign, no leading zero.
pub(super) fn parse_port(text: &str) -> Result<NonZeroU16, InvalidAuthority> {
    if text.starts_with('0') || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(InvalidAuthority::Port);
    }
    text.parse().map_err(|_| InvalidAuthority::Port)
}

/// A lower-case DNS name whose last label cannot be read as a number: `127.1`, `0x7f.1` and `2130706433` are
/// addresses to some resolvers.
pub(super) fn is_hostname(host: &str) -> bool {
    if host.is_empty() || host.len() > MAX_HOSTNAME_BYTES {
        return false;
    }
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= MAX_LABEL_BYTES
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    };
    let last = host.rsplit('.').next().unwrap_or_default();
    host.split('.').all(is_label) && !last.starts_with(|c: char| c.is_ascii_digit())
}
