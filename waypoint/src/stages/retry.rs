//! Whether a request is tried again, when, and where not.
//!
//! The policy is that of the route, or else of the mesh; a client cannot change it. An aborted or expired request is
//! never asked about here: neither was answered by a service.

use std::time::Duration;

use common::config::routing::resilience::{Retries, RetryCondition};
use http::{HeaderMap, HeaderName, StatusCode};
use rand::Rng;

use super::numeral;
use super::respond::GRPC_STATUS;

/// Retries when a route, or no route, says nothing of their number.
const DEFAULT_RETRIES: u32 = 2;
/// First wait at most, when nothing is stated.
const DEFAULT_BACKOFF: Duration = Duration::from_millis(25);
/// How many times the first wait a later one is at most.
const LONGEST_BACKOFF: u32 = 10;
/// After how many tries `retryRemoteLocalities` turns to other localities.
const TRIES_PER_LOCALITY: usize = 2;
/// Which try a request is, from 1.
const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
/// The service, or a proxy before it, has had enough.
const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

/// When Istio retries under a route that does not say.
const OF_ROUTES: [RetryCondition; 5] = [
    RetryCondition::ConnectFailure,
    RetryCondition::RefusedStream,
    RetryCondition::GrpcUnavailable,
    RetryCondition::GrpcCancelled,
    RetryCondition::RetriableStatusCodes,
];
/// When Istio's waypoint retries a request that falls under no route: only what was certainly not begun.
const OF_NO_ROUTE: [RetryCondition; 1] = [RetryCondition::ResetBeforeRequest];

/// The policy of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy<'r> {
    /// Tries after the first.
    pub retries: u32,
    conditions: &'r [RetryCondition],
    statuses: &'r [StatusCode],
    backoff: Duration,
    avoid_previous_hosts: Option<bool>,
    remote_localities: bool,
}

/// Whose default counts for what is not stated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Under<'r> {
    /// A route, and what it states.
    Route(Option<&'r Retries>),
    /// No route.
    Nothing,
}

/// The policy of a request; `None` never retries.
pub fn policy(under: Under<'_>) -> Option<Policy<'_>> {
    let default = Policy {
        retries: DEFAULT_RETRIES,
        conditions: &OF_ROUTES,
        statuses: &[],
        backoff: DEFAULT_BACKOFF,
        avoid_previous_hosts: None,
        remote_localities: false,
    };
    let stated = match under {
        Under::Nothing => return Some(Policy { conditions: &OF_NO_ROUTE, ..default }),
        Under::Route(None) => return Some(default),
        Under::Route(Some(stated)) => stated,
    };
    let (conditions, statuses) =
        stated.retry_on.as_ref().map_or((&OF_ROUTES[..], &[][..]), |it| (&*it.conditions, &*it.statuses));
    let policy = Policy {
        retries: stated.attempts.unwrap_or(DEFAULT_RETRIES),
        conditions,
        statuses,
        backoff: stated.backoff.unwrap_or(DEFAULT_BACKOFF),
        avoid_previous_hosts: stated.avoid_previous_hosts,
        remote_localities: stated.remote_localities.unwrap_or_default(),
    };
    (policy.retries > 0).then_some(policy)
}

/// How a try ended.
#[derive(Debug, Clone, Copy)]
pub enum Outcome<'o> {
    /// The service answered. Of an answer that is nothing but headers these are the trailers too.
    Answered {
        /// Its status.
        status: StatusCode,
        /// Its headers.
        headers: &'o HeaderMap,
    },
    /// It did not.
    Failed {
        /// Why.
        why: Failure,
        /// Whether the headers of the request were sent, or may have been.
        was_sent: bool,
    },
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No connection, or not in time.
    Connect,
    /// The stream was refused: the service says that it has not begun.
    Refused,
    /// The connection or the stream ended.
    Reset,
    /// [`Timeouts::per_try`](super::timeout::Timeouts) is over.
    TryExpired,
    /// A limit of ours (connections, requests, retries): to try again would only add to it.
    Overflow,
}

/// What follows a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It was the last: nothing says that this is to be tried again.
    Final,
    /// It would be tried again, but has been often enough; flag `URX`.
    Exhausted,
    /// It is tried again, after [`Policy::backoff`].
    Again,
}

impl<'r> Policy<'r> {
    /// After what it tries again.
    pub fn conditions(&self) -> &'r [RetryCondition] {
        self.conditions
    }

    /// After which statuses besides.
    pub fn statuses(&self) -> &'r [StatusCode] {
        self.statuses
    }

    /// The longest first wait.
    pub fn first_backoff(&self) -> Duration {
        self.backoff
    }
}

impl Policy<'_> {
    /// What follows a try, `retries` of them after the first one having been made.
    pub fn judge(&self, outcome: &Outcome<'_>, retries: u32) -> Verdict {
        let retriable = match outcome {
            Outcome::Answered { status, headers } => self.wants_another_answer(*status, headers),
            Outcome::Failed { why, was_sent } => self.wants_another_try(*why, *was_sent),
        };
        match retriable {
            false => Verdict::Final,
            true if retries >= self.retries => Verdict::Exhausted,
            true => Verdict::Again,
        }
    }

    fn wants_another_answer(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        use RetryCondition::*;
        if headers.contains_key(RATE_LIMITED) {
            return self.conditions.contains(&RateLimited);
        }
        // A number in `retryOn` says by itself that numbers count.
        if self.statuses.contains(&status) {
            return true;
        }
        let outcome = headers.get(GRPC_STATUS).map(|it| it.as_bytes());
        self.conditions.iter().any(|condition| match condition {
            ServerError => status.is_server_error(),
            GatewayError => matches!(status.as_u16(), 502..=504),
            RetriableClientError => status == StatusCode::CONFLICT,
            GrpcCancelled => outcome == Some(b"1"),
            GrpcDeadlineExceeded => outcome == Some(b"4"),
            GrpcResourceExhausted => outcome == Some(b"8"),
            GrpcInternal => outcome == Some(b"13"),
            GrpcUnavailable => outcome == Some(b"14"),
            // The numbers were looked at above; a client names neither numbers nor headers.
            RetriableStatusCodes | RetriableHeaders | RateLimited => false,
            Reset | ResetBeforeRequest | ConnectFailure | RefusedStream | Http3PostConnectFailure => false,
        })
    }

    fn wants_another_try(&self, why: Failure, was_sent: bool) -> bool {
        use RetryCondition::*;
        self.conditions.iter().any(|condition| match (condition, why) {
            (_, Failure::Overflow) => false,
            (ServerError | GatewayError | Reset, _) => true,
            (ResetBeforeRequest, _) => !was_sent,
            (ConnectFailure, why) => why == Failure::Connect,
            (RefusedStream, why) => why == Failure::Refused,
            _ => false,
        })
    }

    /// Whether it tries again what may have been sent before: only then is a request's body needed another time. Nothing
    /// of a body is read before there is a connection to send it on.
    pub fn sends_again(&self) -> bool {
        use RetryCondition::*;
        let answers = !self.statuses.is_empty();
        answers
            || self.conditions.iter().any(|condition| match condition {
                ConnectFailure | ResetBeforeRequest => false,
                RetriableStatusCodes | RetriableHeaders | Http3PostConnectFailure => false,
                ServerError | GatewayError | Reset | RefusedStream | RateLimited => true,
                RetriableClientError | GrpcCancelled | GrpcDeadlineExceeded | GrpcInternal => true,
                GrpcResourceExhausted | GrpcUnavailable => true,
            })
    }

    /// How long to wait before a retry, counted from 1: anything from nothing to a span that doubles each time, up to
    /// ten times the first, so that those who failed together do not return together.
    pub fn backoff(&self, retry: u32, rng: &mut impl Rng) -> Duration {
        let longest = self.backoff.saturating_mul(LONGEST_BACKOFF);
        let doubled =
            self.backoff.saturating_mul(1_u32.checked_shl(retry.saturating_sub(1)).unwrap_or(u32::MAX));
        longest.min(doubled).mul_f64(rng.random::<f64>())
    }

    /// Whether a retry looks for a host that was not tried. A service that hashes consistently keeps to its host, unless
    /// `retryIgnorePreviousHosts` is stated.
    pub fn avoids_hosts(&self, hashes_consistently: bool) -> bool {
        self.avoid_previous_hosts.unwrap_or(!hashes_consistently)
    }

    /// Of the localities of all tries so far, in their order, those to keep away from: none without
    /// `retryRemoteLocalities`, else those of whole pairs of tries.
    pub fn avoided_localities<'t, L>(&self, tried: &'t [L]) -> &'t [L] {
        let whole = tried.len() - tried.len() % TRIES_PER_LOCALITY;
        if self.remote_localities { &tried[..whole] } else { &[] }
    }
}

/// Says which try a request is, counted from 1.
pub fn tell_attempt(attempt: u32, headers: &mut HeaderMap) {
    headers.insert(ATTEMPT_COUNT, numeral(attempt.into()));
}

#[cfg(test)]
mod tests;
