//! The programs that redirect an enrolled pod's TCP to its node's ztunnel.
//!
//! They know nothing of identities or policy: they only decide which listener a new connection is given to.
//! The surprising part is the default: whatever cannot be understood, or has no listener, is dropped, so a
//! crash of ztunnel delays connections and never lets one through.
#![no_std]
#![no_main]

mod assign;
mod capture;
mod held;
mod maps;
mod parse;
mod report;
mod time_wait;
mod verdict;

use aya_ebpf::{
    macros::{classifier, sk_lookup},
    programs::{SkLookupContext, TcContext},
};
use ebb_abi::{Hook, Verdict};

use crate::{parse::Link, verdict::Left};

/// Lets the next program of the hook decide, then the kernel: others may stand behind ours.
const TC_NEXT: i32 = -1;
/// Frees the packet.
const TC_SHOT: i32 = 2;
/// Hands the packet to where `bpf_redirect` said.
const TC_REDIRECT: i32 = 7;

/// Egress of an interface with Ethernet frames.
#[classifier]
pub fn capture_outbound(ctx: TcContext) -> i32 {
    conclude(&ctx, Hook::CaptureOutbound, capture::outbound(&ctx, Link::Ethernet))
}

/// Egress of an interface with bare IP packets.
#[classifier]
pub fn capture_outbound_l3(ctx: TcContext) -> i32 {
    conclude(&ctx, Hook::CaptureOutbound, capture::outbound(&ctx, Link::Bare))
}

/// Ingress of `lo`, where captured packets come round.
#[classifier]
pub fn assign_outbound(ctx: TcContext) -> i32 {
    conclude(&ctx, Hook::AssignOutbound, assign::outbound(&ctx))
}

/// Ingress of an interface with Ethernet frames.
#[classifier]
pub fn assign_inbound(ctx: TcContext) -> i32 {
    conclude(&ctx, Hook::AssignInbound, assign::inbound(&ctx, Link::Ethernet))
}

/// Ingress of an interface with bare IP packets.
#[classifier]
pub fn assign_inbound_l3(ctx: TcContext) -> i32 {
    conclude(&ctx, Hook::AssignInbound, assign::inbound(&ctx, Link::Bare))
}

/// Either direction of an interface whose framing is not known.
#[classifier]
pub fn refuse_all(ctx: TcContext) -> i32 {
    conclude(&ctx, Hook::CaptureOutbound, Verdict::DropUnknownLink.into())
}

/// Attached nowhere: takes over from a program that drops a packet worth a line in the log.
#[classifier]
pub fn report_drop(ctx: TcContext) -> i32 {
    report::write(&ctx);
    TC_SHOT
}

/// The kernel's search for a listener, in the pod's namespace.
#[sk_lookup]
pub fn answer_lookup(ctx: SkLookupContext) -> u32 {
    time_wait::answer(&ctx)
}

#[inline(always)]
fn conclude(ctx: &TcContext, hook: Hook, left: Left) -> i32 {
    let seen = maps::count(hook, left);
    if left.is_drop() {
        report::sampled(ctx, hook, left, seen);
        return TC_SHOT;
    }
    if left.is_steered() { TC_REDIRECT } else { TC_NEXT }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The GPL is what the helpers for socket lookup ask a program to declare.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
