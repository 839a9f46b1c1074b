//! What the proxies keep resident: with nothing to do, and for each connection that is open and idle.
//!
//! Must be a system's first sample, since an allocator seldom gives back what it once had. Shared pages are counted in full
//! for each proxy, as a container's user sees them.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{
    plan::Plan,
    results::Sample,
    systems::{Running, port},
};

/// How long to let the proxies come to rest before their memory is read.
const SETTLE: Duration = Duration::from_millis(500);

/// How long opening the connections may take.
const OPEN_WITHIN: Duration = Duration::from_secs(60);

pub(super) fn take(running: &Running, plan: &Plan) -> Result<Sample> {
    if running.proxies.is_empty() {
        return Ok(Sample::new());
    }
    thread::sleep(SETTLE);
    let idle = resident(running)?;
    let holder = running.stage.hold(port::ECHO, plan.connections_held)?;
    holder.wait_for_log("ready:", OPEN_WITHIN).context("open the connections to hold")?;
    thread::sleep(SETTLE);
    let held = resident(running)?;
    ensure!(holder.is_alive(), "the connections did not stay open; {}", holder.tail());
    let each = held.saturating_sub(idle) as f64 / f64::from(plan.connections_held);
    Ok(Sample::from([("memory.idle", idle as f64 / 1e6), ("memory.connection", each / 1024.0)]))
}

/// Bytes of both proxies.
fn resident(running: &Running) -> Result<u64> {
    running.proxies.iter().map(|proxy| Ok(proxy.process().memory()?.rss)).sum()
}
