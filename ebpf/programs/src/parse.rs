//! Reads a packet as far as its TCP flags.
//!
//! Knows nothing of maps or verdict policy beyond this: what is certainly not TCP passes, what could be TCP
//! but cannot be read is dropped. Fragments follow from one fact: flags are in byte 13 of the TCP header, so a
//! fragment that starts beyond the longest header can neither hold nor overwrite them and is harmless.

use aya_ebpf::{bindings::bpf_sock_tuple, programs::TcContext};
use ebb_abi::Verdict;

/// VLAN tags looked through: one, or two as in 802.1ad.
const MAX_VLAN_TAGS: usize = 2;
/// IPv6 extension headers looked through.
const MAX_EXTENSION_HEADERS: usize = 8;
/// The longest TCP header: fragments that begin before this could overwrite flags.
const MAX_TCP_HEADER: u32 = 60;
/// The shortest TCP header.
const MIN_TCP_HEADER: u32 = 20;

const ETHERNET_HEADER: usize = 14;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;
/// Used by some equipment for the outer tag before 802.1ad gave it 0x88a8; Linux does not strip it.
const ETHERTYPE_QINQ_OLD: u16 = 0x9100;

const NEXT_HOP_BY_HOP: u8 = 0;
const NEXT_TCP: u8 = 6;
const NEXT_ROUTING: u8 = 43;
const NEXT_FRAGMENT: u8 = 44;
const NEXT_AUTHENTICATION: u8 = 51;
const NEXT_DESTINATION: u8 = 60;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// How the packets of an interface begin.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// With an Ethernet header.
    Ethernet,
    /// With the IP header.
    Bare,
}

/// A TCP segment: what the programs decide on.
pub struct Segment {
    /// Addresses and ports, network order, as socket lookups take them.
    pub tuple: bpf_sock_tuple,
    /// Whether `tuple` holds IPv6 addresses.
    pub ipv6: bool,
    /// Whether the frame carries a VLAN tag, in its bytes or beside them.
    pub tagged: bool,
    /// Whether this is a SYN and no SYN-ACK.
    pub opens: bool,
    /// Whether this is a RST, which carries nothing of an application's.
    pub resets: bool,
}

impl Segment {
    /// Destination port, host order.
    #[inline(always)]
    pub fn destination_port(&self) -> u16 {
        // SAFETY: `ipv6` says which side of the union was written, and every bit pattern is a port.
        let port = unsafe {
            if self.ipv6 {
                self.tuple.__bindgen_anon_1.ipv6.dport
            } else {
                self.tuple.__bindgen_anon_1.ipv4.dport
            }
        };
        u16::from_be(port)
    }

    /// Source address, destination address (network order, IPv4 in the first word) and source port (host order).
    #[inline(always)]
    pub fn ends(&self) -> ([u32; 4], [u32; 4], u16) {
        // SAFETY: as in `destination_port`.
        unsafe {
            if self.ipv6 {
                let t = &self.tuple.__bindgen_anon_1.ipv6;
                (t.saddr, t.daddr, u16::from_be(t.sport))
            } else {
                let t = &self.tuple.__bindgen_anon_1.ipv4;
                ([t.saddr, 0, 0, 0], [t.daddr, 0, 0, 0], u16::from_be(t.sport))
            }
        }
    }

    /// A number equal for all packets of a connection in one direction, so that every repetition of a SYN
    /// reaches the same worker.
    #[inline(always)]
    pub fn hash(&self) -> u32 {
        // SAFETY: as in `destination_port`.
        unsafe {
            if self.ipv6 {
                let t = &self.tuple.__bindgen_anon_1.ipv6;
                let mut hash = 0;
                for i in 0..4 {
                    hash = mix(mix(hash, t.saddr[i]), t.daddr[i]);
                }
                finish(mix(hash, ports(t.sport, t.dport)))
            } else {
                let t = &self.tuple.__bindgen_anon_1.ipv4;
                finish(mix(mix(mix(0, t.saddr), t.daddr), ports(t.sport, t.dport)))
            }
        }
    }
}

#[inline(always)]
fn ports(source: u16, destination: u16) -> u32 {
    (source as u32) << 16 | destination as u32
}

#[inline(always)]
fn mix(hash: u32, word: u32) -> u32 {
    ((hash ^ word).wrapping_mul(0x9e37_79b1)).rotate_left(15)
}

/// Client ports differ in few bits: without a finish the low bits taken by the modulo would not spread.
#[inline(always)]
fn finish(mut hash: u32) -> u32 {
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85eb_ca6b);
    hash ^ (hash >> 13)
}

/// Reads the packet, or says with which verdict it leaves unread.
#[inline(always)]
pub fn segment(ctx: &TcContext, link: Link) -> Result<Segment, Verdict> {
    let (ethertype, offset, tagged) = match link {
        Link::Ethernet => ethernet(ctx)?,
        // SAFETY: the context pointer is valid for the program's run.
        Link::Bare => (u16::from_be(unsafe { (*ctx.skb.skb).protocol } as u16), 0, false),
    };
    match ethertype {
        ETHERTYPE_IPV4 => ipv4(ctx, offset, tagged),
        ETHERTYPE_IPV6 => ipv6(ctx, offset, tagged),
        _ => Err(Verdict::PassNotIp),
    }
}

#[inline(always)]
fn ethernet(ctx: &TcContext) -> Result<(u16, usize, bool), Verdict> {
    let mut offset = ETHERNET_HEADER;
    // SAFETY: the context pointer is valid for the program's run. A tag stripped by the driver is kept here.
    let mut tagged = unsafe { (*ctx.skb.skb).vlan_present } != 0;
    let mut ethertype = half(ctx, offset - 2)?;
    for _ in 0..MAX_VLAN_TAGS {
        if !is_vlan(ethertype) {
            break;
        }
        tagged = true;
        ethertype = half(ctx, offset + 2)?;
        offset += 4;
    }
    if is_vlan(ethertype) { Err(Verdict::DropTooDeep) } else { Ok((ethertype, offset, tagged)) }
}

#[inline(always)]
fn is_vlan(ethertype: u16) -> bool {
    matches!(ethertype, ETHERTYPE_VLAN | ETHERTYPE_QINQ | ETHERTYPE_QINQ_OLD)
}

#[inline(always)]
fn ipv4(ctx: &TcContext, offset: usize, tagged: bool) -> Result<Segment, Verdict> {
    let header: [u8; 20] = load(ctx, offset)?;
    let header_length = (header[0] & 0x0f) as u32 * 4;
    if header[0] >> 4 != 4 || header_length < 20 {
        return Err(Verdict::DropMalformed);
    }
    if header[9] != NEXT_TCP {
        return Err(Verdict::PassNotTcp);
    }
    let fragmentation = u16::from_be_bytes([header[6], header[7]]);
    let total = u16::from_be_bytes([header[2], header[3]]) as u32;
    let tcp = Tcp {
        offset: offset + header_length as usize,
        length: payload(ctx, offset, total, header_length)?,
        fragment_offset: (fragmentation & 0x1fff) as u32 * 8,
        fragmented: fragmentation & 0x3fff != 0,
        routed: false,
        tagged,
    };
    let (flags, source, destination) = tcp.read(ctx)?;
    let mut segment = tcp.segment(flags, false)?;
    segment.tuple.__bindgen_anon_1.ipv4.saddr =
        u32::from_ne_bytes([header[12], header[13], header[14], header[15]]);
    segment.tuple.__bindgen_anon_1.ipv4.daddr =
        u32::from_ne_bytes([header[16], header[17], header[18], header[19]]);
    segment.tuple.__bindgen_anon_1.ipv4.sport = source;
    segment.tuple.__bindgen_anon_1.ipv4.dport = destination;
    Ok(segment)
}

#[inline(always)]
fn ipv6(ctx: &TcContext, offset: usize, tagged: bool) -> Result<Segment, Verdict> {
    let header: [u8; 8] = load(ctx, offset)?;
    if header[0] >> 4 != 6 {
        return Err(Verdict::DropMalformed);
    }
    let length = u16::from_be_bytes([header[4], header[5]]) as u32;
    let total = if length == 0 { 0 } else { length + 40 };
    let found = extensions(ctx, offset, header[6])?;
    let tcp = Tcp {
        offset: found.offset,
        length: payload(ctx, offset, total, (found.offset - offset) as u32)?,
        fragment_offset: found.fragment_offset,
        fragmented: found.fragmented,
        routed: found.routed,
        tagged,
    };
    let (flags, source, destination) = tcp.read(ctx)?;
    let mut segment = tcp.segment(flags, true)?;
    segment.tuple.__bindgen_anon_1.ipv6.saddr = load(ctx, offset + 8)?;
    segment.tuple.__bindgen_anon_1.ipv6.daddr = load(ctx, offset + 24)?;
    segment.tuple.__bindgen_anon_1.ipv6.sport = source;
    segment.tuple.__bindgen_anon_1.ipv6.dport = destination;
    Ok(segment)
}

struct Extensions {
    offset: usize,
    fragment_offset: u32,
    fragmented: bool,
    routed: bool,
}

/// Walks the extension headers up to the TCP header.
#[inline(always)]
fn extensions(ctx: &TcContext, start: usize, first: u8) -> Result<Extensions, Verdict> {
    let mut found = Extensions { offset: start + 40, fragment_offset: 0, fragmented: false, routed: false };
    let mut next = first;
    for _ in 0..MAX_EXTENSION_HEADERS {
        let length = match next {
            NEXT_TCP => return Ok(found),
            NEXT_HOP_BY_HOP | NEXT_DESTINATION | NEXT_ROUTING => {
                let header: [u8; 2] = load(ctx, found.offset)?;
                found.routed |= next == NEXT_ROUTING;
                next = header[0];
                (header[1] as usize + 1) * 8
            }
            NEXT_AUTHENTICATION => {
                let header: [u8; 2] = load(ctx, found.offset)?;
                next = header[0];
                (header[1] as usize + 2) * 4
            }
            NEXT_FRAGMENT => {
                let header: [u8; 4] = load(ctx, found.offset)?;
                next = header[0];
                // An atomic fragment counts as one too: nobody sends a SYN so, and reassembly might let go
                // of the socket that was assigned.
                found.fragmented = true;
                found.fragment_offset = (u16::from_be_bytes([header[2], header[3]]) & 0xfff8) as u32;
                if found.fragment_offset != 0 {
                    // Its first byte is data, whatever `next` says, so no header can be read from it.
                    return if next == NEXT_TCP || is_extension(next) {
                        Ok(found)
                    } else {
                        Err(Verdict::PassNotTcp)
                    };
                }
                8
            }
            _ => return Err(Verdict::PassNotTcp),
        };
        found.offset += length;
    }
    if next == NEXT_TCP { Ok(found) } else { Err(Verdict::DropTooDeep) }
}

#[inline(always)]
fn is_extension(next: u8) -> bool {
    matches!(next, NEXT_HOP_BY_HOP | NEXT_DESTINATION | NEXT_ROUTING | NEXT_AUTHENTICATION | NEXT_FRAGMENT)
}

/// Bytes after `headers`, as the packet itself states. `total` is zero in packets longer than 64 KiB that the
/// host has yet to cut (BIG TCP); no receiver accepts that from the wire.
#[inline(always)]
fn payload(ctx: &TcContext, offset: usize, total: u32, headers: u32) -> Result<u32, Verdict> {
    let total = if total == 0 { ctx.len().wrapping_sub(offset as u32) } else { total };
    if total < headers { Err(Verdict::DropMalformed) } else { Ok(total - headers) }
}

/// Where a TCP header is, and what is known before reading it.
struct Tcp {
    offset: usize,
    length: u32,
    fragment_offset: u32,
    fragmented: bool,
    routed: bool,
    tagged: bool,
}

impl Tcp {
    /// Flags and both ports (network order); a verdict for what has none to read.
    #[inline(always)]
    fn read(&self, ctx: &TcContext) -> Result<(u8, u16, u16), Verdict> {
        if self.fragment_offset != 0 {
            // In IPv6 other headers may precede TCP's in the first fragment, so its flags can lie anywhere
            // up to that fragment's end; only the first fragment, which must hold them, is looked at. Linux
            // and every current stack discard the whole packet when fragments overlap.
            return Err(if self.fragment_offset < MAX_TCP_HEADER {
                Verdict::DropFragment
            } else {
                Verdict::PassFragment
            });
        }
        if self.length < MIN_TCP_HEADER {
            return Err(if self.fragmented { Verdict::DropFragment } else { Verdict::DropMalformed });
        }
        let header: [u8; 14] = load(ctx, self.offset)?;
        if header[12] >> 4 < 5 {
            return Err(Verdict::DropMalformed);
        }
        Ok((
            header[13],
            u16::from_ne_bytes([header[0], header[1]]),
            u16::from_ne_bytes([header[2], header[3]]),
        ))
    }

    /// A segment with these flags and a tuple yet to be filled.
    #[inline(always)]
    fn segment(&self, flags: u8, ipv6: bool) -> Result<Segment, Verdict> {
        if flags & SYN != 0 {
            if flags & (FIN | RST) != 0 {
                return Err(Verdict::DropOddFlags);
            }
            if self.fragmented {
                return Err(Verdict::DropFragment);
            }
            if self.routed {
                return Err(Verdict::DropRoutingHeader);
            }
        }
        Ok(Segment {
            // SAFETY: all bytes zero is a valid tuple of either family.
            tuple: unsafe { core::mem::zeroed() },
            ipv6,
            tagged: self.tagged,
            opens: flags & (SYN | ACK) == SYN,
            resets: flags & RST != 0,
        })
    }
}

#[inline(always)]
fn half(ctx: &TcContext, offset: usize) -> Result<u16, Verdict> {
    let bytes: [u8; 2] = load(ctx, offset)?;
    Ok(u16::from_be_bytes(bytes))
}

#[inline(always)]
fn load<T>(ctx: &TcContext, offset: usize) -> Result<T, Verdict> {
    ctx.load(offset).map_err(|_| Verdict::DropMalformed)
}
