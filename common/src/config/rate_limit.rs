//! `gateway.ebb.dev` RateLimit as stated: how many requests, of whom, in which time.
//!
//! Knows no clock and no services. Istio has no kind for this; the words are ours, the matches the Gateway API's.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::ObjectName;
use super::routing::request::HttpMatch;

/// Most limits of one RateLimit.
pub const MAX_LIMITS: usize = 16;
/// Most requests, and the largest burst, of one limit.
pub const MAX_REQUESTS: u32 = 1_000_000;
/// Longest time for which requests are counted.
pub const MAX_PER: Duration = Duration::from_secs(86_400);

/// `gateway.ebb.dev` RateLimit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    /// Namespace and name.
    pub object: ObjectName,
    /// `spec.targetRefs`, each of the own namespace.
    pub targets: Box<[LimitTarget]>,
    /// `spec.limits`: every one that matches has to admit a request.
    pub limits: Box<[Limit]>,
    /// `spec.responseHeaders` is not `Omit`: answers say what is left.
    pub tells: bool,
    /// `spec.dryRun`: what would be refused is told and let through.
    pub dry_run: bool,
}

/// What a RateLimit is attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitTarget {
    /// Of which kind.
    pub kind: LimitedKind,
    /// `name`.
    pub name: Arc<str>,
    /// `sectionName`: the name of a port of a Service or ServiceEntry, or of a rule of an HTTPRoute.
    pub section: Option<Arc<str>>,
}

/// Kinds that RateLimits attach to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LimitedKind {
    /// `v1` Service.
    Service,
    /// `networking.istio.io` ServiceEntry.
    Entry,
    /// `gateway.networking.k8s.io` Gateway: everything behind a waypoint.
    Gateway,
    /// `gateway.networking.k8s.io` HTTPRoute.
    Route,
}

/// One of `spec.limits`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// `name`, for logs; empty when there is none.
    pub name: Arc<str>,
    /// `matches`: which requests count; none is every request.
    pub matches: Box<[HttpMatch]>,
    /// `requests` that are admitted `per` this time, evenly.
    pub requests: NonZeroU32,
    /// See `requests`; from 1 ms to [`MAX_PER`].
    pub per: Duration,
    /// `burst`: so many at once after a pause; `requests` where it is not stated.
    pub burst: NonZeroU32,
    /// `by`: requests that differ in any of these are counted apart.
    pub by: Box<[LimitKey]>,
}

/// One of `by`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitKey {
    /// `SourcePrincipal`: the caller's verified identity.
    Principal,
    /// `SourceNamespace`: the namespace of that identity.
    Namespace,
    /// `SourceAddress`: the caller's own address.
    Address,
    /// `Header`: the first value of this header.
    Header(HeaderName),
}
