//! Whether a connection that arrived for a pod is let in: a pure function of the mesh and the facts.
//!
//! The address that is judged is the address that is connected to: both are the [`Admission`]'s. What is behind a
//! waypoint is reached from that waypoint's identity alone, whatever its policies say; from there on policies see the
//! waypoint as the caller, as they do with Istio.

use std::net::SocketAddr;

use crate::authz::{self, Connection};
use crate::config::ObjectName;
use crate::refusal::Refusal;
use crate::snapshot::Snapshot;
use crate::snapshot::model::Workload;
use crate::spiffe::Identity;

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

/// Judges a connection to a pod by waypoints and policy alone.
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
