//! What the programs of `ebb-app` print: one JSON object per line, read back by the tests as these types.
//!
//! A failed operation is a result like any other here, since most tests of a mesh are about how things fail.

mod ledger;
mod protocols;

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

pub use self::{
    ledger::{Fate, Receipt, Sent},
    protocols::{GrpcReport, TracedSpan, WebSocketReport},
};

/// How one operation ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome<T> {
    /// It was done.
    Done(T),
    /// It was not.
    Failed(Failure),
}

impl<T> Outcome<T> {
    /// What it gave, if it was done.
    pub fn done(self) -> Option<T> {
        match self {
            Self::Done(value) => Some(value),
            Self::Failed(_) => None,
        }
    }

    /// Why it failed, if it did.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Done(_) => None,
            Self::Failed(failure) => Some(failure),
        }
    }
}

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The class tests assert on.
    pub kind: FailureKind,
    /// The words of the system or library.
    pub detail: String,
}

/// Classes of failure as an application sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The connection was refused (RST to the SYN).
    Refused,
    /// The connection was reset after it was made.
    Reset,
    /// The peer closed in good order, but too soon.
    Closed,
    /// No answer before the deadline.
    Timeout,
    /// No route to the peer, or an ICMP error said so.
    Unreachable,
    /// An answer that breaks the protocol, or wrong bytes.
    Protocol,
    /// Anything else; see the detail.
    Other,
}

/// An HTTP answer received by `ebb-app get`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Header fields; of several with one name the values are joined by `, `.
    pub headers: BTreeMap<String, String>,
    /// The body, invalid UTF-8 replaced.
    pub body: String,
    /// The client's end of the connection.
    pub local: SocketAddr,
    /// The server's end as the client sees it.
    pub peer: SocketAddr,
    /// From the start of the connection to the last byte, in microseconds.
    pub elapsed_us: u64,
}

impl Answer {
    /// The body as the self-description `ebb-app http` gives on ordinary paths.
    ///
    /// # Errors
    /// The body is something else.
    pub fn described(&self) -> anyhow::Result<Described> {
        Ok(serde_json::from_str(&self.body)?)
    }
}

/// How `ebb-app http` describes itself and the request it got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Described {
    /// The server's name: its pod.
    pub name: String,
    /// The server's version, from the pod's label `version`; empty without.
    pub version: String,
    /// The client's address as the server saw it.
    pub peer: SocketAddr,
    /// The server's end of the connection.
    pub local: SocketAddr,
    /// The request's method.
    pub method: String,
    /// The request's path and query.
    pub path: String,
    /// The request's header fields.
    pub headers: BTreeMap<String, String>,
    /// Status and body of what it called itself, where it calls something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub called: Option<String>,
}

/// What a load generator measured: `load`, `pingpong` and `connrate`, each with its own unit of work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadReport {
    /// Connections used at a time.
    pub connections: u32,
    /// Requests, exchanges or connections done.
    pub done: u64,
    /// From the first to the last, in seconds.
    pub elapsed_s: f64,
    /// Done per second.
    pub rate: f64,
    /// Payload bytes received.
    pub bytes: u64,
    /// HTTP answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Failures by kind.
    pub failures: BTreeMap<FailureKind, u64>,
    /// Time per unit; at a fixed rate counted from when it was due, so that waiting for a slow one before it counts.
    pub latency: Latency,
}

impl LoadReport {
    /// Failures of every kind.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

/// Percentiles in microseconds, each within 1 %.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Samples.
    pub count: u64,
    /// Arithmetic mean.
    pub mean_us: f64,
    /// Median.
    pub p50_us: f64,
    /// 90 % are faster.
    pub p90_us: f64,
    /// 99 % are faster.
    pub p99_us: f64,
    /// 99.9 % are faster.
    pub p999_us: f64,
    /// The slowest.
    pub max_us: f64,
}

/// What `bulk` measured, as confirmed by the far end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BulkReport {
    /// Streams at a time.
    pub streams: u32,
    /// Payload bytes that arrived.
    pub bytes: u64,
    /// Until the last byte was confirmed, in seconds.
    pub elapsed_s: f64,
    /// Gigabits per second.
    pub gbit_per_s: f64,
    /// Streams that broke, by kind.
    pub failures: BTreeMap<FailureKind, u64>,
}

/// What became of the connections of `hold`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldReport {
    /// Connections that were opened and echoed once.
    pub opened: u64,
    /// Connections that could not be, by kind.
    pub failed: BTreeMap<FailureKind, u64>,
    /// Of the opened, those that echoed again at the end; none while they are still held.
    pub alive: Option<u64>,
    /// Of the opened, those that did not, by kind.
    pub dead: BTreeMap<FailureKind, u64>,
    /// The slowest echo at the end, in microseconds.
    pub slowest_us: u64,
}

/// One step of a scripted peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStep {
    /// As written in the script.
    pub step: String,
    /// Bytes sent or received in this step.
    pub bytes: u64,
    /// Why it failed; the steps after a failed one are not run and not reported.
    pub failure: Option<Failure>,
    /// In microseconds.
    pub elapsed_us: u64,
}

/// What happened to a scripted peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerReport {
    /// Steps run, in order.
    pub steps: Vec<PeerStep>,
    /// Whether every step ran and did what it says.
    pub complete: bool,
}
