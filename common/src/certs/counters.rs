//! What `certs` counts. Plain numbers: `telemetry` gives them their place in `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};

/// Monotonic counters of one store.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests sent to the CA.
    pub requests: AtomicU64,
    /// Certificates received and taken into use.
    pub issued: AtomicU64,
    /// Of those, the ones that replaced another.
    pub renewals: AtomicU64,
    /// Requests that brought no usable certificate, for whatever reason.
    pub failures: AtomicU64,
    /// Of those, the ones the CA answered with something that must not be used.
    pub rejected: AtomicU64,
    /// Connections refused because their identity had no certificate in time.
    pub refused: AtomicU64,
    /// Times a certificate at hand was given new roots.
    pub root_reloads: AtomicU64,
}

impl Counters {
    /// Name and value of each counter, in a stable order.
    pub fn named(&self) -> [(&'static str, u64); 7] {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("ebb_certificates_requests_total", value(&self.requests)),
            ("ebb_certificates_issued_total", value(&self.issued)),
            ("ebb_certificates_renewals_total", value(&self.renewals)),
            ("ebb_certificates_failures_total", value(&self.failures)),
            ("ebb_certificates_rejected_total", value(&self.rejected)),
            ("ebb_certificates_refused_total", value(&self.refused)),
            ("ebb_certificates_root_reloads_total", value(&self.root_reloads)),
        ]
    }
}

/// Adds one; the counters order nothing, so the weakest ordering does.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
