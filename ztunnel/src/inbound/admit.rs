//! Whether a connection that arrived for a pod is let in: a pure function of the mesh and the facts.
//!
//! The address that is judged is the address that is connected to: both are the [`Admission`]'s. What is behind a
//! waypoint is reached from that waypoint's identity alone, whatever its policies say; from there on policies see the
//! waypoint as the caller, as they do with Istio.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use common::authz::{self, Connection};
use common::config::ObjectName;
use common::hbone::request::Authority;
use common::refusal::Refusal;
use common::settings::PlaintextBehindWaypoint;
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
    /// The waypoint that plaintext is taken to instead of to the application; `None` where it goes straight.
    pub by_way_of: Option<ObjectName>,
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

/// The same for a pod that the mesh knows, wherever it runs.
///
/// # Errors
/// The [`Refusal`] that names the waypoint or the policy.
pub fn judge_for(mesh: &Snapshot, workload: &Workload, admission: &Admission) -> Result<(), Refusal> {
    let policy = mesh.policy_for(workload);
    if admission.by_way_of.is_some() {
        // What the waypoint makes of it comes back as the waypoint's own, and is judged then. All that can be said before
        // is whether plaintext is taken at all.
        return authz::plaintext(policy, admission.target.port());
    }
    through_waypoint(mesh, workload, admission)?;
    let connection = Connection {
        source_identity: admission.identity.as_ref(),
        source: admission.client,
        destination: admission.target,
    };
    authz::evaluate(policy, &connection)
}

fn known<'a>(mesh: &'a Snapshot, pod: &Pod) -> Result<&'a Arc<Workload>, Refusal> {
    mesh.workload(&pod.uid).filter(|workload| pod.is(workload)).ok_or(Refusal::UnknownWorkload)
}

/// That nobody walks round a waypoint. The kubelet of the pod's node may, on the ports that the pod has it probe: it is
/// in no mesh, and a pod that cannot be probed is taken for dead.
fn through_waypoint(mesh: &Snapshot, workload: &Workload, admission: &Admission) -> Result<(), Refusal> {
    let port = admission.target.port();
    let Err(waypoint) = mesh.came_through(workload, port, admission.identity.as_ref()) else { return Ok(()) };
    let probes = admission.identity.is_none() && workload.probed.contains(&port);
    if probes && mesh.is_host_of(workload, admission.client.ip()) {
        return Ok(());
    }
    Err(Refusal::WaypointBypassed(waypoint.to_string().into()))
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
