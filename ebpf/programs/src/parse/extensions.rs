//! The walk over IPv6 extension headers to the TCP header.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use ebb_abi::Verdict;

use super::{NEXT_TCP, READ, load};

/// Extension headers looked through.
const MAX_EXTENSION_HEADERS: usize = 8;

const HOP_BY_HOP: u32 = 0;
const ROUTING: u32 = 43;
const FRAGMENT: u32 = 44;
const AUTHENTICATION: u32 = 51;
const DESTINATION: u32 = 60;

/// One bit for each number of an extension header.
const EXTENSIONS: u64 =
    1 << HOP_BY_HOP | 1 << ROUTING | 1 << FRAGMENT | 1 << AUTHENTICATION | 1 << DESTINATION;

/// Where the walk ended, and what it met.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Walk {
    /// One bit for each kind of header met. A set instead of a flag per kind, because the verifier follows every
    /// combination of flags on its own and knows nothing of a set.
    met: u64,
    /// Of what follows the headers, in the frame.
    pub(super) offset: u32,
    /// Of this fragment in its packet, bytes.
    pub(super) fragment_offset: u32,
}

impl Walk {
    #[inline(always)]
    pub(super) fn is_fragmented(&self) -> bool {
        self.met & (1 << FRAGMENT) != 0
    }

    #[inline(always)]
    pub(super) fn is_routed(&self) -> bool {
        self.met & (1 << ROUTING) != 0
    }
}

/// Walks the headers from `offset`, the first being of kind `first`, up to the TCP header.
#[inline(always)]
pub(super) fn walk(ctx: &TcContext, offset: u32, first: u8) -> Result<Walk, Verdict> {
    if first == NEXT_TCP {
        return Ok(Walk { offset, ..Walk::default() });
    }
    let mut walk = Walk::default();
    // SAFETY: both pointers are valid for the call.
    match unsafe { walk_extensions(ctx.skb.skb, &raw mut walk, offset, first as u32) } {
        READ => Ok(walk),
        NOT_TCP => Err(Verdict::PassNotTcp),
        TOO_DEEP => Err(Verdict::DropTooDeep),
        _ => Err(Verdict::DropMalformed),
    }
}

const NOT_TCP: u32 = Verdict::PassNotTcp as u32;
const TOO_DEEP: u32 = Verdict::DropTooDeep as u32;

/// Fills `walk`, or returns the number of a verdict. A global function, so that the loop is checked once.
///
/// # Safety
/// `skb` must be the program's context; `walk` must be null or point to one.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn walk_extensions(skb: *mut __sk_buff, walk: *mut Walk, offset: u32, first: u32) -> u32 {
    // SAFETY: null, which the verifier thinks possible, or a value that lives across the call.
    let Some(walk) = (unsafe { walk.as_mut() }) else { return Verdict::DropMalformed as u32 };
    match follow(&TcContext::new(skb), offset, first) {
        Ok(found) => {
            *walk = found;
            READ
        }
        Err(verdict) => verdict as u32,
    }
}

#[inline(always)]
fn follow(ctx: &TcContext, offset: u32, first: u32) -> Result<Walk, Verdict> {
    let mut walk = Walk { met: 0, offset, fragment_offset: 0 };
    let mut next = first;
    for _ in 0..MAX_EXTENSION_HEADERS {
        if next == NEXT_TCP as u32 {
            return Ok(walk);
        }
        if !is_extension(next) {
            return Err(Verdict::PassNotTcp);
        }
        let header: [u8; 2] = load(ctx, walk.offset as usize)?;
        walk.met |= 1 << (next & 63);
        let mut length = (header[1] as u32 + 1) * 8;
        if next == AUTHENTICATION {
            length = (header[1] as u32 + 2) * 4;
        }
        if next == FRAGMENT {
            // An atomic fragment counts as a fragment too: nobody sends a SYN so, and reassembly might let go of the
            // socket that was assigned.
            let field: [u8; 2] = load(ctx, walk.offset as usize + 2)?;
            walk.fragment_offset = (u16::from_be_bytes(field) & 0xfff8) as u32;
            length = 8;
        }
        next = header[0] as u32;
        if walk.fragment_offset != 0 {
            // Its first byte is data, whatever `next` says, so no header can be read from it.
            return if next == NEXT_TCP as u32 || is_extension(next) {
                Ok(walk)
            } else {
                Err(Verdict::PassNotTcp)
            };
        }
        walk.offset += length;
    }
    if next == NEXT_TCP as u32 { Ok(walk) } else { Err(Verdict::DropTooDeep) }
}

#[inline(always)]
fn is_extension(next: u32) -> bool {
    next < 64 && EXTENSIONS >> next & 1 != 0
}
