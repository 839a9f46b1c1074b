//! Who states a route: a VirtualService, or a route of the Gateway API. Their rules are the same values; what their
//! destinations name is not.

use std::sync::Arc;

use common::config::gateway::{Backend, GatewayRoute, RouteKind};
use common::config::routing::layer4::{TcpRoute, TlsRoute};
use common::config::routing::{Destination, HttpRoute, VirtualService};
use common::config::{Key, Kind, ObjectName};
use common::snapshot::Snapshot;
use common::snapshot::model::Service;

use super::hosts;
use super::route::Target;

/// Who states a route.
#[derive(Debug, Clone)]
pub(super) enum Statement {
    VirtualService(Arc<VirtualService>),
    Route(Arc<GatewayRoute>),
}

impl Statement {
    pub(super) fn object(&self) -> &ObjectName {
        match self {
            Self::VirtualService(it) => &it.object,
            Self::Route(it) => &it.object,
        }
    }

    pub(super) fn key(&self) -> Key {
        let kind = match self {
            Self::VirtualService(_) => Kind::VirtualService,
            Self::Route(it) => it.kind.kind(),
        };
        Key { kind, object: self.object().clone() }
    }

    /// What the list of its routes of requests is called.
    pub(super) fn http_field(&self) -> &'static str {
        match self {
            Self::VirtualService(_) => "http",
            Self::Route(_) => "rules",
        }
    }

    /// What the list of a route's matches is called.
    pub(super) fn match_field(&self) -> &'static str {
        match self {
            Self::VirtualService(_) => "match",
            Self::Route(_) => "matches",
        }
    }

    pub(super) fn http(&self) -> &[HttpRoute] {
        match self {
            Self::VirtualService(it) => &it.http,
            Self::Route(it) => &it.http,
        }
    }

    pub(super) fn tls(&self) -> &[TlsRoute] {
        match self {
            Self::VirtualService(it) => &it.tls,
            Self::Route(it) => &it.tls,
        }
    }

    pub(super) fn tcp(&self) -> &[TcpRoute] {
        match self {
            Self::VirtualService(it) => &it.tcp,
            Self::Route(it) => &it.tcp,
        }
    }

    /// Where one of its destinations leads.
    pub(super) fn target(&self, stated: &Destination, mesh: &Snapshot, cluster_domain: &str) -> Target {
        let namespace = &self.object().namespace;
        match (self, &stated.backend) {
            (Self::Route(route), Some(backend)) => {
                of_backend(backend, stated.port, (route.kind, namespace), mesh, cluster_domain)
            }
            _ => Target::find(stated, namespace, mesh, cluster_domain),
        }
    }
}

/// Why a backend cannot be led to: its share of requests is answered with 500.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// There is no such service.
    Service,
    /// The service has no such port.
    Port,
    /// It is of another namespace, and no ReferenceGrant there lets the route lead to it.
    Grant,
    /// It is of a kind that nobody here leads to.
    Kind,
}

impl Missing {
    /// What is missing, in words.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Service => "there is no such service",
            Self::Port => "the service has no such port",
            Self::Grant => "no ReferenceGrant in its namespace lets this route lead to it",
            Self::Kind => "nobody here leads to this kind",
        }
    }
}

/// The target of a backend that a route of a kind and namespace names.
fn of_backend(
    backend: &Backend,
    port: Option<u16>,
    (kind, namespace): (RouteKind, &str),
    mesh: &Snapshot,
    cluster_domain: &str,
) -> Target {
    let (host, found, granted) = match backend {
        Backend::Service(object) => {
            let ObjectName { namespace: of, name } = object;
            let host = hosts::full_name(name, of, cluster_domain).into();
            (host, mesh.service(of, name), mesh.may_lead_to(kind, namespace, object))
        }
        Backend::Hostname(host) => (host.clone(), mesh.service_named(host, namespace, cluster_domain), true),
        Backend::Unknown(what) => return Target::missing(what.clone(), Missing::Kind),
    };
    match found {
        _ if !granted => Target::missing(host, Missing::Grant),
        None => Target::missing(host, Missing::Service),
        Some(service) if port.is_some_and(|port| !has_port(service, port)) => {
            Target::missing(host, Missing::Port)
        }
        Some(service) => Target::there(host, service, port),
    }
}

fn has_port(service: &Service, port: u16) -> bool {
    service.ports.iter().any(|it| it.port == port)
}
