//! What is known of one endpoint while the process runs, and one request to it.
//!
//! Shared by all workers and kept when its cluster is built anew, for as long as the same pod is at the same address.
//! Written with atomics; only a failure, or the success that ends a run of them, goes on to the cluster's lock.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::time::Instant;

use common::balance::outlier::{Cause, Outcome, Run};

use super::Cluster;

/// The running state of an endpoint.
#[derive(Debug)]
pub struct EndpointState {
    /// Where it is.
    pub address: SocketAddr,
    /// Which pod it is there; empty when it is none that is known.
    pub incarnation: Arc<str>,
    /// Since when it is an endpoint of the cluster, ready.
    pub first_seen: Instant,
    active: AtomicU32,
    connections: AtomicU32,
    /// A bit for each kind of run that may be under way.
    runs: AtomicU8,
    ejected: AtomicBool,
}

impl EndpointState {
    /// An endpoint that has just been found.
    pub fn new(address: SocketAddr, incarnation: Arc<str>, first_seen: Instant) -> Self {
        Self {
            address,
            incarnation,
            first_seen,
            active: AtomicU32::new(0),
            connections: AtomicU32::new(0),
            runs: AtomicU8::new(0),
            ejected: AtomicBool::new(false),
        }
    }

    /// Requests under way to it.
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// Connections that are open to it.
    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Whether outlier detection has ejected it.
    pub fn is_ejected(&self) -> bool {
        self.ejected.load(Ordering::Relaxed)
    }

    /// Counts a connection to it, until the return value is dropped.
    pub fn connected(self: &Arc<Self>) -> OpenConnection {
        self.connections.fetch_add(1, Ordering::Relaxed);
        OpenConnection(self.clone())
    }

    pub(super) fn eject(&self) {
        self.ejected.store(true, Ordering::Relaxed);
    }

    /// It may be asked again, and nothing is held against it.
    pub(super) fn restore(&self) {
        self.ejected.store(false, Ordering::Relaxed);
        self.runs.store(0, Ordering::Relaxed);
    }

    /// Whether there may be a run of errors of this kind, which a success would end.
    pub(super) fn may_run(&self, run: Run) -> bool {
        self.runs.load(Ordering::Relaxed) & bit(run) != 0
    }

    /// Written under the lock of the cluster only.
    pub(super) fn set_run(&self, run: Run, under_way: bool) {
        let runs = self.runs.load(Ordering::Relaxed);
        let runs = if under_way { runs | bit(run) } else { runs & !bit(run) };
        self.runs.store(runs, Ordering::Relaxed);
    }
}

fn bit(run: Run) -> u8 {
    match run {
        Run::Answers => 1,
        Run::LocalOrigin => 2,
    }
}

/// A connection that is counted while this lives.
#[derive(Debug)]
pub struct OpenConnection(Arc<EndpointState>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request, or a connection of TCP, that an endpoint was picked for. While it lives it counts as under way there.
#[derive(Debug)]
pub struct Attempt {
    cluster: Arc<Cluster>,
    endpoint: Arc<EndpointState>,
    held_up: AtomicBool,
}

impl Attempt {
    pub(super) fn new(cluster: Arc<Cluster>, endpoint: Arc<EndpointState>) -> Self {
        endpoint.active.fetch_add(1, Ordering::Relaxed);
        Self { cluster, endpoint, held_up: AtomicBool::new(false) }
    }

    /// The endpoint.
    pub fn endpoint(&self) -> &Arc<EndpointState> {
        &self.endpoint
    }

    /// Says whether it waits for a place within a limit of ours now.
    pub(super) fn hold_up(&self, held_up: bool) {
        self.held_up.store(held_up, Ordering::Relaxed);
    }

    /// Whether it waited for a place within a limit of ours when it ended: then the endpoint has not been asked.
    pub fn is_held_up(&self) -> bool {
        self.held_up.load(Ordering::Relaxed)
    }

    /// Takes note of what the endpoint did, for outlier detection, while the request goes on: that a connection was
    /// made, or the status of an answer whose body is still to come. `Some` when the endpoint is ejected for it.
    pub fn note(&self, outcome: Outcome, now: Instant) -> Option<Cause> {
        self.cluster.note(&self.endpoint, outcome, now)
    }

    /// Takes note of what the endpoint did; it no longer counts as under way.
    pub fn finish(self, outcome: Outcome, now: Instant) -> Option<Cause> {
        self.note(outcome, now)
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.endpoint.active.fetch_sub(1, Ordering::Relaxed);
    }
}
