//! `connectionPool`.

use serde::Deserialize;

use super::limit;
use crate::config::decode::Fault;
use crate::config::decode::istio::scalar::{Whole, duration, positive};
use crate::config::decode::text::Text;
use crate::config::destination::pool::{
    ConnectionPool, Http2Keepalive, HttpPool, HttpVersion, TcpKeepalive, TcpPool,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(super) struct PoolManifest<'a> {
    tcp: Option<TcpManifest<'a>>,
    http: Option<HttpManifest<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct TcpManifest<'a> {
    max_connections: Option<Whole>,
    connect_timeout: Option<Text<'a>>,
    tcp_keepalive: Option<KeepaliveManifest<'a>>,
    max_connection_duration: Option<Text<'a>>,
    idle_timeout: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct KeepaliveManifest<'a> {
    probes: Option<Whole>,
    time: Option<Text<'a>>,
    interval: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct HttpManifest<'a> {
    http1_max_pending_requests: Option<Whole>,
    http2_max_requests: Option<Whole>,
    max_requests_per_connection: Option<Whole>,
    max_retries: Option<Whole>,
    idle_timeout: Option<Text<'a>>,
    h2_upgrade_policy: Option<Text<'a>>,
    use_client_protocol: Option<bool>,
    max_concurrent_streams: Option<Whole>,
    http2_keep_alive: Option<Http2KeepaliveManifest<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct Http2KeepaliveManifest<'a> {
    interval: Option<Text<'a>>,
    timeout: Option<Text<'a>>,
}

/// `connectionPool`.
pub(super) fn read(stated: &PoolManifest<'_>, field: &str) -> Result<ConnectionPool, Fault> {
    if stated.tcp.is_none() && stated.http.is_none() {
        return Err(Fault::new(field, "states neither tcp nor http"));
    }
    let tcp = stated.tcp.as_ref().map(|it| tcp(it, &format!("{field}.tcp"))).transpose()?;
    let http = stated.http.as_ref().map(|it| http(it, &format!("{field}.http"))).transpose()?;
    Ok(ConnectionPool { tcp: tcp.unwrap_or_default(), http: http.unwrap_or_default() })
}

fn tcp(stated: &TcpManifest<'_>, field: &str) -> Result<TcpPool, Fault> {
    let at = |name: &str| format!("{field}.{name}");
    let keepalive = stated.tcp_keepalive.as_ref().map(|it| {
        let at = |name: &str| format!("{field}.tcpKeepalive.{name}");
        Ok(TcpKeepalive {
            probes: limit(it.probes, &at("probes"))?,
            time: positive(it.time.as_ref(), &at("time"))?,
            interval: positive(it.interval.as_ref(), &at("interval"))?,
        })
    });
    let longest = &stated.max_connection_duration;
    Ok(TcpPool {
        max_connections: limit(stated.max_connections, &at("maxConnections"))?,
        connect_timeout: positive(stated.connect_timeout.as_ref(), &at("connectTimeout"))?,
        keepalive: keepalive.transpose()?,
        max_connection_duration: positive(longest.as_ref(), &at("maxConnectionDuration"))?,
        idle_timeout: duration(stated.idle_timeout.as_ref(), &at("idleTimeout"))?,
    })
}

fn http(stated: &HttpManifest<'_>, field: &str) -> Result<HttpPool, Fault> {
    let at = |name: &str| format!("{field}.{name}");
    let keepalive = stated.http2_keep_alive.as_ref();
    let per_connection = stated.max_requests_per_connection;
    Ok(HttpPool {
        max_pending_requests: limit(stated.http1_max_pending_requests, &at("http1MaxPendingRequests"))?,
        max_requests: limit(stated.http2_max_requests, &at("http2MaxRequests"))?,
        max_requests_per_connection: limit(per_connection, &at("maxRequestsPerConnection"))?,
        max_retries: limit(stated.max_retries, &at("maxRetries"))?,
        idle_timeout: duration(stated.idle_timeout.as_ref(), &at("idleTimeout"))?,
        version: version(stated, &at("h2UpgradePolicy"))?,
        max_concurrent_streams: limit(stated.max_concurrent_streams, &at("maxConcurrentStreams"))?,
        keepalive: keepalive.map(|it| http2_keepalive(it, &at("http2KeepAlive"))).transpose()?,
    })
}

fn version(stated: &HttpManifest<'_>, field: &str) -> Result<HttpVersion, Fault> {
    let as_client = stated.use_client_protocol == Some(true);
    match stated.h2_upgrade_policy.as_deref() {
        Some("UPGRADE") if as_client => {
            Err(Fault::new(field, "UPGRADE together with useClientProtocol; only one can be"))
        }
        None | Some("DEFAULT" | "DO_NOT_UPGRADE") if as_client => Ok(HttpVersion::AsClient),
        None | Some("DEFAULT") => Ok(HttpVersion::Default),
        Some("DO_NOT_UPGRADE") => Ok(HttpVersion::Http1),
        Some("UPGRADE") => Ok(HttpVersion::Http2),
        Some(other) => {
            Err(Fault::new(field, format!("{other:?} is none of DEFAULT, DO_NOT_UPGRADE, UPGRADE")))
        }
    }
}

fn http2_keepalive(stated: &Http2KeepaliveManifest<'_>, field: &str) -> Result<Http2Keepalive, Fault> {
    let at = |name: &str| format!("{field}.{name}");
    let missing = |name: &str| Fault::new(at(name), "not stated");
    let interval = positive(stated.interval.as_ref(), &at("interval"))?;
    let timeout = positive(stated.timeout.as_ref(), &at("timeout"))?;
    Ok(Http2Keepalive {
        interval: interval.ok_or_else(|| missing("interval"))?,
        timeout: timeout.ok_or_else(|| missing("timeout"))?,
    })
}
