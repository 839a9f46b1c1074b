//! Work on connections: one load generator runs for a fixed time while the CPU accounts are watched.
//!
//! The accounts are read around the whole life of the generator, so that what is begun in a sample is also paid for in it;
//! units of work are therefore counted over its whole life too.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, de::DeserializeOwned};

use super::meter::{Meter, Spent};
use crate::{
    plan::Plan,
    results::Sample,
    systems::{Running, port},
};

/// Connections opened at the same time in the scenario `connect`.
const CONNECTING: u32 = 16;

/// How much longer than its own time a load generator may take to end.
const GRACE: Duration = Duration::from_secs(20);

/// What `ebb-app` reports of work that is counted.
#[derive(Debug, Deserialize)]
struct Counted {
    /// Requests, connections or bytes.
    done: u64,
    /// Of them those that failed.
    failed: u64,
    /// How long it took.
    elapsed_us: u64,
}

/// What `ebb-app` reports of one byte there and back.
#[derive(Debug, Deserialize)]
struct RoundTrips {
    done: u64,
    p50_us: f64,
    p99_us: f64,
}

pub(super) fn bulk(running: &Running, plan: &Plan) -> Result<Sample> {
    let (report, spent): (Counted, _) = generate(running, plan, "bulk", port::SINK, &[])?;
    let gigabytes = report.done as f64 / 1e9;
    ensure!(gigabytes > 0.0, "no byte got through");
    Ok(Sample::from([
        ("bulk.throughput", gigabytes * 8.0 / seconds(report.elapsed_us)),
        ("bulk.cpu", spent.proxies.as_secs_f64() / gigabytes),
        ("bulk.cpu_total", spent.total.as_secs_f64() / gigabytes),
    ]))
}

pub(super) fn http(running: &Running, plan: &Plan, connections: u32) -> Result<Sample> {
    let connections_text = connections.to_string();
    let (report, spent): (Counted, _) =
        generate(running, plan, "load", port::HTTP, &["--connections", &connections_text])?;
    let names = match connections {
        1 => ["http-1.rate", "http-1.cpu", "http-1.cpu_total"],
        16 => ["http-16.rate", "http-16.cpu", "http-16.cpu_total"],
        _ => ["http-64.rate", "http-64.cpu", "http-64.cpu_total"],
    };
    per_operation(&report, spent, names)
}

pub(super) fn connect(running: &Running, plan: &Plan) -> Result<Sample> {
    // Whoever keeps tunnels has one now, as in a mesh that is in use; the round before may be long ago.
    ensure!(running.stage.answers(), "the server does not answer");
    let concurrency = CONNECTING.to_string();
    let (report, spent): (Counted, _) =
        generate(running, plan, "connrate", port::ECHO, &["--concurrency", &concurrency])?;
    per_operation(&report, spent, ["connect.rate", "connect.cpu", "connect.cpu_total"])
}

pub(super) fn ping(running: &Running, plan: &Plan) -> Result<Sample> {
    let (report, spent): (RoundTrips, _) = generate(running, plan, "pingpong", port::ECHO, &[])?;
    ensure!(report.done > 0, "no byte came back");
    Ok(Sample::from([
        ("ping.p50", report.p50_us),
        ("ping.p99", report.p99_us),
        ("ping.cpu", micros(spent.proxies) / report.done as f64),
    ]))
}

/// Rate, proxies' CPU and total CPU of operations that must all have succeeded.
fn per_operation(report: &Counted, spent: Spent, names: [&'static str; 3]) -> Result<Sample> {
    ensure!(report.done > 0, "nothing got through");
    ensure!(report.failed == 0, "{} of {} failed", report.failed, report.done + report.failed);
    let count = report.done as f64;
    let values =
        [count / seconds(report.elapsed_us), micros(spent.proxies) / count, micros(spent.total) / count];
    Ok(names.into_iter().zip(values).collect())
}

/// Runs one generator for the plan's time and returns its report and what it cost.
fn generate<T: DeserializeOwned>(
    running: &Running,
    plan: &Plan,
    program: &str,
    port: u16,
    flags: &[&str],
) -> Result<(T, Spent)> {
    let duration = Duration::from_secs(plan.sample_seconds);
    let meter = Meter::start(running)?;
    let generator = running.stage.generate(program, port, duration, flags)?;
    let output = generator.finish(duration + GRACE)?;
    let spent = meter.stop()?;
    let line = output.lines().last().context("the load generator reported nothing")?;
    let report =
        serde_json::from_str(line).with_context(|| format!("read the report of {program}: {line}"))?;
    Ok((report, spent))
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
