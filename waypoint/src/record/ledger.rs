//! Where one worker tells of what is over: its access log and its ways into the metrics.

use common::telemetry::access::AccessLog;
use common::telemetry::metrics::Metrics;
use common::telemetry::requests::RequestEdgeCache;
use common::telemetry::tcp::EdgeCache;

/// Of one worker.
pub struct Ledger {
    pub(super) access: AccessLog,
    pub(super) connections: EdgeCache,
    pub(super) requests: RequestEdgeCache,
}

impl Ledger {
    /// Writes to `access`, and counts in `metrics`.
    pub fn new(access: AccessLog, metrics: &Metrics) -> Self {
        let connections = EdgeCache::new(metrics.tcp());
        Self { access, connections, requests: RequestEdgeCache::new(metrics.requests()) }
    }
}
