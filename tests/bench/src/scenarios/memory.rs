//! What the proxies keep resident: with nothing to do, and for each connection that is open and idle.
//!
//! Must be a system's first sample, since an allocator seldom gives back what it once had. Shared pages are counted in full
//! for each proxy, as a container's user sees them.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use harness::report::HoldReport;

use crate::{
    plan::Plan,
    results::Sample,
    systems::{Running, port},
};

/// How long to let the proxies come to rest before their memory is read.
pub(super) const SETTLE: Duration = Duration::from_millis(500);

/// How long opening the connections may take.
const OPEN_WITHIN: Duration = Duration::from_secs(60);

/// How long opening one of them may take, in milliseconds: 64 are opened at a time, all on a busy machine.
const OPEN_ONE_MS: &str = "20000";

pub(super) fn take(running: &Running, plan: &Plan) -> Result<Sample> {
    if running.proxies.is_empty() {
        return Ok(Sample::new());
    }
    thread::sleep(SETTLE);
    let idle = resident(running)?;
    let count = plan.connections_held.to_string();
    let target = running.stage.target(port::ECHO);
    let holder =
        running.stage.generate(&["hold", &target, "--connections", &count, "--timeout-ms", OPEN_ONE_MS])?;
    let opened = opened(&holder.wait_for_log("\"opened\"", OPEN_WITHIN)?)?;
    ensure!(opened == u64::from(plan.connections_held), "{opened} of {count} connections opened");
    thread::sleep(SETTLE);
    let held = resident(running)?;
    holder.close_input();
    holder.finish(OPEN_WITHIN).context("look whether the connections still live")?;
    let each = held.saturating_sub(idle) as f64 / f64::from(plan.connections_held);
    Ok(Sample::from([("memory.idle", idle as f64 / 1e6), ("memory.connection", each / 1024.0)]))
}

/// The proxy that routes, and all of them, with nothing to do.
pub(super) fn idle(running: &Running) -> Result<Sample> {
    let Some(_) = running.router else { return Ok(Sample::new()) };
    thread::sleep(SETTLE);
    let router = of_router(running)?.map(|bytes| ("idle.router", bytes as f64 / 1e6));
    Ok(router.into_iter().chain([("idle.all", resident(running)? as f64 / 1e6)]).collect())
}

/// Bytes of the proxy that routes, if there is one.
pub(super) fn of_router(running: &Running) -> Result<Option<u64>> {
    running.router().map(|proxy| Ok(proxy.process().memory()?.rss)).transpose()
}

fn opened(line: &str) -> Result<u64> {
    let report: HoldReport = serde_json::from_str(line).with_context(|| format!("read the report {line}"))?;
    Ok(report.opened)
}

/// Bytes of all proxies.
fn resident(running: &Running) -> Result<u64> {
    running.proxies.iter().map(|proxy| Ok(proxy.process().memory()?.rss)).sum()
}
