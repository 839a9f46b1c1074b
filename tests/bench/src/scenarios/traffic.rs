//! Work on connections: one load generator runs for a fixed time while the CPU accounts are watched.
//!
//! The accounts are read around the whole life of the generator, so that what is begun in a sample is also paid for in it;
//! units of work are therefore counted over its whole life too.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::report::{BulkReport, Latency, LoadReport};
use serde::de::DeserializeOwned;

use super::meter::{Meter, Spent};
use crate::{
    plan::Plan,
    results::{Sample, sample},
    systems::{Running, port},
};

/// Connections opened at the same time in the scenario `connect`.
const CONNECTING: u32 = 16;

/// Connections over which requests at a fixed rate are spread.
const PACED_CONNECTIONS: u32 = 16;

/// Share of the rate asked for that a sample at a fixed rate must have reached.
const RATE_REACHED: f64 = 0.95;

/// How much longer than its own time a load generator may take to end.
const GRACE: Duration = Duration::from_secs(20);

/// Microseconds of a second.
const MICROS: f64 = 1e6;

pub(super) fn bulk(running: &Running, plan: &Plan, streams: u32) -> Result<Sample> {
    let (target, streams) = (running.stage.target(port::SINK), streams.to_string());
    let (report, spent): (BulkReport, _) =
        generate(running, plan.sample_seconds, &["bulk", &target, "--streams", &streams])?;
    let gigabytes = report.bytes as f64 / 1e9;
    ensure!(report.bytes > 0, "no byte got through");
    ensure!(report.failures.is_empty(), "a stream broke: {:?}", report.failures);
    let mut sample = spent.each(gigabytes, 1.0);
    sample.insert("throughput".into(), report.gbit_per_s);
    Ok(sample)
}

pub(super) fn http(running: &Running, plan: &Plan, connections: u32) -> Result<Sample> {
    let (url, connections) = (running.stage.url(), connections.to_string());
    let arguments = load(&url, &connections, plan);
    operations(generate(running, plan.sample_seconds, &arguments)?)
}

/// Requests evenly spaced at a fixed rate, each timed from when it was due.
pub(super) fn paced(running: &Running, plan: &Plan, rate: u32) -> Result<Sample> {
    let (url, wanted, connections) = (running.stage.url(), rate.to_string(), PACED_CONNECTIONS.to_string());
    let mut arguments = load(&url, &connections, plan);
    arguments.extend(["--rate", &wanted]);
    let (report, spent): (LoadReport, Spent) = generate(running, plan.paced_seconds, &arguments)?;
    // What stays behind for as long as the sample lasts has a latency of the sample's length, which is no property of it.
    let reached = report.rate > f64::from(rate) * RATE_REACHED;
    ensure!(reached, "only {:.0} of {rate} req/s were reached", report.rate);
    operations((report, spent))
}

/// The command of the generator of HTTP requests.
fn load<'a>(url: &'a str, connections: &'a str, plan: &Plan) -> Vec<&'a str> {
    let headers = plan.layer.request_headers().iter().flat_map(|header| ["--header", header]);
    ["load", url, "--connections", connections].into_iter().chain(headers).collect()
}

pub(super) fn connect(running: &Running, plan: &Plan) -> Result<Sample> {
    // Whoever keeps tunnels has one now, as in a mesh that is in use; the round before may be long ago.
    ensure!(running.stage.answers(), "the server does not answer");
    let (url, parallel) = (running.stage.url(), CONNECTING.to_string());
    operations(generate(running, plan.sample_seconds, &["connrate", &url, "--parallel", &parallel])?)
}

pub(super) fn ping(running: &Running, plan: &Plan) -> Result<Sample> {
    let target = running.stage.target(port::ECHO);
    operations(generate(running, plan.sample_seconds, &["pingpong", &target])?)
}

/// What operations that must all have succeeded took and cost.
fn operations((report, spent): (LoadReport, Spent)) -> Result<Sample> {
    succeeded(&report)?;
    let mut sample = spent.each(report.done as f64, MICROS);
    sample.insert("rate".into(), report.rate);
    sample.extend(percentiles(&report.latency));
    Ok(sample)
}

fn percentiles(latency: &Latency) -> Sample {
    sample([
        ("p50", latency.p50_us),
        ("p90", latency.p90_us),
        ("p99", latency.p99_us),
        ("p999", latency.p999_us),
    ])
}

/// Failures cost less than what they replace, so a figure with failures in it means nothing.
pub(super) fn succeeded(report: &LoadReport) -> Result<()> {
    ensure!(report.done > 0, "nothing got through: {:?}", report.failures);
    ensure!(report.failed() == 0, "{:?} beside {} that got through", report.failures, report.done);
    let refused = report.statuses.keys().find(|status| **status != 200);
    ensure!(refused.is_none(), "answered with {:?}", report.statuses);
    Ok(())
}

/// Runs one generator for so many seconds and returns its report and what it cost.
fn generate<T: DeserializeOwned>(running: &Running, seconds: u64, arguments: &[&str]) -> Result<(T, Spent)> {
    let duration = Duration::from_secs(seconds);
    let seconds = seconds.to_string();
    let meter = Meter::start(running)?;
    let generator = running.stage.generate(&[arguments, &["--seconds", &seconds]].concat())?;
    let output = generator.finish(duration + GRACE)?;
    let spent = meter.stop()?;
    Ok((last_line(&output)?, spent))
}

/// The report that ends a generator's output.
pub(super) fn last_line<T: DeserializeOwned>(output: &str) -> Result<T> {
    let line = output.lines().last().context("the load generator reported nothing")?;
    serde_json::from_str(line).with_context(|| format!("read the report {line}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn report(done: u64, status: u16) -> LoadReport {
        LoadReport {
            connections: 1,
            done,
            elapsed_s: 1.0,
            rate: done as f64,
            bytes: 0,
            statuses: BTreeMap::from([(status, done)]),
            failures: BTreeMap::new(),
            latency: Latency { p999_us: 9.0, ..Latency::default() },
        }
    }

    #[test]
    fn an_answer_that_is_no_success_is_no_figure() {
        assert!(succeeded(&report(10, 200)).is_ok());
        assert!(succeeded(&report(10, 503)).is_err());
        assert!(succeeded(&report(0, 200)).is_err());
    }

    #[test]
    fn a_sample_of_operations_has_rate_percentiles_and_cpu() {
        let spent = Spent {
            proxies: vec![("envoy".into(), Duration::from_millis(1))],
            router: None,
            others: [Duration::ZERO; 2],
        };
        let sample = operations((report(100, 200), spent)).unwrap();
        assert_eq!((sample["rate"], sample["p999"], sample["cpu"].round()), (100.0, 9.0, 10.0));
        assert!(!sample.contains_key("cpu_router"));
    }
}
