//! Leaves a record of one drop in [`DROP_SAMPLE`] for user space to log.
//!
//! Never waits and never fails: when nobody reads the ring it fills, and the counters still tell.

use aya_ebpf::{EbpfContext as _, helpers::bpf_skb_load_bytes, programs::TcContext};
use ebb_abi::{Address, DROP_SAMPLE, Drop, Hook};

use crate::{
    maps::{self, DROPS},
    verdict::Left,
};

/// `seen` is how often the same happened before on this cpu, so the first drop is always reported.
#[inline(always)]
pub fn sampled(ctx: &TcContext, hook: Hook, left: Left, seen: u64) {
    if seen & (DROP_SAMPLE - 1) == 0 {
        report(ctx, hook as u32, left.number(), seen + 1);
    }
}

/// Written where it will be read from: a copy on the stack would not fit beside the parser's.
#[inline(never)]
fn report(ctx: &TcContext, hook: u32, verdict: u32, seen: u64) {
    let Some(mut entry) = DROPS.reserve::<Drop>(0) else { return };
    // SAFETY: all bytes zero is a valid record, and the entry is big and aligned enough for one.
    let record = unsafe {
        entry.as_mut_ptr().write_bytes(0, 1);
        &mut *entry.as_mut_ptr()
    };
    record.pod_number = maps::config().map_or(0, |config| config.pod_number);
    record.hook = hook;
    record.verdict = verdict;
    // SAFETY: the context pointer is valid for the program's run.
    record.interface = unsafe { (*ctx.skb.skb).ifindex };
    record.seen = seen;
    addresses(ctx, record);
    entry.submit(0);
}

/// Reads the flow anew, and less carefully than the parser: a dropped packet may well be unreadable, and a
/// log line may well be incomplete.
#[inline(always)]
fn addresses(ctx: &TcContext, record: &mut Drop) {
    let Ok(ethertype) = ctx.load::<[u8; 2]>(12) else { return };
    let ports_at = match ethertype {
        [0x08, 0x00] => {
            let Ok(header) = ctx.load::<u8>(14) else { return };
            if !(read(ctx, 26, &mut record.source, 4) && read(ctx, 30, &mut record.destination, 4)) {
                return;
            }
            record.ip_version = 4;
            14 + (header & 0x0f) as usize * 4
        }
        [0x86, 0xdd] => {
            if !(read(ctx, 22, &mut record.source, 16) && read(ctx, 38, &mut record.destination, 16)) {
                return;
            }
            record.ip_version = 6;
            14 + 40
        }
        _ => return,
    };
    let Ok(ports) = ctx.load::<[[u8; 2]; 2]>(ports_at) else { return };
    record.source_port = u16::from_be_bytes(ports[0]);
    record.destination_port = u16::from_be_bytes(ports[1]);
}

#[inline(always)]
fn read(ctx: &TcContext, offset: u32, into: &mut Address, length: u32) -> bool {
    // SAFETY: `length` is 4 or 16, and `into` has 16 bytes.
    unsafe { bpf_skb_load_bytes(ctx.as_ptr(), offset, into.as_mut_ptr().cast(), length) == 0 }
}
