//! To the endpoint: which, whether it may be asked now, and the connections to it.
//!
//! [`Clusters`] holds a [`Cluster`] for each destination that a route names; both are shared by all workers. A worker
//! has its own [`Pickers`], because whose turn it is is nobody else's business. A request asks its cluster to
//! [`admit`](Cluster::admit) it, its worker's pickers for an endpoint, and tells the [`Attempt`] what became of it.
//! Knows no routes: it is handed the destination.

pub mod admission;
mod choices;
pub mod cluster;
pub mod clusters;
mod connecting;
pub mod connection;
pub mod dispatch;
pub mod endpoint;
mod members;
pub mod origins;
pub mod picker;
pub mod policy;
pub mod pool;
mod prospects;
mod proxied;
pub mod rules;
pub mod securing;
pub mod stated;
mod status;
#[cfg(test)]
mod tests;
pub mod transport;

use std::fmt;
use std::sync::Arc;

use common::balance::budget::Overflow;
use common::config::ObjectName;

pub use self::admission::Permit;
pub use self::cluster::Cluster;
pub use self::clusters::{Clusters, Destinations, Vantage};
pub(crate) use self::connecting::Freed;
pub use self::endpoint::{Attempt, EndpointState};
pub use self::picker::{PickFacts, Picked, Pickers};
pub use self::policy::EffectivePolicy;
pub use self::prospects::Prospect;
pub use self::stated::Stated;
pub use self::status::algorithm;

/// A destination that a route can name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterKey {
    /// The service.
    pub service: ObjectName,
    /// The service's port.
    pub port: u16,
    /// The part of its endpoints; `None` for all.
    pub subset: Option<Arc<str>>,
}

impl fmt::Display for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.port)?;
        self.subset.iter().try_for_each(|subset| write!(f, "|{subset}"))
    }
}

/// Why there is no endpoint for a request. Each is answered with 503.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoUpstream {
    /// There is no such service, port or subset.
    Unknown,
    /// There is, and none of its endpoints may be asked.
    NoHealthy,
    /// As many as allowed are under way.
    Overflow(Overflow),
}

impl NoUpstream {
    /// Envoy's response flag.
    pub fn flag(self) -> &'static str {
        match self {
            Self::Unknown => "NC",
            Self::NoHealthy => "UH",
            Self::Overflow(_) => "UO",
        }
    }
}

impl From<Overflow> for NoUpstream {
    fn from(overflow: Overflow) -> Self {
        Self::Overflow(overflow)
    }
}
