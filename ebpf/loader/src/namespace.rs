//! Runs a piece of work in another network namespace.
//!
//! Always on a thread of its own, so that no thread of the caller can be left in the wrong namespace.

use std::{io, os::fd::BorrowedFd, thread};

use nix::sched::{CloneFlags, setns, unshare};

/// Runs `work` on a helper thread inside the namespace and returns its value.
///
/// # Errors
/// When the thread cannot be started or enter the namespace, or the work panicked.
pub(crate) fn inside<T: Send>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    on_thread(|| setns(netns, CloneFlags::CLONE_NEWNET), work)
}

/// Runs `work` on a helper thread inside a new namespace that ends with it.
///
/// # Errors
/// As for [`inside`].
pub(crate) fn inside_new<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    on_thread(|| unshare(CloneFlags::CLONE_NEWNET), work)
}

fn on_thread<T: Send>(
    enter: impl FnOnce() -> nix::Result<()> + Send,
    work: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    thread::scope(|scope| {
        let helper = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, || {
            enter()?;
            Ok(work())
        })?;
        helper.join().unwrap_or_else(|_| Err(io::Error::other("the work in the namespace panicked")))
    })
}
