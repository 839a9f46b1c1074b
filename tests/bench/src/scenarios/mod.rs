//! Owns the kinds of work that systems are compared in, one file each; here is the list and who takes which sample.

mod change;
mod cold;
mod memory;
mod meter;
mod once;
mod policy;
mod scale;
mod traffic;

use std::{fmt, str::FromStr};

use anyhow::Result;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{
    plan::Plan,
    results::Sample,
    systems::{Candidate, Running, Tools},
};

/// A kind of work, with its size where it comes in several. The lists in `layer.rs` say what is done where and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scenario {
    /// Memory, idle and with idle connections.
    Memory,
    /// Memory of the proxies, and of the one that routes, idle.
    Idle,
    /// The first connection of a client that nobody has seen before.
    Cold,
    /// One byte there and back on one connection.
    PingPong,
    /// HTTP requests at a fixed rate, evenly spaced: so many a second.
    Paced(u32),
    /// So many streams, together as fast as they go.
    Bulk(u32),
    /// Small HTTP requests on so many connections, each asking again as soon as it is answered.
    Http(u32),
    /// New connections, 16 at a time, where client and server have talked before.
    Connect,
    /// A policy that changes, until it is in force.
    Policy,
    /// Memory of a proxy that has 1,000 routes instead of 10.
    Routes,
    /// One route that changes among 10,000, until it is in force.
    Change,
    /// A table of 1,000 rules asked for one, without any network (Ebb only).
    Matching,
    /// Memory of all proxies of a node with so many pods.
    Pods(u32),
    /// Start in a mesh of so many workloads (Ebb only).
    Workloads(u32),
}

/// A scenario of a size.
type Sized = fn(u32) -> Scenario;

/// The scenarios with a size, by the word before it.
const SIZED: [(&str, Sized); 5] = [
    ("paced", Scenario::Paced),
    ("bulk", Scenario::Bulk),
    ("http", Scenario::Http),
    ("pods", Scenario::Pods),
    ("workloads", Scenario::Workloads),
];

/// Those without.
const PLAIN: [(&str, Scenario); 9] = [
    ("memory", Scenario::Memory),
    ("idle", Scenario::Idle),
    ("cold", Scenario::Cold),
    ("ping", Scenario::PingPong),
    ("connect", Scenario::Connect),
    ("policy", Scenario::Policy),
    ("routes", Scenario::Routes),
    ("change", Scenario::Change),
    ("matching", Scenario::Matching),
];

impl Scenario {
    /// What it is, for the reader of the report.
    #[must_use]
    pub(crate) fn title(self) -> String {
        match self {
            Self::Memory => "memory, idle and with idle connections".into(),
            Self::Idle => "memory, idle".into(),
            Self::Cold => "the first connection between two identities".into(),
            Self::PingPong => "one byte there and back".into(),
            Self::Paced(rate) => format!("{} requests per second, evenly spaced", grouped(rate)),
            Self::Bulk(1) => "one bulk stream".into(),
            Self::Bulk(streams) => format!("{streams} bulk streams"),
            Self::Http(1) => "HTTP, 1 connection".into(),
            Self::Http(connections) => format!("HTTP, {connections} connections"),
            Self::Connect => "new connections, 16 at a time".into(),
            Self::Policy => "a policy in force".into(),
            Self::Routes => "memory with 1,000 routes".into(),
            Self::Change => "a route among 10,000 in force".into(),
            Self::Matching => "a rule of 1,000, without any network".into(),
            Self::Pods(1) => "a node with 1 pod".into(),
            Self::Pods(pods) => format!("a node with {pods} pods"),
            Self::Workloads(count) => format!("{} workloads", grouped(count)),
        }
    }
}

/// Thousands apart.
fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| str::from_utf8(group).ok()).collect();
    groups.join(",")
}

impl fmt::Display for Scenario {
    /// Its name on the command line and in the JSON file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, _)) = PLAIN.iter().find(|(_, scenario)| scenario == self) {
            return f.write_str(name);
        }
        let size = match self {
            Self::Paced(size) | Self::Bulk(size) | Self::Http(size) => *size,
            Self::Pods(size) | Self::Workloads(size) => *size,
            _ => return Err(fmt::Error),
        };
        let sized = SIZED.iter().find(|(_, make)| make(size) == *self).ok_or(fmt::Error)?;
        write!(f, "{}-{size}", sized.0)
    }
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        if let Some((_, scenario)) = PLAIN.iter().find(|(plain, _)| *plain == name) {
            return Ok(*scenario);
        }
        let sized = name.rsplit_once('-').and_then(|(word, size)| {
            let (_, make) = SIZED.iter().find(|(sized, _)| *sized == word)?;
            Some(make(size.parse().ok()?))
        });
        sized.ok_or_else(|| format!("no scenario {name}"))
    }
}

impl Serialize for Scenario {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Scenario {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Takes one sample of `scenario`, or all of them where it repeats something by itself; none when it is not for this system.
///
/// # Errors
/// A program failed, or carried no traffic.
pub(crate) fn take(
    scenario: Scenario,
    candidate: &dyn Candidate,
    running: Option<&Running>,
    (tools, plan): (&Tools, &Plan),
) -> Result<Vec<Sample>> {
    // Some start something of their own.
    match scenario {
        Scenario::Cold => return cold::take(candidate, tools, plan),
        Scenario::Routes => return once::routes(candidate, tools, plan),
        Scenario::Change => return change::take(candidate, tools, plan),
        Scenario::Matching => return once::matching(candidate),
        Scenario::Pods(pods) => return scale::pods(candidate, tools, pods),
        Scenario::Workloads(count) => return scale::workloads(candidate, count),
        _ => {}
    }
    let Some(running) = running else { return Ok(Vec::new()) };
    let mut sample = match scenario {
        Scenario::Memory => memory::take(running, plan),
        Scenario::Idle => memory::idle(running),
        Scenario::PingPong => traffic::ping(running, plan),
        Scenario::Paced(rate) => traffic::paced(running, plan, rate),
        Scenario::Bulk(streams) => traffic::bulk(running, plan, streams),
        Scenario::Http(connections) => traffic::http(running, plan, connections),
        Scenario::Policy => return policy::take(candidate, running, plan),
        _ => traffic::connect(running, plan),
    }?;
    if running.proxies.is_empty() {
        // No proxies spend nothing, which is no figure.
        sample.remove("cpu");
    }
    Ok(if sample.is_empty() { Vec::new() } else { vec![sample] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer;

    #[test]
    fn every_scenario_is_read_by_the_name_it_writes() {
        for scenario in layer::ALL.iter().flat_map(|layer| layer.scenarios()) {
            assert_eq!(scenario.to_string().parse(), Ok(*scenario));
            let json = serde_json::to_string(scenario).unwrap();
            assert_eq!(serde_json::from_str::<Scenario>(&json).unwrap(), *scenario, "{json}");
        }
        assert_eq!("http-16".parse(), Ok(Scenario::Http(16)));
        for wrong in ["http", "http-", "http-x", "ping-1", "", "bulk-99999999999"] {
            assert!(wrong.parse::<Scenario>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn titles_have_their_thousands_apart() {
        assert_eq!(Scenario::Workloads(100_000).title(), "100,000 workloads");
        assert_eq!(Scenario::Paced(500).title(), "500 requests per second, evenly spaced");
    }
}
