//! Leaves a line about one drop in [`DROP_SAMPLE`] in the node's log, for user space to name and write.
//!
//! Writing a line takes aya-log more instructions than all the rest, and more stack than is left; so that is the work
//! of a program of its own, one for the node, to which a dropping program hands the packet by a tail call. Never waits
//! and never fails: without that program, or with a full log, the packet is dropped all the same and the counters tell.
//! The line is numbers only, in the order that the loader's `drops` reads.

use aya_ebpf::{
    EbpfContext as _, helpers::bpf_skb_load_bytes, macros::map, maps::ProgramArray, programs::TcContext,
};
use aya_log_ebpf::warn;
use ebb_abi::{DROP_SAMPLE, Hook, LOG_TARGET};

use crate::{maps, verdict::Left};

/// The program that writes, in the only slot.
#[map]
static REPORTERS: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Does not return when the drop is reported: the packet is then dropped by [`write`]'s program. `seen` is how often
/// the same happened before on this cpu, so the first drop is always reported.
#[inline(always)]
pub fn sampled(ctx: &TcContext, hook: Hook, left: Left, seen: u64) {
    if seen & (DROP_SAMPLE - 1) != 0 {
        return;
    }
    let pod = maps::config().map_or(0, |config| config.pod_number);
    let told = seen + 1;
    // SAFETY: the context pointer is valid for the program's run. What other programs kept in these words is lost, to a
    // packet that goes nowhere.
    unsafe {
        (*ctx.skb.skb).cb = [pod, hook as u32, left.number(), told as u32, (told >> 32) as u32];
        REPORTERS.tail_call(ctx, 0);
    }
}

/// Writes the line about a packet that [`sampled`] handed over.
#[inline(always)]
pub fn write(ctx: &TcContext) {
    // SAFETY: the context pointer is valid for the program's run.
    let ([pod, hook, verdict, low, high], interface) = unsafe { ((*ctx.skb.skb).cb, (*ctx.skb.skb).ifindex) };
    let seen = (high as u64) << 32 | low as u64;
    let flow = flow(ctx);
    warn!(
        ctx,
        target: LOG_TARGET,
        "{} {} {} {} {} {:i} {} {:i} {}",
        pod, hook, verdict, interface, seen,
        flow.source, flow.source_port, flow.destination, flow.destination_port
    );
}

/// Addresses in IPv6 form, an IPv4 address mapped; all zero when the packet could not be read so far.
#[derive(Default)]
struct Flow {
    source: [u8; 16],
    destination: [u8; 16],
    source_port: u16,
    destination_port: u16,
}

/// Reads the flow anew, and less carefully than the parser: a dropped packet may well be unreadable, and a
/// log line may well be incomplete.
#[inline(always)]
fn flow(ctx: &TcContext) -> Flow {
    let mut flow = Flow::default();
    let Ok(ethertype) = ctx.load::<[u8; 2]>(12) else { return flow };
    let ports_at = match ethertype {
        [0x08, 0x00] => {
            let Ok(header) = ctx.load::<u8>(14) else { return flow };
            flow.source[10..12].fill(0xff);
            flow.destination[10..12].fill(0xff);
            if !(read(ctx, 26, &mut flow.source[12..]) && read(ctx, 30, &mut flow.destination[12..])) {
                return Flow::default();
            }
            14 + (header & 0x0f) as usize * 4
        }
        [0x86, 0xdd] => {
            if !(read(ctx, 22, &mut flow.source) && read(ctx, 38, &mut flow.destination)) {
                return Flow::default();
            }
            14 + 40
        }
        _ => return flow,
    };
    if let Ok(ports) = ctx.load::<[[u8; 2]; 2]>(ports_at) {
        flow.source_port = u16::from_be_bytes(ports[0]);
        flow.destination_port = u16::from_be_bytes(ports[1]);
    }
    flow
}

#[inline(always)]
fn read(ctx: &TcContext, offset: u32, into: &mut [u8]) -> bool {
    // SAFETY: the slice is writable for its length, which is a constant wherever this is inlined.
    unsafe { bpf_skb_load_bytes(ctx.as_ptr(), offset, into.as_mut_ptr().cast(), into.len() as u32) == 0 }
}
