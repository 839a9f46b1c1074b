//! Which services a pod that is called by its own address may have been called for: those whose port leads to the port of
//! the pod. What is attached to them is not got round by calling the pod. Pure.

use std::net::SocketAddr;
use std::sync::Arc;

use common::config::ObjectName;
use common::snapshot::Snapshot;
use common::snapshot::model::{Service, Workload};
use imbl::OrdMap;

/// A pod, called by its own address through a waypoint.
#[derive(Clone, Copy)]
pub(crate) struct PodCall<'a> {
    /// The mesh.
    pub(crate) mesh: &'a Snapshot,
    /// The waypoint.
    pub(crate) gateway: &'a ObjectName,
    /// The pod.
    pub(crate) workload: &'a Workload,
    /// The address that was called.
    pub(crate) original: SocketAddr,
    /// The port of the pod.
    pub(crate) port: u16,
}

impl<'a> PodCall<'a> {
    /// The pod's namespace.
    pub(crate) fn namespace(&self) -> &'a Arc<str> {
        self.workload.namespace()
    }

    /// Those of the named Services and ServiceEntries that may have been meant, each with its port.
    pub(crate) fn among<'n>(
        self,
        services: impl Iterator<Item = &'n ObjectName>,
        entries: impl Iterator<Item = &'n ObjectName>,
    ) -> impl Iterator<Item = (&'a Arc<Service>, u16)>
    where
        'a: 'n,
    {
        let Self { mesh, gateway, workload, original, port: called } = self;
        let services = services.filter_map(move |it| mesh.service(&it.namespace, &it.name));
        let external = entries.flat_map(move |it| mesh.services_of_entry(it));
        let ours = services.chain(external).filter(move |it| mesh.stands_before_service(gateway, it));
        ours.flat_map(move |service| {
            let endpoints = mesh.endpoints(service);
            // By whichever address the pod is called: a service may lead to one of another family alone.
            let addresses = std::iter::once(original.ip()).chain(workload.addresses.iter().copied());
            let here = addresses.filter_map(|ip| endpoints.find(ip, &workload.uid));
            let leading = here.flat_map(|it| it.ports.iter()).filter(|(_, target)| *target == called);
            let mut ports: Vec<u16> = leading.map(|(port, _)| *port).collect();
            ports.sort_unstable();
            ports.dedup();
            ports.into_iter().map(move |port| (service, port))
        })
    }
}

/// The names of one namespace, of all that are in order.
pub(crate) fn of_namespace<'n, V>(
    all: &'n OrdMap<ObjectName, V>,
    namespace: &Arc<str>,
) -> impl Iterator<Item = &'n ObjectName> + use<'n, V> {
    let namespace = namespace.clone();
    let first = ObjectName { namespace: namespace.clone(), name: "".into() };
    all.range(first..).map(|(it, _)| it).take_while(move |it| it.namespace == namespace)
}
