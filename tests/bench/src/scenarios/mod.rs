//! Owns the kinds of work that systems are compared in, one file each; here is the list and who takes which sample.

mod memory;
mod meter;
mod ready;
mod traffic;

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;

use crate::{
    plan::Plan,
    results::Sample,
    systems::{Candidate, Running},
};

/// A kind of work. The order is that of a run: idle memory while the proxies are fresh, new connections after all that
/// needs a quiet machine, since the sockets they leave in TIME_WAIT were seen to add 16 ms to what came after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scenario {
    /// Resident memory, idle and with idle connections
    Memory,
    /// One byte there and back on one connection
    #[value(name = "ping")]
    #[serde(rename = "ping")]
    PingPong,
    /// One stream as fast as it goes
    Bulk,
    /// Small HTTP requests on 1 connection
    #[value(name = "http-1")]
    #[serde(rename = "http-1")]
    Http1,
    /// Small HTTP requests on 16 connections
    #[value(name = "http-16")]
    #[serde(rename = "http-16")]
    Http16,
    /// Small HTTP requests on 64 connections
    #[value(name = "http-64")]
    #[serde(rename = "http-64")]
    Http64,
    /// New connections, 16 at a time
    Connect,
    /// Start with 10,000 workloads (Ebb only)
    Ready,
}

impl Scenario {
    /// All of them, in the order of a run.
    pub(crate) const ALL: &[Self] = &[
        Self::Memory,
        Self::PingPong,
        Self::Bulk,
        Self::Http1,
        Self::Http16,
        Self::Http64,
        Self::Connect,
        Self::Ready,
    ];

    /// Its name on the command line and in the JSON file.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::PingPong => "ping",
            Self::Bulk => "bulk",
            Self::Http1 => "http-1",
            Self::Http16 => "http-16",
            Self::Http64 => "http-64",
            Self::Connect => "connect",
            Self::Ready => "ready",
        }
    }
}

/// Takes one sample of `scenario`; empty when the scenario is not for this system.
///
/// # Errors
/// A program failed, or carried no traffic.
pub(crate) fn take(
    scenario: Scenario,
    candidate: &dyn Candidate,
    running: &Running,
    plan: &Plan,
) -> Result<Sample> {
    let mut sample = match scenario {
        Scenario::Memory => memory::take(running, plan),
        Scenario::PingPong => traffic::ping(running, plan),
        Scenario::Bulk => traffic::bulk(running, plan),
        Scenario::Http1 => traffic::http(running, plan, 1),
        Scenario::Http16 => traffic::http(running, plan, 16),
        Scenario::Http64 => traffic::http(running, plan, 64),
        Scenario::Connect => traffic::connect(running, plan),
        Scenario::Ready => ready::take(candidate, plan),
    }?;
    if running.proxies.is_empty() {
        // No proxies spend nothing, which is no figure.
        sample.retain(|figure, _| !figure.ends_with(".cpu"));
    }
    Ok(sample)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_the_json_and_the_name_agree() {
        for scenario in Scenario::ALL {
            let flag = scenario.to_possible_value().unwrap();
            assert_eq!(flag.get_name(), scenario.name());
            assert_eq!(serde_json::to_value(scenario).unwrap(), scenario.name());
        }
        assert_eq!(Scenario::ALL, Scenario::value_variants());
    }
}
