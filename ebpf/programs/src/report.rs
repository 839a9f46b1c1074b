//! Leaves a record of one drop in [`DROP_SAMPLE`] for user space to log.
//!
//! Never waits and never fails: when nobody reads the ring it fills, and the counters still tell.

use aya_ebpf::programs::TcContext;
use ebb_abi::{Address, DROP_SAMPLE, Drop, Hook, Verdict};

use crate::maps::{self, DROPS};

/// `seen` is how often the same happened before on this cpu, so the first drop is always reported.
#[inline(always)]
pub fn sampled(ctx: &TcContext, hook: Hook, verdict: Verdict, seen: u64) {
    if seen & (DROP_SAMPLE - 1) == 0 {
        report(ctx, hook as u32, verdict as u32, seen + 1);
    }
}

#[inline(never)]
fn report(ctx: &TcContext, hook: u32, verdict: u32, seen: u64) {
    let Some(mut entry) = DROPS.reserve::<Drop>(0) else { return };
    let mut record = Drop {
        pod_number: maps::config().map_or(0, |config| config.pod_number),
        hook,
        verdict,
        // SAFETY: the context pointer is valid for the program's run.
        interface: unsafe { (*ctx.skb.skb).ifindex },
        seen,
        ..Drop::default()
    };
    addresses(ctx, &mut record);
    entry.write(record);
    entry.submit(0);
}

/// Reads the flow anew, and less carefully than the parser: a dropped packet may well be unreadable, and a
/// log line may well be incomplete.
#[inline(always)]
fn addresses(ctx: &TcContext, record: &mut Drop) {
    let Ok(ethertype) = ctx.load::<[u8; 2]>(12) else { return };
    let ports_at = match ethertype {
        [0x08, 0x00] => {
            let (Ok(header), Ok(ends)) = (ctx.load::<u8>(14), ctx.load::<[[u8; 4]; 2]>(14 + 12)) else { return };
            record.ip_version = 4;
            record.source[..4].copy_from_slice(&ends[0]);
            record.destination[..4].copy_from_slice(&ends[1]);
            14 + (header & 0x0f) as usize * 4
        }
        [0x86, 0xdd] => {
            let Ok(ends) = ctx.load::<[Address; 2]>(14 + 8) else { return };
            record.ip_version = 6;
            record.source = ends[0];
            record.destination = ends[1];
            14 + 40
        }
        _ => return,
    };
    let Ok(ports) = ctx.load::<[[u8; 2]; 2]>(ports_at) else { return };
    record.source_port = u16::from_be_bytes(ports[0]);
    record.destination_port = u16::from_be_bytes(ports[1]);
}
