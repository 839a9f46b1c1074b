//! The first connection of a client that nobody has seen before, from a pod and with an identity of its own.
//!
//! Each client is a sample: whatever is made on first use (a certificate, a tunnel, a handshake without a session to resume)
//! is paid once for a pair of identities, and never seen in rates. The second connection is told beside it.

use anyhow::{Context, Result};
use harness::report::LoadReport;

use super::{
    scale::cpu,
    traffic::{last_line, succeeded},
};
use crate::{
    plan::Plan,
    results::{Sample, sample},
    systems::{Candidate, Running, Tools},
};

/// How long one connection may take.
const ANSWERED_WITHIN: std::time::Duration = std::time::Duration::from_secs(20);

pub(super) fn take(candidate: &dyn Candidate, tools: &Tools, plan: &Plan) -> Result<Vec<Sample>> {
    let Some(running) = candidate.start_with_clients(tools, plan.cold_clients)? else {
        return Ok(Vec::new());
    };
    // By a client of its own, so that what serves everybody is warm: the server's side, and the code.
    running.prove()?;
    let mut samples = Vec::new();
    for client in 0..running.stage.strangers() {
        samples.push(one(&running, client).with_context(|| format!("client {client}"))?);
    }
    Ok(samples)
}

/// The first two connections of one client, in milliseconds, and what the first cost.
fn one(running: &Running, client: usize) -> Result<Sample> {
    let before = cpu(&running.proxies)?;
    let first = connection(running, client)?;
    let spent = cpu(&running.proxies)?.saturating_sub(before);
    let mut sample = sample([("first", first), ("second", connection(running, client)?)]);
    if !running.proxies.is_empty() {
        sample.insert("cpu".into(), spent.as_secs_f64() * 1e3);
    }
    Ok(sample)
}

/// From the start of a connection to the end of an answer, in milliseconds.
fn connection(running: &Running, client: usize) -> Result<f64> {
    let url = running.stage.url();
    let generator =
        running.stage.generate_as(client, &["connrate", &url, "--parallel", "1", "--count", "1"])?;
    let report: LoadReport = last_line(&generator.finish(ANSWERED_WITHIN)?)?;
    succeeded(&report)?;
    Ok(report.latency.max_us / 1e3)
}
