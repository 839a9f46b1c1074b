//! Routes of the Gateway API as stated: what they attach to, in which order their rules are asked, where they lead.
//!
//! What a rule matches and what becomes of a request is said in the words of `routing`, the same that a VirtualService is
//! read into; here is what a VirtualService has no word for. Knows no services: whether a parent or a backend is there, and
//! whether a backend of another namespace may be used, is found out where routes are compiled.

use std::sync::Arc;

use super::note::Note;
use super::routing::resilience::Fault;
use super::routing::{HttpRoute, StringMatch, TcpRoute, TlsRoute};
use super::{Kind, ObjectName};

/// The group of the Gateway API.
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// The group of what Ebb adds to it.
pub const EBB_GROUP: &str = "gateway.ebb.dev";

/// Which kind of route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteKind {
    /// `GRPCRoute`.
    Grpc,
    /// `HTTPRoute`.
    Http,
    /// `TLSRoute`.
    Tls,
    /// `TCPRoute`.
    Tcp,
}

impl RouteKind {
    /// All of them; their places here are their places in stores.
    pub const ALL: [Self; 4] = [Self::Grpc, Self::Http, Self::Tls, Self::Tcp];

    /// The kind of resource.
    pub fn kind(self) -> Kind {
        match self {
            Self::Grpc => Kind::GrpcRoute,
            Self::Http => Kind::HttpRoute,
            Self::Tls => Kind::TlsRoute,
            Self::Tcp => Kind::TcpRoute,
        }
    }

    /// The kind of route that a kind of resource is, if it is one.
    pub fn of(kind: Kind) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.kind() == kind)
    }

    /// Whether it routes requests rather than connections.
    pub fn routes_requests(self) -> bool {
        matches!(self, Self::Grpc | Self::Http)
    }
}

/// `gateway.networking.k8s.io` HTTPRoute, GRPCRoute, TLSRoute or TCPRoute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayRoute {
    /// Which.
    pub kind: RouteKind,
    /// Namespace and name.
    pub object: ObjectName,
    /// `metadata.creationTimestamp`, seconds since 1970; `None` counts as oldest.
    pub created: Option<i64>,
    /// `spec.parentRefs` of kinds that we know.
    pub parents: Box<[Parent]>,
    /// `spec.hostnames` of routes of requests; they count where the parent is a Gateway. Those of a TLSRoute are
    /// conditions of `tls`.
    pub hostnames: Box<[Hostname]>,
    /// `spec.rules` of an HTTPRoute or GRPCRoute; each has at least one match.
    pub http: Box<[HttpRoute]>,
    /// The rank of each match of each of `http`.
    pub ranks: Box<[Box<[Rank]>]>,
    /// `spec.rules` of a TLSRoute, with a match for each of its hostnames.
    pub tls: Box<[TlsRoute]>,
    /// `spec.rules` of a TCPRoute.
    pub tcp: Box<[TcpRoute]>,
    /// What is accepted with a caveat.
    pub notes: Box<[Note]>,
}

/// What a route attaches to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// Of which kind.
    pub kind: ParentKind,
    /// Namespace and name.
    pub object: ObjectName,
    /// `sectionName`: the name of a port of the service, or of a listener of the Gateway.
    pub section: Option<Arc<str>>,
    /// `port` of the service, or of the Gateway's listener.
    pub port: Option<u16>,
}

/// Kinds that routes attach to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParentKind {
    /// `v1` Service (GAMMA, GEP-1426).
    Service,
    /// `networking.istio.io` ServiceEntry.
    Entry,
    /// `gateway.networking.k8s.io` Gateway: everything behind a waypoint.
    Gateway,
}

/// A host that requests to a Gateway have to be for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hostname {
    /// As written: a name, or `*.x`.
    pub name: Arc<str>,
    /// The same as a condition on the authority, with a port or without.
    pub authority: StringMatch,
}

/// How particular a match is: of several that hold, the greatest decides (the order that `HTTPRouteRule.matches` and
/// `GRPCRouteRule.matches` state).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// What is asked of the path.
    pub path: PathRank,
    /// Characters of the path asked for; of the service, in a GRPCRoute.
    pub length: usize,
    /// 1 where a method is asked for; its characters, in a GRPCRoute.
    pub method: usize,
    /// Headers asked for.
    pub headers: usize,
    /// Parameters of the query asked for.
    pub query: usize,
}

/// What a match asks of a path, the least first. The Gateway API leaves the place of regexes open; Istio has them here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathRank {
    /// Nothing, or a regex.
    #[default]
    Regex,
    /// Its first segments.
    Prefix,
    /// All of it.
    Exact,
}

/// What a `backendRef` names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Backend {
    /// A `v1` Service.
    Service(ObjectName),
    /// Istio's `Hostname`: whatever service has this name, of Kubernetes or of a ServiceEntry.
    Hostname(Arc<str>),
    /// A kind that nobody here leads to: `group/Kind name`.
    Unknown(Arc<str>),
}

/// `gateway.networking.k8s.io` ReferenceGrant: who may lead to objects of its namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceGrant {
    /// Namespace and name.
    pub object: ObjectName,
    /// `spec.from`: these may.
    pub from: Box<[Granted]>,
    /// `spec.to`: to these.
    pub to: Box<[GrantedTo]>,
}

/// One of `spec.from`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// `group`.
    pub group: Arc<str>,
    /// `kind`.
    pub kind: Arc<str>,
    /// `namespace`.
    pub namespace: Arc<str>,
}

/// One of `spec.to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantedTo {
    /// `group`, empty for Kubernetes' core.
    pub group: Arc<str>,
    /// `kind`.
    pub kind: Arc<str>,
    /// `name`; `None` is every object of the kind.
    pub name: Option<Arc<str>>,
}

impl ReferenceGrant {
    /// Whether routes of a kind and namespace may lead to a service of the grant's namespace.
    pub fn permits(&self, kind: RouteKind, namespace: &str, service: &str) -> bool {
        let from = |it: &Granted| {
            *it.group == *GATEWAY_GROUP && *it.kind == *kind.kind().name() && *it.namespace == *namespace
        };
        let to = |it: &GrantedTo| {
            it.group.is_empty()
                && *it.kind == *"Service"
                && it.name.as_ref().is_none_or(|name| **name == *service)
        };
        self.from.iter().any(from) && self.to.iter().any(to)
    }
}

/// `gateway.ebb.dev` HTTPFaultFilter: what a rule of a route injects that names it by `extensionRef`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultFilter {
    /// Namespace and name.
    pub object: ObjectName,
    /// `spec`, as `fault` of a VirtualService.
    pub fault: Fault,
}
