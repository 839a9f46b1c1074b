//! Istio's DestinationRule as stated: how traffic to a host is balanced, bounded and secured, and its subsets.
//!
//! Knows no services and no order between several DestinationRules. What is not stated stays `None`: the wider policy, or
//! the default, decides. A limit of 0 counts as not stated, as in Istio.

pub mod balance;
pub mod outlier;
pub mod pool;
pub mod tls;

use std::sync::Arc;
use std::time::Duration;

use self::balance::LoadBalancer;
use self::outlier::OutlierDetection;
use self::pool::ConnectionPool;
use self::tls::ClientTls;
use super::note::Note;
use super::routing::{Share, Visibility};
use super::{Labels, ObjectName};

/// `networking.istio.io` DestinationRule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationRule {
    /// Namespace and name.
    pub object: ObjectName,
    /// `metadata.creationTimestamp`, seconds since 1970; `None` counts as oldest.
    pub created: Option<i64>,
    /// `spec.host`: as written; a short name is of the DestinationRule's namespace.
    pub host: Arc<str>,
    /// `spec.exportTo`.
    pub visibility: Visibility,
    /// `spec.workloadSelector.matchLabels`: of the clients it is for; empty is all.
    pub clients: Labels,
    /// `spec.trafficPolicy`.
    pub policy: TrafficPolicy,
    /// `spec.subsets`.
    pub subsets: Box<[Subset]>,
    /// What is accepted with a caveat.
    pub notes: Box<[Note]>,
}

/// A part of a host's endpoints (Istio `Subset`). Its policy is in force only for routes that name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subset {
    /// `name`.
    pub name: Arc<str>,
    /// `labels` of the endpoints; empty is all.
    pub labels: Labels,
    /// `trafficPolicy`, over that of the host.
    pub policy: TrafficPolicy,
}

/// `trafficPolicy` of a host or a subset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrafficPolicy {
    /// What holds for every port without a policy of its own.
    pub ports: PortPolicy,
    /// `portLevelSettings`, by port of the service: each replaces `ports`, and is not merged with it.
    pub by_port: Box<[(u16, PortPolicy)]>,
    /// `tunnel`.
    pub tunnel: Option<Tunnel>,
    /// `retryBudget`.
    pub retry_budget: Option<RetryBudget>,
}

/// What can be stated for one port as well as for all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortPolicy {
    /// `loadBalancer`.
    pub load_balancer: Option<LoadBalancer>,
    /// `connectionPool`.
    pub connection_pool: Option<ConnectionPool>,
    /// `outlierDetection`.
    pub outlier_detection: Option<OutlierDetection>,
    /// `tls`.
    pub tls: Option<ClientTls>,
}

/// `tunnel`: connections go through an external forward proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// `targetHost`.
    pub host: Arc<str>,
    /// `targetPort`.
    pub port: u16,
}

/// `retryBudget`: how many requests may be retries; counts before `maxRetries`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudget {
    /// `percent` of the requests under way; 20 % when not stated.
    pub share: Share,
    /// `minRetryConcurrency`: retries allowed at any time; 3 when not stated.
    pub at_least: u32,
    /// `budgetInterval`: over how long requests are counted; `None` counts those under way.
    pub interval: Option<Duration>,
}
