//! Istio's HTTP metrics: requests, how long they took and how large they were, by who asked whom.
//!
//! An edge (one client workload, one server workload, one service) has one text of labels, and within it one series for
//! each way a request can end (protocol, status, gRPC status, response flags). The surprising thing: the cache in front
//! of the table goes by the addresses of the workloads' values, not by what they say. A workload that changes is a new
//! value, so a request costs a lookup of four numbers and a few additions to atomics, and no label is read or written.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::edges::{Counters, EdgeTable};
use super::exposition::Format;
use super::flags::Flags;
use super::histogram::{Histogram, Unit};
use super::labels::{Counted, EdgeLabels, Reporter, Security, overflow_text};
use crate::snapshot::model::{Service, TunnelProtocol, Workload};
use crate::spiffe::Identity;

mod scrape;
mod variant;

pub use scrape::RequestScrape;
pub use variant::{Family, MAX_TAG_VALUE_BYTES, MAX_VARIANT_EDGES, Variant};

pub(super) use variant::overlapping;
use variant::{Hidden, KnownVariant, Variants};

/// How many edges are kept; requests of further ones are counted under the label value `overflow`.
pub const MAX_REQUEST_EDGES: usize = 5_000;
/// How many ways of ending an edge has series of its own for; further ones are counted as `overflow`.
pub const MAX_ENDINGS_PER_EDGE: usize = 32;
/// How many series all edges have together: one is some 600 bytes here and 70 lines of a scrape. Beyond it each edge
/// counts what is new under `overflow`.
pub const MAX_REQUEST_SERIES: usize = 10_000;
/// How many edges a worker finds without asking the table they share.
pub const REQUEST_EDGE_CACHE_ENTRIES: usize = 2048;

/// What was spoken (label `request_protocol`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestProtocol {
    /// HTTP of any version.
    Http,
    /// gRPC.
    Grpc,
}

impl RequestProtocol {
    /// The value of the label `request_protocol`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
        }
    }
}

/// How a request ended: what picks its series within its edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// What was spoken.
    pub protocol: RequestProtocol,
    /// The status the client got; 0 when it got none (label `response_code`).
    pub status: u16,
    /// The status of a gRPC call, when it is known (label `grpc_response_status`).
    pub grpc_status: Option<u8>,
    /// What was done to it (label `response_flags`).
    pub flags: Flags,
}

impl Ending {
    /// Everything in one number; never zero.
    fn key(self) -> u64 {
        let protocol = u64::from(self.protocol == RequestProtocol::Grpc);
        let grpc = self.grpc_status.map_or(0, |status| u64::from(status) + 1);
        1 << 63 | protocol << 62 | grpc << 48 | u64::from(self.status) << 32 | u64::from(self.flags.bits())
    }
}

/// What a request took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Took {
    /// From its first byte to the last of its answer.
    pub duration: Duration,
    /// Bytes of its body.
    pub request_bytes: u64,
    /// Bytes of the body of its answer.
    pub response_bytes: u64,
    /// gRPC messages in it.
    pub request_messages: u64,
    /// gRPC messages in its answer.
    pub response_messages: u64,
}

/// The requests that ended in one way.
#[derive(Debug)]
struct Series {
    ending: Option<Ending>,
    key: u64,
    /// Microseconds; its count is the count of requests.
    duration: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
}

impl Series {
    /// With no ending, it is of all that have no series of their own.
    fn new(ending: Option<Ending>) -> Self {
        Self {
            ending,
            key: ending.map_or(0, Ending::key),
            duration: Histogram::default(),
            request_bytes: Histogram::default(),
            response_bytes: Histogram::default(),
        }
    }

    fn add(&self, took: &Took) {
        let micros = u64::try_from(took.duration.as_micros()).unwrap_or(u64::MAX);
        self.duration.add(micros, Unit::Thousandths);
        self.request_bytes.add(took.request_bytes, Unit::Whole);
        self.response_bytes.add(took.response_bytes, Unit::Whole);
    }
}

/// The counters of one edge; the counts are the same for all workers.
#[derive(Debug)]
pub struct RequestEdge {
    labels: Arc<str>,
    /// Filled from the front, so that a search ends at the first that is empty.
    series: [OnceLock<Box<Series>>; MAX_ENDINGS_PER_EDGE],
    further: OnceLock<Box<Series>>,
    request_messages: AtomicU64,
    response_messages: AtomicU64,
    /// How many series all edges may still add.
    room: Arc<AtomicUsize>,
    /// It is everybody's who found no place, so that it is in all metrics whatever one of them asks for.
    is_overflow: bool,
    /// Which of the metrics it is in, and labels of its endings that it has not.
    families: AtomicU8,
    hidden: Hidden,
}

impl RequestEdge {
    fn new(labels: Arc<str>, room: Arc<AtomicUsize>) -> Self {
        Self {
            labels,
            series: Default::default(),
            further: OnceLock::new(),
            request_messages: AtomicU64::new(0),
            response_messages: AtomicU64::new(0),
            room,
            is_overflow: false,
            families: AtomicU8::new(Family::ALL),
            hidden: Hidden::default(),
        }
    }

    /// Says which metrics it is in from now on, by their bits. What is counted stays, so that no metric has a series twice
    /// when some are turned off.
    pub fn show(&self, families: u8) {
        // Hardly ever another: the line it stands on is shared with other workers.
        if !self.is_overflow && self.families.load(Ordering::Relaxed) != families {
            self.families.store(families, Ordering::Relaxed);
        }
    }

    /// A request is over.
    pub fn ended(&self, ending: Ending, took: &Took) {
        self.series(self.hidden.without(ending)).add(took);
        if took.request_messages > 0 {
            self.request_messages.fetch_add(took.request_messages, Ordering::Relaxed);
        }
        if took.response_messages > 0 {
            self.response_messages.fetch_add(took.response_messages, Ordering::Relaxed);
        }
    }

    fn series(&self, ending: Ending) -> &Series {
        let key = ending.key();
        for slot in &self.series {
            let series = match slot.get() {
                Some(series) => series,
                None if self.take_room() => self.fill(slot, ending),
                None => break,
            };
            if series.key == key {
                return series;
            }
        }
        self.further.get_or_init(|| Box::new(Series::new(None)))
    }

    fn fill<'a>(&self, slot: &'a OnceLock<Box<Series>>, ending: Ending) -> &'a Series {
        let mut filled = false;
        let series = slot.get_or_init(|| {
            filled = true;
            Box::new(Series::new(Some(ending)))
        });
        if !filled {
            // Another worker was faster: its series is the one there is room taken for.
            self.room.fetch_add(1, Ordering::Relaxed);
        }
        series
    }

    fn take_room(&self) -> bool {
        self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(1)).is_ok()
    }

    fn all(&self) -> impl Iterator<Item = &Series> {
        self.series.iter().chain([&self.further]).filter_map(|slot| slot.get().map(|series| &**series))
    }
}

impl Counters for RequestEdge {
    fn uses(&self) -> u64 {
        self.all().map(|series| series.duration.count()).sum()
    }
}

impl Drop for RequestEdge {
    fn drop(&mut self) {
        let used = self.series.iter().filter(|slot| slot.get().is_some()).count();
        self.room.fetch_add(used, Ordering::Relaxed);
    }
}

/// All edges of this proxy.
#[derive(Debug)]
pub struct RequestMetrics {
    table: Mutex<EdgeTable<RequestEdge>>,
    overflow: Arc<RequestEdge>,
    variants: Variants,
    room: Arc<AtomicUsize>,
}

impl Default for RequestMetrics {
    fn default() -> Self {
        let room = Arc::new(AtomicUsize::new(MAX_REQUEST_SERIES));
        let labels = overflow_text(Reporter::Waypoint, Counted::Requests).into();
        let mut overflow = RequestEdge::new(labels, room.clone());
        overflow.is_overflow = true;
        Self {
            table: Mutex::new(EdgeTable::new(MAX_REQUEST_EDGES)),
            overflow: Arc::new(overflow),
            variants: Variants::default(),
            room,
        }
    }
}

impl RequestMetrics {
    /// Keeps the series of idle edges for so long; `None` is for ever.
    pub fn expire_after(&self, expiry: Option<Duration>) {
        self.lock().expire_after(expiry);
        self.variants.expire_after(expiry);
    }

    /// How many edges have series now.
    pub fn edges(&self) -> usize {
        self.lock().len()
    }

    /// Begins a scrape: expires what is idle and returns the series as chunks of text.
    pub fn scrape(&self, format: Format) -> RequestScrape {
        let mut table = self.lock();
        table.scraped(Instant::now());
        let overflow = Some(&self.overflow).filter(|edge| edge.all().next().is_some());
        let mut edges: Vec<_> = table.edges().chain(overflow).cloned().collect();
        self.variants.scraped(&mut edges);
        RequestScrape::new(edges, format)
    }

    /// `None` when the edge is new and there is no room for it.
    fn find(&self, labels: &EdgeLabels<'_>) -> Option<Arc<RequestEdge>> {
        let make = |labels| RequestEdge::new(labels, self.room.clone());
        self.lock().find(labels.request_text(), Instant::now(), make)
    }

    fn lock(&self) -> MutexGuard<'_, EdgeTable<RequestEdge>> {
        // Each statement under the lock leaves the table whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who asked whom, as a waypoint knows it.
#[derive(Debug, Clone, Copy)]
pub struct RequestEnds<'a> {
    /// The workload that asks, when it is known.
    pub source: Option<&'a Arc<Workload>>,
    /// Who asks, when mutual TLS proved it; `None` when the peer carries the request of somebody who proved nothing.
    pub source_identity: Option<&'a Identity>,
    /// The workload that was asked, when one was and it is known.
    pub destination: Option<&'a Arc<Workload>>,
    /// The service that was asked.
    pub service: Option<&'a Arc<Service>>,
}

impl RequestEnds<'_> {
    /// The labels of this edge.
    pub fn labels(&self) -> EdgeLabels<'_> {
        let destination = self.destination.map(|workload| &**workload);
        EdgeLabels {
            reporter: Reporter::Waypoint,
            source: self.source.map(|workload| &**workload),
            destination,
            service: self.service.map(|service| &**service),
            source_identity: self.source_identity,
            destination_identity: destination
                .filter(|workload| workload.protocol == TunnelProtocol::Hbone)
                .map(|workload| &workload.identity),
            security: if self.source_identity.is_some() { Security::MutualTls } else { Security::None },
        }
    }

    fn known(&self, edge: &Arc<RequestEdge>) -> Known {
        Known {
            edge: Arc::downgrade(edge),
            _source: self.source.map(Arc::downgrade),
            _destination: self.destination.map(Arc::downgrade),
            _service: self.service.map(Arc::downgrade),
        }
    }
}

/// The edges one worker has met lately. Stays on its thread, so that its lock is never contended.
#[derive(Debug)]
pub struct RequestEdgeCache {
    metrics: Arc<RequestMetrics>,
    known: Mutex<HashMap<Key, Known>>,
    hash: RandomState,
    /// Those whose labels are not Istio's own, by a hash of what makes them.
    variants: Mutex<HashMap<u64, KnownVariant>>,
}

/// Addresses of source, destination and service, and a hash of the identity where it is not the source's own.
type Key = ([usize; 3], u64);

/// As long as these weak references live, no other value can come to the addresses in the key.
#[derive(Debug)]
struct Known {
    edge: Weak<RequestEdge>,
    _source: Option<Weak<Workload>>,
    _destination: Option<Weak<Workload>>,
    _service: Option<Weak<Service>>,
}

impl RequestEdgeCache {
    /// An empty cache in front of `metrics`.
    pub fn new(metrics: Arc<RequestMetrics>) -> Self {
        Self { metrics, known: Mutex::default(), hash: RandomState::new(), variants: Mutex::default() }
    }

    /// Finds or makes the edge of a request that is over.
    pub fn edge(&self, ends: &RequestEnds<'_>) -> Arc<RequestEdge> {
        let key = self.key(ends);
        let known = self.known().get(&key).and_then(|known| known.edge.upgrade());
        // Where the key holds a hash, what it stands for is compared.
        if let Some(edge) = known.filter(|edge| key.1 == 0 || ends.labels().are_of_requests(&edge.labels)) {
            return edge;
        }
        let Some(edge) = self.metrics.find(&ends.labels()) else {
            // Not remembered: the edge gets its own series as soon as there is room.
            return self.metrics.overflow.clone();
        };
        let mut known = self.known();
        if known.len() >= REQUEST_EDGE_CACHE_ENTRIES {
            known.clear();
        }
        known.insert(key, ends.known(&edge));
        edge
    }

    fn key(&self, ends: &RequestEnds<'_>) -> Key {
        let owner = ends.source.is_some_and(|source| Some(&source.identity) == ends.source_identity);
        let identity = if owner { 0 } else { self.hash.hash_one(ends.source_identity) | 1 };
        ([address(ends.source), address(ends.destination), address(ends.service)], identity)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Key, Known>> {
        // Each statement under the lock leaves the map whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a shared value is; zero for none.
fn address<T>(value: Option<&Arc<T>>) -> usize {
    value.map_or(0, |value| Arc::as_ptr(value).addr())
}

#[cfg(test)]
#[path = "requests_tests.rs"]
mod tests;
