//! Turns batches into snapshots: takes what a batch changed and follows it to what it touches.
//!
//! The order is that of dependence: pods need namespaces and nodes, endpoints need pods, policies need labels.
//! Whatever order batches come in, the snapshot is the one that a single batch of everything in force would give.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;

use super::catalog::{Catalog, Changed, Changes, Store};
use super::enforce::{Enforcement, unknown_authentications, unread};
use super::entries::References;
use super::index::{Index, service_of};
use super::model::{Endpoint, Likeness, Locality, Workload};
use super::services::{self, Endpoints, Moved};
use super::waypoints::Turned;
use super::workloads::{Constants, locality};
use super::{MeshSettings, Snapshot, Unread};
use crate::config::gateway::RouteKind;
use crate::config::mesh::mesh_config_object;
use crate::config::names::Shared;
use crate::config::{Batch, EndpointSlice, Key, Kind, ObjectName, Pod, Service, SliceEndpoint};

/// The mesh as it is put together: everything stated, and the snapshot it amounts to.
#[derive(Debug)]
pub struct Mesh {
    settings: MeshSettings,
    pub(super) constants: Constants,
    pub(super) catalog: Catalog,
    pub(super) index: Index,
    pub(super) entries: References,
    localities: std::collections::BTreeMap<Arc<str>, Arc<Locality>>,
    nowhere: Arc<Locality>,
    alike: Shared<Likeness>,
    enforcement: Enforcement,
    /// Services that ask for a waypoint.
    pub(super) bound: BTreeSet<ObjectName>,
    pub(super) draft: Snapshot,
}

/// A pod whose workload, labels or ports may have changed: as it was and as it is.
pub(super) struct Touched {
    pub(super) object: ObjectName,
    pub(super) pod_before: Option<Arc<Pod>>,
    pub(super) before: Option<Arc<Workload>>,
    pub(super) now: Option<Arc<Workload>>,
}

impl Mesh {
    /// An empty mesh.
    pub fn new(settings: MeshSettings) -> Self {
        let draft = Snapshot { root_namespace: settings.root_namespace.clone(), ..Snapshot::default() };
        Self {
            constants: Constants::new(settings.clone()),
            settings,
            catalog: Catalog::default(),
            index: Index::default(),
            entries: References::default(),
            localities: std::collections::BTreeMap::new(),
            nowhere: Arc::default(),
            alike: Shared::default(),
            enforcement: Enforcement::default(),
            bound: BTreeSet::new(),
            draft,
        }
    }

    /// Applies a batch and returns the snapshot after it.
    pub fn apply(&mut self, batch: Batch) -> Arc<Snapshot> {
        self.take(batch);
        self.draft.generation += 1;
        Arc::new(self.draft.clone())
    }

    /// Applies a batch that others make whole: nobody sees the mesh between them.
    pub fn take(&mut self, batch: Batch) {
        let changes = self.catalog.apply(batch);
        let mut turned = self.waypoints(&changes);
        follow(&mut self.draft.virtual_services, &self.catalog.virtual_services, &changes.virtual_services);
        follow(
            &mut self.draft.destination_rules,
            &self.catalog.destination_rules,
            &changes.destination_rules,
        );
        follow(&mut self.draft.grants, &self.catalog.grants, &changes.grants);
        follow(&mut self.draft.telemetries, &self.catalog.telemetries, &changes.telemetries);
        follow(&mut self.draft.fault_filters, &self.catalog.fault_filters, &changes.fault_filters);
        follow(&mut self.draft.rate_limits, &self.catalog.rate_limits, &changes.rate_limits);
        follow(&mut self.draft.ca_bundles, &self.catalog.ca_bundles, &changes.ca_bundles);
        follow(&mut self.draft.backend_tls, &self.catalog.backend_tls, &changes.backend_tls);
        self.unread(&changes);
        if !changes.mesh_configs.is_empty() {
            let stated = self.catalog.mesh_configs.get(&mesh_config_object(&self.settings.root_namespace));
            self.draft.mesh_config = stated.map(|it| it.config.clone()).unwrap_or_default();
        }
        for (at, kind) in RouteKind::ALL.into_iter().enumerate() {
            let key = |object: &ObjectName| Key { kind: kind.kind(), object: object.clone() };
            follow_as(&mut self.draft.routes, &self.catalog.routes[at], &changes.routes[at], key);
        }
        follow(
            &mut self.draft.request_authentications,
            &self.catalog.authentications,
            &changes.authentications,
        );
        if changes.rejected || !changes.authentications.is_empty() {
            self.draft.unknown_authentications = unknown_authentications(&self.catalog);
        }
        let touched = self.workloads(&changes, &mut turned);
        self.services(&changes, &touched, &mut turned);
        self.reserve(&mut turned);
        let pods = touched.iter().map(|it| (&it.object, it.before.as_ref(), it.now.as_ref()));
        let stricter =
            self.enforcement.apply(&self.catalog, &changes, &self.constants, pods, &mut self.draft);
        if stricter || turned.closes {
            self.draft.policy_generation += 1;
        }
        if changes.rejected {
            self.draft.rejected = self.catalog.rejected().cloned().collect();
        }
        if changes.conflicts {
            self.draft.conflicts = self.catalog.conflicts().collect();
        }
    }

    /// Takes over what cannot be read and may make a promise about services.
    fn unread(&mut self, changes: &Changes) {
        // The same value keeps its allocation: whoever compares pointers sees that nothing changed.
        let follow = |known: &mut Arc<[Unread]>, now: Arc<[Unread]>| {
            if **known != *now {
                *known = now;
            }
        };
        if changes.rejected || !changes.backend_tls.is_empty() {
            let now = unread(&self.catalog, Kind::BackendTls, |it| &it.may_secure);
            follow(&mut self.draft.unread_backend_tls, now);
        }
        if changes.rejected || changes.routes.iter().any(|it| !it.is_empty()) {
            let now = unread(&self.catalog, Kind::HttpRoute, |it| &it.may_ask);
            follow(&mut self.draft.unread_routes, now);
        }
    }

    /// The pods a batch touches: its own, and those of its namespaces, nodes and waypoints.
    fn workloads(&mut self, changes: &Changes, turned: &mut Turned) -> Vec<Touched> {
        let mut dirty: BTreeSet<ObjectName> = changes.pods.keys().cloned().collect();
        for gateway in &turned.gateways {
            dirty.extend(self.index.pods_of.of(gateway).cloned());
        }
        for node in changes.nodes.keys() {
            match self.catalog.nodes.get(node) {
                Some(now) => self.draft.hosts.insert(node.name.clone(), now.addresses.clone()),
                None => self.draft.hosts.remove(&node.name),
            };
            let now = self.catalog.nodes.get(node).map(|it| Arc::new(locality(&it.labels)));
            let before = self.localities.get(&node.name);
            if before.unwrap_or(&self.nowhere) != now.as_ref().unwrap_or(&self.nowhere) {
                dirty.extend(self.draft.by_node.on(&node.name).map(|it| name_of(it)));
                match now {
                    Some(now) => self.localities.insert(node.name.clone(), now),
                    None => self.localities.remove(&node.name),
                };
            }
        }
        for namespace in changes.namespaces.keys() {
            dirty.extend(self.catalog.pods.of(&namespace.name).map(|(object, _)| object.clone()));
        }
        dirty.into_iter().map(|object| self.workload(object, changes, turned)).collect()
    }

    /// Derives one workload anew and files it.
    fn workload(&mut self, object: ObjectName, changes: &Changes, turned: &mut Turned) -> Touched {
        let pod = self.catalog.pods.get(&object).cloned();
        let pod_before = changes.pods.get(&object).cloned().unwrap_or_else(|| pod.clone());
        self.index.move_pod(&object, pod_before.as_deref(), pod.as_deref());
        let uid = self.constants.uid(&object);
        let before = self.draft.workloads.get(&*uid).cloned();
        let derived = pod.as_deref().and_then(|pod| {
            let namespace = self.catalog.namespaces.get(&self.constants.namespace(&pod.object));
            let locality = self.localities.get(&pod.node).unwrap_or(&self.nowhere);
            let stands = super::index::gateway_of(pod).is_some_and(|it| self.draft.waypoints.has(&it));
            self.constants.workload(pod, &uid, namespace.map(AsRef::as_ref), locality, stands)
        });
        let now = match (&before, derived) {
            // The same value keeps its allocation: whoever compares pointers sees that nothing changed.
            (Some(before), Some(derived)) if **before == derived => Some(before.clone()),
            (_, derived) => {
                derived.map(|it| Arc::new(Workload { likeness: self.alike.join(it.likeness), ..it }))
            }
        };
        match &now {
            Some(now) => self.draft.workloads.insert(now.uid.clone(), now.clone()),
            None => self.draft.workloads.remove(&*uid),
        };
        self.draft.by_node.replace(before.as_deref(), now.as_ref());
        self.draft.waypoints.station(before.as_ref(), now.as_ref(), turned);
        if let (Some(before), Some(now)) = (&before, &now) {
            turned.closes |= before.waypoint != now.waypoint;
        }
        if !self.bound.is_empty() {
            // Who has its addresses until now may lose them, and with them what slices state of those.
            let addresses = [&before, &now].into_iter().flatten().flat_map(|it| it.addresses.iter());
            let holders = addresses.filter_map(|it| self.draft.by_address.get(it));
            holders.for_each(|it| turned.look_at_pod(it));
        }
        self.claim(&object, before.as_deref(), now.as_ref());
        Touched { object, pod_before, before, now }
    }

    /// Keeps who is at which address.
    fn claim(&mut self, object: &ObjectName, before: Option<&Workload>, now: Option<&Arc<Workload>>) {
        let own = |it: &Workload| if it.host_network { Vec::new() } else { it.addresses.to_vec() };
        let from = before.map(own).unwrap_or_default();
        let to = now.map(|it| own(it)).unwrap_or_default();
        for address in from.iter().filter(|it| !to.contains(it)) {
            if self.index.addresses.withdraw(*address, object) {
                self.draft.by_address.remove(address);
            }
        }
        for address in &to {
            let holder = self.draft.by_address.get(address).map(|it| name_of(it));
            self.index.addresses.add(*address, holder, object);
        }
        for address in from.iter().chain(&to) {
            match self.index.addresses.claimants(*address) {
                Some(claimants) => self.settle(*address, &claimants),
                None => {
                    if let Some(now) = now.filter(|_| to.contains(address)) {
                        self.draft.by_address.insert(*address, now.clone());
                    }
                }
            }
        }
    }

    /// Of several pods that claim an address, the youngest has it: the others are on their way out.
    fn settle(&mut self, address: IpAddr, claimants: &BTreeSet<ObjectName>) {
        let age = |object: &&ObjectName| self.catalog.pods.get(object).and_then(|pod| pod.created);
        let youngest = claimants.iter().max_by_key(|object| (age(object), *object));
        let workload = youngest.and_then(|object| self.draft.workloads.get(&*self.constants.uid(object)));
        if let Some(workload) = workload.cloned() {
            self.draft.by_address.insert(address, workload);
        }
    }

    /// Services that changed are built anew; in all others the touched pods are replaced one by one.
    fn services(&mut self, changes: &Changes, touched: &[Touched], turned: &mut Turned) {
        let mut rebuild: BTreeSet<ObjectName> = changes.services.keys().cloned().collect();
        for namespace in changes.namespaces.keys() {
            rebuild.extend(self.catalog.services.of(&namespace.name).map(|(object, _)| object.clone()));
        }
        for (object, before) in &changes.services {
            before.iter().for_each(|it| self.index.selectors.remove(it));
            self.catalog.services.get(object).into_iter().for_each(|it| self.index.selectors.add(it));
        }
        for (object, before) in &changes.slices {
            let now = self.catalog.slices.get(object);
            before.iter().for_each(|it| self.index.remove_slice(it));
            now.into_iter().for_each(|it| self.index.add_slice(it));
            rebuild.extend(before.iter().chain(now).filter_map(|it| service_of(it)));
        }
        for pod in touched {
            self.patch_selecting(pod, &rebuild);
            self.patch_slices(pod, &rebuild);
        }
        self.follow_entries(changes, touched, &mut rebuild);
        let is_bound = |it: &Self| !it.bound.is_empty();
        if is_bound(self) {
            self.look_at(&rebuild, touched, turned);
        }
        self.rebuild(&rebuild);
        if is_bound(self) {
            self.look_at(&rebuild, touched, turned);
        }
    }

    /// Replaces a pod in the services that select it, now or before.
    fn patch_selecting(&mut self, pod: &Touched, rebuild: &BTreeSet<ObjectName>) {
        let now = self.catalog.pods.get(&pod.object);
        let namespace = &pod.object.namespace;
        let candidates: BTreeSet<ObjectName> = [pod.pod_before.as_ref(), now]
            .into_iter()
            .flatten()
            .flat_map(|it| self.index.selectors.candidates(namespace, &it.labels))
            .filter(|it| !rebuild.contains(it) && !self.index.slices_of.has(it))
            .cloned()
            .collect();
        for object in candidates {
            let Some(service) = self.catalog.services.get(&object) else { continue };
            let Some(endpoints) = self.draft.endpoints.get_mut(&object) else { continue };
            if let Some(before) = &pod.before {
                before.addresses.iter().for_each(|address| endpoints.remove(*address, &before.uid));
            }
            if let (Some(now), Some(workload)) = (now, &pod.now)
                && service.selector.all_in(&now.labels)
            {
                services::of_pod(service, now, workload).into_iter().for_each(|it| endpoints.insert(it));
            }
        }
    }

    /// States anew what slices say of the addresses a pod has, had, or is said to have.
    fn patch_slices(&mut self, pod: &Touched, rebuild: &BTreeSet<ObjectName>) {
        let workloads = [&pod.before, &pod.now].into_iter().flatten();
        let mut addresses: BTreeSet<IpAddr> = workloads.flat_map(|it| it.addresses.iter().copied()).collect();
        for slice in self.index.slices_naming.of(&pod.object) {
            let endpoints = self.catalog.slices.get(slice).into_iter().flat_map(|it| &it.endpoints);
            let naming = endpoints.filter(|it| it.pod.as_ref() == Some(&pod.object.name));
            addresses.extend(naming.flat_map(|it| it.addresses.iter().copied()));
        }
        for address in addresses {
            let slices = self.index.slices_at.of(&address).filter_map(|it| self.catalog.slices.get(it));
            let services: BTreeSet<ObjectName> = slices.filter_map(|it| service_of(it)).collect();
            for object in services.into_iter().filter(|it| !rebuild.contains(it)) {
                let Some(service) = self.catalog.services.get(&object) else { continue };
                let stated = self.stated_endpoints(service, |it| it == address);
                if let Some(endpoints) = self.draft.endpoints.get_mut(&object) {
                    endpoints.replace_at(address, &Endpoints::collect(stated));
                }
            }
        }
    }

    /// What the slices of a service state about some addresses.
    fn stated_endpoints(&self, service: &Service, about: impl Fn(IpAddr) -> bool) -> Vec<Endpoint> {
        let slices = self.index.slices_of.of(&service.object).filter_map(|it| self.catalog.slices.get(it));
        slices
            .flat_map(|slice| {
                services::of_slice(service, slice, &about, |address, it| self.resolve(slice, address, it))
            })
            .collect()
    }

    /// The workload behind an address of a slice. An address that is not, or no longer, that of the pod named beside
    /// it may have become another pod's, with another identity: it is not used.
    fn resolve(
        &self,
        slice: &EndpointSlice,
        address: IpAddr,
        endpoint: &SliceEndpoint,
    ) -> Result<Option<Arc<Workload>>, Moved> {
        let at = self.draft.by_address.get(&address);
        let Some(pod) = super::index::pod_of(slice, endpoint.pod.as_ref()) else { return Ok(at.cloned()) };
        match self.draft.workloads.get(&*self.constants.uid(&pod)) {
            Some(workload) if workload.addresses.contains(&address) => Ok(Some(workload.clone())),
            None if at.is_none() && self.catalog.pods.get(&pod).is_none() => Ok(None),
            _ => Err(Moved),
        }
    }

    fn rebuild(&mut self, rebuild: &BTreeSet<ObjectName>) {
        let mut selecting: std::collections::BTreeMap<Arc<str>, Vec<Arc<Service>>> = Default::default();
        for object in rebuild {
            if let Some(entry) = self.entry_of(object) {
                let (service, endpoints) = self.of_entry(&entry, object);
                self.file_service(object, Some(service));
                self.draft.endpoints.insert(object.clone(), endpoints);
                continue;
            }
            let stated = self.catalog.services.get(object).cloned();
            let namespace = self.catalog.namespaces.get(&self.constants.namespace(object));
            let domain = &self.settings.cluster_domain;
            let service =
                stated.as_deref().and_then(|it| services::service(it, namespace.map(AsRef::as_ref), domain));
            self.file_service(object, service);
            let Some(stated) = stated.filter(|_| self.draft.services.contains_key(object)) else {
                self.draft.endpoints.remove(object);
                continue;
            };
            let from_slices = self.index.slices_of.has(object);
            let endpoints = if from_slices { self.stated_endpoints(&stated, |_| true) } else { Vec::new() };
            self.draft.endpoints.insert(object.clone(), Endpoints::collect(endpoints));
            if !from_slices && !stated.selector.is_empty() {
                selecting.entry(object.namespace.clone()).or_default().push(stated);
            }
        }
        for (namespace, services) in selecting {
            self.select(&namespace, &services);
        }
    }

    /// Finds the pods of services in one pass over their namespace, however many services there are.
    fn select(&mut self, namespace: &Arc<str>, services: &[Arc<Service>]) {
        let mut wanted = super::index::Selectors::default();
        services.iter().for_each(|it| wanted.add(it));
        let mut found: std::collections::BTreeMap<&ObjectName, Vec<Endpoint>> = Default::default();
        for (object, pod) in self.catalog.pods.of(namespace) {
            let Some(workload) = self.draft.workloads.get(&*self.constants.uid(object)) else { continue };
            for candidate in wanted.candidates(namespace, &pod.labels) {
                let Ok(at) = services.binary_search_by(|it| it.object.cmp(candidate)) else { continue };
                let Some(service) = services.get(at).filter(|it| it.selector.all_in(&pod.labels)) else {
                    continue;
                };
                found.entry(&service.object).or_default().extend(services::of_pod(service, pod, workload));
            }
        }
        for (object, endpoints) in found {
            self.draft.endpoints.insert(object.clone(), Endpoints::collect(endpoints));
        }
    }

    /// Files a service under its name and addresses.
    fn file_service(&mut self, object: &ObjectName, now: Option<super::model::Service>) {
        let before = self.draft.services.get(object).cloned();
        let now = now.map(Arc::new);
        if now.as_ref().is_some_and(|it| it.waypoint.is_some()) {
            self.bound.insert(object.clone());
        } else {
            self.bound.remove(object);
        }
        match &now {
            Some(now) => self.draft.services.insert(object.clone(), now.clone()),
            None => self.draft.services.remove(object),
        };
        if object.name.contains('.') {
            let (host, namespace) = (object.name.clone(), object.namespace.clone());
            match &now {
                Some(now) => self.draft.external.insert((host, namespace), now.clone()),
                None => self.draft.external.remove(&(host, namespace)),
            };
        }
        let from = before.map(|it| it.vips.to_vec()).unwrap_or_default();
        let to = now.as_ref().map(|it| it.vips.to_vec()).unwrap_or_default();
        for vip in from.iter().filter(|it| !to.contains(it)) {
            if self.index.vips.withdraw(*vip, object) {
                self.draft.by_vip.remove(vip);
            }
        }
        for vip in &to {
            let holder = self.draft.by_vip.get(vip);
            let holder =
                holder.map(|it| ObjectName { namespace: it.namespace.clone(), name: it.name.clone() });
            self.index.vips.add(*vip, holder, object);
        }
        for vip in from.iter().chain(&to) {
            // Of several services with one address the first by name has it.
            let owner = match self.index.vips.claimants(*vip) {
                Some(claimants) => claimants.first().and_then(|it| self.draft.services.get(it)).cloned(),
                None => now.clone().filter(|_| to.contains(vip)),
            };
            if let Some(owner) = owner {
                self.draft.by_vip.insert(*vip, owner);
            }
        }
    }
}

/// Takes over what changed of a kind that snapshots hold as stated.
fn follow<T: PartialEq>(held: &mut OrdMap<ObjectName, Arc<T>>, store: &Store<T>, changed: &Changed<T>) {
    follow_as(held, store, changed, ObjectName::clone);
}

/// The same under keys of another form.
fn follow_as<K: Ord + Clone, T: PartialEq>(
    held: &mut OrdMap<K, Arc<T>>,
    store: &Store<T>,
    changed: &Changed<T>,
    key: impl Fn(&ObjectName) -> K,
) {
    for object in changed.keys() {
        match store.get(object) {
            Some(now) => held.insert(key(object), now.clone()),
            None => held.remove(&key(object)),
        };
    }
}

fn name_of(workload: &Workload) -> ObjectName {
    ObjectName { namespace: workload.namespace().clone(), name: workload.name.clone() }
}
