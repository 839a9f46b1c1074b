//! Owns the list of figures: what is measured, in which unit, and what Ebb must reach.
//!
//! Knows nothing of how a figure is measured. All "CPU" is that of the proxies unless the figure says total, because the
//! client and the server are the same in every system; the total is shown without a target, since veth delivers in the
//! sender's context and bills some of the receiver's kernel work to the sender.

use serde::Serialize;

use crate::scenarios::Scenario;

/// What Ebb must reach in one figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "bound")]
pub(crate) enum Target {
    /// At least this many times the yardstick, within a round.
    RatioAtLeast(f64),
    /// At most this many times the yardstick, within a round.
    RatioAtMost(f64),
    /// What is added over no mesh at all, at most this many times what the yardstick adds.
    AddedRatioAtMost(f64),
    /// At most this, in the figure's own unit.
    AtMost(f64),
    /// Shown for the reader, not judged.
    Shown,
}

/// Which way is better; the better of two yardsticks is the one to beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Better {
    /// Such as throughput.
    Higher,
    /// Such as CPU time.
    Lower,
}

/// One line of the report.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Figure {
    /// Stable name, used in the JSON file.
    pub(crate) id: &'static str,
    /// The scenario that yields it.
    #[serde(skip)]
    pub(crate) scenario: Scenario,
    /// What it is, for the reader.
    pub(crate) label: &'static str,
    /// Its unit.
    pub(crate) unit: &'static str,
    /// Which way is better.
    pub(crate) better: Better,
    /// What Ebb must reach.
    pub(crate) target: Target,
}

const fn figure(scenario: Scenario, id: &'static str, label: &'static str, unit: &'static str) -> Figure {
    Figure { id, scenario, label, unit, better: Better::Lower, target: Target::Shown }
}

impl Figure {
    const fn must(mut self, target: Target) -> Self {
        self.target = target;
        self
    }

    const fn more_is_better(mut self) -> Self {
        self.better = Better::Higher;
        self
    }
}

use Scenario::{
    Bulk, Change, Connect, Http1, Http16, Http64, Idle, Matching, Memory, Paced, PingPong, Ready, Routes,
};
use Target::{AddedRatioAtMost, AtMost, RatioAtLeast, RatioAtMost};

/// Those of connections, in the order of the report.
pub(crate) const L4: &[Figure] = &[
    figure(Bulk, "bulk.throughput", "bulk stream", "Gbit/s").more_is_better().must(RatioAtLeast(1.0)),
    figure(Bulk, "bulk.cpu", "bulk stream, CPU", "s/GB").must(RatioAtMost(1.0)),
    figure(Bulk, "bulk.cpu_total", "bulk stream, total CPU", "s/GB"),
    figure(Http1, "http-1.rate", "HTTP, 1 connection", "req/s").more_is_better(),
    figure(Http1, "http-1.cpu", "HTTP, 1 connection, CPU", "us/req").must(RatioAtMost(0.75)),
    figure(Http1, "http-1.cpu_total", "HTTP, 1 connection, total CPU", "us/req"),
    figure(Http16, "http-16.rate", "HTTP, 16 connections", "req/s").more_is_better(),
    figure(Http16, "http-16.cpu", "HTTP, 16 connections, CPU", "us/req").must(RatioAtMost(0.75)),
    figure(Http16, "http-16.cpu_total", "HTTP, 16 connections, total CPU", "us/req"),
    figure(Http64, "http-64.rate", "HTTP, 64 connections", "req/s").more_is_better(),
    figure(Http64, "http-64.cpu", "HTTP, 64 connections, CPU", "us/req").must(RatioAtMost(0.75)),
    figure(Http64, "http-64.cpu_total", "HTTP, 64 connections, total CPU", "us/req"),
    figure(PingPong, "ping.p50", "one byte there and back, p50", "us").must(AddedRatioAtMost(0.85)),
    figure(PingPong, "ping.p99", "one byte there and back, p99", "us"),
    figure(PingPong, "ping.cpu", "one byte there and back, CPU", "us"),
    figure(Memory, "memory.idle", "resident, idle, both proxies", "MB").must(AtMost(16.0)),
    figure(Memory, "memory.connection", "resident per idle connection, both", "KiB").must(AtMost(12.0)),
    figure(Connect, "connect.rate", "new connections, 16 at a time", "conn/s").more_is_better(),
    figure(Connect, "connect.cpu", "new connection, CPU", "us").must(RatioAtMost(0.15)),
    figure(Connect, "connect.cpu_total", "new connection, total CPU", "us"),
    figure(Ready, "ready.seconds", "10,000 workloads: ready", "s").must(AtMost(0.6)),
    figure(Ready, "ready.peak", "10,000 workloads: peak resident", "MB").must(AtMost(60.0)),
];

/// Those of requests, in the order of the report.
pub(crate) const L7: &[Figure] = &[
    figure(Http1, "http-1.rate", "HTTP, 1 connection", "req/s").more_is_better(),
    figure(Http1, "http-1.cpu", "HTTP, 1 connection, CPU", "us/req"),
    figure(Http1, "http-1.cpu_router", "HTTP, 1 connection, CPU of the router", "us/req"),
    figure(Http1, "http-1.cpu_total", "HTTP, 1 connection, total CPU", "us/req"),
    figure(Http16, "http-16.rate", "HTTP, 16 connections", "req/s").more_is_better(),
    figure(Http16, "http-16.cpu", "HTTP, 16 connections, CPU", "us/req").must(RatioAtMost(0.5)),
    figure(Http16, "http-16.cpu_router", "HTTP, 16 connections, CPU of the router", "us/req"),
    figure(Http16, "http-16.cpu_total", "HTTP, 16 connections, total CPU", "us/req"),
    figure(Http64, "http-64.rate", "HTTP, 64 connections", "req/s").more_is_better(),
    figure(Http64, "http-64.cpu", "HTTP, 64 connections, CPU", "us/req"),
    figure(Http64, "http-64.cpu_router", "HTTP, 64 connections, CPU of the router", "us/req"),
    figure(Http64, "http-64.cpu_total", "HTTP, 64 connections, total CPU", "us/req"),
    figure(Paced, "paced.p50", "1,000 req/s evenly spaced, p50", "us").must(AddedRatioAtMost(0.7)),
    figure(Paced, "paced.p99", "1,000 req/s evenly spaced, p99", "us").must(AddedRatioAtMost(0.7)),
    figure(Paced, "paced.cpu", "1,000 req/s evenly spaced, CPU", "us/req"),
    figure(Idle, "idle.router", "resident, idle, the router", "MB").must(AtMost(20.0)),
    figure(Idle, "idle.all", "resident, idle, every proxy", "MB"),
    figure(Routes, "routes.router", "resident with 1,000 routes, the router", "MB").must(RatioAtMost(0.3)),
    figure(Change, "change.in_force", "one change among 10,000 routes in force", "ms").must(AtMost(50.0)),
    figure(Change, "change.worst", "the same, the slowest", "ms"),
    figure(Matching, "matching.exact", "a rule of 1,000: exact paths", "us").must(AtMost(2.0)),
    figure(Matching, "matching.prefix", "a rule of 1,000: prefixes", "us").must(AtMost(2.0)),
    figure(Matching, "matching.header", "a rule of 1,000: a prefix and headers", "us").must(AtMost(2.0)),
    figure(Matching, "matching.method", "a rule of 1,000: methods and prefixes", "us").must(AtMost(2.0)),
    figure(Matching, "matching.regex", "a rule of 1,000: regexes with a start", "us").must(AtMost(2.0)),
    figure(Matching, "matching.header_prefix", "a rule of 1,000: prefixes of a header", "us")
        .must(AtMost(2.0)),
    figure(Matching, "matching.bare_regex", "a rule of 1,000: regexes without a start", "us"),
    figure(Matching, "matching.change", "one change among 10,000, the tables alone", "ms"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bound_points_the_way_that_is_better() {
        for figure in L4.iter().chain(L7) {
            let higher = matches!(figure.target, RatioAtLeast(_));
            let lower = matches!(figure.target, RatioAtMost(_) | AddedRatioAtMost(_) | AtMost(_));
            assert!(!(higher && figure.better == Better::Lower), "{}", figure.id);
            assert!(!(lower && figure.better == Better::Higher), "{}", figure.id);
        }
    }
}
