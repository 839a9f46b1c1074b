//! Egress of the pod's interfaces: what the pod's processes open is turned round to ztunnel.
//!
//! Nothing here knows whether ztunnel is alive; that is found out where the packet comes round, on `lo`.

use aya_ebpf::{
    bindings::BPF_F_INGRESS,
    helpers::{bpf_redirect, bpf_skb_change_head},
    programs::TcContext,
};
use ebb_abi::{PodConfig, STEER_MARK, Verdict, ZTUNNEL_MARK, flag};

use crate::{
    assign::{self, Holder},
    held, maps,
    parse::{self, Link, Segment},
    verdict::Left,
};

/// Index of `lo`, the same in every network namespace.
const LOOPBACK: u32 = 1;
const TC_ACT_REDIRECT: i64 = 7;
const ETHERNET_HEADER: u32 = 14;

#[inline(always)]
pub fn outbound(ctx: &TcContext, link: Link) -> Left {
    // SAFETY: the context pointer is valid for the program's run.
    if unsafe { (*ctx.skb.skb).mark } == ZTUNNEL_MARK {
        return Verdict::PassOwn.into();
    }
    let segment = match parse::segment(ctx, link) {
        Ok(segment) => segment,
        Err(verdict) => return verdict,
    };
    let Some(config) = maps::config() else { return Verdict::DropNoConfig.into() };
    if segment.opens() {
        if config.flags & flag::RELEASE != 0 {
            // Its first SYN may have been captured.
            held::forget_sender(ctx);
            return Verdict::PassReleased.into();
        }
        return steer(ctx, link, &segment, Verdict::SteerSyn).into();
    }
    match assign::holder(ctx, &segment) {
        Holder::Nobody => nobodys(ctx, config, &segment).into(),
        _ => steer(ctx, link, &segment, Verdict::SteerSegment).into(),
    }
}

/// What becomes of a segment for which nobody stands in.
#[inline(always)]
fn nobodys(ctx: &TcContext, config: &PodConfig, segment: &Segment) -> Verdict {
    // The kernel's own answer to a peer whose connection is not of this pod, or no longer: without it a peer
    // with a tunnel to an earlier pod of this address would wait until its keepalive gives up.
    if segment.resets() {
        return Verdict::PassOld;
    }
    if config.flags & (flag::CUT_OLD | flag::BYPASS_INBOUND) == flag::CUT_OLD {
        return Verdict::DropOld;
    }
    if held::is_senders(ctx) { Verdict::DropOrphan } else { Verdict::PassOld }
}

/// Turns the packet round through `lo`, with the address no loopback frame is without: one for another
/// host's address would be discarded there.
#[inline(always)]
fn steer(ctx: &TcContext, link: Link, segment: &Segment, verdict: Verdict) -> Verdict {
    // What a VLAN interface sends was captured on that interface, before the tag. A tagged packet that still
    // needs steering is a raw frame, and `lo` would not take it.
    if segment.is_tagged() {
        return Verdict::DropTagged;
    }
    // Before the packet is changed, because a changed packet may have lost its socket.
    if !held::mark_sender(ctx) {
        return Verdict::DropSteerFailed;
    }
    let prepared = match link {
        Link::Ethernet => ctx.store(0, &[0u8; 6], 0).is_ok(),
        Link::Bare => push_header(ctx, segment),
    };
    if !prepared {
        return Verdict::DropSteerFailed;
    }
    ctx.set_mark(STEER_MARK);
    // SAFETY: takes no pointers.
    if unsafe { bpf_redirect(LOOPBACK, BPF_F_INGRESS as u64) } == TC_ACT_REDIRECT {
        verdict
    } else {
        Verdict::DropSteerFailed
    }
}

#[inline(always)]
fn push_header(ctx: &TcContext, segment: &Segment) -> bool {
    // SAFETY: the context pointer is valid for the program's run.
    if unsafe { bpf_skb_change_head(ctx.skb.skb, ETHERNET_HEADER, 0) } != 0 {
        return false;
    }
    let ethertype: [u8; 2] = if segment.is_ipv6() { [0x86, 0xdd] } else { [0x08, 0x00] };
    ctx.store(0, &[0u8; 12], 0).is_ok() && ctx.store(12, &ethertype, 0).is_ok()
}
