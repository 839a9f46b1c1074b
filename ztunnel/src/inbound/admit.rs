//! Whether a connection that arrived for a pod is let in: a pure function of the mesh and the facts.
//!
//! The address that is judged is the address that is connected to: both are the [`Admission`]'s. The judgement itself is
//! `common`'s `connection`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

pub use common::connection::admit::{Admission, judge_for};
use common::hbone::request::Authority;
use common::refusal::Refusal;
use common::settings::PlaintextBehindWaypoint;
use common::snapshot::Snapshot;
use common::snapshot::model::{Endpoint, Service, Workload};
use common::spiffe::Identity;

use crate::flow::{Flow, is_own_port, is_pod_address};
use crate::pods::Pod;

/// Judges a tunnel: `asked` is what the CONNECT names, `flow.original` the address the tunnel came in on.
///
/// # Errors
/// The [`Refusal`] to answer with.
pub fn admit_tunnel(
    mesh: &Snapshot,
    flow: &Flow,
    peer: &Identity,
    asked: &Authority,
) -> Result<Admission, Refusal> {
    let target = own_target(flow, asked)?;
    let identity = Some(peer.clone());
    let admission = Admission { target, client: flow.client, identity, by_way_of: None };
    judge(mesh, &flow.pod, &admission)?;
    Ok(admission)
}

/// Judges a plaintext connection. `behind` says what becomes of one that had to come through a waypoint.
///
/// # Errors
/// The [`Refusal`] that ends it.
pub fn admit_plaintext(
    mesh: &Snapshot,
    flow: &Flow,
    behind: PlaintextBehindWaypoint,
) -> Result<Admission, Refusal> {
    let target = flow.original;
    if is_own_port(target.port()) {
        return Err(Refusal::RecursiveCall);
    }
    if !is_of_pod(&flow.pod, target) {
        return Err(Refusal::DestinationMismatch(target.to_string().into()));
    }
    let mut admission = Admission { target, client: flow.client, identity: None, by_way_of: None };
    match judge(mesh, &flow.pod, &admission) {
        Err(Refusal::WaypointBypassed(_)) if behind == PlaintextBehindWaypoint::Hairpin => {
            let workload = known(mesh, &flow.pod)?;
            admission.by_way_of = mesh.waypoints_before(workload, target.port()).next().cloned();
            judge(mesh, &flow.pod, &admission)?;
        }
        judged => judged?,
    }
    Ok(admission)
}

/// Judges by waypoints and policy alone; also used when either changes under an open connection.
///
/// # Errors
/// The [`Refusal`] that names the waypoint or the policy.
pub fn judge(mesh: &Snapshot, pod: &Pod, admission: &Admission) -> Result<(), Refusal> {
    judge_for(mesh, known(mesh, pod)?, admission)
}

fn known<'a>(mesh: &'a Snapshot, pod: &Pod) -> Result<&'a Arc<Workload>, Refusal> {
    mesh.workload(&pod.uid).filter(|workload| pod.is(workload)).ok_or(Refusal::UnknownWorkload)
}

/// The pod's own address that a CONNECT names. Anything else would make the proxy a way to other places.
fn own_target(flow: &Flow, asked: &Authority) -> Result<SocketAddr, Refusal> {
    let refuse = || Refusal::DestinationMismatch(asked.to_string().into());
    let Authority::Address(target) = asked else {
        // A host name is only meant for gateways between networks, which this proxy is not.
        return Err(refuse());
    };
    if is_own_port(target.port()) {
        return Err(Refusal::RecursiveCall);
    }
    if target.port() == 0 || target.ip() != flow.original.ip() || !is_of_pod(&flow.pod, *target) {
        return Err(refuse());
    }
    Ok(*target)
}

fn is_of_pod(pod: &Pod, target: SocketAddr) -> bool {
    is_pod_address(target.ip()) && pod.addresses.contains(&target.ip())
}

/// The pod that calls, as the mesh knows it: an address alone is believed only when the identity fits.
pub fn caller<'a>(
    mesh: &'a Snapshot,
    client: IpAddr,
    identity: Option<&Identity>,
) -> Option<&'a Arc<Workload>> {
    let workload = mesh.workload_at(client)?;
    identity.is_none_or(|identity| *identity == workload.identity).then_some(workload)
}

/// The service a caller says it called, when the pod really serves it.
pub fn claimed_service<'a>(mesh: &'a Snapshot, host: &str, pod: &Pod) -> Option<&'a Arc<Service>> {
    let mut labels = host.split('.');
    let (name, namespace) = (labels.next()?, labels.next()?);
    let service = mesh.service(namespace, name).filter(|service| *service.hostname == *host)?;
    let serves =
        |endpoint: &Arc<Endpoint>| endpoint.workload.as_ref().is_some_and(|workload| pod.is(workload));
    mesh.endpoints(service).iter().any(serves).then_some(service)
}

#[cfg(test)]
#[path = "admit_tests.rs"]
mod tests;
