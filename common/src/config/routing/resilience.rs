//! Retries, injected faults and mirrors of HTTP routes (Istio `HTTPRetry`, `HTTPFaultInjection`, `HTTPMirrorPolicy`).

use std::fmt;
use std::time::Duration;

use ::http::StatusCode;

use super::{Destination, Share};

/// `retries`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retries {
    /// `attempts` after the first; 0 is none, `None` is the default of 2.
    pub attempts: Option<u32>,
    /// `perTryTimeout`; `None` is the route's timeout.
    pub per_try_timeout: Option<Duration>,
    /// `retryOn`; `None` is the default of the mesh.
    pub retry_on: Option<RetryOn>,
    /// `backoff`: base interval; `None` is 25 ms.
    pub backoff: Option<Duration>,
    /// `retryIgnorePreviousHosts`; `None` is true.
    pub avoid_previous_hosts: Option<bool>,
    /// `retryRemoteLocalities`; `None` is false.
    pub remote_localities: Option<bool>,
}

/// When a request is tried again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetryOn {
    /// Conditions by name.
    pub conditions: Box<[RetryCondition]>,
    /// Statuses stated as numbers.
    pub statuses: Box<[StatusCode]>,
}

/// A word of `retryOn` (Envoy's `x-envoy-retry-on` and `x-envoy-retry-grpc-on`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryCondition {
    /// `5xx`: any 5xx, or no answer at all.
    ServerError,
    /// `gateway-error`: 502, 503, 504.
    GatewayError,
    /// `reset`: no answer at all.
    Reset,
    /// `reset-before-request`: no answer, and the request's headers were not sent.
    ResetBeforeRequest,
    /// `connect-failure`.
    ConnectFailure,
    /// `envoy-ratelimited`: header `x-envoy-ratelimited` is there.
    RateLimited,
    /// `retriable-4xx`: 409.
    RetriableClientError,
    /// `refused-stream`: REFUSED_STREAM.
    RefusedStream,
    /// `retriable-status-codes`: the statuses stated as numbers, or by the client.
    RetriableStatusCodes,
    /// `retriable-headers`: the headers named by the client.
    RetriableHeaders,
    /// `http3-post-connect-failure`.
    Http3PostConnectFailure,
    /// `cancelled`: grpc-status 1.
    GrpcCancelled,
    /// `deadline-exceeded`: grpc-status 4.
    GrpcDeadlineExceeded,
    /// `internal`: grpc-status 13.
    GrpcInternal,
    /// `resource-exhausted`: grpc-status 8.
    GrpcResourceExhausted,
    /// `unavailable`: grpc-status 14.
    GrpcUnavailable,
}

impl fmt::Display for RetryCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Self::WORDS.into_iter().find(|(_, condition)| condition == self);
        f.write_str(word.map_or("", |(word, _)| word))
    }
}

impl RetryCondition {
    /// Every word and what it means.
    const WORDS: [(&'static str, Self); 16] = [
        ("5xx", Self::ServerError),
        ("gateway-error", Self::GatewayError),
        ("reset", Self::Reset),
        ("reset-before-request", Self::ResetBeforeRequest),
        ("connect-failure", Self::ConnectFailure),
        ("envoy-ratelimited", Self::RateLimited),
        ("retriable-4xx", Self::RetriableClientError),
        ("refused-stream", Self::RefusedStream),
        ("retriable-status-codes", Self::RetriableStatusCodes),
        ("retriable-headers", Self::RetriableHeaders),
        ("http3-post-connect-failure", Self::Http3PostConnectFailure),
        ("cancelled", Self::GrpcCancelled),
        ("deadline-exceeded", Self::GrpcDeadlineExceeded),
        ("internal", Self::GrpcInternal),
        ("resource-exhausted", Self::GrpcResourceExhausted),
        ("unavailable", Self::GrpcUnavailable),
    ];

    /// The condition of a word.
    pub fn of(word: &str) -> Option<Self> {
        Self::WORDS.into_iter().find_map(|(known, condition)| (known == word).then_some(condition))
    }
}

/// `fault`: two independent draws, so that a request may be delayed and then aborted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fault {
    /// `delay`.
    pub delay: Option<Delay>,
    /// `abort`.
    pub abort: Option<Abort>,
}

/// `fault.delay`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delay {
    /// `fixedDelay`, at least 1 ms.
    pub fixed: Duration,
    /// `percentage`, or the older `percent`; none when neither is stated.
    pub share: Share,
}

/// `fault.abort`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abort {
    /// How it is answered.
    pub with: AbortWith,
    /// `percentage`; none when it is not stated.
    pub share: Share,
}

/// What an aborted request is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AbortWith {
    /// `httpStatus`.
    Http(StatusCode),
    /// `grpcStatus` as its number: status 200 and `grpc-status` in trailers only.
    Grpc(u8),
}

/// A copy of requests that nobody waits for (`mirror`, `mirrors`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Where it goes.
    pub destination: Destination,
    /// Of how many requests; all when no percentage is stated.
    pub share: Share,
}

/// The number of a gRPC status, by its name (`UNAVAILABLE`).
pub fn grpc_status(name: &str) -> Option<u8> {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    (0..).zip(NAMES).find_map(|(number, known)| (known == name).then_some(number))
}
