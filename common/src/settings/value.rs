//! Values that are more than a number or a text, and how they are read.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// The most worker threads: the kernel programs choose among as many listeners of a pod.
pub const MAX_WORKERS: usize = 16;
/// The fewest worker threads when their number is not given, on machines that have twice as many processors.
const FEWEST_BY_DEFAULT: usize = 2;

/// How many worker threads carry traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workers {
    /// That many.
    Count(usize),
    /// That share of the processors, in percent, rounded up.
    Percent(usize),
}

impl Workers {
    /// The number of threads on a machine with `processors`.
    pub fn threads(self, processors: usize) -> usize {
        match self {
            Self::Count(count) => count,
            Self::Percent(percent) => (processors * percent).div_ceil(100).clamp(1, MAX_WORKERS),
        }
    }

    /// The number when none is given: a quarter of the processors and two at least, as in Istio, but never more than half
    /// of them. Two threads on two processors wake each other, and the applications, more often than they help.
    pub fn default_threads(processors: usize) -> usize {
        let half = (processors / 2).max(1);
        Self::Percent(25).threads(processors).max(FEWEST_BY_DEFAULT.min(half))
    }
}

impl FromStr for Workers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, most, make): (_, _, fn(usize) -> Self) = match text.strip_suffix('%') {
            Some(percent) => (percent, 100, Self::Percent),
            None => (text, MAX_WORKERS, Self::Count),
        };
        match number.parse() {
            Ok(number) if (1..=most).contains(&number) => Ok(make(number)),
            _ => Err(format!(
                "write a number of threads from 1 to {MAX_WORKERS}, or a share of the processors such as 50%"
            )),
        }
    }
}

impl fmt::Display for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// Reads an address to listen on.
pub(super) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write an address and a port such as 127.0.0.1:15000 or [::]:15020".into())
}

/// Reads an address that only processes of this node's own network namespace reach.
pub(super) fn loopback_address(text: &str) -> Result<SocketAddr, String> {
    let address = listen_address(text)?;
    let is_loopback = match address.ip() {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback(),
    };
    if is_loopback {
        return Ok(address);
    }
    Err("the admin server can stop the proxy and shows its configuration: write a loopback address such as \
         127.0.0.1:15000"
        .into())
}
