//! Istio's TCP metrics: connections opened, closed and failed, and bytes, by who talked to whom.
//!
//! An edge (one client workload, one server workload, one service, one way of securing it) has one text of labels and
//! a handful of counters. A connection resolves its edge once, through the cache of its worker, and after that adds to
//! atomics. The surprising thing: these series do not live in the recorder of the `metrics` crate. Ten thousand edges
//! take 10 MB here; there they take 100 MB, and 190 MB more while a scrape lasts, because labels are kept as strings for
//! each series. And it cannot drop a series while somebody holds its handle: here an edge is dropped exactly when no
//! connection holds it.

use std::collections::HashMap;
use std::hash::RandomState;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::exposition::{Format, Kind, write_head};
use super::labels::{EdgeLabels, Reporter, overflow_text};
use crate::refusal::Refusal;

/// How many edges are kept; connections of further ones are counted under the label value `overflow`.
pub const MAX_EDGES: usize = 10_000;
/// How long an edge without open connections keeps its series. Long enough for any `rate()` people plot.
pub const EDGE_IDLE_EXPIRY: Duration = Duration::from_secs(3600);
/// How many edges a worker finds without asking the table they share.
pub const EDGE_CACHE_ENTRIES: usize = 2048;
/// When the table is full, how often a new edge may look for one that has expired.
const FULL_SWEEP_INTERVAL: Duration = Duration::from_secs(60);
/// About how much of a scrape's answer is built at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// Values of the label `response_flags`: a dash for a connection that went well, then Istio ztunnel's names.
const FLAGS: [&str; 8] = [
    "-",
    "DENY",
    "CONNECT",
    "TLS_FAILURE",
    "H2_HANDSHAKE_FAILURE",
    "NETWORK_POLICY",
    "IDENTITY_ERROR",
    "CERT_REVOKED",
];
/// The flag of a refusal whose own is not one of [`FLAGS`].
const CATCH_ALL: usize = 2;

/// The counters of one edge. Held by every connection of it; the counts are the same for all workers.
#[derive(Debug)]
pub struct Edge {
    labels: Arc<str>,
    opened: AtomicU64,
    closed: [AtomicU64; FLAGS.len()],
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
}

impl Edge {
    fn new(labels: Arc<str>) -> Self {
        Self {
            labels,
            opened: AtomicU64::new(0),
            closed: Default::default(),
            request_bytes: AtomicU64::new(0),
            response_bytes: AtomicU64::new(0),
        }
    }

    /// A connection was accepted.
    pub fn opened(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection that was opened is over; with the refusal that ended it, it counts as failed as well.
    pub fn closed(&self, refusal: Option<&Refusal>) {
        let flag = refusal
            .map_or(0, |refusal| FLAGS.iter().position(|flag| *flag == refusal.flag()).unwrap_or(CATCH_ALL));
        self.closed[flag].fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes went from the client to the server (`istio_tcp_received_bytes_total`: Istio counts as the server sees it,
    /// on both sides). To be told in lots, not for each packet: the counter is shared between workers.
    pub fn request_bytes(&self, bytes: u64) {
        self.request_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes went from the server to the client (`istio_tcp_sent_bytes_total`). As [`Edge::request_bytes`].
    pub fn response_bytes(&self, bytes: u64) {
        self.response_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Connections that were opened and are not over.
    fn open(&self) -> u64 {
        // What is over is read first: a connection that opens and ends in between counts for nothing, not for less.
        let closed: u64 = self.closed.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        self.opened.load(Ordering::Relaxed).saturating_sub(closed)
    }

    fn is_used(&self) -> bool {
        self.opened.load(Ordering::Relaxed) > 0 || self.closed.iter().any(|c| c.load(Ordering::Relaxed) > 0)
    }
}

/// All edges of this proxy.
#[derive(Debug)]
pub struct TcpMetrics {
    table: Mutex<Table>,
    overflow: [Arc<Edge>; 2],
    hash: RandomState,
}

#[derive(Debug, Default)]
struct Table {
    edges: HashMap<Arc<str>, Entry>,
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    edge: Arc<Edge>,
    /// Since when no connection held it, and how many it had seen by then.
    idle: Option<(Instant, u64)>,
}

impl Default for TcpMetrics {
    fn default() -> Self {
        let overflow = [Reporter::Source, Reporter::Destination]
            .map(|reporter| Arc::new(Edge::new(overflow_text(reporter).into())));
        Self { table: Mutex::default(), overflow, hash: RandomState::new() }
    }
}

impl TcpMetrics {
    /// Finds or makes the edge of a connection. Workers go through their [`EdgeCache`] instead.
    pub fn edge(&self, labels: &EdgeLabels<'_>) -> Arc<Edge> {
        self.find(labels, Instant::now()).unwrap_or_else(|| self.overflow(labels.reporter))
    }

    /// How many edges have series now.
    pub fn edges(&self) -> usize {
        self.lock().edges.len()
    }

    fn overflow(&self, reporter: Reporter) -> Arc<Edge> {
        self.overflow[usize::from(reporter == Reporter::Destination)].clone()
    }

    /// `None` when the edge is new and there is no room for it.
    fn find(&self, labels: &EdgeLabels<'_>, now: Instant) -> Option<Arc<Edge>> {
        let text = labels.text();
        let mut table = self.lock();
        if let Some(entry) = table.edges.get(text.as_str()) {
            return Some(entry.edge.clone());
        }
        if table.edges.len() >= MAX_EDGES {
            let due = table.swept.is_none_or(|at| now.duration_since(at) >= FULL_SWEEP_INTERVAL);
            if due {
                table.sweep(now);
            }
            if table.edges.len() >= MAX_EDGES {
                return None;
            }
        }
        let labels: Arc<str> = text.into();
        let edge = Arc::new(Edge::new(labels.clone()));
        table.edges.insert(labels, Entry { edge: edge.clone(), idle: None });
        Some(edge)
    }

    /// Begins a scrape: expires what is idle and returns the series as chunks of text.
    pub fn scrape(&self, format: Format) -> TcpScrape {
        let mut table = self.lock();
        table.sweep(Instant::now());
        let kept = table.edges.values().map(|entry| entry.edge.clone());
        let overflow = self.overflow.iter().filter(|edge| edge.is_used()).cloned();
        let edges: Vec<_> = kept.chain(overflow).collect();
        let sockets = Some(open_sockets(&edges, format));
        TcpScrape { edges, format, family: 0, next: 0, sockets }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Each statement under the lock leaves the table whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Drops the edges that no connection has held for [`EDGE_IDLE_EXPIRY`].
    fn sweep(&mut self, now: Instant) {
        self.swept = Some(now);
        let mut expired = Vec::new();
        for (labels, entry) in &mut self.edges {
            let opened = entry.edge.opened.load(Ordering::Relaxed);
            entry.idle = match entry.idle {
                _ if Arc::strong_count(&entry.edge) > 1 => None,
                Some((since, seen)) if seen == opened => Some((since, seen)),
                _ => Some((now, opened)),
            };
            if entry.idle.is_some_and(|(since, _)| now.duration_since(since) >= EDGE_IDLE_EXPIRY) {
                expired.push(labels.clone());
            }
        }
        for labels in expired {
            let Some(Entry { edge, .. }) = self.edges.remove(&labels) else { continue };
            // A worker may have found the edge through its cache since we looked. Taking it apart succeeds only when
            // nobody has it, and from then on nobody can get it: no count is ever lost with a dropped edge.
            if let Err(edge) = Arc::try_unwrap(edge) {
                self.edges.insert(labels, Entry { edge, idle: None });
            }
        }
    }
}

/// The edges one worker has met lately. Stays on its thread, so that its lock is never contended.
#[derive(Debug)]
pub struct EdgeCache {
    metrics: Arc<TcpMetrics>,
    // Weak, so that a cache does not keep an edge from expiring.
    known: Mutex<HashMap<u64, Weak<Edge>>>,
}

impl EdgeCache {
    /// An empty cache in front of `metrics`.
    pub fn new(metrics: Arc<TcpMetrics>) -> Self {
        Self { metrics, known: Mutex::default() }
    }

    /// Finds or makes the edge of a connection: once for each connection, which then holds the edge to its end.
    pub fn edge(&self, labels: &EdgeLabels<'_>) -> Arc<Edge> {
        let key = labels.hash(&self.metrics.hash);
        let known = self.known().get(&key).and_then(Weak::upgrade);
        if let Some(edge) = known.filter(|edge| labels.are(&edge.labels)) {
            return edge;
        }
        let Some(edge) = self.metrics.find(labels, Instant::now()) else {
            // Not remembered: the edge gets its own series as soon as there is room.
            return self.metrics.overflow(labels.reporter);
        };
        let mut known = self.known();
        if known.len() >= EDGE_CACHE_ENTRIES {
            known.clear();
        }
        known.insert(key, Arc::downgrade(&edge));
        edge
    }

    fn known(&self) -> MutexGuard<'_, HashMap<u64, Weak<Edge>>> {
        // Each statement under the lock leaves the map whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Name, help and what to write of an edge.
type EdgeFamily = (&'static str, &'static str, fn(&Edge, &str, &mut String));

const FAMILIES: [EdgeFamily; 5] = [
    ("istio_tcp_connections_opened_total", "Connections accepted.", |edge, name, out| {
        sample(edge, name, 0, &edge.opened, out);
    }),
    ("istio_tcp_connections_closed_total", "Connections that are over.", |edge, name, out| {
        sample(edge, name, 0, &edge.closed[0], out);
        failures(edge, name, out);
    }),
    (
        "istio_tcp_connections_failed_total",
        "Connections that were refused or could not be carried, by reason.",
        failures,
    ),
    ("istio_tcp_received_bytes_total", "Bytes from clients to servers.", |edge, name, out| {
        sample(edge, name, 0, &edge.request_bytes, out);
    }),
    ("istio_tcp_sent_bytes_total", "Bytes from servers to clients.", |edge, name, out| {
        sample(edge, name, 0, &edge.response_bytes, out);
    }),
];

/// `istio_tcp_sockets_open`: connections being carried now, by the side that reports them. An edge expires only when
/// it has none, so nothing is missing from the sum.
fn open_sockets(edges: &[Arc<Edge>], format: Format) -> String {
    let name = "istio_tcp_sockets_open";
    let mut out = String::with_capacity(256);
    write_head(name, "Connections that are open now.", Kind::Gauge, format, &mut out);
    for reporter in [Reporter::Source, Reporter::Destination] {
        let begin = format!("reporter=\"{}\"", reporter.label());
        let of_reporter = edges.iter().filter(|edge| edge.labels.starts_with(&begin));
        let open: u64 = of_reporter.map(|edge| edge.open()).sum();
        out.push_str(&format!("{name}{{{begin}}} {open}\n"));
    }
    out
}

/// One sample for each reason there was.
fn failures(edge: &Edge, name: &str, out: &mut String) {
    for (flag, count) in edge.closed.iter().enumerate().skip(1) {
        if count.load(Ordering::Relaxed) > 0 {
            sample(edge, name, flag, count, out);
        }
    }
}

fn sample(edge: &Edge, name: &str, flag: usize, count: &AtomicU64, out: &mut String) {
    for part in [name, "{", &edge.labels, ",response_flags=\"", FLAGS[flag], "\"} "] {
        out.push_str(part);
    }
    out.push_str(&count.load(Ordering::Relaxed).to_string());
    out.push('\n');
}

/// The TCP series at one scrape, chunk by chunk: ten thousand edges are some fifty megabytes of text, which nobody
/// should hold at once.
#[derive(Debug)]
pub struct TcpScrape {
    edges: Vec<Arc<Edge>>,
    format: Format,
    family: usize,
    next: usize,
    /// The family that is a sum over all edges.
    sockets: Option<String>,
}

impl Iterator for TcpScrape {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut chunk = String::with_capacity(CHUNK_BYTES + 8192);
        while let Some((name, help, write)) = FAMILIES.get(self.family) {
            if self.next == 0 {
                write_head(name, help, Kind::Counter, self.format, &mut chunk);
            }
            while let Some(edge) = self.edges.get(self.next) {
                self.next += 1;
                write(edge, name, &mut chunk);
                if chunk.len() >= CHUNK_BYTES {
                    return Some(chunk.into());
                }
            }
            self.family += 1;
            self.next = 0;
        }
        chunk.extend(self.sockets.take());
        (!chunk.is_empty()).then(|| chunk.into())
    }
}

#[cfg(test)]
#[path = "tcp_tests.rs"]
mod tests;
