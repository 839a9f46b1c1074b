//! The maps of one pod, and the few things done with them.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{bpf_map_lookup_elem, bpf_sk_assign, bpf_sk_release},
    macros::map,
    maps::{Array, PerCpuArray, SockMap},
};
use ebb_abi::{
    COUNTER_SLOTS, Hook, LAYOUT_VERSION, LISTENER_SLOTS, ListenerKind, MAX_WORKERS, PodConfig, Verdict,
    counter_slot, listener_slot,
};

use crate::verdict::Left;

#[map]
static LISTENERS: SockMap = SockMap::with_max_entries(LISTENER_SLOTS, 0);
#[map]
static CONFIG: Array<PodConfig> = Array::with_max_entries(1, 0);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTER_SLOTS, 0);

/// The pod's configuration, or none when it is absent or of a layout this program does not know.
#[inline(always)]
pub fn config() -> Option<&'static PodConfig> {
    let config = CONFIG.get_ptr(0)?;
    // SAFETY: the element of an array map lives as long as the map, which the program holds; user space
    // replaces it by a plain copy, and each field read is one aligned word.
    let config = unsafe { &*config };
    if config.layout_version == LAYOUT_VERSION { Some(config) } else { None }
}

/// Counts a verdict on this cpu and says how often it was seen before.
#[inline(always)]
pub fn count(hook: Hook, left: Left) -> u64 {
    let Some(slot) = COUNTERS.get_ptr_mut(counter_slot(hook, left.number())) else { return 0 };
    // SAFETY: the slot belongs to this cpu, and a tc program is not preempted by another of its kind.
    unsafe {
        let before = *slot;
        *slot = before + 1;
        before
    }
}

/// [`give_to_listener`] for a packet; returns the number of a verdict. A global function, as
/// [`crate::parse::segment`]'s is and for the same reason.
///
/// # Safety
/// `skb` must be the program's context.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn give_packet(skb: *mut __sk_buff, kind: u32, hash: u32) -> u32 {
    give_to_listener(skb.cast(), kind, hash).number()
}

/// Hands the packet, or the lookup, of `ctx` to a listener of `kind`, the worker chosen by `hash`; another worker's
/// when that one
/// has none, so that a worker which died alone costs nobody a connection.
#[inline(always)]
pub fn give_to_listener(ctx: *mut c_void, kind: u32, hash: u32) -> Left {
    let Some(config) = config() else { return Verdict::DropNoConfig.into() };
    let workers = config.workers;
    if workers == 0 || workers > MAX_WORKERS {
        return Verdict::DropNoListener.into();
    }
    let chosen = hash % workers;
    let mut slot = listener_slot(kind, chosen & (MAX_WORKERS - 1));
    let first = assign(ctx, &mut slot);
    if let Assigned::Yes = first {
        return given_to(kind);
    }
    // In order from the first worker, not round from the chosen one: with indices the verifier knows, checking
    // this loop takes it a hundredth of the time.
    for worker in 0..MAX_WORKERS {
        if worker >= workers {
            break;
        }
        slot = listener_slot(kind, worker);
        if let Assigned::Yes = assign(ctx, &mut slot) {
            return given_to(kind);
        }
    }
    if let Assigned::Failed = first {
        Verdict::DropAssignFailed.into()
    } else {
        Verdict::DropNoListener.into()
    }
}

enum Assigned {
    Yes,
    Empty,
    Failed,
}

#[inline(always)]
fn assign(ctx: *mut c_void, slot: &mut u32) -> Assigned {
    // SAFETY: both pointers are valid for the call; a sockmap lookup returns null or a socket whose reference
    // is released on every path below, as the verifier insists.
    unsafe {
        let socket =
            bpf_map_lookup_elem(core::ptr::addr_of!(LISTENERS) as *mut _, core::ptr::from_mut(slot).cast());
        if socket.is_null() {
            return Assigned::Empty;
        }
        let result = bpf_sk_assign(ctx, socket, 0);
        bpf_sk_release(socket);
        if result == 0 { Assigned::Yes } else { Assigned::Failed }
    }
}

#[inline(always)]
fn given_to(kind: u32) -> Left {
    // The verdicts of the kinds are numbered alike.
    const {
        assert!(
            Verdict::AssignPlaintext as u32
                == Verdict::AssignOutbound as u32 + ListenerKind::Plaintext as u32
        );
        assert!(Verdict::AssignHbone as u32 == Verdict::AssignOutbound as u32 + ListenerKind::Hbone as u32);
    }
    Left::by_number(Verdict::AssignOutbound as u32 + kind)
}
