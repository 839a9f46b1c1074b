//! Istio's security kinds, kept as stated: what part of them a ztunnel can enforce is decided when they are compiled.
//!
//! Decoding refuses unknown fields and unknown words here, because a misspelt condition widens or narrows access.

use std::sync::Arc;

use http::HeaderName;
use ipnet::IpNet;

use super::path_template::PathTemplate;
use super::{Labels, ObjectName};
use crate::snapshot::model::StringMatch;

/// `spec.action` of an AuthorizationPolicy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the word of its name")]
pub enum PolicyAction {
    #[default]
    Allow,
    Deny,
    Audit,
    Custom,
}

/// `security.istio.io` AuthorizationPolicy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    /// Namespace and name.
    pub object: ObjectName,
    /// `metadata.creationTimestamp`, seconds since 1970; `None` counts as oldest.
    pub created: Option<i64>,
    /// `spec.selector.matchLabels`; empty selects every workload.
    pub selector: Labels,
    /// `spec.targetRefs` or `targetRef`: with any, the policy is for waypoints alone.
    pub targets: Box<[TargetRef]>,
    /// What it does.
    pub action: PolicyAction,
    /// `spec.provider.name`: whom action CUSTOM asks.
    pub provider: Option<Arc<str>>,
    /// Annotation `istio.io/dry-run: "true"`.
    pub dry_run: bool,
    /// Its rules.
    pub rules: Box<[Rule]>,
}

/// What a waypoint policy is attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields of Istio's PolicyTargetReference, as stated")]
pub struct TargetRef {
    pub group: Arc<str>,
    pub kind: Arc<str>,
    pub name: Arc<str>,
}

/// One rule: `from`, `to` and each of `when` must hold. With none of them it always holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// Any of these.
    pub from: Box<[Source]>,
    /// Any of these.
    pub to: Box<[Operation]>,
    /// All of these.
    pub when: Box<[Condition]>,
}

/// What one of a request's or connection's facts must be, and must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked<T> {
    /// One of these, when there is any.
    pub any: Box<[T]>,
    /// None of these.
    pub none: Box<[T]>,
}

impl<T> Default for Asked<T> {
    fn default() -> Self {
        Self { any: Box::default(), none: Box::default() }
    }
}

impl<T> Asked<T> {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.any.is_empty() && self.none.is_empty()
    }

    /// Whether the fact is as asked, of which `holds` tells each entry.
    pub fn fits(&self, holds: impl Fn(&T) -> bool) -> bool {
        (self.any.is_empty() || self.any.iter().any(&holds)) && !self.none.iter().any(&holds)
    }

    /// The same of other entries.
    #[must_use]
    pub fn map<U>(&self, change: impl Fn(&T) -> U) -> Asked<U> {
        Asked { any: self.any.iter().map(&change).collect(), none: self.none.iter().map(&change).collect() }
    }
}

/// Strings that are matched, and strings that must not.
pub type Strings = Asked<StringMatch>;
/// Addresses that are matched, and addresses that must not.
pub type Addresses = Asked<IpNet>;
/// Ports that are matched, and ports that must not.
pub type Ports = Asked<u16>;
/// Service accounts that are matched, and ones that must not.
pub type Accounts = Asked<ObjectName>;
/// Paths that are matched, and paths that must not.
pub type Paths = Asked<PathMatch>;
/// Principals of tokens that are matched, and ones that must not.
pub type RequestPrincipals = Asked<RequestPrincipal>;

/// `from.source`: every list that is not empty must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source {
    /// `principals`, `notPrincipals`: without `spiffe://`.
    pub principals: Strings,
    /// `namespaces`, `notNamespaces`.
    pub namespaces: Strings,
    /// `serviceAccounts`, `notServiceAccounts`.
    pub service_accounts: Accounts,
    /// `ipBlocks`, `notIpBlocks`.
    pub ip_blocks: Addresses,
    /// `requestPrincipals`, `notRequestPrincipals`: of a JWT, for waypoints.
    pub request_principals: RequestPrincipals,
    /// `remoteIpBlocks`, `notRemoteIpBlocks`: from X-Forwarded-For, for waypoints.
    pub remote_ip_blocks: Addresses,
}

/// `to.operation`: every list that is not empty must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Operation {
    /// `ports`, `notPorts`.
    pub ports: Ports,
    /// `hosts`, `notHosts`: for waypoints.
    pub hosts: Strings,
    /// `methods`, `notMethods`: for waypoints.
    pub methods: Strings,
    /// `paths`, `notPaths`: for waypoints.
    pub paths: Paths,
}

/// A path that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    /// As any other string.
    Text(StringMatch),
    /// With `{*}` or `{**}` in it.
    Template(PathTemplate),
}

/// `<issuer>/<subject>` of a token. Compared apart, as Istio does: an issuer is a URL itself, and joined to one string
/// `https://a/*` would fit the tokens of `https://a/other` too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestPrincipal {
    /// Claim `iss`.
    pub issuer: StringMatch,
    /// Claim `sub`.
    pub subject: StringMatch,
}

/// What `request.headers[...]` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderField {
    /// A header.
    Header(HeaderName),
    /// `:authority`, or `host`.
    Authority,
    /// `:method`.
    Method,
}

/// One `when` entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// `source.ip`.
    SourceIp(Addresses),
    /// `source.namespace`.
    SourceNamespace(Strings),
    /// `source.principal`.
    SourcePrincipal(Strings),
    /// `source.serviceAccount`.
    SourceAccount(Accounts),
    /// `destination.ip`.
    DestinationIp(Addresses),
    /// `destination.port`.
    DestinationPort(Ports),
    /// `remote.ip`, for waypoints.
    RemoteIp(Addresses),
    /// `connection.sni`, for waypoints.
    ServerName(Strings),
    /// `request.headers[field]`, for waypoints.
    Header {
        /// The header.
        field: HeaderField,
        /// Its value.
        values: Strings,
    },
    /// `request.auth.principal`, for waypoints.
    RequestPrincipal(RequestPrincipals),
    /// `request.auth.audiences`, for waypoints.
    Audiences(Strings),
    /// `request.auth.presenter`, for waypoints.
    Presenter(Strings),
    /// `request.auth.claims[a][b]`, for waypoints.
    Claim {
        /// The claim's name, and those of the objects inside it.
        path: Box<[Arc<str>]>,
        /// Its value, or one of its values.
        values: Strings,
    },
    /// `experimental.envoy.filters...`: what Envoy's filters say to each other, which nothing here does. Known to nobody,
    /// so it never lets anybody in and never keeps a DENY from firing.
    EnvoyFilter(Arc<str>),
}

impl Source {
    /// Whether any of it is known of HTTP requests alone.
    pub fn needs_http(&self) -> bool {
        !self.request_principals.is_empty()
    }

    /// Whether any of it is known to waypoints alone.
    pub fn needs_waypoint(&self) -> bool {
        self.needs_http() || !self.remote_ip_blocks.is_empty()
    }
}

impl Operation {
    /// Whether any of it is known of HTTP requests alone.
    pub fn needs_http(&self) -> bool {
        !(self.hosts.is_empty() && self.methods.is_empty() && self.paths.is_empty())
    }
}

impl Condition {
    /// Whether it is known of HTTP requests alone.
    pub fn needs_http(&self) -> bool {
        match self {
            Self::Header { .. }
            | Self::RequestPrincipal(_)
            | Self::Audiences(_)
            | Self::Presenter(_)
            | Self::Claim { .. }
            | Self::EnvoyFilter(_) => true,
            Self::SourceIp(_)
            | Self::SourceNamespace(_)
            | Self::SourcePrincipal(_)
            | Self::SourceAccount(_)
            | Self::DestinationIp(_)
            | Self::DestinationPort(_)
            | Self::RemoteIp(_)
            | Self::ServerName(_) => false,
        }
    }

    /// Whether it is known to waypoints alone.
    pub fn needs_waypoint(&self) -> bool {
        self.needs_http() || matches!(self, Self::RemoteIp(_) | Self::ServerName(_))
    }
}

/// `mtls.mode` of a PeerAuthentication.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StatedMode {
    /// `UNSET` or not stated: the next wider object decides.
    #[default]
    Unset,
    /// `PERMISSIVE`, and `DISABLE`, which ambient mode treats alike.
    Permissive,
    /// `STRICT`.
    Strict,
}

/// `security.istio.io` PeerAuthentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAuthentication {
    /// Namespace and name.
    pub object: ObjectName,
    /// `metadata.creationTimestamp`, seconds since 1970; `None` counts as oldest.
    pub created: Option<i64>,
    /// `spec.selector.matchLabels`; empty selects every workload.
    pub selector: Labels,
    /// `spec.mtls.mode`.
    pub mode: StatedMode,
    /// `spec.portLevelMtls`, by port of the pod.
    pub ports: Box<[(u16, StatedMode)]>,
}
