//! Reads a packet as far as its TCP flags.
//!
//! Knows nothing of maps or verdict policy beyond this: what is certainly not TCP passes, what could be TCP
//! but cannot be read is dropped. Fragments follow from one fact: flags are in byte 13 of the TCP header, so a
//! fragment that starts beyond the longest header can neither hold nor overwrite them and is harmless.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use ebb_abi::Verdict;

use crate::verdict::Left;

mod extensions;
mod plain;

/// VLAN tags looked through: one, or two as in 802.1ad.
const MAX_VLAN_TAGS: usize = 2;
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

const NEXT_TCP: u8 = 6;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// How the packets of an interface begin.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// With an Ethernet header.
    Ethernet,
    /// With the IP header.
    Bare,
}

/// A TCP segment: what the programs decide on. All bytes zero is a valid value.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Segment {
    /// A `bpf_sock_tuple` as socket lookups take it, in network order: source address, destination address, and both
    /// ports in one word. IPv4 fills the first three words, IPv6 all nine.
    pub tuple: [u32; TUPLE_WORDS],
    /// Bits of [`is`].
    traits: u32,
}

const TUPLE_WORDS: usize = 9;
/// Bytes of a tuple of either family.
const TUPLE_IPV4: u32 = 12;
const TUPLE_IPV6: u32 = 36;

/// What is known of a segment besides its addresses.
mod is {
    /// The addresses are IPv6.
    pub const IPV6: u32 = 1;
    /// The frame carries a VLAN tag, in its bytes or beside them.
    pub const TAGGED: u32 = 1 << 1;
    /// A SYN and no SYN-ACK.
    pub const OPENING: u32 = 1 << 2;
    /// A RST that carries nothing of an application's.
    pub const BARE_RESET: u32 = 1 << 3;
}

impl Segment {
    #[inline(always)]
    pub fn is_ipv6(&self) -> bool {
        self.traits & is::IPV6 != 0
    }

    /// Whether the frame carries a VLAN tag, in its bytes or beside them.
    #[inline(always)]
    pub fn is_tagged(&self) -> bool {
        self.traits & is::TAGGED != 0
    }

    /// Whether this is a SYN and no SYN-ACK.
    #[inline(always)]
    pub fn opens(&self) -> bool {
        self.traits & is::OPENING != 0
    }

    /// Whether this is a RST that carries nothing of an application's.
    #[inline(always)]
    pub fn resets(&self) -> bool {
        self.traits & is::BARE_RESET != 0
    }

    /// Bytes of `tuple` that count.
    #[inline(always)]
    pub fn tuple_size(&self) -> u32 {
        if self.is_ipv6() { TUPLE_IPV6 } else { TUPLE_IPV4 }
    }

    /// Both ports as they are on the wire, source first.
    #[inline(always)]
    fn ports(&self) -> u32 {
        u32::from_be(if self.is_ipv6() { self.tuple[8] } else { self.tuple[2] })
    }

    /// Destination port, host order.
    #[inline(always)]
    pub fn destination_port(&self) -> u16 {
        self.ports() as u16
    }

    /// Source address, destination address (network order, IPv4 in the first word) and source port (host order).
    #[inline(always)]
    pub fn ends(&self) -> ([u32; 4], [u32; 4], u16) {
        let t = &self.tuple;
        let source_port = (self.ports() >> 16) as u16;
        if self.is_ipv6() {
            ([t[0], t[1], t[2], t[3]], [t[4], t[5], t[6], t[7]], source_port)
        } else {
            ([t[0], 0, 0, 0], [t[1], 0, 0, 0], source_port)
        }
    }

    /// A number equal for all packets of a connection in one direction, so that every repetition of a SYN
    /// reaches the same worker.
    #[inline(always)]
    pub fn hash(&self) -> u32 {
        // The words that IPv4 leaves are zero, so both families can be mixed alike.
        let mut hash = 0;
        for word in self.tuple {
            hash = mix(hash, word);
        }
        finish(hash)
    }
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
pub fn segment(ctx: &TcContext, link: Link) -> Result<Segment, Left> {
    let mut segment = Segment::default();
    // SAFETY: both pointers are valid for the call.
    match unsafe { read_segment(ctx.skb.skb, &raw mut segment, link as u32) } {
        READ => Ok(segment),
        verdict => Err(Left::by_number(verdict)),
    }
}

/// What [`read_segment`] returns when it wrote a segment; else the number of a verdict.
const READ: u32 = u32::MAX;

/// Fills `segment` from the packet.
///
/// A global function in the verifier's sense: checked once for any packet, after which nothing of the ways through it
/// is remembered. Inlined, every one of those ways would be followed to the end of the program.
///
/// # Safety
/// `skb` must be the program's context; `segment` must be null or point to one.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn read_segment(skb: *mut __sk_buff, segment: *mut Segment, link: u32) -> u32 {
    // SAFETY: null, which the verifier thinks possible, or a segment that lives across the call.
    let Some(segment) = (unsafe { segment.as_mut() }) else { return Verdict::DropMalformed as u32 };
    let ctx = TcContext::new(skb);
    let bare = link == Link::Bare as u32;
    if !bare && let Some(read) = plain::read(&ctx) {
        *segment = read;
        return READ;
    }
    let found = if bare {
        // SAFETY: the context pointer is valid for the program's run.
        Ok((u16::from_be(unsafe { (*skb).protocol } as u16), 0, false))
    } else {
        ethernet(&ctx)
    };
    match found {
        // SAFETY: the caller vouches for both pointers.
        Ok((ethertype, offset, tagged)) => unsafe {
            read_packet(skb, segment, offset as u32, ethertype as u32 | (tagged as u32) << TAGGED_SHIFT)
        },
        Err(verdict) => verdict as u32,
    }
}

/// Where [`read_packet`] finds, above the ethertype, whether there was a tag.
const TAGGED_SHIFT: u32 = 16;

/// Fills `segment` from the IP packet at `offset` of the frame. A global function, so that it is checked once and not
/// again for each number of tags.
///
/// # Safety
/// As for [`read_segment`].
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn read_packet(skb: *mut __sk_buff, segment: *mut Segment, offset: u32, kind: u32) -> u32 {
    // SAFETY: as in `read_segment`.
    let Some(segment) = (unsafe { segment.as_mut() }) else { return Verdict::DropMalformed as u32 };
    let ctx = TcContext::new(skb);
    let (offset, tagged) = (offset as usize, kind >> TAGGED_SHIFT != 0);
    let read = match kind as u16 {
        ETHERTYPE_IPV4 => ipv4(&ctx, offset, tagged, segment),
        ETHERTYPE_IPV6 => ipv6(&ctx, offset, tagged, segment),
        _ => Err(Verdict::PassNotIp),
    };
    match read {
        Ok(()) => READ,
        Err(verdict) => verdict as u32,
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
fn ipv4(ctx: &TcContext, offset: usize, tagged: bool, segment: &mut Segment) -> Result<(), Verdict> {
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
    let (flags, ports) = tcp.read(ctx)?;
    segment.traits = tcp.traits(flags)?;
    segment.tuple[0] = u32::from_ne_bytes([header[12], header[13], header[14], header[15]]);
    segment.tuple[1] = u32::from_ne_bytes([header[16], header[17], header[18], header[19]]);
    segment.tuple[2] = ports;
    Ok(())
}

#[inline(always)]
fn ipv6(ctx: &TcContext, offset: usize, tagged: bool, segment: &mut Segment) -> Result<(), Verdict> {
    let header: [u8; 8] = load(ctx, offset)?;
    if header[0] >> 4 != 6 {
        return Err(Verdict::DropMalformed);
    }
    let length = u16::from_be_bytes([header[4], header[5]]) as u32;
    let total = if length == 0 { 0 } else { length + 40 };
    let found = extensions::walk(ctx, (offset + 40) as u32, header[6])?;
    let tcp = Tcp {
        offset: found.offset as usize,
        length: payload(ctx, offset, total, found.offset.wrapping_sub(offset as u32))?,
        fragment_offset: found.fragment_offset,
        fragmented: found.is_fragmented(),
        routed: found.is_routed(),
        tagged,
    };
    let (flags, ports) = tcp.read(ctx)?;
    segment.traits = tcp.traits(flags)? | is::IPV6;
    let addresses: [u32; 8] = load(ctx, offset + 8)?;
    segment.tuple[..8].copy_from_slice(&addresses);
    segment.tuple[8] = ports;
    Ok(())
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
    fn read(&self, ctx: &TcContext) -> Result<(Flags, u32), Verdict> {
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
        let flags = Flags { bits: header[13], ends_there: self.length <= (header[12] >> 4) as u32 * 4 };
        Ok((flags, u32::from_ne_bytes([header[0], header[1], header[2], header[3]])))
    }

    /// The traits of a segment with these flags; a verdict for one that should not be.
    #[inline(always)]
    fn traits(&self, flags: Flags) -> Result<u32, Verdict> {
        if flags.bits & SYN != 0 {
            if flags.bits & (FIN | RST) != 0 {
                return Err(Verdict::DropOddFlags);
            }
            if self.fragmented {
                return Err(Verdict::DropFragment);
            }
            if self.routed {
                return Err(Verdict::DropRoutingHeader);
            }
        }
        let tagged = if self.tagged { is::TAGGED } else { 0 };
        Ok(tagged | flags.traits())
    }
}

/// What is read of a TCP header besides its ports.
#[derive(Clone, Copy)]
struct Flags {
    bits: u8,
    /// Whether nothing follows the header.
    ends_there: bool,
}

impl Flags {
    #[inline(always)]
    fn traits(self) -> u32 {
        let opens = if self.bits & (SYN | ACK) == SYN { is::OPENING } else { 0 };
        let resets = if self.bits & RST != 0 && self.ends_there { is::BARE_RESET } else { 0 };
        opens | resets
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
