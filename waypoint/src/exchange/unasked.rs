//! Requests that go nowhere because somebody may have to agree (`ExternalAuth` of an HTTPRoute) who cannot be asked: the route
//! cannot be read, or nobody knows whether it is meant. Pure.
//!
//! Knows no request: a route that has somebody asked about one path stands before all of a pod's port, because which service
//! a call of the pod itself was meant for nobody knows, and so neither which of its rules.

use std::fmt;
use std::iter::empty;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use common::config::ObjectName;
use common::config::may_mean::MayMean;
use common::snapshot::model::{Service, Workload};
use common::snapshot::{Snapshot, Unread};
use http::StatusCode;

use crate::destination::{Destination, Protocol};
use crate::pod_call::PodCall;
use crate::stages::respond::{self, Answer};
use crate::worker::Followed;

/// Why nobody is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unasked<'a> {
    /// This document was never read and may have somebody asked.
    Unread(&'a Arc<str>),
    /// A pod was called by its own address, and this service, which leads there, has somebody asked.
    OfPod(&'a Arc<str>),
}

impl<'a> Unasked<'a> {
    /// Of what was called, at an address, by a workload where it is known. Costs a look where no route asks anybody.
    pub(crate) fn of(
        followed: &'a Followed,
        (destination, original): (&'a Destination, SocketAddr),
        caller: Option<&Workload>,
    ) -> Option<Self> {
        let (unread, tables) = (followed.mesh().unread_routes(), followed.tables());
        if unread.is_empty() && tables.asking().is_empty() {
            return None;
        }
        let (mesh, gateway) = (&**followed.mesh(), followed.gateway());
        let caller = caller.map(Workload::namespace);
        let of_gateway = || unread.iter().find(|it| of_gateway(it, mesh, gateway)).map(|it| &it.name);
        match destination {
            Destination::Service { service, .. } => {
                of_service(unread, service, caller).or_else(of_gateway).map(Self::Unread)
            }
            Destination::Workload { workload, port } => {
                let pod = PodCall { mesh, gateway, workload, original, port: *port };
                let unread = of_pod(unread, pod, caller).or_else(of_gateway).map(Self::Unread);
                unread.or_else(|| asking(followed, pod, caller).map(Self::OfPod))
            }
        }
    }

    /// The answer.
    pub(super) fn answer(&self, is_grpc: bool) -> Answer {
        match self {
            Self::Unread(_) => respond::unroutable(is_grpc),
            Self::OfPod(_) => respond::answer(StatusCode::FORBIDDEN, Bytes::new(), is_grpc),
        }
    }

    /// Its status, to those who do not call by gRPC.
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Unread(_) => 500,
            Self::OfPod(_) => 403,
        }
    }
}

impl fmt::Display for Unasked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unread(route) => {
                write!(f, "the route {route} cannot be read and may have an authorizer asked")
            }
            Self::OfPod(service) => {
                write!(f, "a route of {service} has an authorizer asked: call the service, not its pod")
            }
        }
    }
}

/// The document that may have somebody asked about everything behind a waypoint. One of another namespace names that of the
/// Gateway too.
fn of_gateway(unread: &Unread, mesh: &Snapshot, gateway: &ObjectName) -> bool {
    let may_attach = |namespace: &Arc<str>| {
        *namespace == gateway.namespace
            || unread.may_mean.may_mean(&gateway.namespace) && mesh.may_use_waypoint(namespace, gateway)
    };
    unread.may_mean.may_mean(&gateway.name) && unread.namespace.as_ref().is_none_or(may_attach)
}

/// Likewise about a service: for all, or for callers of a namespace.
fn of_service<'a>(
    unread: &'a [Unread],
    service: &Service,
    caller: Option<&Arc<str>>,
) -> Option<&'a Arc<str>> {
    // By the name that routes have for it.
    let name = service.external.as_ref().map_or(&service.name, |it| &it.entry);
    let consumer = || Unread::about(unread, caller?, name);
    Unread::about(unread, &service.namespace, name).or_else(consumer)
}

/// Likewise about a pod, for which it may name any service that leads there.
fn of_pod<'a>(unread: &'a [Unread], pod: PodCall<'_>, caller: Option<&Arc<str>>) -> Option<&'a Arc<str>> {
    let is_near =
        |it: &&Unread| it.namespace.as_ref().is_none_or(|it| it == pod.namespace() || Some(it) == caller);
    let may_mean = |it: &&Unread| match &it.may_mean {
        MayMean::Nothing => false,
        MayMean::Anything => true,
        MayMean::Named(names) => names.iter().any(|name| {
            let named = [ObjectName { namespace: pod.namespace().clone(), name: name.clone() }];
            pod.among(named.iter(), named.iter()).next().is_some()
        }),
    };
    unread.iter().filter(is_near).find(may_mean).map(|it| &it.name)
}

/// The full name of a service whose route has somebody asked, of those that lead to a called pod.
fn asking<'a>(followed: &'a Followed, pod: PodCall<'a>, caller: Option<&Arc<str>>) -> Option<&'a Arc<str>> {
    let tables = followed.tables();
    // As with all that guards a pod, services of its own namespace count.
    let near = tables.asking().of_pod(&pod.workload.uid).filter(|it| it.namespace == *pod.namespace());
    let asks = |service: &Service, port: u16| {
        let object = ObjectName { namespace: service.namespace.clone(), name: service.name.clone() };
        tables.of(&object).is_some_and(|it| it.port_for(port, caller.map(|it| &**it)).http.asks())
    };
    // At a port of the service whose bytes are carried nobody is asked either.
    let is_carried = |service: &Service, port: u16| {
        let declared = service.ports.iter().find(|it| it.port == port).map(Protocol::of);
        matches!(declared, Some(Protocol::Tcp | Protocol::Tls))
    };
    let mut meant = pod.among(near, empty());
    let meant = meant.find(|(service, port)| !is_carried(service, *port) && asks(service, *port));
    meant.map(|(service, _)| &service.hostname)
}
