//! Where a pod's connection goes: a pure function of the mesh, the pod and the address that it called.
//!
//! Decides only. A destination that is a service of the mesh is never passed through in plaintext for want of an endpoint,
//! and none that is bound to a waypoint is reached round it: where the waypoint cannot be reached, neither can the
//! destination.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rand::Rng;

use super::{HBONE_PORT, is_own_port};
use crate::balance::{self, Caller, Choice, NoEndpoint, Wanted};
use crate::config::ObjectName;
use crate::refusal::Refusal;
use crate::snapshot::model::{Endpoint, LoadBalancing, Service, TunnelProtocol, Workload};
use crate::snapshot::{Endpoints, Snapshot};

/// Where to take a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextHop {
    /// Through a tunnel to the node that serves `destination`.
    Tunnel {
        /// The peer's HBONE address.
        peer: SocketAddr,
        /// What the tunnel is asked for: the pod's own address and target port.
        authority: SocketAddr,
        /// The pod at the end, whose identity the peer must prove.
        destination: Arc<Workload>,
        /// The service that was called, if it was one.
        service: Option<Arc<Service>>,
    },
    /// Through a tunnel to a pod of the waypoint that the destination is behind, which takes it on from there.
    Waypoint {
        /// The HBONE address of the waypoint's pod.
        peer: SocketAddr,
        /// What the tunnel is asked for: what was called, a service's own address and port or a pod's.
        authority: SocketAddr,
        /// The pod of the waypoint, whose identity the peer must prove.
        waypoint: Arc<Workload>,
        /// The service that was called, if it was one.
        service: Option<Arc<Service>>,
        /// The waypoint, of which another pod will do.
        bound: Bound,
    },
    /// To the calling pod itself, which called a service it serves: no network is crossed, policy holds all the same.
    Local {
        /// The pod's own address and target port.
        target: SocketAddr,
        /// The pod.
        destination: Arc<Workload>,
        /// The service that was called, if it was one.
        service: Option<Arc<Service>>,
    },
    /// As plain TCP: the destination is not in the mesh.
    Plain {
        /// Where to connect.
        target: SocketAddr,
        /// The pod there, when it is a known one outside the mesh.
        destination: Option<Arc<Workload>>,
        /// The service that was called, if it was one.
        service: Option<Arc<Service>>,
    },
}

impl NextHop {
    /// The address of whoever serves the connection in the end, as far as it is decided here: by it, load is counted.
    pub fn server(&self) -> SocketAddr {
        match self {
            Self::Tunnel { authority: server, .. }
            | Self::Waypoint { peer: server, .. }
            | Self::Local { target: server, .. }
            | Self::Plain { target: server, .. } => *server,
        }
    }
}

/// Chooses the next hop of a connection that a pod makes. `load` says how many connections are open to an address: of two
/// endpoints the lighter one is taken.
///
/// # Errors
/// A [`Refusal`] when the connection must not be carried.
pub fn route_from(
    mesh: &Snapshot,
    source: &Arc<Workload>,
    original: SocketAddr,
    load: impl Fn(IpAddr) -> u32,
    rng: &mut impl Rng,
) -> Result<NextHop, Refusal> {
    if is_own_port(original.port())
        && (original.ip().is_loopback() || source.addresses.contains(&original.ip()))
    {
        return Err(Refusal::RecursiveCall);
    }
    let routing = Routing { mesh, source, original, load };
    if let Some(service) = mesh.service_at(original.ip()) {
        return routing.to_service(service, rng);
    }
    match mesh.workload_at(original.ip()) {
        Some(workload) => routing.to_workload(workload, original, None, rng),
        None => Ok(NextHop::Plain { target: original, destination: None, service: None }),
    }
}

/// What a decision is made of.
struct Routing<'a, L> {
    mesh: &'a Snapshot,
    source: &'a Arc<Workload>,
    original: SocketAddr,
    load: L,
}

impl<L: Fn(IpAddr) -> u32> Routing<'_, L> {
    fn to_service(&self, service: &Arc<Service>, rng: &mut impl Rng) -> Result<NextHop, Refusal> {
        let (source, original) = (self.source, self.original);
        if let Some(gateway) = self.mesh.waypoint_of_service(service)
            && !self.is_sent_by(gateway)
        {
            let bound = Bound { gateway: gateway.clone(), namespace: service.namespace.clone() };
            return self.to_waypoint(bound, original, Some(service.clone()), rng);
        }
        if service.external.as_ref().is_some_and(|it| it.goes_where_called) {
            return match self.mesh.workload_at(original.ip()) {
                Some(workload) => self.to_workload(workload, original, Some(service.clone()), rng),
                None => {
                    Ok(NextHop::Plain { target: original, destination: None, service: Some(service.clone()) })
                }
            };
        }
        let caller = Caller { node: &source.node, locality: &source.locality, cluster: &source.cluster };
        let wanted = Wanted { port: original.port(), original: original.ip() };
        let load = |endpoint: &Endpoint| (self.load)(endpoint.address);
        let chosen = balance::choose(service, self.mesh.endpoints(service), caller, wanted, load, rng);
        let Choice { endpoint, port } = chosen.map_err(|none| match none {
            NoEndpoint::UnknownPort => {
                Refusal::UnknownServicePort(format!("{}:{}", service.hostname, original.port()).into())
            }
            NoEndpoint::NoneUsable => Refusal::NoHealthyUpstream(service.hostname.clone()),
        })?;
        let target = SocketAddr::new(endpoint.address, port);
        match &endpoint.workload {
            Some(workload) => self.to_workload(workload, target, Some(service.clone()), rng),
            None => Ok(NextHop::Plain { target, destination: None, service: Some(service.clone()) }),
        }
    }

    fn to_workload(
        &self,
        workload: &Arc<Workload>,
        target: SocketAddr,
        service: Option<Arc<Service>>,
        rng: &mut impl Rng,
    ) -> Result<NextHop, Refusal> {
        if is_own_port(target.port()) && workload.protocol == TunnelProtocol::Hbone {
            return Err(Refusal::RecursiveCall);
        }
        // A pod that calls itself is no exception: its rules for others are its own rules too. Nor is one that was
        // called through a service without a waypoint, because its own node would turn such a connection away.
        if let Some(gateway) = self.mesh.waypoint_of_workload(workload)
            && !self.is_sent_by(gateway)
        {
            let bound = Bound { gateway: gateway.clone(), namespace: workload.namespace().clone() };
            return self.to_waypoint(bound, target, service, rng);
        }
        let destination = workload.clone();
        Ok(match workload.protocol {
            // What a waypoint's tunnels carry is for what it stands before; what is called of itself, its metrics or its
            // probes, it serves as plain TCP.
            TunnelProtocol::Hbone if workload.is_waypoint() => {
                NextHop::Plain { target, destination: Some(destination), service }
            }
            TunnelProtocol::Hbone if workload.uid == self.source.uid => {
                NextHop::Local { target, destination, service }
            }
            TunnelProtocol::Hbone => NextHop::Tunnel {
                peer: SocketAddr::new(target.ip(), HBONE_PORT),
                authority: target,
                destination,
                service,
            },
            TunnelProtocol::None => NextHop::Plain { target, destination: Some(destination), service },
        })
    }

    /// Whether the caller is that waypoint, as everybody takes it to be: by its identity.
    fn is_sent_by(&self, gateway: &ObjectName) -> bool {
        self.mesh.is_waypoint(gateway, &self.source.identity)
    }

    fn to_waypoint(
        &self,
        bound: Bound,
        authority: SocketAddr,
        service: Option<Arc<Service>>,
        rng: &mut impl Rng,
    ) -> Result<NextHop, Refusal> {
        let wanted = WaypointWanted { bound: &bound, called: authority.ip(), tried: &[] };
        let (peer, waypoint) = waypoint_pod(self.mesh, wanted, self.source, &self.load, rng)?;
        Ok(NextHop::Waypoint { peer, authority, waypoint, service, bound })
    }
}

/// What asks for a waypoint: which one, and of which namespace the asking service or pod is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// The Gateway.
    pub gateway: ObjectName,
    /// The namespace.
    pub namespace: Arc<str>,
}

/// What a waypoint's pod is chosen by.
#[derive(Debug, Clone, Copy)]
pub struct WaypointWanted<'a> {
    /// Which waypoint, for whom.
    pub bound: &'a Bound,
    /// What was called: a pod is reached by an address of the same family where it has one.
    pub called: IpAddr,
    /// Uids of pods that could not be reached just now, which are not chosen again by whatever address.
    pub tried: &'a [Arc<str>],
}

/// A pod of the waypoint that something is bound to, and its HBONE address: of two ready ones the lighter.
///
/// # Errors
/// [`Refusal::WaypointMissing`] when there is none that may be used and was not tried.
pub fn waypoint_pod(
    mesh: &Snapshot,
    wanted: WaypointWanted<'_>,
    caller: &Workload,
    load: impl Fn(IpAddr) -> u32,
    rng: &mut impl Rng,
) -> Result<(SocketAddr, Arc<Workload>), Refusal> {
    let WaypointWanted { bound, called, tried } = wanted;
    let missing = || Refusal::WaypointMissing(bound.gateway.to_string().into());
    if !mesh.may_use_waypoint(&bound.namespace, &bound.gateway) {
        return Err(missing());
    }
    let caller = Caller { node: &caller.node, locality: &caller.locality, cluster: &caller.cluster };
    let asked = Wanted { port: HBONE_PORT, original: called };
    let anywhere = LoadBalancing::default();
    let mut pods = Cow::Borrowed(mesh.waypoint_pods(&bound.gateway));
    if !tried.is_empty() {
        let was_tried = |pod: &Endpoint| pod.workload.as_ref().is_some_and(|it| tried.contains(&it.uid));
        let left = pods.into_iter().filter(|pod| !was_tried(pod)).map(|pod| Endpoint::clone(pod));
        pods = Cow::Owned(Endpoints::collect(left.collect()));
    }
    let load = |endpoint: &Endpoint| load(endpoint.address);
    let chosen = balance::choose_among(&anywhere, &pods, caller, asked, load, rng).map_err(|_| missing())?;
    let waypoint = chosen.endpoint.workload.clone().ok_or_else(missing)?;
    Ok((SocketAddr::new(chosen.endpoint.address, chosen.port), waypoint))
}
