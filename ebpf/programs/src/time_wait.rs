//! A SYN for a connection whose last socket is still in TIME_WAIT.
//!
//! The kernel takes such a SYN only by way of that socket: assigned to a listener it would be dropped until
//! the minute is over, because a request cannot share its addresses with it. So the SYN is left unassigned with
//! a note, and the kernel, which then looks for a listener, is answered here with the one in the note. Both
//! happen in one run of the receive path on one cpu, so one slot per cpu holds all there can be.

use aya_ebpf::{
    EbpfContext as _,
    macros::map,
    maps::PerCpuArray,
    programs::{SkLookupContext, TcContext},
};
use ebb_abi::{Hook, ListenerKind, Verdict};

use crate::{maps, parse::Segment};

const SK_DROP: u32 = 0;
const SK_PASS: u32 = 1;
const IPPROTO_TCP: u32 = 6;

/// What a lookup for the noted SYN will ask for, and the answer.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Question {
    remote: [u32; 4],
    local: [u32; 4],
    remote_port: u32,
    local_port: u32,
}

#[repr(C)]
struct Note {
    question: Question,
    /// One more than the kind of listener; zero when there is no note.
    kind: u32,
    hash: u32,
}

#[map]
static NOTE: PerCpuArray<Note> = PerCpuArray::with_max_entries(1, 0);

/// Leaves the note and lets the SYN go on.
#[inline(always)]
pub fn note(_ctx: &TcContext, segment: &Segment, kind: ListenerKind) -> Verdict {
    let Some(slot) = NOTE.get_ptr_mut(0) else { return Verdict::DropAssignFailed };
    let (remote, local, remote_port) = segment.ends();
    let question = Question {
        remote,
        local,
        remote_port: remote_port as u32,
        local_port: segment.destination_port() as u32,
    };
    // SAFETY: the slot is this cpu's, and nothing else runs between this write and the lookup it is for.
    unsafe { *slot = Note { question, kind: kind as u32 + 1, hash: segment.hash() } };
    Verdict::PassTimeWait
}

/// Takes back whatever note a SYN left that no lookup followed, lest it answer for another.
#[inline(always)]
pub fn forget() {
    if let Some(slot) = NOTE.get_ptr_mut(0) {
        // SAFETY: the slot is this cpu's.
        unsafe { (*slot).kind = 0 };
    }
}

/// Answers the kernel's search for a listener.
#[inline(always)]
pub fn answer(ctx: &SkLookupContext) -> u32 {
    let Some(slot) = NOTE.get_ptr_mut(0) else { return SK_PASS };
    // SAFETY: the slot is this cpu's, and the context is valid for the program's run.
    let (kind, hash) = unsafe {
        let note = &*slot;
        if note.kind == 0 || note.question != asked(ctx) {
            return SK_PASS;
        }
        (note.kind, note.hash)
    };
    forget();
    let left = maps::give_to_listener(ctx.as_ptr(), kind - 1, hash);
    maps::count(Hook::AnswerLookup, left);
    if left.is_drop() { SK_DROP } else { SK_PASS }
}

/// What the kernel is looking for. Each field is read on its own and without a branch, as the verifier wants of
/// a context: the addresses of the other family read as zero.
#[inline(always)]
unsafe fn asked(ctx: &SkLookupContext) -> Question {
    macro_rules! field {
        ($($path:tt)+) => {
            // SAFETY: the caller vouches for the context.
            unsafe { core::ptr::read_volatile(&raw const (*ctx.lookup).$($path)+) }
        };
    }
    if field!(protocol) != IPPROTO_TCP {
        return Question::default();
    }
    let remote_port: u16 = field!(remote_port);
    Question {
        remote: [
            field!(remote_ip4) | field!(remote_ip6[0]),
            field!(remote_ip6[1]),
            field!(remote_ip6[2]),
            field!(remote_ip6[3]),
        ],
        local: [
            field!(local_ip4) | field!(local_ip6[0]),
            field!(local_ip6[1]),
            field!(local_ip6[2]),
            field!(local_ip6[3]),
        ],
        remote_port: u16::from_be(remote_port) as u32,
        local_port: field!(local_port),
    }
}
