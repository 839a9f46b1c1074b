//! Every way round redirection that we know of, as frames, with what must become of them.

use ebb_loader::abi::Verdict::{self, *};

use super::{
    PEER4, PEER6, POD4, POD6,
    frames::{
        ACK, DESTINATION, FIN, FRAGMENT, Frame, HOP_BY_HOP, PSH, ROUTING, RST, SYN, fragment, padding,
        segment,
    },
};

pub(crate) fn out4(flags: u8) -> Frame {
    Frame::tcp((POD4, 4000), (PEER4, 80), flags, b"")
}

pub(crate) fn out6(flags: u8) -> Frame {
    Frame::tcp((POD6, 4000), (PEER6, 80), flags, b"")
}

/// A name, a frame, and what egress and ingress make of it.
type Way = (&'static str, Frame, Verdict, Verdict);

/// One line per way round redirection. Where a SYN would be given to a listener the answer is "no listener", because
/// the bench has none.
pub(crate) fn ways_round() -> Vec<Way> {
    let mut all = openings();
    all.extend(fragments());
    all.extend(others());
    all
}

fn opens(name: &'static str, frame: Frame) -> Way {
    (name, frame, SteerSyn, DropNoListener)
}

fn both(name: &'static str, frame: Frame, verdict: Verdict) -> Way {
    (name, frame, verdict, verdict)
}

fn tagged(frame: Frame, tags: &[u16]) -> Frame {
    frame.with(|f| f.tags = tags.iter().map(|tag| (*tag, 100)).collect())
}

fn extended(frame: Frame, kinds: &[u8]) -> Frame {
    frame.with(|f| f.extensions = kinds.iter().map(|kind| (*kind, padding())).collect())
}

fn pieces(frame: Frame, offset: u16, more: bool) -> Frame {
    frame.with(|f| f.extensions.push((FRAGMENT, fragment(offset, more))))
}

fn openings() -> Vec<Way> {
    vec![
        opens("plain SYN", out4(SYN)),
        opens("plain SYN, IPv6", out6(SYN)),
        opens("SYN with PSH and URG", out4(SYN | PSH | 0x20)),
        opens("SYN that offers ECN", out4(SYN | 0xc0)),
        opens("SYN with data (TCP Fast Open)", Frame::tcp((POD4, 4000), (PEER4, 80), SYN, b"GET / HTTP/1.0")),
        opens("SYN with IPv4 options", out4(SYN).with(|f| f.options = vec![1; 12])),
        opens("SYN with the most IPv4 options", out4(SYN).with(|f| f.options = vec![1; 40])),
        opens("SYN behind hop-by-hop options", extended(out6(SYN), &[HOP_BY_HOP])),
        opens(
            "SYN behind two destination options",
            extended(out6(SYN), &[HOP_BY_HOP, DESTINATION, DESTINATION]),
        ),
        ("SYN in a VLAN", tagged(out4(SYN), &[0x8100]), DropTagged, DropNoListener),
        ("SYN in two VLANs", tagged(out6(SYN), &[0x88a8, 0x8100]), DropTagged, DropNoListener),
        both("SYN in three VLANs", tagged(out4(SYN), &[0x88a8, 0x8100, 0x8100]), DropTooDeep),
        both("SYN behind nine headers", extended(out6(SYN), &[DESTINATION; 9]), DropTooDeep),
        both("SYN and FIN", out4(SYN | FIN), DropOddFlags),
        both("SYN and RST, IPv6", out6(SYN | RST), DropOddFlags),
        both("SYN-ACK and FIN", out4(SYN | ACK | FIN), DropOddFlags),
        both("every flag", out4(0xff), DropOddFlags),
    ]
}

fn fragments() -> Vec<Way> {
    vec![
        both("SYN with MF", out4(SYN).with(|f| f.fragment = 0x2000), DropFragment),
        both("SYN with MF, IPv6", pieces(out6(SYN), 0, true), DropFragment),
        both("SYN in an atomic fragment", pieces(out6(SYN), 0, false), DropFragment),
        both("SYN with a routing header", extended(out6(SYN), &[ROUTING]), DropRoutingHeader),
        both(
            "first fragment of eight bytes",
            Frame::new(POD4, PEER4, segment(4000, 80, SYN, b"")[..8].to_vec()).with(|f| f.fragment = 0x2000),
            DropFragment,
        ),
        both(
            "first fragment of eight bytes, IPv6",
            pieces(Frame::new(POD6, PEER6, segment(4000, 80, SYN, b"")[..8].to_vec()), 0, true),
            DropFragment,
        ),
        both(
            "fragment over the flags",
            Frame::new(POD4, PEER4, vec![0; 64]).with(|f| f.fragment = 1),
            DropFragment,
        ),
        both(
            "fragment over the flags, IPv6",
            pieces(Frame::new(POD6, PEER6, vec![0; 64]), 8, false),
            DropFragment,
        ),
        both(
            "fragment over TCP options",
            Frame::new(POD4, PEER4, vec![0; 64]).with(|f| f.fragment = 7),
            DropFragment,
        ),
        both("later fragment", Frame::new(POD4, PEER4, vec![0; 64]).with(|f| f.fragment = 185), PassFragment),
        both("later fragment, IPv6", pieces(Frame::new(POD6, PEER6, vec![0; 64]), 1232, false), PassFragment),
    ]
}

fn others() -> Vec<Way> {
    vec![
        both("TCP header cut short", Frame::new(POD4, PEER4, vec![0x10; 12]), DropMalformed),
        both("TCP header that claims sixteen bytes", out4(SYN).with(|f| f.payload[12] = 0x40), DropMalformed),
        both("UDP", out4(SYN).with(|f| f.protocol = 17), PassNotTcp),
        both("UDP, IPv6", out6(SYN).with(|f| f.protocol = 17), PassNotTcp),
        both("ICMP", out4(SYN).with(|f| f.protocol = 1), PassNotTcp),
        both(
            "later fragment of UDP, IPv6",
            pieces(Frame::new(POD6, PEER6, vec![0; 64]).with(|f| f.protocol = 17), 1232, false),
            PassNotTcp,
        ),
        ("segment of an old connection", out4(ACK), PassOld, PassSegment),
        ("SYN-ACK of an old connection", out6(SYN | ACK), PassOld, PassSegment),
        ("RST", out4(RST), PassOld, PassSegment),
        ("first fragment of an old segment", out4(ACK).with(|f| f.fragment = 0x2000), PassOld, PassSegment),
    ]
}
