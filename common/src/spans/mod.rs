//! Spans, and lines of access logs: what is told of requests and connections, and their way to collectors.
//!
//! Knows neither requests nor connections: whoever carries them makes a span of what it knows, and says by [`reach::Dial`]
//! how a collector is reached. The surprising thing: nothing here is ever waited for. A span goes into a bounded queue or is
//! counted as lost, and a task beside the traffic sends what is there.

pub mod export;
pub mod otlp;
mod queue;
pub mod reach;
mod send;
pub mod zipkin;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Most tags of one span, custom ones included.
pub const MAX_TAGS: usize = 128;
/// Longest value of a tag in bytes, where the provider states none (Envoy's default).
pub const MAX_TAG_BYTES: usize = 256;
/// The same, whatever a provider states.
pub const MAX_STATED_TAG_BYTES: usize = 2048;
/// Bytes of a line of a log that is sent, and of each value beside it: a client's headers may stand there.
pub const MAX_LOG_VALUE_BYTES: usize = 4096;

/// Who tells: the same in all spans of a process.
#[derive(Debug, Default)]
pub struct Me {
    /// The program: `ebb-waypoint` or `ebb-ztunnel`.
    pub program: &'static str,
    /// `service.name`, as Istio names a service: a waypoint and its namespace (`waypoint.shop`).
    pub service: String,
    /// `node_id` in Istio's form: `waypoint~<address>~<pod>.<namespace>~<namespace>.svc.<domain>`.
    pub node: String,
    /// `istio.mesh_id`: the trust domain.
    pub mesh: String,
    /// `istio.canonical_service`: the Gateway's name, or `ztunnel`.
    pub canonical_service: String,
    /// `istio.namespace`.
    pub namespace: String,
    /// `istio.cluster_id`.
    pub cluster: String,
}

/// Which side of a call a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What the proxy was asked.
    Server,
    /// What it asked an endpoint.
    Client,
}

/// One step of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// The trace's id, never zero.
    pub trace: u128,
    /// Its own, never zero.
    pub id: u64,
    /// The span it is within.
    pub parent: Option<u64>,
    /// Which side.
    pub side: Side,
    /// Envoy's name of the operation.
    pub name: String,
    /// When it began.
    pub began: SystemTime,
    /// How long it lasted.
    pub took: Duration,
    /// Whether it failed.
    pub is_error: bool,
    /// What is told of it, by name.
    pub tags: Vec<(Cow<'static, str>, String)>,
}

impl Span {
    /// Adds a tag, cut at `most` bytes. Beyond [`MAX_TAGS`] there are no more.
    pub fn tag(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>, most: usize) {
        let mut value = value.into();
        cut(&mut value, most);
        if self.tags.len() < MAX_TAGS {
            self.tags.push((name.into(), value));
        }
    }
}

/// A line of an access log (OpenTelemetry `LogRecord`).
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// When the request began.
    pub at: SystemTime,
    /// The line.
    pub body: String,
    /// What is told beside it, by name.
    pub attributes: Vec<(Arc<str>, String)>,
    /// The trace of the request.
    pub trace: Option<u128>,
}

impl Entry {
    /// Cuts what is longer than [`MAX_LOG_VALUE_BYTES`].
    fn cut(&mut self) {
        cut(&mut self.body, MAX_LOG_VALUE_BYTES);
        self.attributes.iter_mut().for_each(|(_, value)| cut(value, MAX_LOG_VALUE_BYTES));
    }
}

/// Cuts a text, and gives back what the rest held.
fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
        text.shrink_to_fit();
    }
}

/// An id that is not zero.
pub fn fresh() -> u64 {
    rand::random::<u64>().max(1)
}
