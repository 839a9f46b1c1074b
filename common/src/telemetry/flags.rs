//! Response flags: what a waypoint did to a request or a connection, in Envoy's words.
//!
//! Knows only the words. They stand in the access log and as the label `response_flags`, where Kiali and people's own
//! alerts look for exactly these.

use std::fmt;

/// One response flag (Envoy `%RESPONSE_FLAGS%`), in the order in which Envoy writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Flag {
    /// `UH`: no healthy endpoint.
    NoHealthyUpstream,
    /// `UT`: the upstream took longer than the request may.
    UpstreamTimeout,
    /// `LR`: the stream to the endpoint was reset here.
    LocalReset,
    /// `UR`: the endpoint reset the stream.
    UpstreamReset,
    /// `UF`: the connection to the endpoint could not be made.
    UpstreamConnectFailure,
    /// `UC`: the endpoint ended the connection.
    UpstreamTermination,
    /// `UO`: a circuit breaker was open.
    Overflow,
    /// `NR`: no route.
    NoRoute,
    /// `DI`: a delay was injected.
    DelayInjected,
    /// `FI`: an abort was injected.
    FaultInjected,
    /// `RL`: a rate limit was reached.
    RateLimited,
    /// `UAEX`: an external authorizer said no, or said nothing.
    ExternallyDenied,
    /// `DC`: the client went away.
    ClientGone,
    /// `URX`: the last retry was used up.
    RetryLimit,
    /// `SI`: nothing moved on the stream for too long.
    StreamIdle,
    /// `IH`: a header that steers the proxy has a value that it cannot have.
    InvalidHeader,
    /// `DPE`: the request was not HTTP as it should be.
    ProtocolError,
    /// `UMSDR`: the stream to the endpoint lasted longer than it may.
    MaxDuration,
    /// `DT`: the request, or the connection, lasted longer than it may.
    DurationTimeout,
    /// `UPE`: the answer was not HTTP as it should be.
    UpstreamProtocolError,
    /// `NC`: the route leads to a service or subset that does not exist.
    NoCluster,
    /// `OM`: shed because the proxy has too much to do.
    Overload,
}

impl Flag {
    /// Each with its word, in the order of writing.
    const ALL: [(Self, &'static str); 22] = [
        (Self::NoHealthyUpstream, "UH"),
        (Self::UpstreamTimeout, "UT"),
        (Self::LocalReset, "LR"),
        (Self::UpstreamReset, "UR"),
        (Self::UpstreamConnectFailure, "UF"),
        (Self::UpstreamTermination, "UC"),
        (Self::Overflow, "UO"),
        (Self::NoRoute, "NR"),
        (Self::DelayInjected, "DI"),
        (Self::FaultInjected, "FI"),
        (Self::RateLimited, "RL"),
        (Self::ExternallyDenied, "UAEX"),
        (Self::ClientGone, "DC"),
        (Self::RetryLimit, "URX"),
        (Self::StreamIdle, "SI"),
        (Self::InvalidHeader, "IH"),
        (Self::ProtocolError, "DPE"),
        (Self::MaxDuration, "UMSDR"),
        (Self::DurationTimeout, "DT"),
        (Self::UpstreamProtocolError, "UPE"),
        (Self::NoCluster, "NC"),
        (Self::Overload, "OM"),
    ];

    fn bit(self) -> u32 {
        1 << self as u8
    }
}

/// A set of response flags.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flags(u32);

impl Flags {
    /// None.
    pub const NONE: Self = Self(0);

    /// Adds one.
    pub fn set(&mut self, flag: Flag) {
        self.0 |= flag.bit();
    }

    /// Whether one is set.
    pub fn has(self, flag: Flag) -> bool {
        self.0 & flag.bit() != 0
    }

    /// The set as a number, for a key.
    pub(super) fn bits(self) -> u32 {
        self.0
    }
}

impl From<Flag> for Flags {
    fn from(flag: Flag) -> Self {
        Self(flag.bit())
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
        for (place, (flag, name)) in Flag::ALL.into_iter().enumerate() {
            assert_eq!(flag as usize, place, "{name} is out of order");
            assert_eq!(Flags::from(flag).to_string(), name);
            assert!(!flags.has(flag));
            flags.set(flag);
            assert!(flags.has(flag));
        }
        assert_eq!(
            flags.to_string(),
            "UH,UT,LR,UR,UF,UC,UO,NR,DI,FI,RL,UAEX,DC,URX,SI,IH,DPE,UMSDR,DT,UPE,NC,OM"
        );
    }
}
