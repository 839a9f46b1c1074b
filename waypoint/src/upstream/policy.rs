//! How a port of a service, or of a subset of it, is treated: everything a DestinationRule says of it, merged, with the
//! defaults where it says nothing.
//!
//! Pure. Istio's order: a subset's policy takes the place of the host's block by block, and what is stated for one port
//! takes the place of four blocks at once, so that a block left out there is the default again and not the host's. A
//! subset's block therefore beats the host's for that port. Knows no endpoints; which rule applies is for `rules` to say.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use common::balance::budget::{Limits, RetryBudget};
use common::balance::locality::{Distribute, Failover, LabelMatch, Pattern, Preference, Rules};
use common::balance::outlier;
use common::balance::warmup::Warmup;
use common::config::ObjectName;
use common::config::destination::balance::{self, Algorithm, LoadBalancer, Locality};
use common::config::destination::outlier::OutlierDetection;
use common::config::destination::pool::{ConnectionPool, Http2Keepalive, HttpVersion, TcpKeepalive};
use common::config::destination::tls::ClientTls;
use common::config::destination::{PortPolicy, TrafficPolicy, Tunnel};
use common::config::routing::Share;
use common::snapshot::model::{BalanceMode, LoadBalancing, Scope};

use super::Stated;
use super::rules::Applied;
use super::securing::BackendTls;

/// `tcp.connectTimeout` when it is not stated (Istio's mesh default).
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// `tcp.idleTimeout` and `http.idleTimeout` when they are not stated (Envoy's default).
pub const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// `http.maxConcurrentStreams` when it is not stated: what most servers allow, since what an endpoint itself allows is not
/// known here, and requests beyond it would wait on one connection while another could be made.
pub const DEFAULT_MAX_STREAMS: u32 = 100;

/// Everything the request path has to know about a port of a service, or of a subset.
#[derive(Debug, Clone, PartialEq)]
pub struct EffectivePolicy {
    /// The DestinationRules it is from, the deciding one first; none for the defaults.
    pub rules: Box<[ObjectName]>,
    /// How one of several endpoints is chosen; least request when nothing is stated.
    pub algorithm: Algorithm,
    /// Which endpoints are preferred: `localityLbSetting`, or the service's `trafficDistribution`.
    pub locality: Rules,
    /// `internalTrafficPolicy: Local`: only endpoints that share all of these with the waypoint.
    pub confined_to: Box<[Scope]>,
    /// `loadBalancer.warmup`.
    pub warmup: Option<Warmup>,
    /// `tcp.maxConnections`, `http.http1MaxPendingRequests`, `http.http2MaxRequests`, `http.maxRetries`, `retryBudget`.
    pub limits: Limits,
    /// `retryBudget.budgetInterval`: over how long requests count; `None` counts those under way.
    pub budget_interval: Option<Duration>,
    /// `connectionPool` as stated, by which connections are told from those made under another one.
    pub pool: Arc<Stated>,
    /// `tcp.connectTimeout`.
    pub connect_timeout: Duration,
    /// `tcp.tcpKeepalive`.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// `tcp.maxConnectionDuration`.
    pub max_connection_duration: Option<Duration>,
    /// `tcp.idleTimeout` of a TCP connection; `None` for never.
    pub tcp_idle_timeout: Option<Duration>,
    /// `http.idleTimeout` of a connection without requests; `None` for never.
    pub http_idle_timeout: Option<Duration>,
    /// `http.h2UpgradePolicy`, `http.useClientProtocol`.
    pub version: HttpVersion,
    /// `http.maxRequestsPerConnection`; `None` for any number.
    pub max_requests_per_connection: Option<NonZeroU32>,
    /// `http.maxConcurrentStreams` of an HTTP/2 connection.
    pub max_concurrent_streams: u32,
    /// `http.http2KeepAlive`.
    pub http2_keepalive: Option<Http2Keepalive>,
    /// `outlierDetection`; `None` when there is none.
    pub outlier: Option<outlier::Settings>,
    /// `tls` towards the endpoint, inside the tunnel where there is one; that of `backend_tls` where there is one.
    pub tls: Option<Arc<ClientTls>>,
    /// The BackendTLSPolicy that decides.
    pub backend_tls: Option<Arc<BackendTls>>,
    /// `tunnel` through a forward proxy.
    pub tunnel: Option<Tunnel>,
}

impl EffectivePolicy {
    /// The policy of a port of a service (`of` says how the service itself asks to be balanced), or of a subset. `None`
    /// when there is no such subset.
    pub fn resolve(applied: &Applied, port: u16, subset: Option<&str>, of: &LoadBalancing) -> Option<Self> {
        let host = applied.policy();
        let mut merged = Blocks::default();
        merged.overlay(host, port);
        if let Some(name) = subset {
            merged.overlay(&applied.subset(name)?.policy, port);
        }
        let mut policy = merged.compile(of);
        policy.rules = applied.names().cloned().collect();
        Some(policy)
    }

    /// The same where a BackendTLSPolicy decides which TLS is spoken.
    pub fn secured(self, by: Option<BackendTls>) -> Self {
        match by.map(Arc::new) {
            Some(by) => Self { tls: Some(by.tls.clone()), backend_tls: Some(by), ..self },
            None => self,
        }
    }

    /// The same after another one, whose statement about connections stays in force where this one says no other.
    pub(super) fn following(self, before: &Self) -> Self {
        match self.pool == before.pool {
            true => Self { pool: before.pool.clone(), ..self },
            false => self,
        }
    }
}

/// The blocks of a policy that are in force, as stated.
#[derive(Debug, Clone, Default)]
struct Blocks<'r> {
    load_balancer: Option<&'r LoadBalancer>,
    connection_pool: Option<&'r ConnectionPool>,
    outlier_detection: Option<&'r OutlierDetection>,
    tls: Option<&'r ClientTls>,
    tunnel: Option<&'r Tunnel>,
    retry_budget: Option<&'r common::config::destination::RetryBudget>,
}

impl<'r> Blocks<'r> {
    /// Puts a narrower policy over what there is.
    fn overlay(&mut self, policy: &'r TrafficPolicy, port: u16) {
        let PortPolicy { load_balancer, connection_pool, outlier_detection, tls } = &policy.ports;
        self.load_balancer = load_balancer.as_ref().or(self.load_balancer);
        self.connection_pool = connection_pool.as_ref().or(self.connection_pool);
        self.outlier_detection = outlier_detection.as_ref().or(self.outlier_detection);
        self.tls = tls.as_ref().or(self.tls);
        self.tunnel = policy.tunnel.as_ref().or(self.tunnel);
        self.retry_budget = policy.retry_budget.as_ref().or(self.retry_budget);
        if let Some((_, own)) = policy.by_port.iter().find(|(it, _)| *it == port) {
            // All four: what is not stated for the port is the default, and not what holds for other ports.
            self.load_balancer = own.load_balancer.as_ref();
            self.connection_pool = own.connection_pool.as_ref();
            self.outlier_detection = own.outlier_detection.as_ref();
            self.tls = own.tls.as_ref();
        }
    }

    fn compile(&self, of: &LoadBalancing) -> EffectivePolicy {
        let pool = self.connection_pool.cloned().unwrap_or_default();
        let stated = Arc::new(Stated::from(pool.clone()));
        let (tcp, http) = (pool.tcp, pool.http);
        let budget = self.retry_budget.map(|it| RetryBudget {
            percent: f64::from(it.share.per_million()) / PER_PERCENT,
            min_concurrency: it.at_least,
        });
        let limit = |stated: Option<NonZeroU32>| stated.map_or(u32::MAX, NonZeroU32::get);
        // Zero is stated for never.
        let idle = |stated: Option<Duration>| {
            Some(stated.unwrap_or(DEFAULT_IDLE_TIMEOUT)).filter(|it| !it.is_zero())
        };
        let balancer = self.load_balancer;
        EffectivePolicy {
            rules: Box::default(),
            algorithm: balancer.and_then(|it| it.algorithm.clone()).unwrap_or(Algorithm::LeastRequest),
            locality: locality(balancer.and_then(|it| it.locality.as_ref()), of, self.outlier_detection),
            confined_to: match of.mode {
                BalanceMode::Strict => of.routing_preferences.clone(),
                BalanceMode::Standard | BalanceMode::Failover => Box::default(),
            },
            warmup: balancer.and_then(|it| it.warmup).map(warmup),
            limits: Limits {
                connections: limit(tcp.max_connections),
                pending: limit(http.max_pending_requests),
                requests: limit(http.max_requests),
                retries: limit(http.max_retries),
                retry_budget: budget,
            },
            budget_interval: self.retry_budget.and_then(|it| it.interval),
            pool: stated,
            connect_timeout: tcp.connect_timeout.unwrap_or(DEFAULT_CONNECT_TIMEOUT),
            tcp_keepalive: tcp.keepalive,
            max_connection_duration: tcp.max_connection_duration,
            tcp_idle_timeout: idle(tcp.idle_timeout),
            http_idle_timeout: idle(http.idle_timeout),
            version: http.version,
            max_requests_per_connection: http.max_requests_per_connection,
            max_concurrent_streams: http.max_concurrent_streams.map_or(DEFAULT_MAX_STREAMS, NonZeroU32::get),
            http2_keepalive: http.keepalive,
            outlier: self.outlier_detection.map(detection),
            tls: self.tls.cloned().map(Arc::new),
            backend_tls: None,
            tunnel: self.tunnel.cloned(),
        }
    }
}

/// Parts per million in one percent.
const PER_PERCENT: f64 = 10_000.0;
/// Thousandths in one.
const PER_ONE: f64 = 1000.0;

/// Whole percent; what is stated here has no parts of one.
fn percent(share: Share) -> u8 {
    // At most 1,000,000 by its type, so at most 100 here.
    u8::try_from(share.per_million() / PER_PERCENT as u32).unwrap_or(100)
}

fn warmup(stated: balance::Warmup) -> Warmup {
    Warmup {
        duration: stated.duration,
        minimum_percent: f64::from(stated.minimum.per_million()) / PER_PERCENT,
        aggression: f64::from(stated.aggression_thousandths) / PER_ONE,
    }
}

fn detection(stated: &OutlierDetection) -> outlier::Settings {
    let default = outlier::Settings::default();
    outlier::Settings {
        consecutive_5xx: stated.consecutive_5xx.unwrap_or(default.consecutive_5xx),
        consecutive_gateway: stated.consecutive_gateway_errors.unwrap_or(default.consecutive_gateway),
        split_local_origin: stated.split_local_origin,
        consecutive_local_origin: stated
            .consecutive_local_origin_failures
            .unwrap_or(default.consecutive_local_origin),
        error_codes: stated.error_codes.iter().map(http::StatusCode::as_u16).collect(),
        interval: stated.interval.unwrap_or(default.interval),
        base_ejection: stated.base_ejection_time.unwrap_or(default.base_ejection),
        max_ejection_percent: stated.max_ejected.map_or(default.max_ejection_percent, percent),
    }
}

/// What the rule states; else what the service asks for; else what the mesh does, which is to prefer what is near.
fn locality(stated: Option<&Locality>, of: &LoadBalancing, outlier: Option<&OutlierDetection>) -> Rules {
    let rules = |preference, detects_outliers| Rules {
        preference,
        detects_outliers,
        panic_percent: outlier.and_then(|it| it.min_healthy).map_or(0, percent),
    };
    let detects = outlier.is_some();
    match stated {
        Some(stated) if stated.enabled == Some(false) => rules(Preference::None, detects),
        Some(stated) if !stated.distribute.is_empty() => rules(distribute(stated), detects),
        Some(stated) => rules(failover(stated), detects),
        // As in Istio, a service that asks for near endpoints gets them with no outlier detection too: endpoints that
        // are not ready are reason enough to go further.
        None if of.mode == BalanceMode::Failover => rules(nearest(&of.routing_preferences), true),
        None => rules(Preference::Failover(Failover::default()), detects),
    }
}

fn distribute(stated: &Locality) -> Preference {
    let entry = |it: &balance::Distribution| Distribute {
        from: Pattern::parse(&it.from),
        // The decoder lets no part of nothing through.
        to: it
            .to
            .iter()
            .filter_map(|(place, part)| Some((Pattern::parse(place), NonZeroU32::new(*part)?)))
            .collect(),
    };
    Preference::Distribute(stated.distribute.iter().map(entry).collect())
}

fn failover(stated: &Locality) -> Preference {
    let label = |it: &balance::PriorityLabel| match &it.value {
        Some(value) => LabelMatch::parse(&format!("{}={value}", it.key)),
        None => LabelMatch::parse(&it.key),
    };
    Preference::Failover(Failover {
        regions: stated.failover.clone(),
        labels: stated.failover_priority.iter().map(label).collect(),
    })
}

fn nearest(scopes: &[Scope]) -> Preference {
    let labels = scopes.iter().map(|it| LabelMatch::parse(label_of(*it))).collect();
    Preference::Failover(Failover { regions: Box::default(), labels })
}

/// The label that names a workload's share of a scope.
pub(super) fn label_of(scope: Scope) -> &'static str {
    match scope {
        Scope::Network => "topology.istio.io/network",
        Scope::Region => "topology.kubernetes.io/region",
        Scope::Zone => "topology.kubernetes.io/zone",
        Scope::Subzone => "topology.istio.io/subzone",
        Scope::Node => "kubernetes.io/hostname",
        Scope::Cluster => "topology.istio.io/cluster",
    }
}
