//! Istio's TCP metrics: connections opened, closed and failed, and bytes, by who talked to whom.
//!
//! An edge (one client workload, one server workload, one service, one way of securing it) has one text of labels and
//! a handful of counters. A connection resolves its edge once, through the cache of its worker, and after that adds to
//! atomics. The surprising thing: these series do not live in the recorder of the `metrics` crate. Ten thousand edges
//! take 10 MB here; there they take 100 MB, and 190 MB more while a scrape lasts, because labels are kept as strings for
//! each series. And it cannot drop a series while somebody holds its handle: here an edge is dropped exactly when no
//! connection holds it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::RandomState;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::edges::{Counters, EdgeTable};
use super::exposition::{Format, Kind, write_head};
use super::labels::{Counted, EdgeLabels, Reporter, overflow_text};
use super::requests::{Variant, overlapping};
use crate::refusal::Refusal;

/// How many edges are kept; connections of further ones are counted under the label value `overflow`.
pub const MAX_EDGES: usize = 10_000;
/// How many edges a worker finds without asking the table they share.
pub const EDGE_CACHE_ENTRIES: usize = 2048;
/// How many edges with labels that an operator states are kept; connections of further ones are counted under `overflow`.
pub const MAX_TCP_VARIANT_EDGES: usize = 2_000;
/// About how much of a scrape's answer is built at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// Values of the label `response_flags`: a dash for a connection that went well, then Istio ztunnel's names, then
/// Envoy's, which a waypoint speaks in.
const FLAGS: [&str; 12] = [
    "-",
    "DENY",
    "CONNECT",
    "TLS_FAILURE",
    "H2_HANDSHAKE_FAILURE",
    "NETWORK_POLICY",
    "IDENTITY_ERROR",
    "CERT_REVOKED",
    "UF",
    "UH",
    "UO",
    "RBAC",
];
/// The flag of a refusal whose own is not one of [`FLAGS`].
const CATCH_ALL: usize = 2;
/// The flag of a refusal by a waypoint when nothing closer describes it: the endpoint was not reached.
const WAYPOINT_CATCH_ALL: usize = 8;

/// The counters of one edge. Held by every connection of it; the counts are the same for all workers.
#[derive(Debug)]
pub struct Edge {
    labels: Arc<str>,
    /// Which metrics show it, by their places in [`FAMILIES`].
    families: AtomicU8,
    /// It is everybody's who found no place, so that it is in all metrics whatever one of them asks for.
    is_overflow: bool,
    /// No series of it says how connections ended.
    hides_flags: bool,
    /// Whose open sockets its connections are; `None` where another edge counts the same ones.
    sockets_of: Option<Reporter>,
    opened: AtomicU64,
    closed: [AtomicU64; FLAGS.len()],
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
}

impl Edge {
    /// Of Istio's own labels, in all metrics.
    fn new(labels: Arc<str>, reporter: Reporter) -> Self {
        Self {
            labels,
            families: AtomicU8::new(ALL_FAMILIES),
            is_overflow: false,
            hides_flags: false,
            sockets_of: Some(reporter),
            opened: AtomicU64::new(0),
            closed: Default::default(),
            request_bytes: AtomicU64::new(0),
            response_bytes: AtomicU64::new(0),
        }
    }

    /// Says which metrics show it from now on, by their bits. What is counted stays, so that no metric has a series twice
    /// when some are turned off.
    fn show(&self, families: u8) {
        // Hardly ever another: the line it stands on is shared with other workers.
        if !self.is_overflow && self.families.load(Ordering::Relaxed) != families {
            self.families.store(families, Ordering::Relaxed);
        }
    }

    /// Has it shown in all metrics from now on: nobody wants it otherwise, or nobody any more.
    pub fn show_all(&self) {
        self.show(ALL_FAMILIES);
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

    /// As [`Edge::closed`], in the words of Envoy that a waypoint uses (`UF`, `UH`, `UO`, `RBAC`).
    pub fn closed_at_waypoint(&self, refusal: Option<&Refusal>) {
        let flag = refusal.map_or(0, |refusal| {
            FLAGS.iter().position(|flag| *flag == envoy_flag(refusal)).unwrap_or(WAYPOINT_CATCH_ALL)
        });
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

    fn failed(&self) -> u64 {
        self.closed[1..].iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    fn is_used(&self) -> bool {
        self.opened.load(Ordering::Relaxed) > 0 || self.closed.iter().any(|c| c.load(Ordering::Relaxed) > 0)
    }
}

impl Counters for Edge {
    fn uses(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }
}

/// The response flag of a refusal, in the words of Envoy that a waypoint's access log and metrics use.
pub fn envoy_flag(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::NoHealthyUpstream(_) => "UH",
        Refusal::LimitReached(_) => "UO",
        _ if refusal.flag() == "DENY" => "RBAC",
        _ => "UF",
    }
}

/// All edges of this proxy.
#[derive(Debug)]
pub struct TcpMetrics {
    table: Mutex<EdgeTable<Edge>>,
    overflow: [(Reporter, Arc<Edge>); REPORTERS.len()],
    variants: Mutex<Variants>,
    hash: RandomState,
}

/// Edges with labels that an operator states.
#[derive(Debug)]
struct Variants {
    table: EdgeTable<Edge>,
    /// For those that found no place, one for each way of differing.
    overflow: HashMap<String, Arc<Edge>>,
}

impl Default for Variants {
    fn default() -> Self {
        Self { table: EdgeTable::new(MAX_TCP_VARIANT_EDGES), overflow: HashMap::new() }
    }
}

/// Whoever reports, in the order in which open sockets are shown.
const REPORTERS: [Reporter; 3] = [Reporter::Source, Reporter::Destination, Reporter::Waypoint];

impl Default for TcpMetrics {
    fn default() -> Self {
        let edge = |reporter| {
            let text = overflow_text(reporter, Counted::Connections).into();
            Arc::new(Edge { is_overflow: true, ..Edge::new(text, reporter) })
        };
        Self {
            table: Mutex::new(EdgeTable::new(MAX_EDGES)),
            overflow: REPORTERS.map(|reporter| (reporter, edge(reporter))),
            variants: Mutex::default(),
            hash: RandomState::new(),
        }
    }
}

impl TcpMetrics {
    /// Finds or makes the edge of a connection. Workers go through their [`EdgeCache`] instead.
    pub fn edge(&self, labels: &EdgeLabels<'_>) -> Arc<Edge> {
        self.find(labels, Instant::now()).unwrap_or_else(|| self.overflow(labels.reporter))
    }

    /// Keeps the series of idle edges for so long; `None` is for ever.
    pub fn expire_after(&self, expiry: Option<Duration>) {
        self.lock().expire_after(expiry);
        self.variants().table.expire_after(expiry);
    }

    /// The edge with other labels.
    fn variant(
        &self,
        labels: &EdgeLabels<'_>,
        (variant, counts_open): (&Variant, bool),
        values: &[Cow<'_, str>],
    ) -> Arc<Edge> {
        let (families, hides_flags) = (variant.families(), variant.hides_flags());
        let sockets_of = counts_open.then_some(labels.reporter);
        let make = |text: Arc<str>| Edge {
            families: families.into(),
            hides_flags,
            sockets_of,
            ..Edge::new(text, labels.reporter)
        };
        // Before the labels, which edges of several metrics may share.
        let way = |families: u8, counts_open: bool| {
            format!("{families:02x}{}{}", u8::from(hides_flags), u8::from(counts_open))
        };
        let text = variant.labels(&labels.text(), values);
        let mut variants = self.variants();
        let Variants { table, overflow } = &mut *variants;
        // What was stated before and is no more is shown in no metric of these, so that none has a series twice. It is
        // kept: connections that were opened then are counted by it as open still.
        for other in overlapping(families, ALL_FAMILIES).chain([families]) {
            for open in [false, true].into_iter().filter(|open| (other, *open) != (families, counts_open)) {
                if let Some(edge) = table.get(&(way(other, open) + &text)) {
                    edge.families.fetch_and(!families, Ordering::Relaxed);
                }
            }
        }
        let way = way(families, counts_open);
        let whole = way.clone() + &text;
        let found = table.find(whole, Instant::now(), |whole| make(whole[way.len()..].into()));
        if let Some(edge) = found {
            edge.show(families);
            return edge;
        }
        let text = overflow_text(labels.reporter, Counted::Connections);
        overflow.entry(way + &text).or_insert_with(|| Arc::new(make(text.into()))).clone()
    }

    /// How many edges have series now.
    pub fn edges(&self) -> usize {
        self.lock().len()
    }

    fn overflow(&self, reporter: Reporter) -> Arc<Edge> {
        let of_reporter = self.overflow.iter().find(|(of, _)| *of == reporter);
        of_reporter.unwrap_or(&self.overflow[0]).1.clone()
    }

    /// `None` when the edge is new and there is no room for it.
    fn find(&self, labels: &EdgeLabels<'_>, now: Instant) -> Option<Arc<Edge>> {
        self.lock().find(labels.text(), now, |text| Edge::new(text, labels.reporter))
    }

    /// Begins a scrape: expires what is idle and returns the series as chunks of text.
    pub fn scrape(&self, format: Format) -> TcpScrape {
        let mut table = self.lock();
        table.scraped(Instant::now());
        let overflow = self.overflow.iter().map(|(_, edge)| edge).filter(|edge| edge.is_used());
        let mut edges: Vec<_> = table.edges().chain(overflow).cloned().collect();
        drop(table);
        let mut variants = self.variants();
        variants.table.scraped(Instant::now());
        edges.extend(variants.table.edges().chain(variants.overflow.values()).cloned());
        drop(variants);
        let sockets = Some(open_sockets(&edges, format));
        TcpScrape { edges, format, family: 0, next: 0, sockets }
    }

    fn variants(&self) -> MutexGuard<'_, Variants> {
        // As below.
        self.variants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, EdgeTable<Edge>> {
        // Each statement under the lock leaves the table whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Finds or makes the edge of a connection in metrics that differ from Istio's own; `values` are those of the labels
    /// that are added. Of the edges of one connection one `counts_open` ones: the plain one, where there is one.
    pub fn variant(
        &self,
        labels: &EdgeLabels<'_>,
        of: (&Variant, bool),
        values: &[Cow<'_, str>],
    ) -> Arc<Edge> {
        if of.0.is_plain() {
            let edge = self.edge(labels);
            edge.show(of.0.families());
            return edge;
        }
        self.metrics.variant(labels, of, values)
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

/// Metrics of connections, each by its place: the set in which an edge is shown is of bits at these places.
const FAMILIES: [EdgeFamily; 5] = [
    ("istio_tcp_connections_opened_total", "Connections accepted.", |edge, name, out| {
        sample(edge, name, 0, edge.opened.load(Ordering::Relaxed), out);
    }),
    ("istio_tcp_connections_closed_total", "Connections that are over.", |edge, name, out| {
        let well = edge.closed[0].load(Ordering::Relaxed);
        if edge.hides_flags {
            return sample(edge, name, 0, well + edge.failed(), out);
        }
        sample(edge, name, 0, well, out);
        failures(edge, name, out);
    }),
    (
        "istio_tcp_connections_failed_total",
        "Connections that were refused or could not be carried, by reason.",
        failures,
    ),
    ("istio_tcp_received_bytes_total", "Bytes from clients to servers.", |edge, name, out| {
        sample(edge, name, 0, edge.request_bytes.load(Ordering::Relaxed), out);
    }),
    ("istio_tcp_sent_bytes_total", "Bytes from servers to clients.", |edge, name, out| {
        sample(edge, name, 0, edge.response_bytes.load(Ordering::Relaxed), out);
    }),
];
const ALL_FAMILIES: u8 = (1 << FAMILIES.len()) - 1;

/// A metric of connections, by its place in a scrape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the metric of its name")]
pub enum TcpFamily {
    Opened,
    Closed,
    Failed,
    ReceivedBytes,
    SentBytes,
}

impl TcpFamily {
    /// How many there are.
    pub const COUNT: usize = FAMILIES.len();
}

/// `istio_tcp_sockets_open`: connections being carried now, by the side that reports them. An edge expires only when
/// it has none, so nothing is missing from the sum. A node's proxy is no waypoint and shows nothing of one.
fn open_sockets(edges: &[Arc<Edge>], format: Format) -> String {
    let name = "istio_tcp_sockets_open";
    let mut out = String::with_capacity(256);
    write_head(name, "Connections that are open now.", Kind::Gauge, format, &mut out);
    for reporter in REPORTERS {
        let begin = format!("reporter=\"{}\"", reporter.label());
        let mut of_reporter = edges.iter().filter(|edge| edge.sockets_of == Some(reporter)).peekable();
        if reporter == Reporter::Waypoint && of_reporter.peek().is_none() {
            continue;
        }
        let open: u64 = of_reporter.map(|edge| edge.open()).sum();
        out.push_str(&format!("{name}{{{begin}}} {open}\n"));
    }
    out
}

/// One sample for each reason there was.
fn failures(edge: &Edge, name: &str, out: &mut String) {
    if edge.hides_flags {
        let failed = edge.failed();
        return if failed > 0 {
            sample(edge, name, 0, failed, out)
        };
    }
    for (flag, count) in edge.closed.iter().enumerate().skip(1) {
        let count = count.load(Ordering::Relaxed);
        if count > 0 {
            sample(edge, name, flag, count, out);
        }
    }
}

fn sample(edge: &Edge, name: &str, flag: usize, count: u64, out: &mut String) {
    let separator = if edge.labels.is_empty() { "" } else { "," };
    for part in [name, "{", &edge.labels] {
        out.push_str(part);
    }
    if !edge.hides_flags {
        for part in [separator, "response_flags=\"", FLAGS[flag], "\""] {
            out.push_str(part);
        }
    }
    out.push_str("} ");
    out.push_str(&count.to_string());
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
                if edge.families.load(Ordering::Relaxed) & 1 << self.family != 0 {
                    write(edge, name, &mut chunk);
                }
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
