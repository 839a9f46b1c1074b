//! The mesh as traffic code sees it: one immutable `Snapshot`, built from accepted resources.
//!
//! A snapshot shares structure with the one before it, so that one changed pod costs work in proportion to that pod.
//! Take one snapshot per decision and ask only that one: two may differ.

pub mod catalog;
mod compile;
pub mod difference;
mod enforce;
mod entries;
mod index;
pub mod model;
pub mod policies;
mod posts;
pub mod publish;
mod services;
#[cfg(test)]
mod tests;
mod waypoints;
mod workloads;

use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;

use self::catalog::Conflict;
pub use self::compile::Mesh;
use self::model::{EffectivePolicy, Service, Workload};
use self::policies::PolicyEntry;
use self::posts::Posts;
pub use self::services::Endpoints;
use self::waypoints::Waypoints;
use crate::config::gateway::RouteKind;
use crate::config::may_mean::MayMean;
use crate::config::mesh::ProviderService;
use crate::config::{
    BackendTlsPolicy, CaBundle, DestinationRule, FaultFilter, GatewayRoute, Key, MeshConfig, ObjectName,
    PeerAuthentication, RateLimit, ReferenceGrant, Rejected, RequestAuthentication, Telemetry,
    VirtualService,
};

/// What the meaning of resources depends on besides them; fixed at start.
#[derive(Debug, Clone)]
pub struct MeshSettings {
    /// Trust domain of every identity.
    pub trust_domain: Arc<str>,
    /// The namespace whose policies bind the whole mesh.
    pub root_namespace: Arc<str>,
    /// This cluster's name.
    pub cluster: Arc<str>,
    /// The DNS domain below which services are named.
    pub cluster_domain: Arc<str>,
}

impl Default for MeshSettings {
    fn default() -> Self {
        Self {
            trust_domain: crate::spiffe::DEFAULT_TRUST_DOMAIN.into(),
            root_namespace: "istio-system".into(),
            cluster: "Kubernetes".into(),
            cluster_domain: "cluster.local".into(),
        }
    }
}

/// What is, or may be, a RequestAuthentication, could not be read, and has no version in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownAuthentication {
    /// Its namespace; `None` where it may be of any.
    pub namespace: Option<Arc<str>>,
    /// Its name, or where it stands.
    pub name: Arc<str>,
}

/// What could not be read, may make a promise about services, and has no version in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// Its namespace; `None` where it may be of any.
    pub namespace: Option<Arc<str>>,
    /// Its name, or where it stands.
    pub name: Arc<str>,
    /// What it may be about.
    pub may_mean: MayMean,
}

impl Unread {
    /// The name of the first of these that may be about something of a namespace.
    pub fn about<'u>(all: &'u [Self], namespace: &str, name: &str) -> Option<&'u Arc<str>> {
        let mut near = all.iter().filter(|it| it.namespace.as_deref().is_none_or(|it| it == namespace));
        near.find(|it| it.may_mean.may_mean(name)).map(|it| &it.name)
    }
}

/// The mesh at one moment.
///
/// Every lookup is O(log n) and takes no lock; those by address, uid, workload or service do not allocate.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    generation: u64,
    policy_generation: u64,
    workloads: OrdMap<Arc<str>, Arc<Workload>>,
    by_address: OrdMap<IpAddr, Arc<Workload>>,
    by_node: Posts,
    services: OrdMap<ObjectName, Arc<Service>>,
    by_vip: OrdMap<IpAddr, Arc<Service>>,
    endpoints: OrdMap<ObjectName, Endpoints>,
    /// For workloads that a selector picks.
    selected: OrdMap<Arc<str>, Arc<EffectivePolicy>>,
    /// For the others, where their namespace has policies.
    by_namespace: OrdMap<Arc<str>, Arc<EffectivePolicy>>,
    /// For all others.
    mesh_policy: Arc<EffectivePolicy>,
    policies: OrdMap<ObjectName, Arc<PolicyEntry>>,
    peer_authentications: OrdMap<ObjectName, Arc<PeerAuthentication>>,
    request_authentications: OrdMap<ObjectName, Arc<RequestAuthentication>>,
    unknown_policies: Arc<[Arc<str>]>,
    unknown_authentications: Arc<[UnknownAuthentication]>,
    root_namespace: Arc<str>,
    waypoints: Waypoints,
    /// Addresses of each node's own.
    hosts: OrdMap<Arc<str>, Arc<[IpAddr]>>,
    virtual_services: OrdMap<ObjectName, Arc<VirtualService>>,
    destination_rules: OrdMap<ObjectName, Arc<DestinationRule>>,
    /// Routes of the Gateway API.
    routes: OrdMap<Key, Arc<GatewayRoute>>,
    grants: OrdMap<ObjectName, Arc<ReferenceGrant>>,
    fault_filters: OrdMap<ObjectName, Arc<FaultFilter>>,
    rate_limits: OrdMap<ObjectName, Arc<RateLimit>>,
    backend_tls: OrdMap<ObjectName, Arc<BackendTlsPolicy>>,
    unread_backend_tls: Arc<[Unread]>,
    /// HTTPRoutes that may have somebody asked.
    unread_routes: Arc<[Unread]>,
    /// ConfigMaps with authorities.
    ca_bundles: OrdMap<ObjectName, Arc<CaBundle>>,
    mesh_config: Arc<MeshConfig>,
    telemetries: OrdMap<ObjectName, Arc<Telemetry>>,
    /// Services of ServiceEntries by host and namespace.
    external: OrdMap<(Arc<str>, Arc<str>), Arc<Service>>,
    /// Names of endpoints that have to be looked up.
    names: Arc<[Arc<str>]>,
    rejected: Arc<[Arc<Rejected>]>,
    conflicts: Arc<[Conflict]>,
}

impl Snapshot {
    /// Grows with every snapshot; 0 before anything was read.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Grows when the policy of a workload that was there before changed, or the waypoints it is reached through, or an
    /// enrolled workload left, and hardly ever otherwise: connections need judging anew when it has.
    pub fn policy_generation(&self) -> u64 {
        self.policy_generation
    }

    /// The workload of this uid (`<cluster>//Pod/<namespace>/<name>`).
    pub fn workload(&self, uid: &str) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// The pod at an address. Pods on the host's network have none of their own and are never found here; of two pods
    /// that claim one address, the younger has it.
    pub fn workload_at(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        self.by_address.get(&address.to_canonical())
    }

    /// The service whose cluster or load balancer address this is.
    pub fn service_at(&self, vip: IpAddr) -> Option<&Arc<Service>> {
        self.by_vip.get(&vip.to_canonical())
    }

    /// The service of this name.
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Arc<Service>> {
        self.services.get(&ObjectName::new(namespace, name))
    }

    /// The service that a full host name is, to somebody of `namespace`: a ServiceEntry of that namespace before one of
    /// another that it may see.
    pub fn service_named(&self, host: &str, namespace: &str, cluster_domain: &str) -> Option<&Arc<Service>> {
        if let Some(name) = name_below(host, cluster_domain)
            && let Some(service) = self.services.get(&name)
        {
            return Some(service);
        }
        let own = ObjectName::new(namespace, host);
        self.services.get(&own).or_else(|| {
            let visible =
                |it: &&Arc<Service>| it.external.as_ref().is_some_and(|it| it.visibility.reaches(namespace));
            self.external_named(host).find(visible)
        })
    }

    /// The services of ServiceEntries that have this host, by namespace.
    pub fn external_named(&self, host: &str) -> impl Iterator<Item = &Arc<Service>> + use<'_> {
        let host: Arc<str> = host.into();
        let range = self.external.range((host.clone(), Arc::from(""))..);
        range.take_while(move |((it, _), _)| *it == host).map(|(_, service)| service)
    }

    /// The services that a ServiceEntry states, one for each of its hosts.
    pub fn services_of_entry<'s>(
        &'s self,
        entry: &ObjectName,
    ) -> impl Iterator<Item = &'s Arc<Service>> + use<'s> {
        let ObjectName { namespace, name } = entry.clone();
        let first = ObjectName { namespace: namespace.clone(), name: "".into() };
        let of_namespace = self.services.range(first..).take_while(move |(it, _)| it.namespace == namespace);
        of_namespace
            .map(|(_, service)| service)
            .filter(move |it| it.external.as_ref().is_some_and(|it| it.entry == name))
    }

    /// The service that a provider of MeshConfig means: in the namespace that it names; else the Kubernetes Service of that
    /// name; else the one ServiceEntry with that host. Of several nobody knows which is meant, and whoever may state one would
    /// speak for the mesh: none is, as in Istio.
    pub fn provided(&self, service: &ProviderService, cluster_domain: &str) -> Option<&Arc<Service>> {
        let of_kubernetes = name_below(&service.host, cluster_domain);
        match (&service.namespace, of_kubernetes) {
            (Some(namespace), of_kubernetes) => {
                let named = of_kubernetes.filter(|it| it.namespace == *namespace);
                let known = named.and_then(|it| self.service(&it.namespace, &it.name));
                known.or_else(|| self.service(namespace, &service.host))
            }
            (None, Some(named)) => self.service(&named.namespace, &named.name),
            (None, None) => {
                let mut all = self.external_named(&service.host);
                all.next().filter(|_| all.next().is_none())
            }
        }
    }

    /// The names of endpoints that have to be looked up, in order.
    pub fn names(&self) -> &Arc<[Arc<str>]> {
        &self.names
    }

    /// Where a service is served.
    pub fn endpoints(&self, service: &Service) -> &Endpoints {
        static NONE: std::sync::LazyLock<Endpoints> = std::sync::LazyLock::new(Endpoints::default);
        let object = ObjectName { namespace: service.namespace.clone(), name: service.name.clone() };
        self.endpoints.get(&object).unwrap_or(&NONE)
    }

    /// Whether an address is of the node itself that a workload runs on, and of no pod: where its kubelet connects from.
    pub fn is_host_of(&self, workload: &Workload, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.hosts.get(&workload.node).is_some_and(|it| it.contains(&address))
            && self.workload_at(address).is_none()
    }

    /// Everything that decides who may connect to a workload; shared by all workloads with the same policies.
    pub fn policy_for(&self, workload: &Workload) -> &Arc<EffectivePolicy> {
        self.selected
            .get(&workload.uid)
            .or_else(|| self.by_namespace.get(workload.namespace()))
            .unwrap_or(&self.mesh_policy)
    }

    /// The enrolled pods of a node, by uid.
    pub fn pods_on<'s>(&'s self, node: &str) -> impl Iterator<Item = &'s Arc<Workload>> + use<'s> {
        self.by_node.on(node).filter(|it| it.enrolment.is_some())
    }

    /// Every workload, by uid.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    /// Every service, by namespace and name.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// Every AuthorizationPolicy that could be read, by namespace and name, with what of it is not enforced as stated.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<PolicyEntry>> {
        self.policies.values()
    }

    /// The AuthorizationPolicies of one namespace that could be read, by name.
    pub fn policies_of(&self, namespace: &Arc<str>) -> impl Iterator<Item = &Arc<PolicyEntry>> {
        let first = ObjectName { namespace: namespace.clone(), name: "".into() };
        let range = self.policies.range(first..).take_while({
            let namespace = namespace.clone();
            move |(object, _)| object.namespace == namespace
        });
        range.map(|(_, entry)| entry)
    }

    /// Every PeerAuthentication, by namespace and name.
    pub fn peer_authentications(&self) -> impl Iterator<Item = &Arc<PeerAuthentication>> {
        self.peer_authentications.values()
    }

    /// Every RequestAuthentication as stated, by namespace and name.
    pub fn request_authentications(&self) -> impl Iterator<Item = &Arc<RequestAuthentication>> {
        self.request_authentications.values()
    }

    /// Those that could not be read: whatever they may bind at a waypoint is refused.
    pub fn unknown_authentications(&self) -> &[UnknownAuthentication] {
        &self.unknown_authentications
    }

    /// The VirtualService of this name, as stated.
    pub fn virtual_service(&self, object: &ObjectName) -> Option<&Arc<VirtualService>> {
        self.virtual_services.get(object)
    }

    /// Every VirtualService as stated, by namespace and name.
    pub fn virtual_services(&self) -> impl Iterator<Item = &Arc<VirtualService>> {
        self.virtual_services.values()
    }

    /// Every DestinationRule as stated, by namespace and name.
    pub fn destination_rules(&self) -> impl Iterator<Item = &Arc<DestinationRule>> {
        self.destination_rules.values()
    }

    /// The route of the Gateway API of this kind and name, as stated.
    pub fn route(&self, key: &Key) -> Option<&Arc<GatewayRoute>> {
        self.routes.get(key)
    }

    /// Every route of the Gateway API as stated, by kind, namespace and name.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<GatewayRoute>> {
        self.routes.values()
    }

    /// The filter of this name, as stated.
    pub fn fault_filter(&self, object: &ObjectName) -> Option<&Arc<FaultFilter>> {
        self.fault_filters.get(object)
    }

    /// Every RateLimit as stated, by namespace and name.
    pub fn rate_limits(&self) -> impl Iterator<Item = &Arc<RateLimit>> {
        self.rate_limits.values()
    }

    /// Every BackendTLSPolicy as stated, by namespace and name.
    pub fn backend_tls(&self) -> impl Iterator<Item = &Arc<BackendTlsPolicy>> {
        self.backend_tls.values()
    }

    /// Those that could not be read: what they may be about is sent nothing. It stays the same value until they change.
    pub fn unread_backend_tls(&self) -> &Arc<[Unread]> {
        &self.unread_backend_tls
    }

    /// HTTPRoutes that could not be read and may have somebody asked: requests for what they may be about are refused. It
    /// stays the same value until they change.
    pub fn unread_routes(&self) -> &Arc<[Unread]> {
        &self.unread_routes
    }

    /// The authorities that the ConfigMap of this name holds.
    pub fn ca_bundle(&self, object: &ObjectName) -> Option<&Arc<CaBundle>> {
        self.ca_bundles.get(object)
    }

    /// The MeshConfig of the root namespace; that of nobody is empty. It stays the same value until it is stated otherwise.
    pub fn mesh_config(&self) -> &Arc<MeshConfig> {
        &self.mesh_config
    }

    /// Every Telemetry as stated, by namespace and name.
    pub fn telemetries(&self) -> impl Iterator<Item = &Arc<Telemetry>> {
        self.telemetries.values()
    }

    /// Whether routes of a kind and namespace may lead to a service: in their own namespace, or by a ReferenceGrant in the
    /// service's.
    pub fn may_lead_to(&self, kind: RouteKind, namespace: &str, service: &ObjectName) -> bool {
        let first = ObjectName::new(service.namespace.clone(), "");
        let mut theirs =
            self.grants.range(first..).take_while(|(object, _)| object.namespace == service.namespace);
        *service.namespace == *namespace
            || theirs.any(|(_, grant)| grant.permits(kind, namespace, &service.name))
    }

    /// Policies that could not be read and for which nobody is admitted, where they would bind.
    pub fn unknown_policies(&self) -> &[Arc<str>] {
        &self.unknown_policies
    }

    /// Those of them that may bind what is in a namespace: its own, and those of the whole mesh.
    pub fn unknown_policies_of(&self, namespace: &str) -> &[Arc<str>] {
        &self.by_namespace.get(namespace).unwrap_or(&self.mesh_policy).unknown
    }

    /// The namespace whose policies bind the whole mesh.
    pub fn root_namespace(&self) -> &Arc<str> {
        &self.root_namespace
    }

    /// Documents turned away and not corrected since.
    pub fn rejected(&self) -> &[Arc<Rejected>] {
        &self.rejected
    }

    /// Objects stated by more than one file.
    pub fn conflicts(&self) -> &[Conflict] {
        &self.conflicts
    }
}

/// The service of a full name: `<name>.<namespace>.svc.<domain>`.
pub fn name_below(host: &str, cluster_domain: &str) -> Option<ObjectName> {
    let inner = host.strip_suffix(cluster_domain)?.strip_suffix(".svc.")?;
    let (name, namespace) = inner.split_once('.')?;
    (!name.is_empty() && !namespace.is_empty() && !namespace.contains('.'))
        .then(|| ObjectName::new(namespace, name))
}
