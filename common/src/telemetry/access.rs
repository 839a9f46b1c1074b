//! The access log: one line for each connection, with the fields and the order of Istio's ztunnel.
//!
//! Does not decide anything; it is told how a connection went. It honours the level of the target `access` (completed
//! connections at info or error, opened ones at debug, early refusals at warn) but writes around `tracing`: a line is
//! on the path of every connection and must cost a microsecond or two, not a tenth of the connection.

use std::fmt::{self, Display};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use tracing::Level;

use super::labels::Reporter;
use super::line::{Line, LogFormat};
use super::logging::with_line;
use super::sink::LogSink;
use crate::snapshot::model::{Service, Workload};
use crate::spiffe::Identity;

/// The log target whose level decides which lines are written.
pub const TARGET: &str = "access";

/// One connection, as the access log tells of it.
#[derive(Clone, Copy)]
pub struct Connection<'a> {
    /// Which side of it this proxy is: `outbound` for the source, `inbound` for the destination.
    pub reporter: Reporter,
    /// Where it came from.
    pub source: SocketAddr,
    /// The workload there, when it is known.
    pub source_workload: Option<&'a Workload>,
    /// The identity of the source, only when mutual TLS proved it.
    pub source_identity: Option<&'a Identity>,
    /// Where it went on the network (port 15008 of the peer when it was tunnelled).
    pub destination: SocketAddr,
    /// What the tunnel was asked for, when there was a tunnel.
    pub tunnelled_to: Option<&'a dyn Display>,
    /// The service the client called, when it called one.
    pub service: Option<&'a Service>,
    /// The workload at the destination, when it is known.
    pub destination_workload: Option<&'a Workload>,
    /// The identity of the destination, only when mutual TLS proved it.
    pub destination_identity: Option<&'a Identity>,
}

/// How a connection went.
#[derive(Clone, Copy, Default)]
pub struct Outcome<'a> {
    /// Bytes from the client to the server.
    pub request_bytes: u64,
    /// Bytes from the server to the client.
    pub response_bytes: u64,
    /// From its acceptance to its end.
    pub duration: Duration,
    /// Why it was refused or broke; `None` when it ended well.
    pub error: Option<&'a dyn Display>,
}

/// Writes access log lines. Cheap to clone.
#[derive(Clone)]
pub struct AccessLog {
    pub(super) sink: LogSink,
    pub(super) format: LogFormat,
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").field("format", &self.format).finish_non_exhaustive()
    }
}

impl AccessLog {
    /// Writes to `sink` in `format`.
    pub fn new(sink: LogSink, format: LogFormat) -> Self {
        Self { sink, format }
    }

    /// How lines are written.
    pub fn format(&self) -> LogFormat {
        self.format
    }

    /// The same log, with lines in another format.
    #[must_use]
    pub fn in_format(&self, format: LogFormat) -> Self {
        Self { sink: self.sink.clone(), format }
    }

    /// Tells that a connection was accepted and routed (level debug).
    pub fn opened(&self, connection: &Connection<'_>) {
        if tracing::enabled!(target: TARGET, Level::DEBUG) {
            with_line(&self.sink, |out| write_opened(out, self.format, SystemTime::now(), connection));
        }
    }

    /// Tells how a connection went, once it is over (level info, or error when it did not end well).
    pub fn completed(&self, connection: &Connection<'_>, outcome: &Outcome<'_>) {
        let wanted = match outcome.error {
            None => tracing::enabled!(target: TARGET, Level::INFO),
            Some(_) => tracing::enabled!(target: TARGET, Level::ERROR),
        };
        if wanted {
            let now = SystemTime::now();
            with_line(&self.sink, |out| write_completed(out, self.format, now, connection, outcome));
        }
    }

    /// Tells that a connection was refused before anything is known of it but its addresses (level warn).
    pub fn refused_early(
        &self,
        reporter: Reporter,
        (source, destination): (SocketAddr, SocketAddr),
        error: &dyn Display,
    ) {
        if tracing::enabled!(target: TARGET, Level::WARN) {
            with_line(&self.sink, |out| {
                let head = (SystemTime::now(), Level::WARN, TARGET);
                let mut line = Line::begin(out, self.format, head, &"connection failed");
                line.bare("src.addr", &Address(source)).bare("dst.addr", &Address(destination));
                line.text("direction", direction(reporter)).display("error", error);
                line.end();
            });
        }
    }
}

fn write_opened(out: &mut Vec<u8>, format: LogFormat, at: SystemTime, connection: &Connection<'_>) {
    let mut line = Line::begin(out, format, (at, Level::DEBUG, TARGET), &"connection opened");
    write_ends(&mut line, connection);
    line.end();
}

fn write_completed(
    out: &mut Vec<u8>,
    format: LogFormat,
    at: SystemTime,
    connection: &Connection<'_>,
    outcome: &Outcome<'_>,
) {
    let level = if outcome.error.is_some() { Level::ERROR } else { Level::INFO };
    let mut line = Line::begin(out, format, (at, level, TARGET), &"connection complete");
    write_ends(&mut line, connection);
    // Sent and received are as the local pod sees them: the metrics are always as the server sees them.
    let (sent, received) = match connection.reporter {
        Reporter::Source => (outcome.request_bytes, outcome.response_bytes),
        Reporter::Destination | Reporter::Waypoint => (outcome.response_bytes, outcome.request_bytes),
    };
    line.number("bytes_sent", &sent).number("bytes_recv", &received);
    line.display("duration", &Milliseconds(outcome.duration));
    if let Some(error) = outcome.error {
        line.display("error", error);
    }
    line.end();
}

fn write_ends(line: &mut Line<'_>, connection: &Connection<'_>) {
    line.bare("src.addr", &Address(connection.source));
    if let Some(workload) = connection.source_workload {
        line.text("src.workload", &workload.name).text("src.namespace", workload.namespace());
    }
    if let Some(identity) = connection.source_identity {
        line.display("src.identity", identity);
    }
    line.bare("dst.addr", &Address(connection.destination));
    if let Some(target) = connection.tunnelled_to {
        line.bare("dst.hbone_addr", target);
    }
    if let Some(service) = connection.service {
        line.text("dst.service", &service.hostname);
    }
    if let Some(workload) = connection.destination_workload {
        line.text("dst.workload", &workload.name).text("dst.namespace", workload.namespace());
    }
    if let Some(identity) = connection.destination_identity {
        line.display("dst.identity", identity);
    }
    line.text("direction", direction(connection.reporter));
}

fn direction(reporter: Reporter) -> &'static str {
    match reporter {
        Reporter::Source => "outbound",
        Reporter::Destination | Reporter::Waypoint => "inbound",
    }
}

/// A socket address, v4-mapped ones as the IPv4 address that the user knows.
pub(super) struct Address(pub(super) SocketAddr);

impl Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.ip().to_canonical() {
            IpAddr::V4(ip) => write!(f, "{ip}:{}", self.0.port()),
            IpAddr::V6(ip) => write!(f, "[{ip}]:{}", self.0.port()),
        }
    }
}

struct Milliseconds(Duration);

impl Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0.as_millis())
    }
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
