//! Routes of connections: by the server name of TLS, or by port and address (Istio `TLSRoute`, `TCPRoute`).

use std::sync::Arc;

use ipnet::IpNet;

use super::{Destination, Gateways};
use crate::config::Labels;

/// One entry of `spec.tls`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsRoute {
    /// `match`: any of these, never empty.
    pub matches: Box<[TlsMatch]>,
    /// `route`, never empty.
    pub route: Box<[ConnectionDestination]>,
}

/// One entry of a TLS route's `match`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsMatch {
    /// `sniHosts`, never empty: names, or `*.x`, each within the VirtualService's hosts.
    pub sni_hosts: Box<[Arc<str>]>,
    /// What else must hold.
    pub connection: ConnectionMatch,
}

/// One entry of `spec.tcp`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpRoute {
    /// `match`: any of these; empty takes every connection.
    pub matches: Box<[ConnectionMatch]>,
    /// `route`, never empty.
    pub route: Box<[ConnectionDestination]>,
}

/// What a connection must be (Istio `L4MatchAttributes`): everything stated must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnectionMatch {
    /// `destinationSubnets`: in one of these, when there is any.
    pub destination_subnets: Box<[IpNet]>,
    /// `port` of the service.
    pub port: Option<u16>,
    /// `sourceLabels` of the workload that calls.
    pub source_labels: Labels,
    /// `sourceNamespace` of the workload that calls.
    pub source_namespace: Option<Arc<str>>,
    /// `gateways`; `None` leaves it to the VirtualService.
    pub gateways: Option<Gateways>,
}

/// One destination of a route of connections, chosen once per connection (Istio `RouteDestination`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionDestination {
    /// `destination`.
    pub destination: Destination,
    /// `weight`, as of an HTTP destination.
    pub weight: u32,
}
