//! Every reason for which Ebb turns a connection away, with the labels users meet in logs and metrics.
//!
//! A refusal is a value, not an error: it is an expected end of a connection and is counted as one.

use std::fmt;
use std::sync::Arc;

/// Why a connection was not carried. It leaves at whichever step found it and ends in the access log and the metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// A DENY policy matched; `namespace/name` of the policy.
    DeniedByPolicy(Arc<str>),
    /// Allow policies apply to the destination and none of them matched; their names, as far as there is room.
    NoAllowPolicyMatched(Arc<str>),
    /// A PeerAuthentication demands mutual TLS and the connection came in plaintext; `namespace/name` of it.
    PlaintextNotAllowed(Arc<str>),
    /// A policy that applies here, or a binding to a waypoint, could not be decoded; what it is and `namespace/name`.
    PolicyUnknown(Arc<str>),
    /// The configuration has not been read yet.
    NotReady,
    /// The pod this connection belongs to is not in the configuration.
    UnknownWorkload,
    /// The destination is one of Ebb's own ports, which would loop.
    RecursiveCall,
    /// The CONNECT authority is not this pod's own address; the text says what was asked for.
    DestinationMismatch(Arc<str>),
    /// The service has no usable endpoint.
    NoHealthyUpstream(Arc<str>),
    /// The service does not have that port.
    UnknownServicePort(Arc<str>),
    /// The destination is behind a waypoint that is not there, has no pod that is ready, or may not be used from its
    /// namespace; `namespace/name` of the Gateway.
    WaypointMissing(Arc<str>),
    /// The destination is reached through a waypoint alone, and this connection did not come from it; `namespace/name`
    /// of the Gateway.
    WaypointBypassed(Arc<str>),
    /// No certificate for the source workload.
    IdentityUnavailable(Arc<str>),
    /// The TCP connection could not be made.
    ConnectFailed(Arc<str>),
    /// No answer on port 15008 within the deadline.
    TunnelUnreachable(Arc<str>),
    /// The TLS handshake failed or the peer's identity is not the expected one.
    TlsFailed(Arc<str>),
    /// The HTTP/2 handshake failed.
    Http2Failed(Arc<str>),
    /// The peer refused the tunnel with this HTTP status.
    PeerRefused(u16),
    /// A named bound was reached.
    LimitReached(&'static str),
    /// The proxy is draining.
    Draining,
    /// The pod is gone.
    PodGone,
}

impl Refusal {
    /// The `response_flags` label of the metrics (Istio ztunnel's names).
    pub fn flag(&self) -> &'static str {
        match self {
            Self::DeniedByPolicy(_)
            | Self::NoAllowPolicyMatched(_)
            | Self::PlaintextNotAllowed(_)
            | Self::PolicyUnknown(_)
            | Self::WaypointBypassed(_) => "DENY",
            Self::TlsFailed(_) => "TLS_FAILURE",
            Self::Http2Failed(_) => "H2_HANDSHAKE_FAILURE",
            Self::TunnelUnreachable(_) => "NETWORK_POLICY",
            Self::IdentityUnavailable(_) => "IDENTITY_ERROR",
            _ => "CONNECT",
        }
    }

    /// The status a refused CONNECT is answered with (`protocols.md` B.1: 401 policy, 400 bad request, else 503).
    pub fn status(&self) -> http::StatusCode {
        match self.flag() {
            "DENY" => http::StatusCode::UNAUTHORIZED,
            _ if matches!(self, Self::DestinationMismatch(_) | Self::RecursiveCall) => {
                http::StatusCode::BAD_REQUEST
            }
            _ => http::StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeniedByPolicy(policy) => write!(f, "denied by policy {policy}"),
            // The words up to the colon are those of Istio's ztunnel.
            Self::NoAllowPolicyMatched(policies) => {
                write!(f, "allow policies exist, but none matched: {policies}")
            }
            Self::PlaintextNotAllowed(policy) => write!(f, "plaintext refused: {policy} demands mutual TLS"),
            Self::PolicyUnknown(policy) => {
                write!(f, "{policy} applies and could not be decoded; denied until it can")
            }
            Self::NotReady => f.write_str("configuration not read yet"),
            Self::UnknownWorkload => f.write_str("unknown workload"),
            Self::RecursiveCall => f.write_str("recursive call to one of the proxy's own ports"),
            Self::DestinationMismatch(asked) => write!(f, "{asked} is not an address of this pod"),
            Self::NoHealthyUpstream(service) => write!(f, "no healthy upstream for {service}"),
            Self::UnknownServicePort(port) => write!(f, "{port} is not a port of the service"),
            Self::WaypointMissing(waypoint) => {
                // The words up to the colon are those of Istio's ztunnel.
                write!(
                    f,
                    "unknown waypoint: {waypoint}, which the destination demands, has no ready pod to go to"
                )
            }
            Self::WaypointBypassed(waypoint) => {
                write!(f, "denied: the destination is reached through waypoint {waypoint} only")
            }
            Self::IdentityUnavailable(why) => write!(f, "no certificate: {why}"),
            Self::ConnectFailed(why) => write!(f, "connection failed: {why}"),
            Self::TunnelUnreachable(peer) => {
                write!(f, "no answer from {peer}; is port 15008 open in its NetworkPolicy?")
            }
            Self::TlsFailed(why) => write!(f, "tls handshake failed: {why}"),
            Self::Http2Failed(why) => write!(f, "http/2 handshake failed: {why}"),
            Self::PeerRefused(status) => write!(f, "http status: {status}"),
            Self::LimitReached(bound) => write!(f, "limit reached: {bound}"),
            Self::Draining => f.write_str("the proxy is draining"),
            Self::PodGone => f.write_str("the pod is gone"),
        }
    }
}
