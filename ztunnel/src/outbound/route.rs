//! Where a pod's connection goes: a pure function of the mesh and the flow.
//!
//! Decides only; `forward` carries it out. A destination that is a service of the mesh is never passed through in
//! plaintext for want of an endpoint.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use common::balance;
use common::refusal::Refusal;
use common::snapshot::Snapshot;
use common::snapshot::model::{Service, TunnelProtocol, Workload};
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

/// The workload a flow leaves as, when the mesh still knows this incarnation of the pod.
pub fn source<'a>(mesh: &'a Snapshot, flow: &Flow) -> Option<&'a Arc<Workload>> {
    mesh.workload(&flow.pod.uid).filter(|workload| flow.pod.is(workload))
}

/// Chooses the next hop.
///
/// # Errors
/// A [`Refusal`] when the connection must not be carried.
pub fn route(mesh: &Snapshot, flow: &Flow, rng: &mut impl Rng) -> Result<NextHop, Refusal> {
    let source = source(mesh, flow).ok_or(Refusal::UnknownWorkload)?;
    let original = flow.original;
    if is_own_port(original.port())
        && (original.ip().is_loopback() || flow.pod.addresses.contains(&original.ip()))
    {
        return Err(Refusal::RecursiveCall);
    }
    if let Some(service) = mesh.service_at(original.ip()) {
        return to_service(mesh, source, service, original, rng);
    }
    match mesh.workload_at(original.ip()) {
        Some(workload) => to_workload(source, workload, original, None),
        None => Ok(NextHop::Plain { target: original, destination: None, service: None }),
    }
}

fn to_service(
    mesh: &Snapshot,
    source: &Workload,
    service: &Arc<Service>,
    original: SocketAddr,
    rng: &mut impl Rng,
) -> Result<NextHop, Refusal> {
    let port = original.port();
    if !service.ports.iter().any(|p| p.port == port) {
        return Err(Refusal::UnknownServicePort(format!("{}:{port}", service.hostname).into()));
    }
    let caller = balance::Caller { workload: source, family: balance::Family::of(original.ip()) };
    let endpoint = balance::choose(service, mesh.endpoints(service), &caller, port, rng)
        .ok_or_else(|| Refusal::NoHealthyUpstream(service.hostname.clone()))?;
    let target = endpoint
        .target_port(port)
        .map(|target| SocketAddr::new(endpoint.address, target))
        .ok_or_else(|| Refusal::NoHealthyUpstream(service.hostname.clone()))?;
    match &endpoint.workload {
        Some(workload) => to_workload(source, workload, target, Some(service.clone())),
        None => Ok(NextHop::Plain { target, destination: None, service: Some(service.clone()) }),
    }
}

fn to_workload(
    source: &Workload,
    workload: &Arc<Workload>,
    target: SocketAddr,
    service: Option<Arc<Service>>,
) -> Result<NextHop, Refusal> {
    if is_own_port(target.port()) && workload.protocol == TunnelProtocol::Hbone {
        return Err(Refusal::RecursiveCall);
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

/// Whether the connecting socket may take the client's own address: not when both ends are one, because the
/// kernel would see a connection of a socket to itself.
pub fn keeps_source(client: IpAddr, target: IpAddr) -> bool {
    client != target && client.is_ipv4() == target.is_ipv4()
}
