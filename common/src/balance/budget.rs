//! Whether one more connection, request or retry may be begun (Istio `connectionPool`, `retryBudget`).
//!
//! Envoy's circuit breakers: no state of its own, each limit against what is in use now. A retry budget takes the place
//! of the limit on retries; it follows the requests under way, so that retries cannot multiply an outage.

/// Limits of one service or subset. What is not stated does not limit: Istio's default is the highest number there is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// `tcp.maxConnections`.
    pub connections: u32,
    /// `http.http1MaxPendingRequests`: requests waiting for a connection, of HTTP/2 too.
    pub pending: u32,
    /// `http.http2MaxRequests`: requests under way, of HTTP/1.1 too.
    pub requests: u32,
    /// `http.maxRetries`: retries under way.
    pub retries: u32,
    /// `retryBudget`, which beats `http.maxRetries`.
    pub retry_budget: Option<RetryBudget>,
}

impl Default for Limits {
    fn default() -> Self {
        let unlimited = u32::MAX;
        Self {
            connections: unlimited,
            pending: unlimited,
            requests: unlimited,
            retries: unlimited,
            retry_budget: None,
        }
    }
}

/// `retryBudget`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudget {
    /// `percent` of the requests under way and waiting that may be retries.
    pub percent: f64,
    /// `minRetryConcurrency`: retries that are allowed however few requests there are.
    pub min_concurrency: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { percent: 20.0, min_concurrency: 3 }
    }
}

/// What is in use now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InUse {
    /// Connections.
    pub connections: u32,
    /// Requests waiting for a connection.
    pub pending: u32,
    /// Requests under way, retries among them.
    pub requests: u32,
    /// Retries under way or waiting for their turn.
    pub retries: u32,
}

/// What is to be begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// A connection.
    Connection,
    /// A wait for a connection.
    Pending,
    /// A request.
    Request,
    /// A retry.
    Retry,
}

/// The limit is reached (flag `UO`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overflow {
    /// Of what.
    pub resource: Resource,
    /// How many there may be now.
    pub limit: u64,
}

impl Limits {
    /// Decides on one more.
    ///
    /// # Errors
    /// [`Overflow`] when as many as allowed are in use.
    pub fn admit(&self, resource: Resource, in_use: &InUse) -> Result<(), Overflow> {
        let (used, limit) = match resource {
            Resource::Connection => (in_use.connections, u64::from(self.connections)),
            Resource::Pending => (in_use.pending, u64::from(self.pending)),
            Resource::Request => (in_use.requests, u64::from(self.requests)),
            Resource::Retry => (in_use.retries, self.retries_allowed(in_use)),
        };
        if u64::from(used) < limit { Ok(()) } else { Err(Overflow { resource, limit }) }
    }

    fn retries_allowed(&self, in_use: &InUse) -> u64 {
        let Some(budget) = &self.retry_budget else { return u64::from(self.retries) };
        let active = f64::from(in_use.requests) + f64::from(in_use.pending);
        // A percentage that makes no sense becomes 0 here, and leaves the minimum.
        let part = (budget.percent / 100.0 * active) as u64;
        part.max(u64::from(budget.min_concurrency))
    }
}
