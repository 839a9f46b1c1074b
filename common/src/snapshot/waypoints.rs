//! Who stands before what: the pods of each waypoint, who may use it, and what is to be reached through one alone.
//!
//! Knows nothing of how a connection travels. The surprising thing: a service stands before ports of pods, and those are
//! reached by other ways too. A port of a pod is kept for waypoints where at least one service with a waypoint leads to
//! it and none without one does; where a service without a waypoint leads to it as well, whoever calls that service has
//! to be able to get there, so the port stays open, also for those who call the pod by its own address. A headless
//! service counts as one without: its callers have the pods' addresses only, which are no service's. Only services of
//! the pod's own namespace count either way.
//!
//! What keeps a pod from becoming somebody else's waypoint: labels make it one only of a Gateway of its own namespace,
//! where whoever may create pods may create them under the waypoint's service account anyway; a Gateway stands before
//! objects of other namespaces only where its listener lets them; and nothing is taken to a pod, or admitted from it,
//! but under the certificate of its namespace and service account. So a waypoint should have a service account of its
//! own: whoever shares it is taken for the waypoint.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use imbl::OrdMap;

use super::catalog::Changes;
use super::compile::Touched;
use super::model::{Endpoint, Service, Workload};
use super::services::Endpoints;
use super::{Mesh, Snapshot};
use crate::config::waypoint::{GATEWAY_NAME, HBONE_PORT, Users, Waypoint, WaypointFor};
use crate::config::{Labels, ObjectName};
use crate::spiffe::Identity;

/// What a snapshot knows of waypoints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Waypoints {
    /// The Gateways that are waypoints.
    gateways: OrdMap<ObjectName, Arc<Waypoint>>,
    /// Their pods; no entry where there are none.
    pods: OrdMap<ObjectName, Endpoints>,
    /// Ports kept for waypoints, by uid of the pod; no entry where there are none.
    reserved: OrdMap<Arc<str>, Arc<[Reserved]>>,
    /// Labels of every namespace, which listeners may select by.
    namespaces: OrdMap<Arc<str>, Labels>,
}

/// A port of a pod that only these waypoints may connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reserved {
    port: u16,
    waypoints: Box<[ObjectName]>,
}

/// What a batch changed about waypoints.
#[derive(Debug, Default)]
pub(super) struct Turned {
    /// Gateways that were stated anew, or are no longer.
    pub(super) gateways: BTreeSet<ObjectName>,
    /// Whose connections may have to be judged anew.
    pub(super) closes: bool,
    /// Pods whose services changed.
    dirty: BTreeSet<Arc<str>>,
}

impl Workload {
    /// The Gateway whose pod this is, where that Gateway is a waypoint.
    pub fn stands_as(&self) -> Option<ObjectName> {
        let name = self.labels.get(GATEWAY_NAME).filter(|_| self.is_waypoint())?;
        Some(ObjectName { namespace: self.namespace().clone(), name: name.clone() })
    }
}

impl Snapshot {
    /// The waypoint that calls to a service have to pass.
    pub fn waypoint_of_service<'s>(&self, service: &'s Service) -> Option<&'s ObjectName> {
        service.waypoint.as_ref().filter(|it| self.stands_for(it).services())
    }

    /// The waypoint that calls to a workload have to pass, by whatever address they come.
    pub fn waypoint_of_workload<'s>(&self, workload: &'s Workload) -> Option<&'s ObjectName> {
        workload.waypoint.as_ref().filter(|it| self.stands_for(it).workloads())
    }

    /// A Gateway that is not there, is no waypoint or could not be read may stand for anything.
    fn stands_for(&self, gateway: &ObjectName) -> WaypointFor {
        self.waypoints.gateways.get(gateway).map_or(WaypointFor::All, |it| it.stands_for)
    }

    /// The GatewayClass of a Gateway that is a waypoint.
    pub fn waypoint_class(&self, gateway: &ObjectName) -> Option<&Arc<str>> {
        self.waypoints.gateways.get(gateway).map(|it| &it.class)
    }

    /// The pods of a waypoint, ready or not, at port 15008; none where the Gateway is not there or no waypoint.
    pub fn waypoint_pods(&self, gateway: &ObjectName) -> &Endpoints {
        static NONE: LazyLock<Endpoints> = LazyLock::new(Endpoints::default);
        self.waypoints.pods.get(gateway).unwrap_or(&NONE)
    }

    /// Whether a Gateway is a waypoint that objects of `namespace` may be bound to.
    pub fn may_use_waypoint(&self, namespace: &str, gateway: &ObjectName) -> bool {
        let Some(waypoint) = self.waypoints.gateways.get(gateway) else { return false };
        match &waypoint.users {
            Users::Same => *gateway.namespace == *namespace,
            Users::All => true,
            Users::Selector(wanted) => {
                let labels = self.waypoints.namespaces.get(namespace);
                wanted.iter().all(|(key, value)| {
                    // The API server gives every namespace this label; manifests written by hand leave it out.
                    let named = &**key == "kubernetes.io/metadata.name" && **value == *namespace;
                    named || labels.and_then(|it| it.get(key)) == Some(value)
                })
            }
        }
    }

    /// Whether a waypoint is the one that calls to this service have to pass, and may be.
    pub fn stands_before_service(&self, gateway: &ObjectName, service: &Service) -> bool {
        self.waypoint_of_service(service) == Some(gateway)
            && self.may_use_waypoint(&service.namespace, gateway)
    }

    /// Whether a waypoint is the one that calls to this workload have to pass, and may be.
    pub fn stands_before_workload(&self, gateway: &ObjectName, workload: &Workload) -> bool {
        self.waypoint_of_workload(workload) == Some(gateway)
            && self.may_use_waypoint(workload.namespace(), gateway)
    }

    /// Whether a pod of this waypoint has this identity.
    pub fn is_waypoint(&self, gateway: &ObjectName, identity: &Identity) -> bool {
        let theirs = |it: &Arc<Endpoint>| it.workload.as_ref().is_some_and(|it| it.identity == *identity);
        self.waypoint_pods(gateway).iter().any(theirs)
    }

    /// The waypoints through which alone a port of a workload is reached, each once; none where it is open.
    pub fn waypoints_before<'s>(
        &'s self,
        workload: &'s Workload,
        port: u16,
    ) -> impl Iterator<Item = &'s ObjectName> {
        let own = self.waypoint_of_workload(workload);
        let reserved = self.waypoints.reserved.get(&workload.uid).into_iter().flat_map(|it| it.iter());
        let of_services = reserved.filter(move |it| it.port == port).flat_map(|it| &it.waypoints);
        own.into_iter().chain(of_services.filter(move |it| Some(*it) != own))
    }

    /// That a connection to a port of a workload comes from where it has to: from one of the waypoints it is reached
    /// through, or from anywhere where there is none. `identity` is the caller's, verified; `None` proves nothing.
    ///
    /// # Errors
    /// The waypoint it should have come through.
    pub fn came_through<'s>(
        &'s self,
        workload: &'s Workload,
        port: u16,
        identity: Option<&Identity>,
    ) -> Result<(), &'s ObjectName> {
        let mut demanded = None;
        for gateway in self.waypoints_before(workload, port) {
            let usable = self.may_use_waypoint(workload.namespace(), gateway);
            if usable && identity.is_some_and(|it| self.is_waypoint(gateway, it)) {
                return Ok(());
            }
            demanded = demanded.or(Some(gateway));
        }
        demanded.map_or(Ok(()), Err)
    }
}

impl Waypoints {
    /// Whether a Gateway is a waypoint.
    pub(super) fn has(&self, gateway: &ObjectName) -> bool {
        self.gateways.contains_key(gateway)
    }

    /// Takes up a Gateway as it now stands.
    fn restate(&mut self, gateway: &ObjectName, stated: Option<&Waypoint>, turned: &mut Turned) {
        let before = match stated {
            Some(now) => self.gateways.insert(gateway.clone(), Arc::new(now.clone())),
            None => self.gateways.remove(gateway),
        };
        if before.as_deref() != stated {
            turned.closes = true;
            turned.gateways.insert(gateway.clone());
        }
    }

    /// Takes up the labels of a namespace.
    fn relabel(&mut self, namespace: &Arc<str>, labels: Option<&Labels>, turned: &mut Turned) {
        match labels {
            Some(labels) => drop(self.namespaces.insert(namespace.clone(), labels.clone())),
            None => drop(self.namespaces.remove(namespace)),
        }
        let select = |it: &Arc<Waypoint>| matches!(it.users, Users::Selector(_));
        turned.closes |= self.gateways.values().any(select);
    }

    /// Keeps the pods of waypoints.
    pub(super) fn station(
        &mut self,
        before: Option<&Arc<Workload>>,
        now: Option<&Arc<Workload>>,
        turned: &mut Turned,
    ) {
        let place = |it: &Arc<Workload>| Some((it.stands_as()?, it.clone()));
        let (from, to) = (before.and_then(place), now.and_then(place));
        if let Some((gateway, workload)) = &from {
            let mut pods = self.pods.remove(gateway).unwrap_or_default();
            workload.addresses.iter().for_each(|it| pods.remove(*it, &workload.uid));
            if !pods.is_empty() {
                self.pods.insert(gateway.clone(), pods);
            }
        }
        if let Some((gateway, workload)) = &to {
            let pods = self.pods.entry(gateway.clone()).or_default();
            workload.addresses.iter().for_each(|it| pods.insert(tunnel_to(workload, *it)));
        }
        // Whoever was taken for the waypoint may be no longer; another one more closes nothing.
        turned.closes |= from.is_some_and(|(gateway, before)| {
            !to.is_some_and(|(it, now)| it == gateway && now.identity == before.identity)
        });
    }

    fn reserve(&mut self, uid: &Arc<str>, ports: Vec<Reserved>) -> bool {
        let before = self.reserved.get(uid);
        if before.map_or(&[][..], |it| it) == ports {
            return false;
        }
        if ports.is_empty() {
            self.reserved.remove(uid);
        } else {
            self.reserved.insert(uid.clone(), ports.into());
        }
        true
    }
}

fn tunnel_to(workload: &Arc<Workload>, address: IpAddr) -> Endpoint {
    Endpoint {
        address,
        workload: Some(workload.clone()),
        health: workload.health,
        ports: [(HBONE_PORT, HBONE_PORT)].into(),
        weight: std::num::NonZeroU32::MIN,
    }
}

impl Turned {
    /// That the pods behind these endpoints may be reached by other services than before.
    fn look_at(&mut self, endpoints: &Endpoints) {
        self.dirty.extend(endpoints.iter().filter_map(|it| Some(it.workload.as_ref()?.uid.clone())));
    }

    /// Likewise of one pod.
    pub(super) fn look_at_pod(&mut self, workload: &Workload) {
        self.dirty.insert(workload.uid.clone());
    }
}

impl Mesh {
    /// Takes up Gateways, and the namespaces whose objects they may stand before.
    pub(super) fn waypoints(&mut self, changes: &Changes) -> Turned {
        let mut turned = Turned::default();
        for object in changes.gateways.keys() {
            let stated = self.catalog.gateways.get(object).and_then(|it| it.waypoint.as_ref());
            self.draft.waypoints.restate(object, stated, &mut turned);
        }
        for object in changes.namespaces.keys() {
            let labels = self.catalog.namespaces.get(object).map(|it| &it.labels);
            self.draft.waypoints.relabel(&object.name, labels, &mut turned);
        }
        turned
    }

    /// Notes whose services may be others before or after: pods of services that are built anew, touched pods, and who
    /// comes to be at the address of one.
    pub(super) fn look_at(&self, rebuild: &BTreeSet<ObjectName>, touched: &[Touched], turned: &mut Turned) {
        rebuild.iter().filter_map(|it| self.draft.endpoints.get(it)).for_each(|it| turned.look_at(it));
        for workload in touched.iter().flat_map(|it| [&it.before, &it.now]).flatten() {
            turned.look_at_pod(workload);
            let there = workload.addresses.iter().filter_map(|it| self.draft.by_address.get(it));
            there.for_each(|it| turned.look_at_pod(it));
        }
    }

    /// Settles which ports of pods are kept for waypoints, after all else is settled. Costs nothing where no service is
    /// bound to one.
    pub(super) fn reserve(&mut self, turned: &mut Turned) {
        for object in &self.bound {
            let waypoint = self.draft.services.get(object).and_then(|it| it.waypoint.as_ref());
            if waypoint.is_some_and(|it| turned.gateways.contains(it))
                && let Some(endpoints) = self.draft.endpoints.get(object)
            {
                turned.look_at(endpoints);
            }
        }
        for uid in &turned.dirty {
            let workload = self.draft.workloads.get(uid).filter(|it| it.enrolment.is_some());
            let ports = workload.map(|it| self.reserved_ports(it)).unwrap_or_default();
            turned.closes |= self.draft.waypoints.reserve(uid, ports);
        }
    }

    /// The ports of a pod that only waypoints may connect to, by the services that lead there.
    fn reserved_ports(&self, workload: &Workload) -> Vec<Reserved> {
        // `None` is a port that a service without a waypoint leads to.
        let mut ports: BTreeMap<u16, Option<BTreeSet<&ObjectName>>> = BTreeMap::new();
        // Services of other namespaces may lead here by slices of their own. What they say opens no port that this
        // namespace keeps, and keeps none that it leaves open.
        let own = self.services_of(workload).into_iter().filter(|it| it.namespace == *workload.namespace());
        for object in own {
            let Some(service) = self.draft.services.get(&object) else { continue };
            let Some(endpoints) = self.draft.endpoints.get(&object) else { continue };
            let waypoint = self.draft.waypoint_of_service(service).filter(|_| !service.vips.is_empty());
            let here = workload.addresses.iter().filter_map(|it| endpoints.find(*it, &workload.uid));
            for (_, target) in here.flat_map(|it| it.ports.iter()) {
                let kept = ports.entry(*target).or_insert_with(|| Some(BTreeSet::new()));
                match waypoint {
                    Some(waypoint) => drop(kept.as_mut().map(|it| it.insert(waypoint))),
                    None => *kept = None,
                }
            }
        }
        let reserved = |(port, kept): (u16, Option<BTreeSet<&ObjectName>>)| {
            Some(Reserved { port, waypoints: kept?.into_iter().cloned().collect() })
        };
        ports.into_iter().filter_map(reserved).collect()
    }

    /// The services that may have a pod among their endpoints: a superset.
    fn services_of(&self, workload: &Workload) -> BTreeSet<ObjectName> {
        let selecting = self.index.selectors.candidates(workload.namespace(), &workload.labels);
        let slices = workload.addresses.iter().flat_map(|it| self.index.slices_at.of(it));
        let stating = slices.filter_map(|it| super::index::service_of(self.catalog.slices.get(it)?));
        let entries = self.entries_with(workload);
        selecting.cloned().chain(stating).chain(entries).collect()
    }
}
