//! What the programs of `ebb-app` print: one JSON object per line, read back by the tests as these types.
//!
//! A failed operation is a result like any other here, since most tests of a mesh are about how things fail.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

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
}
