//! What a snapshot holds: workloads, services, policies.
//!
//! Values are shared (`Arc`) between snapshots and never changed in place. Names follow Istio's workload API, so that
//! `/config_dump` can show them under the keys `istioctl ztunnel-config` reads.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::ops::Deref;
use std::sync::Arc;

use ipnet::IpNet;

use crate::config::routing::Visibility;
use crate::config::{Labels, ObjectName};
use crate::spiffe::Identity;

/// How a workload is reached from inside the mesh (Istio WDS `tunnel_protocol`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum TunnelProtocol {
    /// Plain TCP: not enrolled, host network, or outside the mesh. Dumped as `TCP`, the word istioctl knows.
    #[serde(rename = "TCP")]
    None,
    /// Mutual TLS and HTTP/2 CONNECT on port 15008.
    Hbone,
}

/// Whether an endpoint may be chosen (Kubernetes readiness).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum Health {
    /// Ready.
    Healthy,
    /// Not ready or terminating.
    Unhealthy,
}

/// What kind of controller owns a workload (Istio WDS `workload_type`), for telemetry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkloadKind {
    /// A Deployment (through its ReplicaSet).
    Deployment,
    /// A CronJob (through its Job).
    CronJob,
    /// A bare pod or one of an unknown owner.
    Pod,
    /// A Job.
    Job,
}

/// Where a workload runs, from its Node's `topology.kubernetes.io/*` labels. Empty strings are unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Locality {
    /// `topology.kubernetes.io/region`.
    pub region: Arc<str>,
    /// `topology.kubernetes.io/zone`.
    pub zone: Arc<str>,
    /// `topology.istio.io/subzone`.
    pub subzone: Arc<str>,
}

/// How a pod of this node is served, present only for pods that the mesh captures.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Enrolment {
    /// `ambient.istio.io/bypass-inbound-capture: "true"`: only outbound traffic and port 15008 are taken.
    pub bypass_inbound: bool,
}

/// A pod as the mesh knows it: what it has for itself, and what it has like others, whose fields are read as if they were
/// its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// `<cluster>//Pod/<namespace>/<name>`, Istio's workload uid.
    pub uid: Arc<str>,
    /// `metadata.uid`: differs between two pods of the same name, or the same address, one after the other.
    pub incarnation: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
    /// All pod addresses, IPv4 and IPv6, canonical (never v4-mapped).
    pub addresses: Arc<[IpAddr]>,
    /// `spec.nodeName`.
    pub node: Arc<str>,
    /// Name of the owning controller (Deployment `web` for ReplicaSet `web-6d9f`), or the pod's name.
    pub workload_name: Arc<str>,
    /// Where it runs.
    pub locality: Arc<Locality>,
    /// Whether it may be chosen as an endpoint.
    pub health: Health,
    /// Path of the pod's network namespace, from the annotation `ebb.dev/netns`; `None` when it is not known here.
    pub netns: Option<Arc<str>>,
    /// The rest.
    pub likeness: Arc<Likeness>,
}

/// What the pods of one Deployment have alike. Held once for all of them: a mesh has ten times as many pods.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Likeness {
    /// Who it is: trust domain, namespace and service account.
    pub identity: Identity,
    /// How it is reached.
    pub protocol: TunnelProtocol,
    /// `spec.hostNetwork`: shares the node's addresses, is never enrolled.
    pub host_network: bool,
    /// Label `service.istio.io/canonical-name`, `app.kubernetes.io/name`, `app`, or the workload's name.
    pub canonical_name: Arc<str>,
    /// Label `service.istio.io/canonical-revision`, `app.kubernetes.io/version`, `version`, or `latest`.
    pub canonical_revision: Arc<str>,
    /// Kind of the owning controller.
    pub workload_kind: WorkloadKind,
    /// `metadata.labels`, which subsets and `sourceLabels` go by.
    pub labels: Labels,
    /// Label `app` (telemetry).
    pub app: Arc<str>,
    /// Label `version` (telemetry).
    pub version: Arc<str>,
    /// Cluster the pod belongs to.
    pub cluster: Arc<str>,
    /// How its traffic is captured; `None` when it is not in the mesh, or is a waypoint and so captured by nobody.
    pub enrolment: Option<Enrolment>,
    /// Ports of its own that the kubelet of its node probes, sorted.
    pub probed: Arc<[u16]>,
    /// The Gateway that its labels, or its namespace's, name as its waypoint. Whether calls are to pass it is for
    /// [`Snapshot::waypoint_of_workload`](super::Snapshot::waypoint_of_workload) to say.
    pub waypoint: Option<ObjectName>,
}

/// Readers need not know what a workload has like others.
impl Deref for Workload {
    type Target = Likeness;
    fn deref(&self) -> &Likeness {
        &self.likeness
    }
}

impl Workload {
    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &Arc<str> {
        &self.identity.namespace
    }

    /// Whether it speaks for itself in the mesh: a pod of a Gateway that is a waypoint.
    pub fn is_waypoint(&self) -> bool {
        self.protocol == TunnelProtocol::Hbone && self.enrolment.is_none()
    }
}

/// Which leading topology scopes an endpoint should share with the caller (Istio WDS `LoadBalancing.Scope`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum Scope {
    /// Same network.
    Network,
    /// Same region.
    Region,
    /// Same zone.
    Zone,
    /// Same subzone.
    Subzone,
    /// Same node.
    Node,
    /// Same cluster.
    Cluster,
}

/// What happens when no endpoint matches every scope (Istio WDS `LoadBalancing.Mode`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub enum BalanceMode {
    /// Scopes are not considered.
    #[default]
    Standard,
    /// Endpoints must match every scope (`internalTrafficPolicy: Local` = scope Node).
    Strict,
    /// The endpoints that match most leading scopes are used.
    Failover,
}

/// How endpoints of a service are preferred.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct LoadBalancing {
    /// Preference order.
    pub routing_preferences: Box<[Scope]>,
    /// Strictness.
    pub mode: BalanceMode,
    /// `publishNotReadyAddresses`: endpoints that are not ready count as well.
    pub allow_unready: bool,
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// The port clients call, 1..=65535.
    pub port: u16,
    /// `name`, empty when there is none.
    pub name: Arc<str>,
    /// `appProtocol`, or the protocol that the port's name declares; empty when unknown.
    pub app_protocol: Arc<str>,
}

/// One place where a service is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where to connect.
    pub address: IpAddr,
    /// The workload there, when it is a pod of the mesh's configuration.
    pub workload: Option<Arc<Workload>>,
    /// Whether it may be chosen.
    pub health: Health,
    /// Service port to port at this endpoint, for the ports it serves.
    pub ports: Arc<[(u16, u16)]>,
    /// Its share beside others (`WorkloadEntry.weight`); 1 for pods.
    pub weight: NonZeroU32,
}

impl Endpoint {
    /// The port at this endpoint that stands for `service_port`.
    pub fn target_port(&self, service_port: u16) -> Option<u16> {
        self.ports.iter().find(|(port, _)| *port == service_port).map(|(_, target)| *target)
    }
}

/// A Kubernetes Service, or a host of a ServiceEntry, whose name is the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `<name>.<namespace>.svc.<cluster domain>`.
    pub hostname: Arc<str>,
    /// Cluster addresses; empty for a headless service.
    pub vips: Box<[IpAddr]>,
    /// Its ports.
    pub ports: Box<[ServicePort]>,
    /// Endpoint preferences.
    pub load_balancing: LoadBalancing,
    /// The Gateway that its labels, or its namespace's, name as its waypoint. Whether calls are to pass it is for
    /// [`Snapshot::waypoint_of_service`](super::Snapshot::waypoint_of_service) to say.
    pub waypoint: Option<ObjectName>,
    /// What a ServiceEntry says beyond this; `None` for a Service of Kubernetes.
    pub external: Option<Arc<External>>,
}

/// What is particular to the service of a ServiceEntry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct External {
    /// `metadata.name` of the ServiceEntry; its namespace is the service's.
    pub entry: Arc<str>,
    /// `exportTo`: whose routes may lead to it.
    pub visibility: Visibility,
    /// `subjectAltNames`, of which a certificate of its endpoints has to have one.
    pub subject_alt_names: Box<[Arc<str>]>,
    /// `resolution: NONE`: it has no endpoints of its own and is reached where the caller meant to.
    pub goes_where_called: bool,
}

/// What a policy does when it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum Action {
    /// Admit.
    Allow,
    /// Refuse.
    Deny,
}

/// To which workloads a policy applies (Istio WDS `Authorization.Scope`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum PolicyScope {
    /// Every workload of the mesh (root namespace, no selector).
    Global,
    /// Every workload of its namespace.
    Namespace,
    /// The workloads its selector picks.
    WorkloadSelector,
}

/// A string condition (Istio `StringMatch`): compared byte for byte, never as a pattern.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub enum StringMatch {
    /// Equal.
    Exact(Arc<str>),
    /// Starts with (`x*`).
    Prefix(Arc<str>),
    /// Ends with (`*x`).
    Suffix(Arc<str>),
    /// Any non-empty value (`*`).
    Presence,
}

/// A service account condition: `namespace/name`, or `name` in the policy's namespace.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccountMatch {
    /// Namespace of the account.
    pub namespace: Arc<str>,
    /// Name of the account.
    pub service_account: Arc<str>,
}

/// One match: within a list ORed, across lists ANDed; with every list empty it never matches
/// (Istio WDS `Match`). `not_*` lists refuse the match when any of theirs holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "each list is the WDS field of the same name; the type's comment says how they combine"
)]
pub struct Match {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<StringMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_namespaces: Vec<StringMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub principals: Vec<StringMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_principals: Vec<StringMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub service_accounts: Vec<ServiceAccountMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_service_accounts: Vec<ServiceAccountMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_ips: Vec<IpNet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_source_ips: Vec<IpNet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destination_ips: Vec<IpNet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_destination_ips: Vec<IpNet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destination_ports: Vec<u16>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_destination_ports: Vec<u16>,
}

/// A compiled AuthorizationPolicy: rules ORed; a rule is clauses ANDed; a clause is matches ORed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `namespace/name`, ready for logs.
    pub key: Arc<str>,
    /// To whom it applies.
    pub scope: PolicyScope,
    /// What it does.
    pub action: Action,
    /// Annotation `istio.io/dry-run: "true"`: logged, never enforced.
    pub dry_run: bool,
    /// The rules; none at all means that an ALLOW policy admits nobody.
    pub rules: Vec<Vec<Vec<Match>>>,
}

/// Whether plaintext is taken (PeerAuthentication `mtls.mode`; DISABLE counts as PERMISSIVE in ambient mode).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub enum MtlsMode {
    /// Mutual TLS and plaintext.
    #[default]
    Permissive,
    /// Mutual TLS only.
    Strict,
}

/// The plaintext rule that is in force for one workload, after inheritance mesh, namespace, workload, port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerAuthentication {
    /// The mode for ports without one of their own.
    pub mode: MtlsMode,
    /// `namespace/name` of the object that decided the mode; empty when none did.
    pub decided_by: Arc<str>,
    /// `portLevelMtls` by port of the pod, with the object that decided it.
    pub ports: Box<[(u16, MtlsMode, Arc<str>)]>,
}

/// Everything that decides who may connect to one workload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EffectivePolicy {
    /// DENY policies that apply.
    pub deny: Vec<Arc<Policy>>,
    /// ALLOW policies that apply.
    pub allow: Vec<Arc<Policy>>,
    /// Policies that apply and could not be decoded (`namespace/name`): while there is one, nobody is admitted.
    pub unknown: Vec<Arc<str>>,
    /// The plaintext rule.
    pub peer_authentication: PeerAuthentication,
}
