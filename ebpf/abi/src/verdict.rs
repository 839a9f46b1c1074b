//! Every way a packet can leave one of the programs, by a name that is also its metric label.

/// Number of [`Hook`]s.
pub const HOOKS: u32 = 4;

/// Where a program stands; the first half of a counter's index.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    /// Egress of the pod's interfaces.
    CaptureOutbound = 0,
    /// Ingress of `lo`.
    AssignOutbound = 1,
    /// Ingress of the pod's interfaces.
    AssignInbound = 2,
    /// The kernel's search for a listener, where a connection in TIME_WAIT stands in the way of assigning.
    AnswerLookup = 3,
}

impl Hook {
    /// Every hook, in the order of its number.
    pub const ALL: [Self; HOOKS as usize] =
        [Self::CaptureOutbound, Self::AssignOutbound, Self::AssignInbound, Self::AnswerLookup];

    /// Label of the hook in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CaptureOutbound => "capture_outbound",
            Self::AssignOutbound => "assign_outbound",
            Self::AssignInbound => "assign_inbound",
            Self::AnswerLookup => "answer_lookup",
        }
    }

    /// The hook with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|hook| *hook as u32 == number)
    }
}

macro_rules! verdicts {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)*) => {
        /// How a packet left a program. Numbers are part of the layout: they index the counters.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Verdict {
            $($(#[$doc])* $variant = $number,)*
        }

        impl Verdict {
            /// Every verdict, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Label of the verdict in metrics and logs.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

verdicts! {
    /// Carries ztunnel's mark.
    PassOwn = 0, "pass_own";
    /// Neither IPv4 nor IPv6.
    PassNotIp = 1, "pass_not_ip";
    /// IP, but not TCP.
    PassNotTcp = 2, "pass_not_tcp";
    /// A segment of a connection ztunnel does not hold, so one older than enrolment.
    PassOld = 3, "pass_old";
    /// On `lo` for reasons of its own.
    PassLocal = 4, "pass_local";
    /// A segment that arrived on an interface and opens nothing.
    PassSegment = 5, "pass_segment";
    /// A new connection that the pod's annotation leaves to the application.
    PassBypass = 6, "pass_bypass";
    /// A new connection of a pod that is leaving the mesh.
    PassReleased = 7, "pass_released";
    /// A repeated SYN handed to the socket that already stands for its connection.
    PassKnown = 8, "pass_known";
    /// A later fragment, which cannot hold TCP flags.
    PassFragment = 9, "pass_fragment";
    /// A SYN that follows a connection in TIME_WAIT; the listener is named when the kernel asks for it.
    PassTimeWait = 15, "pass_time_wait";
    /// A SYN turned round to the outbound listener.
    SteerSyn = 10, "steer_syn";
    /// Any other segment turned round to the socket that stands in for its destination.
    SteerSegment = 11, "steer_segment";
    /// Given to the outbound listener.
    AssignOutbound = 12, "assign_outbound";
    /// Given to the inbound plaintext listener.
    AssignPlaintext = 13, "assign_plaintext";
    /// Given to the HBONE listener.
    AssignHbone = 14, "assign_hbone";
    /// No listener of the kind is in the map: ztunnel is away, the client will try again.
    DropNoListener = 32, "drop_no_listener";
    /// The kernel refused to assign or look at the socket.
    DropAssignFailed = 33, "drop_assign_failed";
    /// Headers that contradict themselves or end early.
    DropMalformed = 34, "drop_malformed";
    /// More VLAN tags or extension headers than are looked through.
    DropTooDeep = 35, "drop_too_deep";
    /// A fragment that hides, or could overwrite, TCP flags; or a SYN in fragments.
    DropFragment = 36, "drop_fragment";
    /// SYN together with FIN or RST.
    DropOddFlags = 37, "drop_odd_flags";
    /// A VLAN-tagged packet that would have to be steered: what has an interface is captured before the tag.
    DropTagged = 38, "drop_tagged";
    /// A SYN for a connection the pod itself is opening at this moment.
    DropSimultaneousOpen = 39, "drop_simultaneous_open";
    /// A repeated SYN whose handshake is under way; its SYN-ACK is repeated by timer.
    DropRepeatedSyn = 40, "drop_repeated_syn";
    /// A segment of a connection that policy no longer admits.
    DropOld = 41, "drop_old";
    /// The packet could not be rewritten for `lo`.
    DropSteerFailed = 42, "drop_steer_failed";
    /// Anything on an interface whose framing is unknown.
    DropUnknownLink = 43, "drop_unknown_link";
    /// A SYN with a routing header, whose destination is not where it would go.
    DropRoutingHeader = 44, "drop_routing_header";
    /// The pod's configuration is absent or of another layout.
    DropNoConfig = 45, "drop_no_config";
    /// A SYN of ztunnel's own, in the name of a client that uses the same port towards ztunnel at this moment.
    DropCollision = 46, "drop_collision";
    /// A segment of a connection that ztunnel held and holds no more.
    DropOrphan = 47, "drop_orphan";
}

impl Verdict {
    /// Counters reserved per hook; every verdict's number is below it.
    pub const STRIDE: u32 = 64;
    /// Verdicts from this number on are drops.
    pub const FIRST_DROP: u32 = 32;

    /// Whether the packet went no further.
    #[inline(always)]
    pub const fn is_drop(self) -> bool {
        self as u32 >= Self::FIRST_DROP
    }

    /// The verdict with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|verdict| *verdict as u32 == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verdict_has_a_slot_and_says_what_became_of_the_packet() {
        for verdict in Verdict::ALL {
            assert!((*verdict as u32) < Verdict::STRIDE);
            assert_eq!(verdict.is_drop(), verdict.name().starts_with("drop_"), "{verdict:?}");
            assert_eq!(Verdict::from_number(*verdict as u32), Some(*verdict));
        }
    }
}
