//! Leaves a line about one drop in [`DROP_SAMPLE`] in the node's log, for user space to name and write.
//!
//! Writing a line takes aya-log more instructions than all the rest, and more stack than is left; so that is the work
//! of a program of its own, one for the node, to which a dropping program hands the packet by a tail call. Never waits
//! and never fails: without that program, or with a full log, the packet is dropped all the same and the counters tell.
//! The line is numbers only, in the order that the loader's `drops` reads.

use aya_ebpf::{
    EbpfContext as _, bindings::bpf_hdr_start_off::BPF_HDR_START_NET, helpers::bpf_skb_load_bytes_relative,
    macros::map, maps::ProgramArray, programs::TcContext,
};
use aya_log_ebpf::warn;
use ebb_abi::{DROP_SAMPLE, Hook, LOG_TARGET};

use crate::{maps, verdict::Left};

/// `protocol` of a packet, in the host's order (RFC 9542, section 3).
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;

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
/// log line may well be incomplete. Counts from where the kernel says that IP begins, because which framing the
/// interface has, if any, is known to the program that dropped the packet and not here.
#[inline(always)]
fn flow(ctx: &TcContext) -> Flow {
    let mut flow = Flow::default();
    // SAFETY: the context pointer is valid for the program's run.
    let protocol = u16::from_be(unsafe { (*ctx.skb.skb).protocol } as u16);
    let ports_at = match protocol {
        ETHERTYPE_IPV4 => {
            let mut header = [0u8; 1];
            flow.source[10..12].fill(0xff);
            flow.destination[10..12].fill(0xff);
            if !(read(ctx, 0, &mut header)
                && read(ctx, 12, &mut flow.source[12..])
                && read(ctx, 16, &mut flow.destination[12..]))
            {
                return Flow::default();
            }
            (header[0] & 0x0f) as u32 * 4
        }
        ETHERTYPE_IPV6 => {
            if !(read(ctx, 8, &mut flow.source) && read(ctx, 24, &mut flow.destination)) {
                return Flow::default();
            }
            40
        }
        _ => return flow,
    };
    let mut ports = [0u8; 4];
    if read(ctx, ports_at, &mut ports) {
        flow.source_port = u16::from_be_bytes([ports[0], ports[1]]);
        flow.destination_port = u16::from_be_bytes([ports[2], ports[3]]);
    }
    flow
}

/// Reads behind the IP header's beginning.
#[inline(always)]
fn read(ctx: &TcContext, offset: u32, into: &mut [u8]) -> bool {
    let (to, length) = (into.as_mut_ptr().cast(), into.len() as u32);
    // SAFETY: the slice is writable for its length, which is a constant wherever this is inlined.
    unsafe { bpf_skb_load_bytes_relative(ctx.as_ptr(), offset, to, length, BPF_HDR_START_NET) == 0 }
}
