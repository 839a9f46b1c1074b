//! Ingress: gives every new connection to one of ztunnel's listeners before the kernel looks for a socket.
//!
//! Does not trust the socket tables to keep a SYN from the application: a SYN leaves here with a socket
//! attached or not at all, save where the pod's configuration says otherwise.

use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_sock,
    helpers::{bpf_sk_assign, bpf_sk_fullsock, bpf_sk_release, bpf_skc_lookup_tcp},
    programs::TcContext,
};
use ebb_abi::{HBONE_PORT, ListenerKind, STEER_MARK, Verdict, ZTUNNEL_MARK, flag};

use crate::{
    held, maps,
    parse::{self, Link, Segment},
    time_wait,
    verdict::Left,
};

/// BPF_F_CURRENT_NETNS.
const THIS_NETNS: u64 = u64::MAX;

const TCP_SYN_SENT: u32 = 2;
const TCP_TIME_WAIT: u32 = 6;
const TCP_LISTEN: u32 = 10;
const TCP_NEW_SYN_RECV: u32 = 12;

/// Who, in this namespace, holds the connection a packet would arrive at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    Nobody,
    /// A socket of ztunnel's, or one too short-lived to say whose it is.
    Ztunnel,
    /// Some other process.
    Application,
}

/// Ingress of `lo`.
#[inline(always)]
pub fn outbound(ctx: &TcContext) -> Left {
    // SAFETY: the context pointer is valid for the program's run.
    let mark = unsafe { (*ctx.skb.skb).mark };
    if mark != STEER_MARK && mark != ZTUNNEL_MARK {
        return Verdict::PassLocal.into();
    }
    let segment = match parse::segment(ctx, Link::Ethernet) {
        Ok(segment) => segment,
        Err(verdict) => return verdict,
    };
    if !segment.opens() {
        return Verdict::PassLocal.into();
    }
    if mark == STEER_MARK {
        return to_listener(ctx, &segment, ListenerKind::Outbound);
    }
    // A tunnel from ztunnel to the very pod it serves never leaves the pod; without this it would find no
    // listener, because ours are bound to addresses nobody can reach.
    if segment.destination_port() == HBONE_PORT {
        return to_listener(ctx, &segment, ListenerKind::Hbone);
    }
    // From ztunnel to the application, in its client's name. A port chosen for that may be the very one the
    // client uses towards ztunnel, and the SYN would disturb that connection; without an answer ztunnel tries
    // another port.
    time_wait::forget();
    if collides(ctx, &segment) { Verdict::DropCollision.into() } else { Verdict::PassLocal.into() }
}

/// Ingress of an interface.
#[inline(always)]
pub fn inbound(ctx: &TcContext, link: Link) -> Left {
    let segment = match parse::segment(ctx, link) {
        Ok(segment) => segment,
        Err(verdict) => return verdict,
    };
    let Some(config) = maps::config() else { return Verdict::DropNoConfig.into() };
    if !segment.opens() {
        let cut = config.flags & (flag::CUT_OLD | flag::BYPASS_INBOUND) == flag::CUT_OLD;
        return if cut && holder(ctx, &segment) == Holder::Application {
            Verdict::DropOld.into()
        } else {
            Verdict::PassSegment.into()
        };
    }
    if config.flags & flag::RELEASE != 0 {
        forget_listener(ctx, &segment);
        return Verdict::PassReleased.into();
    }
    if segment.destination_port() == HBONE_PORT {
        return to_listener(ctx, &segment, ListenerKind::Hbone);
    }
    if config.flags & flag::BYPASS_INBOUND != 0 {
        forget_listener(ctx, &segment);
        return Verdict::PassBypass.into();
    }
    to_listener(ctx, &segment, ListenerKind::Plaintext)
}

/// Gives a SYN to a listener, unless its connection already has a socket.
#[inline(always)]
fn to_listener(ctx: &TcContext, segment: &Segment, kind: ListenerKind) -> Left {
    match on_existing(ctx, segment, kind) {
        Some(verdict) => verdict.into(),
        // SAFETY: the context pointer is valid for the program's run.
        None => Left::by_number(unsafe { maps::give_packet(ctx.skb.skb, kind as u32, segment.hash()) }),
    }
}

/// What becomes of a SYN for whose very tuple a socket exists; none when it opens a connection.
#[inline(always)]
fn on_existing(ctx: &TcContext, segment: &Segment, kind: ListenerKind) -> Option<Verdict> {
    let socket = lookup(ctx, segment);
    if socket.is_null() {
        return None;
    }
    // SAFETY: not null, and the reference is released once, on every path, before the pointer is forgotten.
    unsafe {
        let verdict = match (*socket).state {
            TCP_LISTEN => None,
            TCP_TIME_WAIT => Some(time_wait::note(ctx, segment, kind)),
            // Both ends opened at once. The kernel would join them directly, past ztunnel.
            TCP_SYN_SENT => Some(Verdict::DropSimultaneousOpen),
            // If the listener behind it has gone, the kernel would look for another and find the
            // application's. The handshake's own timer repeats the SYN-ACK.
            TCP_NEW_SYN_RECV => Some(Verdict::DropRepeatedSyn),
            // Assigned rather than passed: the socket may close before the kernel looks it up, and the SYN
            // would then be anybody's.
            _ if bpf_sk_assign(ctx.as_ptr(), socket.cast(), 0) == 0 => Some(Verdict::PassKnown),
            _ => Some(Verdict::DropAssignFailed),
        };
        bpf_sk_release(socket.cast());
        verdict
    }
}

/// Whether a connection with the very addresses of this SYN of ztunnel's is alive here. The listener it is for is
/// marked on the way.
#[inline(always)]
fn collides(ctx: &TcContext, segment: &Segment) -> bool {
    let socket = lookup(ctx, segment);
    if socket.is_null() {
        return false;
    }
    // SAFETY: not null, and the reference is released once before the pointer is forgotten.
    unsafe {
        let state = (*socket).state;
        if state == TCP_LISTEN && accepts_for_ztunnel_alone() {
            let full = bpf_sk_fullsock(socket);
            // Without room for the mark what it accepts is marked by what it sends.
            let _marked = !full.is_null() && held::mark(full);
        }
        bpf_sk_release(socket.cast());
        !matches!(state, TCP_LISTEN | TCP_TIME_WAIT)
    }
}

/// Whether all that the pod's listeners accept from other hosts comes through ztunnel.
#[inline(always)]
fn accepts_for_ztunnel_alone() -> bool {
    maps::config().is_some_and(|config| config.flags & (flag::RELEASE | flag::BYPASS_INBOUND) == 0)
}

/// Takes the mark from the listener of a SYN that goes to it directly.
#[inline(always)]
fn forget_listener(ctx: &TcContext, segment: &Segment) {
    let socket = lookup(ctx, segment);
    if socket.is_null() {
        return;
    }
    // SAFETY: not null, and the reference is released once before the pointer is forgotten.
    unsafe {
        let full = bpf_sk_fullsock(socket);
        if !full.is_null() && (*full).state == TCP_LISTEN {
            held::forget(full);
        }
        bpf_sk_release(socket.cast());
    }
}

/// Whose socket the segment would arrive at if it came from outside.
#[inline(always)]
pub fn holder(ctx: &TcContext, segment: &Segment) -> Holder {
    let socket = lookup(ctx, segment);
    if socket.is_null() {
        return Holder::Nobody;
    }
    // SAFETY: not null, and the reference is released once before the pointer is forgotten.
    unsafe {
        let holder = if (*socket).state == TCP_LISTEN {
            Holder::Nobody
        } else {
            let full = bpf_sk_fullsock(socket);
            if full.is_null() || (*full).mark == ZTUNNEL_MARK { Holder::Ztunnel } else { Holder::Application }
        };
        bpf_sk_release(socket.cast());
        holder
    }
}

#[inline(always)]
fn lookup(ctx: &TcContext, segment: &Segment) -> *mut bpf_sock {
    let tuple = core::ptr::from_ref(&segment.tuple).cast_mut().cast();
    // SAFETY: the helper only reads the tuple, whose bytes up to that size were written.
    unsafe { bpf_skc_lookup_tcp(ctx.as_ptr(), tuple, segment.tuple_size(), THIS_NETNS, 0) }
}
