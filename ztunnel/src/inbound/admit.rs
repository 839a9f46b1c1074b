//! Whether a connection that arrived for a pod is let in: a pure function of the mesh and the facts.
//!
//! The address that is judged is the address that is connected to: both are the [`Admission`]'s.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use common::authz::{self, Connection};
use common::hbone::request::Authority;
use common::refusal::Refusal;
use common::snapshot::Snapshot;
use common::snapshot::model::{Endpoint, Service, Workload};
use common::spiffe::Identity;

use crate::flow::{Flow, is_own_port, is_pod_address};
use crate::pods::Pod;

/// What admitted connection to make inside the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// The address of the application.
    pub target: SocketAddr,
    /// The address the application is to see.
    pub client: SocketAddr,
    /// The verified caller; `None` for plaintext.
    pub identity: Option<Identity>,
}

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
    not_round_a_waypoint(mesh, &flow.pod)?;
    let admission = Admission { target, client: flow.client, identity: Some(peer.clone()) };
    judge(mesh, &flow.pod, &admission)?;
    Ok(admission)
}

/// Judges a plaintext connection.
///
/// # Errors
/// The [`Refusal`] that ends it.
pub fn admit_plaintext(mesh: &Snapshot, flow: &Flow) -> Result<Admission, Refusal> {
    let target = flow.original;
    if is_own_port(target.port()) {
        return Err(Refusal::RecursiveCall);
    }
    if !is_of_pod(&flow.pod, target) {
        return Err(Refusal::DestinationMismatch(target.to_string().into()));
    }
    not_round_a_waypoint(mesh, &flow.pod)?;
    let admission = Admission { target, client: flow.client, identity: None };
    judge(mesh, &flow.pod, &admission)?;
    Ok(admission)
}

/// Judges by policy alone; also used when a policy changes under an open connection.
///
/// # Errors
/// The [`Refusal`] that names the policy.
pub fn judge(mesh: &Snapshot, pod: &Pod, admission: &Admission) -> Result<(), Refusal> {
    let workload =
        mesh.workload(&pod.uid).filter(|workload| pod.is(workload)).ok_or(Refusal::UnknownWorkload)?;
    let connection = Connection {
        source_identity: admission.identity.as_ref(),
        source: admission.client,
        destination: admission.target,
    };
    authz::evaluate(mesh.policy_for(workload), &connection)
}

/// Nobody is a waypoint yet, so whoever calls a pod that is behind one comes round it. Open connections go on when a
/// pod is bound, as they do with Istio.
fn not_round_a_waypoint(mesh: &Snapshot, pod: &Pod) -> Result<(), Refusal> {
    match mesh.workload(&pod.uid).and_then(|workload| mesh.waypoint_of_workload(workload)) {
        Some(waypoint) => Err(Refusal::WaypointMissing(waypoint.to_string().into())),
        None => Ok(()),
    }
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
