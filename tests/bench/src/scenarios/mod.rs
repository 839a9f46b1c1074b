//! Owns the kinds of work that systems are compared in, one file each; here is the list and who takes which sample.

mod change;
mod memory;
mod meter;
mod once;
mod traffic;

use anyhow::Result;
use serde::Serialize;

use crate::{
    plan::Plan,
    results::Sample,
    systems::{Candidate, Running, Tools},
};

/// A kind of work. The order is that of a run: idle memory while the proxies are fresh, new connections after all that
/// needs a quiet machine, since the sockets they leave in TIME_WAIT were seen to add 16 ms to what came after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scenario {
    /// Resident memory, idle and with idle connections.
    Memory,
    /// Resident memory of the proxy that routes, idle.
    Idle,
    /// One byte there and back on one connection.
    PingPong,
    /// HTTP requests at a fixed rate, evenly spaced.
    Paced,
    /// One stream as fast as it goes.
    Bulk,
    /// Small HTTP requests on 1 connection.
    Http1,
    /// Small HTTP requests on 16 connections.
    Http16,
    /// Small HTTP requests on 64 connections.
    Http64,
    /// New connections, 16 at a time.
    Connect,
    /// Start with 10,000 workloads (Ebb only).
    Ready,
    /// Resident memory of a proxy that has 1,000 routes instead of 10.
    Routes,
    /// One route that changes among 10,000 (Ebb only).
    Change,
    /// A table of 1,000 rules asked for one, without any network (Ebb only).
    Matching,
}

impl Scenario {
    /// Those of connections, in the order of a run.
    pub(crate) const L4: &[Self] = &[
        Self::Memory,
        Self::PingPong,
        Self::Bulk,
        Self::Http1,
        Self::Http16,
        Self::Http64,
        Self::Connect,
        Self::Ready,
    ];

    /// Those of requests, in the order of a run.
    pub(crate) const L7: &[Self] = &[
        Self::Idle,
        Self::Paced,
        Self::Http1,
        Self::Http16,
        Self::Http64,
        Self::Routes,
        Self::Change,
        Self::Matching,
    ];

    /// Its name on the command line and in the JSON file.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Idle => "idle",
            Self::Paced => "paced",
            Self::Routes => "routes",
            Self::Change => "change",
            Self::Matching => "matching",
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

impl Serialize for Scenario {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
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
    (tools, plan): (&Tools, &Plan),
) -> Result<Sample> {
    let mut sample = match scenario {
        Scenario::Memory => memory::take(running, plan),
        Scenario::PingPong => traffic::ping(running, plan),
        Scenario::Bulk => traffic::bulk(running, plan),
        Scenario::Http1 => traffic::http(running, plan, 1),
        Scenario::Http16 => traffic::http(running, plan, 16),
        Scenario::Http64 => traffic::http(running, plan, 64),
        Scenario::Connect => traffic::connect(running, plan),
        Scenario::Ready => once::ready(candidate, plan),
        Scenario::Idle => memory::idle(running),
        Scenario::Paced => traffic::paced(running, plan),
        Scenario::Routes => once::routes(candidate, tools, plan),
        Scenario::Change => change::take(candidate, plan),
        Scenario::Matching => once::matching(candidate),
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
    fn runs_go_in_the_order_of_the_list() {
        for list in [Scenario::L4, Scenario::L7] {
            assert!(list.is_sorted(), "{list:?}");
        }
    }
}
