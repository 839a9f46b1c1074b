//! The series of requests as text, chunk by chunk: a thousand of them are some eighty megabytes, which nobody should
//! hold at once.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::variant::Hidden;
use super::{MAX_ENDINGS_PER_EDGE, RequestEdge, Series};
use crate::telemetry::exposition::{Format, Kind, write_head};
use crate::telemetry::histogram::Unit;

/// About how much of the answer is built at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// One metric.
struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    write: Write,
}

/// What is written of it.
#[derive(Clone, Copy)]
enum Write {
    /// Samples for each way in which requests of an edge ended, given the metric's name and the labels.
    Series(fn(&Series, &str, &str, &mut String)),
    /// One count for each edge that has any.
    Edge(fn(&RequestEdge) -> &AtomicU64),
}

const FAMILIES: [Family; 6] = [
    Family {
        name: "istio_requests_total",
        help: "Requests that are over.",
        kind: Kind::Counter,
        write: Write::Series(|series, name, labels, out| {
            let _ = writeln!(out, "{name}{{{labels}}} {}", series.duration.count());
        }),
    },
    Family {
        name: "istio_request_duration_milliseconds",
        help: "From the head of a request to the end of its answer.",
        kind: Kind::Histogram,
        write: Write::Series(|series, name, labels, out| {
            series.duration.write(name, labels, Unit::Thousandths, out);
        }),
    },
    Family {
        name: "istio_request_bytes",
        help: "Bytes of the bodies of requests.",
        kind: Kind::Histogram,
        write: Write::Series(|series, name, labels, out| {
            series.request_bytes.write(name, labels, Unit::Whole, out);
        }),
    },
    Family {
        name: "istio_response_bytes",
        help: "Bytes of the bodies of answers.",
        kind: Kind::Histogram,
        write: Write::Series(|series, name, labels, out| {
            series.response_bytes.write(name, labels, Unit::Whole, out);
        }),
    },
    Family {
        name: "istio_request_messages_total",
        help: "gRPC messages from clients to servers.",
        kind: Kind::Counter,
        write: Write::Edge(|edge| &edge.request_messages),
    },
    Family {
        name: "istio_response_messages_total",
        help: "gRPC messages from servers to clients.",
        kind: Kind::Counter,
        write: Write::Edge(|edge| &edge.response_messages),
    },
];

/// A scrape that is being read. Without any edge it is empty: a proxy that serves no requests shows no metric of them.
#[derive(Debug)]
pub struct RequestScrape {
    edges: Vec<Arc<RequestEdge>>,
    format: Format,
    family: usize,
    edge: usize,
    slot: usize,
    labels: String,
}

impl RequestScrape {
    pub(super) fn new(edges: Vec<Arc<RequestEdge>>, format: Format) -> Self {
        Self { edges, format, family: 0, edge: 0, slot: 0, labels: String::new() }
    }

    /// Whether there is anything of the family to write.
    fn is_wanted(&self) -> bool {
        match FAMILIES[self.family].write {
            Write::Series(_) => self.edges.iter().any(|edge| self.is_in(edge)),
            Write::Edge(count) => {
                let mut all = self.edges.iter().filter(|edge| self.is_in(edge));
                all.any(|edge| count(edge).load(Ordering::Relaxed) > 0)
            }
        }
    }

    /// Whether an edge is in the family at all.
    fn is_in(&self, edge: &RequestEdge) -> bool {
        edge.families.load(Ordering::Relaxed) & 1 << self.family != 0
    }

    /// Writes one series of the family, and steps to the next.
    fn step(&mut self, family: &Family, out: &mut String) {
        let edge = &self.edges[self.edge];
        if !self.is_in(edge) {
            self.edge += 1;
            return;
        }
        let write = match family.write {
            Write::Series(write) => write,
            Write::Edge(count) => {
                let count = count(edge).load(Ordering::Relaxed);
                if count > 0 {
                    let protocol = match edge.hidden.has(Hidden::PROTOCOL) {
                        true => "",
                        false => "request_protocol=\"grpc\"",
                    };
                    let both = !edge.labels.is_empty() && !protocol.is_empty();
                    let separator = if both { "," } else { "" };
                    let _ = writeln!(out, "{}{{{}{separator}{protocol}}} {count}", family.name, edge.labels);
                }
                self.edge += 1;
                return;
            }
        };
        let slot = edge.series.get(self.slot).unwrap_or(&edge.further);
        if let Some(series) = slot.get() {
            write_labels(edge, series, &mut self.labels);
            write(series, family.name, &self.labels, out);
        }
        // Behind the first empty slot there is only the one for what has none of its own.
        self.slot = match slot.get() {
            _ if self.slot >= MAX_ENDINGS_PER_EDGE => 0,
            Some(_) => self.slot + 1,
            None => MAX_ENDINGS_PER_EDGE,
        };
        self.edge += usize::from(self.slot == 0);
    }
}

/// The labels of one series. An ending that has no series of its own is `overflow` throughout.
fn write_labels(edge: &RequestEdge, series: &Series, out: &mut String) {
    out.clear();
    out.push_str(&edge.labels);
    for (label, name) in Hidden::NAMES.into_iter().filter(|(label, _)| !edge.hidden.has(*label)) {
        let separator = if out.is_empty() { "" } else { "," };
        let _ = write!(out, "{separator}{name}=\"");
        let _ = match (&series.ending, label) {
            (None, _) => write!(out, "overflow"),
            (Some(ending), Hidden::PROTOCOL) => write!(out, "{}", ending.protocol.label()),
            (Some(ending), Hidden::CODE) => write!(out, "{}", ending.status),
            // Empty for what is not gRPC, as Istio has it: alerts look for it with `grpc_response_status=~".+"`.
            (Some(ending), Hidden::GRPC) => {
                ending.grpc_status.map_or(Ok(()), |status| write!(out, "{status}"))
            }
            (Some(ending), _) => write!(out, "{}", ending.flags),
        };
        out.push('"');
    }
}

impl Iterator for RequestScrape {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.edges.is_empty() {
            return None;
        }
        let mut chunk = String::with_capacity(CHUNK_BYTES * 2);
        while let Some(family) = FAMILIES.get(self.family) {
            if (self.edge, self.slot) == (0, 0) {
                if !self.is_wanted() {
                    self.family += 1;
                    continue;
                }
                write_head(family.name, family.help, family.kind, self.format, &mut chunk);
            }
            while self.edge < self.edges.len() {
                self.step(family, &mut chunk);
                if chunk.len() >= CHUNK_BYTES {
                    return Some(chunk.into());
                }
            }
            self.family += 1;
            (self.edge, self.slot) = (0, 0);
        }
        (!chunk.is_empty()).then(|| chunk.into())
    }
}
