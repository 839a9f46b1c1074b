//! The packets that nearly all are: untagged Ethernet, IPv4 without options or IPv6 without extensions, TCP.
//!
//! Decides nothing of its own: whatever is not plainly so is left to the reader of any packet, byte by byte the same
//! as if this module did not exist.

use aya_ebpf::programs::TcContext;

use super::{ETHERNET_HEADER, ETHERTYPE_IPV4, ETHERTYPE_IPV6, FIN, Flags, NEXT_TCP, RST, SYN, Segment, is};

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
/// Bytes of the TCP header that are read: up to and with its flags.
const TCP_READ: usize = 14;
/// Version 4 and a header of five words.
const IPV4_PLAIN: u8 = 0x45;

/// The segment, when the packet is a plain one and its headers are in the linear part of the buffer.
#[inline(always)]
pub(super) fn read(ctx: &TcContext) -> Option<Segment> {
    // SAFETY: the context pointer is valid for the program's run.
    if unsafe { (*ctx.skb.skb).vlan_present } != 0 {
        return None;
    }
    let ethertype: [u8; 2] = *at(ctx, ETHERNET_HEADER - 2)?;
    match u16::from_be_bytes(ethertype) {
        ETHERTYPE_IPV4 => ipv4(at(ctx, ETHERNET_HEADER)?),
        ETHERTYPE_IPV6 => ipv6(at(ctx, ETHERNET_HEADER)?),
        _ => None,
    }
}

#[inline(always)]
fn ipv4(packet: &[u8; IPV4_HEADER + TCP_READ]) -> Option<Segment> {
    let fragmentation = u16::from_be_bytes([packet[6], packet[7]]);
    if packet[0] != IPV4_PLAIN || packet[9] != NEXT_TCP || fragmentation & 0x3fff != 0 {
        return None;
    }
    let payload = u16::from_be_bytes([packet[2], packet[3]]).checked_sub(IPV4_HEADER as u16)?;
    let (flags, ports) =
        tcp([packet[20], packet[21], packet[22], packet[23], packet[32], packet[33]], payload)?;
    let mut segment = Segment { traits: flags.traits(), ..Segment::default() };
    segment.tuple[0] = word(packet, 12);
    segment.tuple[1] = word(packet, 16);
    segment.tuple[2] = ports;
    Some(segment)
}

#[inline(always)]
fn ipv6(packet: &[u8; IPV6_HEADER + TCP_READ]) -> Option<Segment> {
    if packet[0] >> 4 != 6 || packet[6] != NEXT_TCP {
        return None;
    }
    let payload = u16::from_be_bytes([packet[4], packet[5]]);
    let (flags, ports) =
        tcp([packet[40], packet[41], packet[42], packet[43], packet[52], packet[53]], payload)?;
    let mut segment = Segment { traits: flags.traits() | is::IPV6, ..Segment::default() };
    for i in 0..8 {
        segment.tuple[i] = word(packet, 8 + i * 4);
    }
    segment.tuple[8] = ports;
    Some(segment)
}

/// Flags and ports from the ports, the offset and the flags of a TCP header, where nothing is odd about them.
#[inline(always)]
fn tcp([s0, s1, d0, d1, offset, bits]: [u8; 6], payload: u16) -> Option<(Flags, u32)> {
    let header = (offset >> 4) as u16 * 4;
    // Lengths of zero (BIG TCP) and those that contradict the header are for the other reader.
    let odd_flags = bits & SYN != 0 && bits & (FIN | RST) != 0;
    if header < 20 || payload < 20 || odd_flags {
        return None;
    }
    Some((Flags { bits, ends_there: payload <= header }, u32::from_ne_bytes([s0, s1, d0, d1])))
}

#[inline(always)]
fn word<const N: usize>(packet: &[u8; N], at: usize) -> u32 {
    u32::from_ne_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]])
}

/// A value inside the linear part of the packet.
#[inline(always)]
fn at<T>(ctx: &TcContext, offset: usize) -> Option<&T> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: the bytes are inside the packet, which cannot change while the program runs without calling a helper that
    // says so; every `T` used here is an array of bytes, so any content and any alignment is valid.
    Some(unsafe { &*(start as *const T) })
}
