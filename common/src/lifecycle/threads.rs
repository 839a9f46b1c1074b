//! Threads that each own a runtime, and the limit on open files they share.

use std::future::Future;
use std::thread::JoinHandle;

use anyhow::Context;

/// A named thread with a current-thread runtime of its own, which ends with `work`.
///
/// # Errors
/// When the thread or its runtime cannot be started.
pub fn spawn_runtime<F>(
    name: &str,
    work: impl FnOnce() -> F + Send + 'static,
) -> anyhow::Result<JoinHandle<()>>
where
    F: Future<Output = ()>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .with_context(|| format!("start the runtime of {name}"))?;
    std::thread::Builder::new()
        .name(name.into())
        .spawn(move || runtime.block_on(work()))
        .with_context(|| format!("start the thread {name}"))
}

/// Waits for a thread to end, and says so when it ended in a panic.
pub fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!("a thread ended in a panic");
    }
}

/// Raises the soft limit on open files to the hard one. Connections are files: the soft limit that shells set is for
/// programs that use `select`.
pub fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) }
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit on open files stays as it was");
    }
}
