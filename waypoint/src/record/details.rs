//! Why a request was answered as it was, in the words of Envoy's `%RESPONSE_CODE_DETAILS%`.
//!
//! Alerts and runbooks look for these words; each stands here once.

use std::fmt;
use std::sync::Arc;

/// Why a request was answered as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Details {
    /// The endpoint answered.
    ViaUpstream,
    /// No route matched.
    RouteNotFound,
    /// The route leads to a service, port or subset that does not exist.
    ClusterNotFound,
    /// The route itself answers, by a direct response or a redirect.
    DirectResponse,
    /// A fault was injected.
    FaultAbort,
    /// The request's time was up before the endpoint answered.
    ResponseTimeout,
    /// An attempt's time was up, and it was the last one.
    PerTryTimeout,
    /// The request's head did not come in time.
    RequestHeaderTimeout,
    /// Nothing moved on the stream for too long.
    StreamIdleTimeout,
    /// The request, or the stream to the endpoint, lasted longer than it may.
    MaxDuration,
    /// No endpoint may be asked.
    NoHealthyUpstream,
    /// The attempt broke off before the endpoint had begun to answer.
    ResetBeforeResponse(Reset),
    /// The answer broke off.
    ResetAfterResponse(Reset),
    /// The client went away.
    ClientGone,
    /// The proxy ended the connection to the client.
    LocalDisconnect,
    /// The request has no authority.
    MissingHost,
    /// The request is not HTTP as it should be.
    CodecError,
    /// A path that cannot be normalized.
    PathNormalizationFailed,
    /// The body is longer than what may be held of it.
    PayloadTooLarge,
    /// The request asks for a protocol that it may not change to.
    UpgradeFailed,
    /// An AuthorizationPolicy denied it: its `namespace/name`, or nothing when none of those that allow matched.
    Denied(Option<Arc<str>>),
    /// An external authorizer said no.
    ExternallyDenied,
    /// An external authorizer said nothing.
    AuthorizerError,
    /// A token is missing or wrong; why, in a sentence.
    TokenRefused(&'static str),
    /// A rate limit was reached.
    RateLimited,
    /// A preflight request was answered.
    Cors,
    /// The proxy has too much to do.
    Overload,
}

/// How an attempt broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// The connection could not be made.
    ConnectFailure,
    /// Making the connection took too long.
    ConnectTimeout,
    /// The connection ended.
    Termination,
    /// The endpoint reset the stream.
    Remote,
    /// The stream was reset here.
    Local,
    /// A circuit breaker was open.
    Overflow,
    /// What came was not HTTP as it should be.
    Protocol,
}

impl Reset {
    fn word(self) -> &'static str {
        match self {
            Self::ConnectFailure => "remote_connection_failure",
            Self::ConnectTimeout => "connection_timeout",
            Self::Termination => "connection_termination",
            Self::Remote => "remote_reset",
            Self::Local => "local_reset",
            Self::Overflow => "overflow",
            Self::Protocol => "protocol_error",
        }
    }
}

impl fmt::Display for Details {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self {
            Self::ViaUpstream => "via_upstream",
            Self::RouteNotFound => "route_not_found",
            Self::ClusterNotFound => "cluster_not_found",
            Self::DirectResponse => "direct_response",
            Self::FaultAbort => "fault_filter_abort",
            Self::ResponseTimeout => "upstream_response_timeout",
            Self::PerTryTimeout => "upstream_per_try_timeout",
            Self::RequestHeaderTimeout => "request_header_timeout",
            Self::StreamIdleTimeout => "stream_idle_timeout",
            Self::MaxDuration => "upstream_max_stream_duration_reached",
            Self::NoHealthyUpstream => "no_healthy_upstream",
            Self::ResetBeforeResponse(how) => {
                return write!(f, "upstream_reset_before_response_started{{{}}}", how.word());
            }
            Self::ResetAfterResponse(how) => {
                return write!(f, "upstream_reset_after_response_started{{{}}}", how.word());
            }
            Self::ClientGone => "downstream_remote_disconnect",
            Self::LocalDisconnect => "downstream_local_disconnect",
            Self::MissingHost => "missing_host_header",
            Self::CodecError => "codec_error",
            Self::PathNormalizationFailed => "path_normalization_failed",
            Self::PayloadTooLarge => "request_payload_too_large",
            Self::UpgradeFailed => "upgrade_failed",
            Self::Denied(policy) => {
                let policy = policy.as_deref().unwrap_or("none");
                return write!(f, "rbac_access_denied_matched_policy[{policy}]");
            }
            Self::ExternallyDenied => "ext_authz_denied",
            Self::AuthorizerError => "ext_authz_error",
            Self::TokenRefused(why) => {
                return write!(f, "jwt_authn_access_denied{{{}}}", why.replace(' ', "_"));
            }
            Self::RateLimited => "local_rate_limited",
            Self::Cors => "cors_response",
            Self::Overload => "overload",
        };
        f.write_str(word)
    }
}
