//! What an operator may state about the mesh, typed: the kinds Ebb reads, and a batch of them.
//!
//! Knows no YAML, no files and no watch: `decode` turns documents into these values and `snapshot` compiles them.
//! Values are checked on the way in (names, ports, addresses), so that whoever holds one need not check again.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

pub mod access_format;
pub mod authentication;
pub mod backend_tls;
pub mod core;
pub mod decode;
pub mod destination;
pub mod entry;
pub mod expression;
pub mod gateway;
pub mod may_mean;
pub mod mesh;
pub mod names;
pub mod note;
pub mod path_template;
pub mod rate_limit;
pub mod routing;
pub mod security;
pub mod similar;
pub mod telemetry;
pub mod time_format;
pub mod waypoint;

pub use self::authentication::RequestAuthentication;
pub use self::backend_tls::{BackendTlsPolicy, CaBundle};
pub use self::core::{
    EndpointSlice, Labels, Namespace, Node, Pod, Service, ServiceAccount, SliceEndpoint, TargetPort,
};
pub use self::destination::DestinationRule;
pub use self::entry::{ServiceEntry, WorkloadEntry};
pub use self::gateway::{FaultFilter, GatewayRoute, ReferenceGrant};
use self::may_mean::MayMean;
pub use self::mesh::{MeshConfig, StatedMeshConfig};
use self::note::Note;
pub use self::rate_limit::RateLimit;
pub use self::routing::VirtualService;
pub use self::security::{AuthorizationPolicy, PeerAuthentication};
pub use self::telemetry::Telemetry;
pub use self::waypoint::Gateway;

/// The kinds of resource Ebb acts on. Any other kind is skipped by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub enum Kind {
    /// `v1` Namespace.
    Namespace,
    /// `v1` Node.
    Node,
    /// `v1` Pod.
    Pod,
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `v1` ServiceAccount.
    ServiceAccount,
    /// `security.istio.io` AuthorizationPolicy.
    AuthorizationPolicy,
    /// `security.istio.io` PeerAuthentication.
    PeerAuthentication,
    /// `security.istio.io` RequestAuthentication.
    RequestAuthentication,
    /// `gateway.networking.k8s.io` Gateway.
    Gateway,
    /// `networking.istio.io` VirtualService.
    VirtualService,
    /// `networking.istio.io` DestinationRule.
    DestinationRule,
    /// `networking.istio.io` ServiceEntry.
    ServiceEntry,
    /// `networking.istio.io` WorkloadEntry.
    WorkloadEntry,
    /// `gateway.networking.k8s.io` HTTPRoute.
    HttpRoute,
    /// `gateway.networking.k8s.io` GRPCRoute.
    GrpcRoute,
    /// `gateway.networking.k8s.io` TLSRoute.
    TlsRoute,
    /// `gateway.networking.k8s.io` TCPRoute.
    TcpRoute,
    /// `gateway.networking.k8s.io` ReferenceGrant.
    ReferenceGrant,
    /// `gateway.ebb.dev` HTTPFaultFilter.
    FaultFilter,
    /// `gateway.ebb.dev` RateLimit.
    RateLimit,
    /// `gateway.networking.k8s.io` BackendTLSPolicy.
    BackendTls,
    /// The `v1` ConfigMap that holds Istio's MeshConfig.
    MeshConfig,
    /// A `v1` ConfigMap that holds authorities; any other is skipped.
    CaBundle,
    /// `telemetry.istio.io` Telemetry.
    Telemetry,
}

impl Kind {
    /// The `kind:` an operator writes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::ServiceAccount => "ServiceAccount",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::RequestAuthentication => "RequestAuthentication",
            Self::Gateway => "Gateway",
            Self::VirtualService => "VirtualService",
            Self::DestinationRule => "DestinationRule",
            Self::ServiceEntry => "ServiceEntry",
            Self::WorkloadEntry => "WorkloadEntry",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TlsRoute => "TLSRoute",
            Self::TcpRoute => "TCPRoute",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::FaultFilter => "HTTPFaultFilter",
            Self::RateLimit => "RateLimit",
            Self::BackendTls => "BackendTLSPolicy",
            Self::MeshConfig | Self::CaBundle => "ConfigMap",
            Self::Telemetry => "Telemetry",
        }
    }

    /// Whether an object of this kind decides who may connect, or whose word is believed: when one cannot be read, access
    /// must not widen.
    pub fn guards_access(self) -> bool {
        matches!(self, Self::AuthorizationPolicy | Self::PeerAuthentication | Self::RequestAuthentication)
    }

    /// Whether it is read as strictly as by an API server, where a string that looks like a number or a boolean must be
    /// quoted and nothing unknown is passed over: every kind that steers traffic.
    pub fn is_strict(self) -> bool {
        let of_core = matches!(
            self,
            Self::Namespace
                | Self::Node
                | Self::Pod
                | Self::Service
                | Self::EndpointSlice
                | Self::ServiceAccount
        );
        !of_core && self != Self::Gateway
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Namespace and name of an object; the namespace is empty for cluster-wide kinds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName {
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl ObjectName {
    /// Names an object.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// Which object: kind, namespace, name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// What it is.
    pub kind: Kind,
    /// What it is called.
    pub object: ObjectName,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.object)
    }
}

/// Where a resource was stated.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// File name, or the name of another source.
    pub file: Arc<str>,
    /// Line of the document's first content, from 1; 0 when the source has no lines.
    pub line: u32,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 { f.write_str(&self.file) } else { write!(f, "{}:{}", self.file, self.line) }
    }
}

/// One resource, of any kind Ebb reads.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant holds the kind of its name")]
pub enum Resource {
    Namespace(Arc<Namespace>),
    Node(Arc<Node>),
    Pod(Arc<Pod>),
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    ServiceAccount(Arc<ServiceAccount>),
    AuthorizationPolicy(Arc<AuthorizationPolicy>),
    PeerAuthentication(Arc<PeerAuthentication>),
    RequestAuthentication(Arc<RequestAuthentication>),
    Gateway(Arc<Gateway>),
    VirtualService(Arc<VirtualService>),
    DestinationRule(Arc<DestinationRule>),
    ServiceEntry(Arc<ServiceEntry>),
    WorkloadEntry(Arc<WorkloadEntry>),
    Route(Arc<GatewayRoute>),
    ReferenceGrant(Arc<ReferenceGrant>),
    FaultFilter(Arc<FaultFilter>),
    RateLimit(Arc<RateLimit>),
    BackendTls(Arc<BackendTlsPolicy>),
    CaBundle(Arc<CaBundle>),
    MeshConfig(Arc<StatedMeshConfig>),
    Telemetry(Arc<Telemetry>),
}

impl Resource {
    /// Which object this is.
    pub fn key(&self) -> Key {
        let (kind, object) = match self {
            Self::Namespace(it) => (Kind::Namespace, ObjectName::new("", it.name.clone())),
            Self::Node(it) => (Kind::Node, ObjectName::new("", it.name.clone())),
            Self::Pod(it) => (Kind::Pod, it.object.clone()),
            Self::Service(it) => (Kind::Service, it.object.clone()),
            Self::EndpointSlice(it) => (Kind::EndpointSlice, it.object.clone()),
            Self::ServiceAccount(it) => (Kind::ServiceAccount, it.object.clone()),
            Self::AuthorizationPolicy(it) => (Kind::AuthorizationPolicy, it.object.clone()),
            Self::PeerAuthentication(it) => (Kind::PeerAuthentication, it.object.clone()),
            Self::RequestAuthentication(it) => (Kind::RequestAuthentication, it.object.clone()),
            Self::Gateway(it) => (Kind::Gateway, it.object.clone()),
            Self::VirtualService(it) => (Kind::VirtualService, it.object.clone()),
            Self::DestinationRule(it) => (Kind::DestinationRule, it.object.clone()),
            Self::ServiceEntry(it) => (Kind::ServiceEntry, it.object.clone()),
            Self::WorkloadEntry(it) => (Kind::WorkloadEntry, it.object.clone()),
            Self::Route(it) => (it.kind.kind(), it.object.clone()),
            Self::ReferenceGrant(it) => (Kind::ReferenceGrant, it.object.clone()),
            Self::FaultFilter(it) => (Kind::FaultFilter, it.object.clone()),
            Self::RateLimit(it) => (Kind::RateLimit, it.object.clone()),
            Self::BackendTls(it) => (Kind::BackendTls, it.object.clone()),
            Self::CaBundle(it) => (Kind::CaBundle, it.object.clone()),
            Self::MeshConfig(it) => (Kind::MeshConfig, it.object.clone()),
            Self::Telemetry(it) => (Kind::Telemetry, it.object.clone()),
        };
        Key { kind, object }
    }

    /// What of it is accepted with a caveat.
    pub fn notes(&self) -> &[Note] {
        match self {
            Self::RequestAuthentication(it) => &it.notes,
            Self::VirtualService(it) => &it.notes,
            Self::DestinationRule(it) => &it.notes,
            Self::ServiceEntry(it) => &it.notes,
            Self::WorkloadEntry(it) => &it.notes,
            Self::Route(it) => &it.notes,
            Self::BackendTls(it) => &it.notes,
            Self::MeshConfig(it) => &it.config.notes,
            Self::Telemetry(it) => &it.notes,
            _ => &[],
        }
    }
}

/// A resource and where it was stated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stated {
    /// Where.
    pub origin: Origin,
    /// What.
    pub resource: Resource,
}

/// Which object a rejected document was about, as far as it could be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// `kind`, when it is one Ebb acts on.
    pub kind: Option<Kind>,
    /// `metadata.namespace`; `default` when the document states none but could be read that far.
    pub namespace: Option<Arc<str>>,
    /// `metadata.name`.
    pub name: Option<Arc<str>>,
}

impl Subject {
    /// The object, when kind, namespace and name are all known.
    pub fn key(&self) -> Option<Key> {
        let (kind, namespace, name) = (self.kind?, self.namespace.clone()?, self.name.clone()?);
        Some(Key { kind, object: ObjectName { namespace, name } })
    }
}

/// A document that was turned away. It blocks no other document and never widens access.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Where it stands; the line is that of the fault when it is known, else of the document.
    pub origin: Origin,
    /// What it was about.
    pub subject: Subject,
    /// Path of the field at fault (`spec.rules[0].from`), empty when there is none.
    pub field: Arc<str>,
    /// What is wrong, in words.
    pub reason: Arc<str>,
    /// It is, or may be, a policy, or may bind something to a waypoint: until it can be read, everyone it may concern
    /// is denied, unless an earlier version is still in force.
    pub guards_access: bool,
    /// Services that it may ask TLS for: until it can be read they are sent nothing, unless an earlier version is still in
    /// force.
    pub may_secure: MayMean,
    /// Services about whose requests it may have somebody asked (`ExternalAuth`): until it can be read their requests are
    /// refused, unless an earlier version is still in force.
    pub may_ask: MayMean,
    /// An earlier version of what it stated stays in force.
    pub last_good: bool,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if let Some(kind) = self.subject.kind {
            write!(f, "{kind} ")?;
        }
        match (self.subject.namespace.as_deref(), &self.subject.name) {
            (_, None) => {}
            (Some(""), Some(name)) => write!(f, "{name} ")?,
            (namespace, Some(name)) => write!(f, "{}/{name} ", namespace.unwrap_or("?"))?,
        }
        if !self.field.is_empty() {
            write!(f, "{} ", self.field)?;
        }
        write!(f, "rejected: {}", self.reason)?;
        if self.last_good {
            f.write_str("; the last good version stays in force")?;
        }
        Ok(())
    }
}

/// One object no longer stated by one source file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// The file that stated it.
    pub file: Arc<str>,
    /// The object.
    pub key: Key,
}

/// What a source found since it last reported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Files read again: what was rejected from them before is forgotten.
    pub reread: Vec<Arc<str>>,
    /// Resources stated, new or changed or the same.
    pub upserts: Vec<Stated>,
    /// Resources no longer stated.
    pub removals: Vec<Removal>,
    /// Documents turned away.
    pub rejected: Vec<Rejected>,
    /// Names of endpoints outside, and the addresses found for them.
    pub resolved: Vec<(Arc<str>, Box<[IpAddr]>)>,
    /// It is a part of what a source found at first, and another follows: nothing is published before the last, which
    /// makes it a whole.
    pub more: bool,
}

impl Batch {
    /// Whether applying it would do nothing.
    pub fn is_empty(&self) -> bool {
        self.reread.is_empty()
            && self.upserts.is_empty()
            && self.removals.is_empty()
            && self.rejected.is_empty()
            && self.resolved.is_empty()
    }
}
