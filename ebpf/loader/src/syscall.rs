//! What no crate has a safe name for: detaching a link at once, and giving freed memory back to the kernel.
//!
//! Removing a pin frees the link some time later, from a kernel worker; un-enrolment must be over when it
//! returns.

use std::{
    ffi::CString,
    io,
    mem::zeroed,
    os::{
        fd::{AsRawFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use nix::libc;

const BPF_OBJ_GET: libc::c_int = 7;
const BPF_LINK_DETACH: libc::c_int = 34;

/// Returns to the kernel what was freed and lies between what is in use; glibc would keep it for good.
pub(crate) fn give_back_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointers, and may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The part of `union bpf_attr` that BPF_OBJ_GET reads.
#[repr(C)]
#[derive(Clone, Copy)]
struct ObjectAttributes {
    path: u64,
    fd: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that BPF_LINK_DETACH reads.
#[repr(C)]
#[derive(Clone, Copy)]
struct DetachAttributes {
    link: u32,
}

/// Detaches the link pinned at `path`, whoever else still holds it. A link whose interface is gone, or that
/// someone else detached, counts as done.
///
/// # Errors
/// When the pin cannot be opened or the kernel refuses.
pub(crate) fn detach_pinned_link(path: &Path) -> io::Result<()> {
    let link = open_pin(path)?;
    // SAFETY: zeroed integers are valid, and the attributes live across the call.
    let mut attributes: DetachAttributes = unsafe { zeroed() };
    attributes.link = link.as_raw_fd().unsigned_abs();
    match bpf(BPF_LINK_DETACH, &mut attributes) {
        Ok(_) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(()),
        Err(error) => Err(error),
    }
}

fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = ObjectAttributes { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    let fd = bpf(BPF_OBJ_GET, &mut attributes)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<RawFd> {
    // SAFETY: the kernel reads and writes at most `size_of::<T>()` bytes behind the pointer, which is valid for
    // the call; the pointers inside belong to values the callers keep alive.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        RawFd::try_from(result).map_err(io::Error::other)
    }
}
