//! What an operator wants to hear of requests: from Telemetry and MeshConfig to what a request does with it.
//!
//! Knows no requests beyond their line in the log. The surprising thing: where nobody states anything it holds nothing, so
//! that a request looks at a few empty places and is told of as it always was.

pub mod counted;
pub mod logs;
pub mod tables;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use common::spans::export::Exporters;
use common::telemetry::access::AccessLog;
use common::telemetry::request_line::RequestLine;
use http::HeaderName;

use self::counted::Counted;
use self::logs::{Files, Log};
use crate::spans::Tracer;
use crate::trace_headers::Sampling;

/// What is told of requests to one destination.
#[derive(Debug, Default)]
pub struct Effective {
    /// Whether they are traced.
    pub tracer: Option<Arc<Tracer>>,
    /// The logs they stand in; `None` for the waypoint's own.
    pub logs: Option<Box<[Log]>>,
    /// How the metrics of requests differ from Istio's own.
    pub counted: Option<Counted>,
    /// How those of connections do.
    pub counted_connections: Option<Counted>,
    /// Headers of requests that are told of, to be kept while a request lasts.
    pub request_headers: Box<[HeaderName]>,
    /// Those of answers.
    pub response_headers: Box<[HeaderName]>,
}

impl Effective {
    /// Which requests without a trace get one.
    pub fn sampling(&self) -> Sampling {
        self.tracer.as_ref().map_or(Sampling::Off, |it| it.sampling)
    }

    /// Writes the lines of a request. `failed` as in [`AccessLog::request`].
    pub fn log(&self, own: &AccessLog, line: &RequestLine<'_>, failed: bool) {
        match &self.logs {
            None => own.request(line, failed),
            Some(logs) => logs.iter().for_each(|log| log.tell(line, failed)),
        }
    }
}

/// Where it is told.
#[derive(Debug)]
pub struct Outputs {
    /// Standard output, as the waypoint's own log goes.
    pub own: AccessLog,
    /// Other files.
    pub files: Files,
    /// Those who take spans.
    pub exporters: Exporters,
}
