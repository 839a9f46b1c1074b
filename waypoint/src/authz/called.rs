//! Which policies are asked about what was called: those of a service, or those of a pod and of every service that its port
//! may have been called for. Pure.

use std::net::SocketAddr;
use std::sync::Arc;

use common::config::ObjectName;
use common::snapshot::Snapshot;
use common::snapshot::model::{Service, Workload};

use super::{Denial, Effective, Policies};
use crate::destination::Destination;

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
        match self.destination {
            Destination::Service { service, port } => {
                ask(&self.policies.of_service(self.mesh, service), *port)
            }
            Destination::Workload { workload, port } => {
                let of_pod = self.policies.of_pod(self.mesh, workload.namespace());
                let mut services = self.services_at(workload, *port).peekable();
                if services.peek().is_none() {
                    return ask(&of_pod, *port);
                }
                // Which of them was meant nobody knows, so each must let it through.
                services.try_for_each(|(service, port)| {
                    let sets = [of_pod.sets[0], self.policies.attached_to(service)];
                    ask(&Effective { sets, ..of_pod }, port)
                })
            }
        }
    }

    /// The services with policies whose port leads to the called port of a pod: calling the pod by its own address does not
    /// get round what is attached to them.
    fn services_at(
        &self,
        workload: &'a Workload,
        called: u16,
    ) -> impl Iterator<Item = (&'a Arc<Service>, u16)> + use<'a> {
        let Self { mesh, policies, gateway, original, .. } = *self;
        let ours = policies.services_of(mesh, workload.namespace());
        ours.filter(move |it| mesh.stands_before_service(gateway, it)).flat_map(move |service| {
            let endpoint = mesh.endpoints(service).find(original.ip(), &workload.uid);
            let ports = endpoint.into_iter().flat_map(|it| it.ports.iter());
            ports.filter(move |(_, target)| *target == called).map(move |(port, _)| (service, *port))
        })
    }
}
