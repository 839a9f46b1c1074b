//! Waiting for things, in a way that ends when the user presses Ctrl-C.
//!
//! A signal does not kill the process: it makes every wait in the harness fail, so that the stack unwinds and the
//! cluster is taken down by the same destructors as ever. A second signal changes nothing; the waits are bounded.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

/// How often a condition is looked at. Long enough to cost nothing, short enough not to be felt.
const POLL: Duration = Duration::from_millis(10);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Takes over SIGINT and SIGTERM for this process. Binaries call it first thing in `main`; tests do not.
///
/// # Errors
/// The handlers cannot be installed.
pub fn install() -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("signal runtime")?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                INTERRUPTED.store(true, Ordering::Relaxed);
            }
        });
    })?;
    Ok(())
}

/// Whether the user asked to stop.
#[must_use]
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Fails when the user asked to stop.
///
/// # Errors
/// "interrupted", after SIGINT or SIGTERM.
pub fn check() -> Result<()> {
    if interrupted() {
        bail!("interrupted");
    }
    Ok(())
}

/// Waits until `probe` gives a value, looking every 10 ms.
///
/// # Errors
/// `probe` failed, the user interrupted, or `within` passed: then `what` names what was waited for.
pub fn wait_for<T>(what: &str, within: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        check()?;
        if Instant::now() >= deadline {
            bail!("no {what} within {within:?}");
        }
        thread::sleep(POLL);
    }
}
