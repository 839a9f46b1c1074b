//! Which endpoint a request goes to (Istio `LoadBalancerSettings`).

use std::sync::Arc;
use std::time::Duration;

use crate::config::routing::Share;

/// `loadBalancer`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadBalancer {
    /// `simple` or `consistentHash`; `None` is the default of the mesh, least request.
    pub algorithm: Option<Algorithm>,
    /// `localityLbSetting`.
    pub locality: Option<Locality>,
    /// `warmup`, or the older `warmupDurationSecs`.
    pub warmup: Option<Warmup>,
}

/// How one of several endpoints is chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Algorithm {
    /// `LEAST_REQUEST` or `LEAST_CONN`: of two at random the one with fewer requests under way.
    LeastRequest,
    /// `ROUND_ROBIN`.
    RoundRobin,
    /// `RANDOM`.
    Random,
    /// `PASSTHROUGH`: the address that was called.
    Passthrough,
    /// `consistentHash`.
    ConsistentHash(ConsistentHash),
}

/// `consistentHash`: equal keys go to the same endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsistentHash {
    /// Of what.
    pub key: HashKey,
    /// By which table.
    pub table: HashTable,
}

/// What is hashed. A request without it goes to a random endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    /// `httpHeaderName`.
    Header(::http::HeaderName),
    /// `httpCookie`.
    Cookie(HashCookie),
    /// `useSourceIp`: of the client, not of a proxy between.
    SourceAddress,
    /// `httpQueryParameterName`.
    QueryParameter(Arc<str>),
}

/// `httpCookie`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashCookie {
    /// `name`.
    pub name: Arc<str>,
    /// `path` of a cookie that is made here; empty when not stated.
    pub path: Arc<str>,
    /// `ttl`: with it, a missing cookie is made here; zero is a session cookie.
    pub ttl: Option<Duration>,
    /// `attributes` of a cookie that is made here: names and values.
    pub attributes: Box<[(Arc<str>, Arc<str>)]>,
}

/// The table of a consistent hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashTable {
    /// `ringHash.minimumRingSize` entries at least.
    Ring(u32),
    /// `maglev.tableSize` entries, a prime.
    Maglev(u32),
}

/// `localityLbSetting`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Locality {
    /// `enabled`; `None` is what the mesh says, which is true unless it says otherwise.
    pub enabled: Option<bool>,
    /// `distribute`: how the calls from a locality are spread.
    pub distribute: Box<[Distribution]>,
    /// `failover`: region to region.
    pub failover: Box<[(Arc<str>, Arc<str>)]>,
    /// `failoverPriority`: labels that endpoints should share with the caller, or have a value of, the first counting
    /// most.
    pub failover_priority: Box<[PriorityLabel]>,
}

/// One entry of `failoverPriority`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriorityLabel {
    /// The label.
    pub key: Arc<str>,
    /// The value that endpoints should have; `None` is the caller's own.
    pub value: Option<Arc<str>>,
}

/// One entry of `distribute`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    /// `from`: `region/zone/subzone`, `*` standing for any.
    pub from: Arc<str>,
    /// `to`: localities and their parts of 100.
    pub to: Box<[(Arc<str>, u32)]>,
}

/// `warmup`: an endpoint that is new gets less at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Warmup {
    /// `duration`.
    pub duration: Duration,
    /// `minimumPercent` that it starts with; 10 % when not stated.
    pub minimum: Share,
    /// `aggression` in thousandths, at least 1000, which is linear and what is meant when it is not stated.
    pub aggression_thousandths: u32,
}
