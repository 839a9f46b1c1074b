//! Istio's security kinds, kept as stated: what part of them a ztunnel can enforce is decided when they are compiled.
//!
//! Decoding refuses unknown fields and unknown words here, because a misspelt condition widens or narrows access.

use std::sync::Arc;

use ipnet::IpNet;

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

/// Strings that are matched, and strings that must not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Strings {
    /// One of these, when there is any.
    pub any: Box<[StringMatch]>,
    /// None of these.
    pub none: Box<[StringMatch]>,
}

impl Strings {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.any.is_empty() && self.none.is_empty()
    }
}

/// Addresses that are matched, and addresses that must not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// In one of these, when there is any.
    pub any: Box<[IpNet]>,
    /// In none of these.
    pub none: Box<[IpNet]>,
}

impl Addresses {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.any.is_empty() && self.none.is_empty()
    }
}

/// Ports that are matched, and ports that must not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ports {
    /// One of these, when there is any.
    pub any: Box<[u16]>,
    /// None of these.
    pub none: Box<[u16]>,
}

impl Ports {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.any.is_empty() && self.none.is_empty()
    }
}

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
    pub request_principals: Strings,
    /// `remoteIpBlocks`, `notRemoteIpBlocks`: from X-Forwarded-For, for waypoints.
    pub remote_ip_blocks: Addresses,
}

/// Service accounts that are matched, and ones that must not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    /// One of these, when there is any.
    pub any: Box<[ObjectName]>,
    /// None of these.
    pub none: Box<[ObjectName]>,
}

impl Accounts {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.any.is_empty() && self.none.is_empty()
    }
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
    pub paths: Strings,
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
    /// Any condition that needs HTTP or TLS in the open: its key and strings, for waypoints.
    Layer7 {
        /// `key`.
        key: Arc<str>,
        /// `values`, `notValues`.
        values: Strings,
    },
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
