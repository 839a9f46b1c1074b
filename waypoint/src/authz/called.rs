//! Which policies are asked about what was called: those of a service, or those of a pod and of every service that its port
//! may have been called for. Pure.

use std::net::SocketAddr;

use common::config::ObjectName;
use common::snapshot::Snapshot;

use super::{Denial, Effective, Policies};
use crate::destination::Destination;
use crate::pod_call::PodCall;

/// What was called, and the policies there are.
#[derive(Clone, Copy)]
pub(crate) struct Called<'a> {
    /// The mesh.
    pub(crate) mesh: &'a Snapshot,
    /// Its policies, as this waypoint has them.
    pub(crate) policies: &'a Policies,
    /// The waypoint.
    pub(crate) gateway: &'a ObjectName,
    /// What was called.
    pub(crate) destination: &'a Destination,
    /// The address that was called.
    pub(crate) original: SocketAddr,
}

impl<'a> Called<'a> {
    /// Asks everything that has to let the call through, one after the other, with the port it was called at.
    ///
    /// # Errors
    /// The first [`Denial`].
    pub(crate) fn each(
        &self,
        ask: &mut dyn FnMut(&Effective<'a>, u16) -> Result<(), Denial>,
    ) -> Result<(), Denial> {
        let Self { mesh, policies, gateway, destination, original } = *self;
        let pod = match destination {
            Destination::Service { service, port } => {
                return ask(&policies.of_service(mesh, service), *port);
            }
            Destination::Workload { workload, port } => {
                PodCall { mesh, gateway, workload, original, port: *port }
            }
        };
        let of_pod = policies.of_pod(mesh, pod.namespace());
        let (services, entries) = policies.named_in(pod.namespace());
        let mut services = pod.among(services, entries).peekable();
        if services.peek().is_none() {
            return ask(&of_pod, pod.port);
        }
        // Which of them was meant nobody knows, so each must let it through.
        services.try_for_each(|(service, port)| {
            let sets = [of_pod.sets[0], policies.attached_to(service)];
            ask(&Effective { sets, ..of_pod }, port)
        })
    }
}
