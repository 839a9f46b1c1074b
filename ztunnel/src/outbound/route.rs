//! Where a pod's connection goes, of the pod that a flow is of; what decides it is `common`'s `connection`.

use std::net::IpAddr;
use std::sync::Arc;

pub use common::connection::route::{Bound, NextHop, WaypointWanted, route_from, waypoint_pod};
use common::refusal::Refusal;
use common::snapshot::Snapshot;
use common::snapshot::model::Workload;
use rand::Rng;

use crate::flow::Flow;

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
    if flow.pod.is_listener(flow.original) {
        return Err(Refusal::RecursiveCall);
    }
    let source = source(mesh, flow).ok_or(Refusal::UnknownWorkload)?;
    route_from(mesh, source, flow.original, load, rng)
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
