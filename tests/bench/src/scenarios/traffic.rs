//! Work on connections: one load generator runs for a fixed time while the CPU accounts are watched.
//!
//! The accounts are read around the whole life of the generator, so that what is begun in a sample is also paid for in it;
//! units of work are therefore counted over its whole life too.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::report::{BulkReport, LoadReport};
use serde::de::DeserializeOwned;

use super::meter::{Meter, Spent};
use crate::{
    plan::Plan,
    results::Sample,
    systems::{Running, port},
};

/// Connections opened at the same time in the scenario `connect`.
const CONNECTING: u32 = 16;

/// Connections over which the requests of the scenario `paced` are spread.
const PACED_CONNECTIONS: u32 = 16;

/// Share of the rate asked for that a sample at a fixed rate must have reached.
const RATE_REACHED: f64 = 0.95;

/// How much longer than its own time a load generator may take to end.
const GRACE: Duration = Duration::from_secs(20);

pub(super) fn bulk(running: &Running, plan: &Plan) -> Result<Sample> {
    let (report, spent): (BulkReport, _) =
        generate(running, plan, &["bulk", &running.stage.target(port::SINK)])?;
    let gigabytes = report.bytes as f64 / 1e9;
    ensure!(report.bytes > 0, "no byte got through");
    ensure!(report.failures.is_empty(), "the stream broke: {:?}", report.failures);
    Ok(Sample::from([
        ("bulk.throughput", report.gbit_per_s),
        ("bulk.cpu", spent.proxies.as_secs_f64() / gigabytes),
        ("bulk.cpu_total", spent.total.as_secs_f64() / gigabytes),
    ]))
}

pub(super) fn http(running: &Running, plan: &Plan, connections: u32) -> Result<Sample> {
    let (url, connections_text) = (running.stage.url(), connections.to_string());
    let arguments = load(&url, &connections_text, plan);
    let (report, spent): (LoadReport, _) = generate(running, plan, &arguments)?;
    let (names, router) = match connections {
        1 => (["http-1.rate", "http-1.cpu", "http-1.cpu_total"], "http-1.cpu_router"),
        16 => (["http-16.rate", "http-16.cpu", "http-16.cpu_total"], "http-16.cpu_router"),
        _ => (["http-64.rate", "http-64.cpu", "http-64.cpu_total"], "http-64.cpu_router"),
    };
    let mut sample = per_operation(&report, spent, names)?;
    sample.extend(spent.router.map(|spent| (router, micros(spent) / report.done as f64)));
    Ok(sample)
}

/// Requests evenly spaced at a fixed rate, each timed from when it was due.
pub(super) fn paced(running: &Running, plan: &Plan) -> Result<Sample> {
    let (url, rate, connections) =
        (running.stage.url(), plan.paced_rate.to_string(), PACED_CONNECTIONS.to_string());
    let mut arguments = load(&url, &connections, plan);
    arguments.extend(["--rate", &rate]);
    let (report, spent): (LoadReport, _) = generate_for(running, plan.paced_seconds, &arguments)?;
    succeeded(&report)?;
    ensure!(
        report.rate > f64::from(plan.paced_rate) * RATE_REACHED,
        "only {:.0} req/s were reached",
        report.rate
    );
    Ok(Sample::from([
        ("paced.p50", report.latency.p50_us),
        ("paced.p99", report.latency.p99_us),
        ("paced.cpu", micros(spent.proxies) / report.done as f64),
    ]))
}

/// The command of the generator of HTTP requests.
fn load<'a>(url: &'a str, connections: &'a str, plan: &Plan) -> Vec<&'a str> {
    let headers = plan.layer.request_headers().iter().flat_map(|header| ["--header", header]);
    ["load", url, "--connections", connections].into_iter().chain(headers).collect()
}

pub(super) fn connect(running: &Running, plan: &Plan) -> Result<Sample> {
    // Whoever keeps tunnels has one now, as in a mesh that is in use; the round before may be long ago.
    ensure!(running.stage.answers(), "the server does not answer");
    let parallel = CONNECTING.to_string();
    let (report, spent): (LoadReport, _) =
        generate(running, plan, &["connrate", &running.stage.url(), "--parallel", &parallel])?;
    per_operation(&report, spent, ["connect.rate", "connect.cpu", "connect.cpu_total"])
}

pub(super) fn ping(running: &Running, plan: &Plan) -> Result<Sample> {
    let (report, spent): (LoadReport, _) =
        generate(running, plan, &["pingpong", &running.stage.target(port::ECHO)])?;
    succeeded(&report)?;
    Ok(Sample::from([
        ("ping.p50", report.latency.p50_us),
        ("ping.p99", report.latency.p99_us),
        ("ping.cpu", micros(spent.proxies) / report.done as f64),
    ]))
}

/// Rate, proxies' CPU and total CPU of operations that must all have succeeded.
fn per_operation(report: &LoadReport, spent: Spent, names: [&'static str; 3]) -> Result<Sample> {
    succeeded(report)?;
    let count = report.done as f64;
    let values = [report.rate, micros(spent.proxies) / count, micros(spent.total) / count];
    Ok(names.into_iter().zip(values).collect())
}

/// Failures cost less than what they replace, so a figure with failures in it means nothing.
fn succeeded(report: &LoadReport) -> Result<()> {
    ensure!(report.done > 0, "nothing got through: {:?}", report.failures);
    ensure!(report.failed() == 0, "{:?} beside {} that got through", report.failures, report.done);
    let refused = report.statuses.keys().find(|status| **status != 200);
    ensure!(refused.is_none(), "answered with {:?}", report.statuses);
    Ok(())
}

/// Runs one generator for the plan's time and returns its report and what it cost.
fn generate<T: DeserializeOwned>(running: &Running, plan: &Plan, arguments: &[&str]) -> Result<(T, Spent)> {
    generate_for(running, plan.sample_seconds, arguments)
}

/// The same for so many seconds.
fn generate_for<T: DeserializeOwned>(
    running: &Running,
    seconds: u64,
    arguments: &[&str],
) -> Result<(T, Spent)> {
    let duration = Duration::from_secs(seconds);
    let seconds = seconds.to_string();
    let meter = Meter::start(running)?;
    let generator = running.stage.generate(&[arguments, &["--seconds", &seconds]].concat())?;
    let output = generator.finish(duration + GRACE)?;
    let spent = meter.stop()?;
    let line = output.lines().last().context("the load generator reported nothing")?;
    let report = serde_json::from_str(line).with_context(|| format!("read the report {line}"))?;
    Ok((report, spent))
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
