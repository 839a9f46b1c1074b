//! What the rest of the process may see of the pods: counts for metrics and readiness.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use common::telemetry::exposition::{Family, Kind, Value};
use ebb_loader::Counters;
use tokio::sync::Notify;

use crate::pods::Pod;

/// Counts of the pod agent; names of the metrics are Istio ztunnel's `workload_manager_*`.
#[derive(Debug, Default)]
pub struct Status {
    /// Pods being served.
    pub active: AtomicUsize,
    /// Pods that should be and are not, or not as they were enrolled.
    pub pending: AtomicUsize,
    /// Pods enrolled since start.
    pub started_total: AtomicU64,
    /// Pods taken out since start.
    pub stopped_total: AtomicU64,
    settled: AtomicBool,
    changed: Notify,
    counters: Mutex<Counters>,
    pods: Mutex<Vec<Arc<Pod>>>,
}

impl Status {
    /// Pods are about to be enrolled. Readiness is not told: it is only when enrolling fails that a pod stays unprotected.
    pub(super) fn starting(&self, pods: usize) {
        self.pending.fetch_add(pods, Ordering::Relaxed);
    }

    pub(super) fn started(&self) {
        self.started_total.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn stopped(&self) {
        self.stopped_total.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn settled(&self, pods: Vec<Arc<Pod>>, unprotected: usize) {
        self.active.store(pods.len(), Ordering::Relaxed);
        *self.pods.lock().unwrap_or_else(PoisonError::into_inner) = pods;
        self.pending.store(unprotected, Ordering::Relaxed);
        self.settled.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    pub(super) fn count(&self, counters: &Counters) {
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner) = counters.clone();
    }

    /// Whether the first roster stands and every pod in it is enrolled.
    pub fn is_ready(&self) -> bool {
        self.settled.load(Ordering::Acquire) && self.pending.load(Ordering::Relaxed) == 0
    }

    /// Waits until [`Status::is_ready`] answers `ready`.
    pub async fn until(&self, ready: bool) {
        loop {
            // Registered before the look, so that a change in between is not missed.
            let changed = self.changed.notified();
            if self.is_ready() == ready {
                return;
            }
            changed.await;
        }
    }

    /// The pods being served.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The counts as metrics, under Istio ztunnel's names.
    pub fn families(&self) -> Vec<Family> {
        let gauge = |name, help, count: &AtomicUsize| {
            let value = Value::Count(count.load(Ordering::Relaxed) as u64);
            Family::single(name, help, Kind::Gauge, value)
        };
        let counter = |name, help, count: &AtomicU64| {
            Family::single(name, help, Kind::Counter, Value::Count(count.load(Ordering::Relaxed)))
        };
        vec![
            gauge("workload_manager_active_proxy_count", "Pods being served.", &self.active),
            gauge(
                "workload_manager_pending_proxy_count",
                "Pods that should be served and are not yet.",
                &self.pending,
            ),
            counter("workload_manager_proxies_started_total", "Pods enrolled.", &self.started_total),
            counter("workload_manager_proxies_stopped_total", "Pods taken out.", &self.stopped_total),
        ]
    }

    /// Redirection verdicts of all pods, as last read.
    pub fn redirections(&self) -> Counters {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
