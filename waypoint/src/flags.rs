//! Response flags: what a waypoint did to a request, in Envoy's words.

use std::fmt;

/// One response flag (Envoy `%RESPONSE_FLAGS%`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Flag {
    /// `DI`: a delay was injected.
    DelayInjected,
    /// `FI`: an abort was injected.
    FaultInjected,
    /// `UT`: the upstream took longer than the request may.
    UpstreamTimeout,
    /// `URX`: the last retry was used up.
    RetryLimit,
    /// `UO`: a circuit breaker was open.
    Overflow,
    /// `UH`: no healthy endpoint.
    NoHealthyUpstream,
    /// `UF`: the connection to the endpoint could not be made.
    UpstreamConnectFailure,
    /// `UC`: the endpoint ended the connection.
    UpstreamTermination,
    /// `UR`: the endpoint reset the stream.
    UpstreamReset,
    /// `NR`: no route.
    NoRoute,
    /// `NC`: the route leads to a service or subset that does not exist.
    NoCluster,
    /// `DC`: the client went away.
    ClientGone,
    /// `DPE`: the request was not HTTP as it should be.
    ProtocolError,
}

impl Flag {
    const ALL: [(Self, &'static str); 13] = [
        (Self::NoHealthyUpstream, "UH"),
        (Self::UpstreamConnectFailure, "UF"),
        (Self::UpstreamTimeout, "UT"),
        (Self::UpstreamTermination, "UC"),
        (Self::UpstreamReset, "UR"),
        (Self::Overflow, "UO"),
        (Self::NoRoute, "NR"),
        (Self::DelayInjected, "DI"),
        (Self::FaultInjected, "FI"),
        (Self::RetryLimit, "URX"),
        (Self::NoCluster, "NC"),
        (Self::ClientGone, "DC"),
        (Self::ProtocolError, "DPE"),
    ];

    fn bit(self) -> u16 {
        1 << self as u8
    }
}

/// A set of response flags.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flags(u16);

impl Flags {
    /// Adds one.
    pub fn set(&mut self, flag: Flag) {
        self.0 |= flag.bit();
    }

    /// Whether one is set.
    pub fn has(self, flag: Flag) -> bool {
        self.0 & flag.bit() != 0
    }
}

impl fmt::Display for Flags {
    /// Comma-separated, in Envoy's order; a dash when there are none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names = Flag::ALL.iter().filter(|(flag, _)| self.has(*flag)).map(|(_, name)| *name);
        f.write_str(names.next().unwrap_or("-"))?;
        names.try_for_each(|name| write!(f, ",{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_print_as_envoys() {
        let mut flags = Flags::default();
        assert_eq!(flags.to_string(), "-");
        for (flag, name) in Flag::ALL {
            let mut one = Flags::default();
            one.set(flag);
            assert_eq!(one.to_string(), name);
            assert!(!flags.has(flag));
            flags.set(flag);
        }
        assert_eq!(flags.to_string(), "UH,UF,UT,UC,UR,UO,NR,DI,FI,URX,NC,DC,DPE");
    }
}
