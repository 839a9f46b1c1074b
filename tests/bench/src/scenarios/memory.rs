//! What the proxies hold: with nothing to do, and for each connection that is open and idle.
//!
//! Must be a system's first sample, since an allocator seldom gives back what it once had. Both ways of counting are told:
//! RSS counts shared pages in full for each proxy, as a container's user sees them; PSS shares them out, as a node feels it.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use harness::{process::Memory, report::HoldReport};

use crate::{
    plan::Plan,
    results::{Sample, sample},
    systems::{Proxy, Running, port},
};

/// How long to let the proxies come to rest before their memory is read.
pub(super) const SETTLE: Duration = Duration::from_millis(500);

/// Bytes of a megabyte.
pub(super) const MB: f64 = 1e6;

/// How long opening the connections may take.
const OPEN_WITHIN: Duration = Duration::from_secs(60);

/// How long opening one of them may take, in milliseconds: 64 are opened at a time, all on a busy machine.
const OPEN_ONE_MS: &str = "20000";

pub(super) fn take(running: &Running, plan: &Plan) -> Result<Sample> {
    if running.proxies.is_empty() {
        return Ok(Sample::new());
    }
    thread::sleep(SETTLE);
    let idle = held(&running.proxies)?;
    let count = plan.connections_held.to_string();
    let target = running.stage.target(port::ECHO);
    let holder =
        running.stage.generate(&["hold", &target, "--connections", &count, "--timeout-ms", OPEN_ONE_MS])?;
    let opened = opened(&holder.wait_for_log("\"opened\"", OPEN_WITHIN)?)?;
    ensure!(opened == u64::from(plan.connections_held), "{opened} of {count} connections opened");
    thread::sleep(SETTLE);
    let busy = held(&running.proxies)?;
    holder.close_input();
    holder.finish(OPEN_WITHIN).context("look whether the connections still live")?;
    Ok(with_connections(idle, busy, plan.connections_held))
}

/// Idle, and what 1,000 of `connections` add to that.
fn with_connections(idle: Held, busy: Held, connections: u32) -> Sample {
    let per_1000 =
        |idle: u64, busy: u64| busy.saturating_sub(idle) as f64 / f64::from(connections) * 1000.0 / MB;
    let mut sample = idle.sample();
    sample.insert("per_1000".into(), per_1000(idle.rss, busy.rss));
    sample.insert("per_1000_pss".into(), per_1000(idle.pss, busy.pss));
    sample
}

/// The proxy that routes, and all of them, with nothing to do.
pub(super) fn idle(running: &Running) -> Result<Sample> {
    if running.proxies.is_empty() {
        return Ok(Sample::new());
    }
    thread::sleep(SETTLE);
    let mut sample = held(&running.proxies)?.sample();
    sample.extend(of_router(running)?);
    Ok(sample)
}

/// What the proxy that routes holds, if there is one.
pub(super) fn of_router(running: &Running) -> Result<Option<(String, f64)>> {
    let Some(router) = running.router() else { return Ok(None) };
    Ok(Some(("router".into(), router.process().memory()?.rss as f64 / MB)))
}

fn opened(line: &str) -> Result<u64> {
    let report: HoldReport = serde_json::from_str(line).with_context(|| format!("read the report {line}"))?;
    Ok(report.opened)
}

/// Bytes of several processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    rss: u64,
    pss: u64,
}

impl Held {
    /// Both in MB.
    pub(super) fn sample(self) -> Sample {
        sample([("rss", self.rss as f64 / MB), ("pss", self.pss as f64 / MB)])
    }

    fn with(self, memory: Memory) -> Self {
        Self { rss: self.rss + memory.rss, pss: self.pss + memory.pss }
    }
}

/// What all of `proxies` hold.
pub(super) fn held(proxies: &[Box<dyn Proxy>]) -> Result<Held> {
    proxies.iter().try_fold(Held::default(), |held, proxy| Ok(held.with(proxy.process().memory()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_told_by_the_thousand_beside_what_is_held_without() {
        let idle = Held { rss: 10_000_000, pss: 8_000_000 };
        let busy = Held { rss: 34_000_000, pss: 31_000_000 };
        let sample = with_connections(idle, busy, 2000);
        assert_eq!((sample["rss"], sample["pss"]), (10.0, 8.0));
        assert_eq!((sample["per_1000"], sample["per_1000_pss"]), (12.0, 11.5));
    }
}
