//! How many connections and requests there may be (Istio `ConnectionPoolSettings`).

use std::num::NonZeroU32;
use std::time::Duration;

/// `connectionPool`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnectionPool {
    /// `tcp`.
    pub tcp: TcpPool,
    /// `http`.
    pub http: HttpPool,
}

/// `connectionPool.tcp`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TcpPool {
    /// `maxConnections`; without limit when not stated.
    pub max_connections: Option<NonZeroU32>,
    /// `connectTimeout`; 10 s when not stated.
    pub connect_timeout: Option<Duration>,
    /// `tcpKeepalive`.
    pub keepalive: Option<TcpKeepalive>,
    /// `maxConnectionDuration`.
    pub max_connection_duration: Option<Duration>,
    /// `idleTimeout`: zero is none; 1 h when not stated.
    pub idle_timeout: Option<Duration>,
}

/// `tcpKeepalive`; what is not stated is left to the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TcpKeepalive {
    /// `probes` without answer before the connection is given up.
    pub probes: Option<NonZeroU32>,
    /// `time` of silence before the first.
    pub time: Option<Duration>,
    /// `interval` between them.
    pub interval: Option<Duration>,
}

/// `connectionPool.http`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpPool {
    /// `http1MaxPendingRequests`, of HTTP/2 too.
    pub max_pending_requests: Option<NonZeroU32>,
    /// `http2MaxRequests`: under way, of HTTP/1.1 too.
    pub max_requests: Option<NonZeroU32>,
    /// `maxRequestsPerConnection`; 1 turns keep-alive off.
    pub max_requests_per_connection: Option<NonZeroU32>,
    /// `maxRetries` under way.
    pub max_retries: Option<NonZeroU32>,
    /// `idleTimeout`: zero is none; 1 h when not stated.
    pub idle_timeout: Option<Duration>,
    /// `h2UpgradePolicy` or `useClientProtocol`.
    pub version: HttpVersion,
    /// `maxConcurrentStreams` of an HTTP/2 connection.
    pub max_concurrent_streams: Option<NonZeroU32>,
    /// `http2KeepAlive`.
    pub keepalive: Option<Http2Keepalive>,
}

/// Which HTTP is spoken to the endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HttpVersion {
    /// `DEFAULT`: what the mesh says.
    #[default]
    Default,
    /// `DO_NOT_UPGRADE`.
    Http1,
    /// `UPGRADE`.
    Http2,
    /// `useClientProtocol`: as the client.
    AsClient,
}

/// `http2KeepAlive`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2Keepalive {
    /// `interval` between PINGs.
    pub interval: Duration,
    /// `timeout` for the answer.
    pub timeout: Duration,
}
