//! Where a pod's connection goes: a pure function of the mesh and the flow.
//!
//! Decides only; `forward` carries it out. A destination that is a service of the mesh is never passed through in
//! plaintext for want of an endpoint, and none that is bound to a waypoint is reached round it: there are no waypoints
//! yet, so it is refused.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use common::balance::{self, Caller, Choice, NoEndpoint, Wanted};
use common::refusal::Refusal;
use common::snapshot::Snapshot;
use common::snapshot::model::{Endpoint, Service, TunnelProtocol, Workload};
use rand::Rng;

use crate::flow::{Flow, HBONE_PORT, is_own_port};

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
    /// The address of whoever serves the connection in the end.
    pub fn server(&self) -> SocketAddr {
        match self {
            Self::Tunnel { authority: server, .. }
            | Self::Local { target: server, .. }
            | Self::Plain { target: server, .. } => *server,
        }
    }
}

/// The workload a flow leaves as, when the mesh still knows this incarnation of the pod.
pub fn source<'a>(mesh: &'a Snapshot, flow: &Flow) -> Option<&'a Arc<Workload>> {
    mesh.workload(&flow.pod.uid).filter(|workload| flow.pod.is(workload))
}

/// Chooses the next hop. `load` says how many connections are open to an address: of two endpoints the lighter one is
/// taken.
///
/// # Errors
/// A [`Refusal`] when the connection must not be carried.
pub fn route(
    mesh: &Snapshot,
    flow: &Flow,
    load: impl Fn(IpAddr) -> u32,
    rng: &mut impl Rng,
) -> Result<NextHop, Refusal> {
    let source = source(mesh, flow).ok_or(Refusal::UnknownWorkload)?;
    let original = flow.original;
    if is_own_port(original.port())
        && (original.ip().is_loopback() || flow.pod.addresses.contains(&original.ip()))
    {
        return Err(Refusal::RecursiveCall);
    }
    if let Some(service) = mesh.service_at(original.ip()) {
        if let Some(waypoint) = mesh.waypoint_of_service(service) {
            return Err(Refusal::WaypointMissing(waypoint.to_string().into()));
        }
        return to_service(mesh, source, service, (original, load), rng);
    }
    match mesh.workload_at(original.ip()) {
        Some(workload) => to_workload(mesh, source, workload, original, None),
        None => Ok(NextHop::Plain { target: original, destination: None, service: None }),
    }
}

fn to_service(
    mesh: &Snapshot,
    source: &Workload,
    service: &Arc<Service>,
    (original, load): (SocketAddr, impl Fn(IpAddr) -> u32),
    rng: &mut impl Rng,
) -> Result<NextHop, Refusal> {
    let caller = Caller { node: &source.node, locality: &source.locality, cluster: &source.cluster };
    let wanted = Wanted { port: original.port(), original: original.ip() };
    let load = |endpoint: &Endpoint| load(endpoint.address);
    let chosen = balance::choose(service, mesh.endpoints(service), caller, wanted, load, rng);
    let Choice { endpoint, port } = chosen.map_err(|none| match none {
        NoEndpoint::UnknownPort => {
            Refusal::UnknownServicePort(format!("{}:{}", service.hostname, original.port()).into())
        }
        NoEndpoint::NoneUsable => Refusal::NoHealthyUpstream(service.hostname.clone()),
    })?;
    let target = SocketAddr::new(endpoint.address, port);
    match &endpoint.workload {
        Some(workload) => to_workload(mesh, source, workload, target, Some(service.clone())),
        None => Ok(NextHop::Plain { target, destination: None, service: Some(service.clone()) }),
    }
}

fn to_workload(
    mesh: &Snapshot,
    source: &Workload,
    workload: &Arc<Workload>,
    target: SocketAddr,
    service: Option<Arc<Service>>,
) -> Result<NextHop, Refusal> {
    if is_own_port(target.port()) && workload.protocol == TunnelProtocol::Hbone {
        return Err(Refusal::RecursiveCall);
    }
    // A pod that calls itself is no exception: its rules for others are its own rules too.
    if let Some(waypoint) = mesh.waypoint_of_workload(workload) {
        return Err(Refusal::WaypointMissing(waypoint.to_string().into()));
    }
    let destination = workload.clone();
    Ok(match workload.protocol {
        TunnelProtocol::Hbone if workload.uid == source.uid => {
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

/// The address from which a pod with `addresses` connects to `peer` on behalf of its socket at `client`: the socket's own,
/// where the pod has several to choose from. `None` leaves the choice to the kernel, which has only one, or which alone
/// knows an address that the mesh does not.
pub fn leaves_from(addresses: &[IpAddr], client: IpAddr, peer: IpAddr) -> Option<IpAddr> {
    let mut of_family = addresses.iter().filter(|ip| ip.is_ipv4() == peer.is_ipv4());
    let is_one_of_several = of_family.clone().count() > 1 && of_family.any(|ip| *ip == client);
    is_one_of_several.then_some(client)
}

/// Whether the connecting socket may take the client's own address: not when both ends are one, because the
/// kernel would see a connection of a socket to itself.
pub fn keeps_source(client: IpAddr, target: IpAddr) -> bool {
    client != target && client.is_ipv4() == target.is_ipv4()
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
