//! Every resource as stated, and which statement is in force.
//!
//! Knows nothing of what resources mean. When two files state one object, the first by file name is in force and the
//! other is reported; which one came first in time makes no difference, so that a restart changes nothing. Files of JSON
//! come after all others: they were not always read, and one that was forgotten there must not replace what is in force.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::config::decode::yaml;
use crate::config::gateway::RouteKind;
use crate::config::{
    AuthorizationPolicy, BackendTlsPolicy, Batch, CaBundle, DestinationRule, EndpointSlice, FaultFilter,
    Gateway, GatewayRoute, Key, Kind, Namespace, Node, ObjectName, Origin, PeerAuthentication, Pod,
    RateLimit, ReferenceGrant, Rejected, Removal, RequestAuthentication, Resource, Service, ServiceAccount,
    ServiceEntry, Stated, StatedMeshConfig, Telemetry, VirtualService, WorkloadEntry,
};

/// One object stated by more than one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The object.
    pub key: Key,
    /// The statement in force.
    pub in_force: Origin,
    /// The statements without effect.
    pub ignored: Vec<Origin>,
}

type Statement<T> = (Origin, Arc<T>);

/// The statements about one object.
#[derive(Debug)]
struct Entry<T> {
    in_force: Statement<T>,
    /// By rank. Boxed twice over because hardly any object has one.
    #[expect(clippy::box_collection, reason = "a pointer per object instead of three words")]
    others: Option<Box<Vec<Statement<T>>>>,
}

/// Objects of one kind.
#[derive(Debug)]
pub(crate) struct Store<T>(BTreeMap<ObjectName, Entry<T>>);

impl<T> Default for Store<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

/// Objects whose version in force changed, each with the version before.
pub(crate) type Changed<T> = BTreeMap<ObjectName, Option<Arc<T>>>;

impl<T: PartialEq> Store<T> {
    pub(crate) fn get(&self, object: &ObjectName) -> Option<&Arc<T>> {
        self.0.get(object).map(|entry| &entry.in_force.1)
    }

    pub(crate) fn origin(&self, object: &ObjectName) -> Option<&Origin> {
        self.0.get(object).map(|entry| &entry.in_force.0)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ObjectName, &Arc<T>)> {
        self.0.iter().map(|(object, entry)| (object, &entry.in_force.1))
    }

    /// The objects of one namespace.
    pub(crate) fn of(&self, namespace: &Arc<str>) -> impl Iterator<Item = (&ObjectName, &Arc<T>)> {
        let first = ObjectName { namespace: namespace.clone(), name: "".into() };
        self.0
            .range(first..)
            .take_while(move |(object, _)| *object.namespace == **namespace)
            .map(|(object, entry)| (object, &entry.in_force.1))
    }

    /// True when the object is now stated by several files; likewise below.
    fn upsert(&mut self, object: ObjectName, statement: Statement<T>, changed: &mut Changed<T>) -> bool {
        let Some(entry) = self.0.get_mut(&object) else {
            changed.entry(object.clone()).or_insert(None);
            self.0.insert(object, Entry { in_force: statement, others: None });
            return false;
        };
        let before = entry.in_force.1.clone();
        if entry.in_force.0.file == statement.0.file {
            let same = *before == *statement.1;
            // The same value keeps its old allocation, which snapshots share.
            entry.in_force = if same { (statement.0, before.clone()) } else { statement };
        } else {
            let others = entry.others.get_or_insert_default();
            others.retain(|(origin, _)| origin.file != statement.0.file);
            if rank(&statement.0) < rank(&entry.in_force.0) {
                others.push(std::mem::replace(&mut entry.in_force, statement));
            } else {
                others.push(statement);
            }
            others.sort_by(|a, b| rank(&a.0).cmp(&rank(&b.0)));
        }
        note(changed, &object, before, Some(&entry.in_force.1));
        entry.others.is_some()
    }

    fn withdraw(&mut self, object: &ObjectName, file: &Arc<str>, changed: &mut Changed<T>) -> bool {
        let Some(entry) = self.0.get_mut(object) else { return false };
        if entry.in_force.0.file != *file {
            if let Some(others) = &mut entry.others {
                others.retain(|(origin, _)| origin.file != *file);
            }
        } else {
            let before = entry.in_force.1.clone();
            match entry.others.as_mut().filter(|others| !others.is_empty()) {
                Some(others) => {
                    entry.in_force = others.remove(0);
                    note(changed, object, before, Some(&entry.in_force.1));
                }
                None => {
                    self.0.remove(object);
                    note(changed, object, before, None);
                    return false;
                }
            }
        }
        if entry.others.as_ref().is_some_and(|others| others.is_empty()) {
            entry.others = None;
        }
        entry.others.is_some()
    }

    /// The origin in force, and the others.
    fn origins(&self, object: &ObjectName) -> Option<(Origin, Vec<Origin>)> {
        let entry = self.0.get(object)?;
        let others = entry.others.iter().flat_map(|others| others.iter());
        Some((entry.in_force.0.clone(), others.map(|(origin, _)| origin.clone()).collect()))
    }
}

/// Of several statements the one of the lowest rank is in force.
fn rank(origin: &Origin) -> (bool, &str) {
    (yaml::is_json(&origin.file), &origin.file)
}

fn note<T: PartialEq>(changed: &mut Changed<T>, object: &ObjectName, before: Arc<T>, now: Option<&Arc<T>>) {
    if now.is_none_or(|now| !Arc::ptr_eq(now, &before) && **now != *before) {
        changed.entry(object.clone()).or_insert(Some(before));
    }
}

/// What one batch changed.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) namespaces: Changed<Namespace>,
    pub(crate) nodes: Changed<Node>,
    pub(crate) pods: Changed<Pod>,
    pub(crate) services: Changed<Service>,
    pub(crate) slices: Changed<EndpointSlice>,
    pub(crate) accounts: Changed<ServiceAccount>,
    pub(crate) authorization: Changed<AuthorizationPolicy>,
    pub(crate) peers: Changed<PeerAuthentication>,
    pub(crate) authentications: Changed<RequestAuthentication>,
    pub(crate) gateways: Changed<Gateway>,
    pub(crate) virtual_services: Changed<VirtualService>,
    pub(crate) destination_rules: Changed<DestinationRule>,
    pub(crate) service_entries: Changed<ServiceEntry>,
    pub(crate) workload_entries: Changed<WorkloadEntry>,
    /// By the place of their kind.
    pub(crate) routes: [Changed<GatewayRoute>; RouteKind::ALL.len()],
    pub(crate) grants: Changed<ReferenceGrant>,
    pub(crate) fault_filters: Changed<FaultFilter>,
    pub(crate) rate_limits: Changed<RateLimit>,
    pub(crate) backend_tls: Changed<BackendTlsPolicy>,
    pub(crate) ca_bundles: Changed<CaBundle>,
    pub(crate) mesh_configs: Changed<StatedMeshConfig>,
    pub(crate) telemetries: Changed<Telemetry>,
    /// Names whose addresses are others now.
    pub(crate) resolved: Vec<Arc<str>>,
    /// Rejections came or went.
    pub(crate) rejected: bool,
    /// Objects stated by several files came or went, perhaps.
    pub(crate) conflicts: bool,
}

/// Holds what every source has stated.
#[derive(Debug, Default)]
pub struct Catalog {
    pub(crate) namespaces: Store<Namespace>,
    pub(crate) nodes: Store<Node>,
    pub(crate) pods: Store<Pod>,
    pub(crate) services: Store<Service>,
    pub(crate) slices: Store<EndpointSlice>,
    pub(crate) accounts: Store<ServiceAccount>,
    pub(crate) authorization: Store<AuthorizationPolicy>,
    pub(crate) peers: Store<PeerAuthentication>,
    pub(crate) authentications: Store<RequestAuthentication>,
    pub(crate) gateways: Store<Gateway>,
    pub(crate) virtual_services: Store<VirtualService>,
    pub(crate) destination_rules: Store<DestinationRule>,
    pub(crate) service_entries: Store<ServiceEntry>,
    pub(crate) workload_entries: Store<WorkloadEntry>,
    /// By the place of their kind: one name may be that of a route of each.
    pub(crate) routes: [Store<GatewayRoute>; RouteKind::ALL.len()],
    pub(crate) grants: Store<ReferenceGrant>,
    pub(crate) fault_filters: Store<FaultFilter>,
    pub(crate) rate_limits: Store<RateLimit>,
    pub(crate) backend_tls: Store<BackendTlsPolicy>,
    pub(crate) ca_bundles: Store<CaBundle>,
    pub(crate) mesh_configs: Store<StatedMeshConfig>,
    pub(crate) telemetries: Store<Telemetry>,
    /// What was found for the names of endpoints, by name.
    pub(crate) resolved: BTreeMap<Arc<str>, Box<[IpAddr]>>,
    rejected: BTreeMap<Arc<str>, Vec<Arc<Rejected>>>,
    contested: BTreeSet<Key>,
}

impl Catalog {
    /// Accepts a batch. Nothing in it can fail: what was wrong was rejected on decoding, and stays as it was.
    pub(crate) fn apply(&mut self, batch: Batch) -> Changes {
        let mut changes = Changes::default();
        for file in &batch.reread {
            changes.rejected |= self.rejected.remove(file).is_some();
        }
        for rejected in batch.rejected {
            changes.rejected = true;
            self.rejected.entry(rejected.origin.file.clone()).or_default().push(Arc::new(rejected));
        }
        // A file that is renamed states its objects anew before it withdraws them, so that nothing is ever missing.
        for stated in batch.upserts {
            self.upsert(stated, &mut changes);
        }
        for removal in batch.removals {
            self.withdraw(removal, &mut changes);
        }
        for (name, addresses) in batch.resolved {
            if self.resolved.get(&name) != Some(&addresses) {
                self.resolved.insert(name.clone(), addresses);
                changes.resolved.push(name);
            }
        }
        changes
    }

    fn upsert(&mut self, stated: Stated, changes: &mut Changes) {
        let key = stated.resource.key();
        let (origin, object) = (stated.origin, key.object.clone());
        self.mind_origin(&key, changes);
        let contested = match stated.resource {
            Resource::Namespace(it) => self.namespaces.upsert(object, (origin, it), &mut changes.namespaces),
            Resource::Node(it) => self.nodes.upsert(object, (origin, it), &mut changes.nodes),
            Resource::Pod(it) => self.pods.upsert(object, (origin, it), &mut changes.pods),
            Resource::Service(it) => self.services.upsert(object, (origin, it), &mut changes.services),
            Resource::EndpointSlice(it) => self.slices.upsert(object, (origin, it), &mut changes.slices),
            Resource::ServiceAccount(it) => self.accounts.upsert(object, (origin, it), &mut changes.accounts),
            Resource::AuthorizationPolicy(it) => {
                self.authorization.upsert(object, (origin, it), &mut changes.authorization)
            }
            Resource::PeerAuthentication(it) => self.peers.upsert(object, (origin, it), &mut changes.peers),
            Resource::RequestAuthentication(it) => {
                self.authentications.upsert(object, (origin, it), &mut changes.authentications)
            }
            Resource::Gateway(it) => self.gateways.upsert(object, (origin, it), &mut changes.gateways),
            Resource::VirtualService(it) => {
                self.virtual_services.upsert(object, (origin, it), &mut changes.virtual_services)
            }
            Resource::DestinationRule(it) => {
                self.destination_rules.upsert(object, (origin, it), &mut changes.destination_rules)
            }
            Resource::ServiceEntry(it) => {
                self.service_entries.upsert(object, (origin, it), &mut changes.service_entries)
            }
            Resource::WorkloadEntry(it) => {
                self.workload_entries.upsert(object, (origin, it), &mut changes.workload_entries)
            }
            Resource::Route(it) => {
                let at = it.kind as usize;
                self.routes[at].upsert(object, (origin, it), &mut changes.routes[at])
            }
            Resource::ReferenceGrant(it) => self.grants.upsert(object, (origin, it), &mut changes.grants),
            Resource::FaultFilter(it) => {
                self.fault_filters.upsert(object, (origin, it), &mut changes.fault_filters)
            }
            Resource::RateLimit(it) => {
                self.rate_limits.upsert(object, (origin, it), &mut changes.rate_limits)
            }
            Resource::BackendTls(it) => {
                self.backend_tls.upsert(object, (origin, it), &mut changes.backend_tls)
            }
            Resource::CaBundle(it) => self.ca_bundles.upsert(object, (origin, it), &mut changes.ca_bundles),
            Resource::MeshConfig(it) => {
                self.mesh_configs.upsert(object, (origin, it), &mut changes.mesh_configs)
            }
            Resource::Telemetry(it) => {
                self.telemetries.upsert(object, (origin, it), &mut changes.telemetries)
            }
        };
        self.contested(key, contested, changes);
    }

    fn withdraw(&mut self, removal: Removal, changes: &mut Changes) {
        let (object, file) = (&removal.key.object, &removal.file);
        self.mind_origin(&removal.key, changes);
        let contested = match removal.key.kind {
            Kind::Namespace => self.namespaces.withdraw(object, file, &mut changes.namespaces),
            Kind::Node => self.nodes.withdraw(object, file, &mut changes.nodes),
            Kind::Pod => self.pods.withdraw(object, file, &mut changes.pods),
            Kind::Service => self.services.withdraw(object, file, &mut changes.services),
            Kind::EndpointSlice => self.slices.withdraw(object, file, &mut changes.slices),
            Kind::ServiceAccount => self.accounts.withdraw(object, file, &mut changes.accounts),
            Kind::AuthorizationPolicy => {
                self.authorization.withdraw(object, file, &mut changes.authorization)
            }
            Kind::PeerAuthentication => self.peers.withdraw(object, file, &mut changes.peers),
            Kind::RequestAuthentication => {
                self.authentications.withdraw(object, file, &mut changes.authentications)
            }
            Kind::Gateway => self.gateways.withdraw(object, file, &mut changes.gateways),
            Kind::VirtualService => {
                self.virtual_services.withdraw(object, file, &mut changes.virtual_services)
            }
            Kind::DestinationRule => {
                self.destination_rules.withdraw(object, file, &mut changes.destination_rules)
            }
            Kind::ServiceEntry => self.service_entries.withdraw(object, file, &mut changes.service_entries),
            Kind::WorkloadEntry => {
                self.workload_entries.withdraw(object, file, &mut changes.workload_entries)
            }
            Kind::GrpcRoute => self.withdraw_route(RouteKind::Grpc, object, file, changes),
            Kind::HttpRoute => self.withdraw_route(RouteKind::Http, object, file, changes),
            Kind::TlsRoute => self.withdraw_route(RouteKind::Tls, object, file, changes),
            Kind::TcpRoute => self.withdraw_route(RouteKind::Tcp, object, file, changes),
            Kind::ReferenceGrant => self.grants.withdraw(object, file, &mut changes.grants),
            Kind::FaultFilter => self.fault_filters.withdraw(object, file, &mut changes.fault_filters),
            Kind::RateLimit => self.rate_limits.withdraw(object, file, &mut changes.rate_limits),
            Kind::BackendTls => self.backend_tls.withdraw(object, file, &mut changes.backend_tls),
            Kind::CaBundle => self.ca_bundles.withdraw(object, file, &mut changes.ca_bundles),
            Kind::MeshConfig => self.mesh_configs.withdraw(object, file, &mut changes.mesh_configs),
            Kind::Telemetry => self.telemetries.withdraw(object, file, &mut changes.telemetries),
        };
        self.contested(removal.key, contested, changes);
    }

    fn withdraw_route(
        &mut self,
        kind: RouteKind,
        object: &ObjectName,
        file: &Arc<str>,
        changes: &mut Changes,
    ) -> bool {
        self.routes[kind as usize].withdraw(object, file, &mut changes.routes[kind as usize])
    }

    /// Reports give the line a policy stands on, which may move without the policy: a policy stated anew counts as
    /// changed even when it says the same.
    fn mind_origin(&self, key: &Key, changes: &mut Changes) {
        if key.kind == Kind::AuthorizationPolicy
            && let Some(before) = self.authorization.get(&key.object)
        {
            changes.authorization.entry(key.object.clone()).or_insert_with(|| Some(before.clone()));
        }
    }

    fn contested(&mut self, key: Key, contested: bool, changes: &mut Changes) {
        changes.conflicts |= contested;
        if contested {
            self.contested.insert(key);
        } else if !self.contested.is_empty() {
            changes.conflicts |= self.contested.remove(&key);
        }
    }

    /// Documents turned away and not yet corrected, by file and line.
    pub(crate) fn rejected(&self) -> impl Iterator<Item = &Arc<Rejected>> {
        self.rejected.values().flatten()
    }

    /// Objects stated by several files.
    pub(crate) fn conflicts(&self) -> impl Iterator<Item = Conflict> {
        self.contested.iter().filter_map(|key| {
            let (in_force, ignored) = self.origins(key)?;
            Some(Conflict { key: key.clone(), in_force, ignored })
        })
    }

    fn origins(&self, key: &Key) -> Option<(Origin, Vec<Origin>)> {
        match key.kind {
            Kind::Namespace => self.namespaces.origins(&key.object),
            Kind::Node => self.nodes.origins(&key.object),
            Kind::Pod => self.pods.origins(&key.object),
            Kind::Service => self.services.origins(&key.object),
            Kind::EndpointSlice => self.slices.origins(&key.object),
            Kind::ServiceAccount => self.accounts.origins(&key.object),
            Kind::AuthorizationPolicy => self.authorization.origins(&key.object),
            Kind::PeerAuthentication => self.peers.origins(&key.object),
            Kind::RequestAuthentication => self.authentications.origins(&key.object),
            Kind::Gateway => self.gateways.origins(&key.object),
            Kind::VirtualService => self.virtual_services.origins(&key.object),
            Kind::DestinationRule => self.destination_rules.origins(&key.object),
            Kind::ServiceEntry => self.service_entries.origins(&key.object),
            Kind::WorkloadEntry => self.workload_entries.origins(&key.object),
            Kind::GrpcRoute => self.routes[RouteKind::Grpc as usize].origins(&key.object),
            Kind::HttpRoute => self.routes[RouteKind::Http as usize].origins(&key.object),
            Kind::TlsRoute => self.routes[RouteKind::Tls as usize].origins(&key.object),
            Kind::TcpRoute => self.routes[RouteKind::Tcp as usize].origins(&key.object),
            Kind::ReferenceGrant => self.grants.origins(&key.object),
            Kind::FaultFilter => self.fault_filters.origins(&key.object),
            Kind::RateLimit => self.rate_limits.origins(&key.object),
            Kind::BackendTls => self.backend_tls.origins(&key.object),
            Kind::CaBundle => self.ca_bundles.origins(&key.object),
            Kind::MeshConfig => self.mesh_configs.origins(&key.object),
            Kind::Telemetry => self.telemetries.origins(&key.object),
        }
    }

    /// Whether a version of this object is in force.
    pub(crate) fn holds(&self, key: &Key) -> bool {
        self.origins(key).is_some()
    }
}
