//! Which of the pod's sockets have been one end of a connection that ztunnel held the other end of.
//!
//! A segment for which nobody in the pod stands in may belong to a connection older than enrolment, which is to go on,
//! or to one whose end in ztunnel has just gone, of which not a byte may leave. Only the sending socket tells: it is
//! marked when ztunnel takes its connection, and one that is older never is. Listeners that ztunnel connects to are
//! marked too, because what they accept inherits the mark: an application may speak before it has heard anything.

use core::ptr::{self, addr_of};

use aya_ebpf::{
    bindings::{
        BPF_F_CLONE, BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE, bpf_map_type::BPF_MAP_TYPE_SK_STORAGE,
        bpf_sock,
    },
    helpers::{bpf_sk_fullsock, bpf_sk_storage_delete, bpf_sk_storage_get},
    macros::btf_map,
    programs::TcContext,
};

const SOCK_STREAM: u32 = 1;
const IPPROTO_TCP: u32 = 6;
const TCP_LISTEN: u32 = 10;

/// A map as its BTF describes it; the fields are never read. Aya's own cannot be cloned to accepted sockets.
#[repr(C)]
struct Marks {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const u32,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize],
}

// SAFETY: only the address is used.
unsafe impl Sync for Marks {}

#[btf_map]
static HELD: Marks = Marks {
    r#type: ptr::null(),
    key: ptr::null(),
    value: ptr::null(),
    max_entries: ptr::null(),
    map_flags: ptr::null(),
};

/// Marks the socket that sends the packet. False when the kernel has no room for the mark; true where there is no
/// such socket: the packet is the kernel's own, a handshake's or a raw frame.
#[inline(always)]
pub fn mark_sender(ctx: &TcContext) -> bool {
    match sender(ctx) {
        Some(socket) => mark(socket),
        None => true,
    }
}

/// Whether the socket that sends the packet is marked.
#[inline(always)]
pub fn is_senders(ctx: &TcContext) -> bool {
    match sender(ctx) {
        // SAFETY: the socket is a full one, alive as long as its packet.
        Some(socket) => unsafe { !bpf_sk_storage_get(map(), socket.cast(), ptr::null_mut(), 0).is_null() },
        None => false,
    }
}

/// Takes the mark from the socket that sends the packet: its connection is not ztunnel's after all.
#[inline(always)]
pub fn forget_sender(ctx: &TcContext) {
    if let Some(socket) = sender(ctx) {
        forget(socket);
    }
}

/// Marks a full socket, so that what it accepts is marked.
#[inline(always)]
pub fn mark(socket: *mut bpf_sock) -> bool {
    let flags = BPF_SK_STORAGE_GET_F_CREATE as u64;
    // SAFETY: callers pass a full socket that is alive.
    unsafe { !bpf_sk_storage_get(map(), socket.cast(), ptr::null_mut(), flags).is_null() }
}

/// Takes the mark from a full socket, if it has one.
#[inline(always)]
pub fn forget(socket: *mut bpf_sock) {
    // SAFETY: callers pass a full socket that is alive. Fails when there is no mark, which is what is wanted.
    let _unmarked = unsafe { bpf_sk_storage_delete(map(), socket.cast()) };
}

/// The TCP socket of a connection that sends the packet. Not the one that answers in the kernel's own name, which
/// is every connection's, nor a listener.
#[inline(always)]
fn sender(ctx: &TcContext) -> Option<*mut bpf_sock> {
    // SAFETY: the context pointer is valid for the program's run, and the socket as long as the packet is its.
    unsafe {
        let socket = (*ctx.skb.skb).__bindgen_anon_2.sk;
        if socket.is_null() {
            return None;
        }
        let full = bpf_sk_fullsock(socket);
        if full.is_null() {
            return None;
        }
        let is_tcp = (*full).type_ == SOCK_STREAM && (*full).protocol == IPPROTO_TCP;
        (is_tcp && (*full).state != TCP_LISTEN).then_some(full)
    }
}

#[inline(always)]
fn map() -> *mut core::ffi::c_void {
    addr_of!(HELD).cast_mut().cast()
}
