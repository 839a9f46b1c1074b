//! `gateway.networking.k8s.io` BackendTLSPolicy as stated, and the ConfigMaps that hold the authorities it names.
//!
//! Knows no services: whether a target is there, which of several policies decides and whether its authorities can be used
//! is found out where destinations are compiled.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::ObjectName;
use super::note::Note;

/// Most `targetRefs` (Gateway API).
pub const MAX_TARGETS: usize = 16;
/// Most `caCertificateRefs` (Gateway API).
pub const MAX_CA_REFS: usize = 8;
/// Most `subjectAltNames` (Gateway API).
pub const MAX_SUBJECT_ALT_NAMES: usize = 5;
/// Most `options` (Gateway API).
pub const MAX_OPTIONS: usize = 16;
/// Largest `ca.crt` of a ConfigMap, in bytes: twice what all authorities that browsers believe in take.
pub const MAX_CA_BYTES: usize = 512 * 1024;
/// The key of a ConfigMap that holds authorities.
pub const CA_KEY: &str = "ca.crt";

/// `gateway.networking.k8s.io` BackendTLSPolicy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendTlsPolicy {
    /// Namespace and name.
    pub object: ObjectName,
    /// `metadata.creationTimestamp`, seconds since 1970; `None` counts as oldest.
    pub created: Option<i64>,
    /// `spec.targetRefs` of kinds that we know, each of the own namespace.
    pub targets: Box<[TlsTarget]>,
    /// `spec.validation.hostname`: what is sent as SNI, and what the certificate is for unless `names` says otherwise.
    pub hostname: Arc<str>,
    /// `spec.validation`: whom to believe.
    pub authorities: Believed,
    /// `spec.validation.subjectAltNames`: DNS names and URIs of which the certificate has one; empty asks for `hostname`.
    pub names: Box<[Arc<str>]>,
    /// What is accepted with a caveat.
    pub notes: Box<[Note]>,
}

/// What a BackendTLSPolicy is attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsTarget {
    /// Of which kind.
    pub kind: TlsTargetKind,
    /// `name`.
    pub name: Arc<str>,
    /// `sectionName`: the name of a port; `None` is every port.
    pub section: Option<Arc<str>>,
}

/// Kinds that BackendTLSPolicies attach to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TlsTargetKind {
    /// `v1` Service.
    Service,
    /// `networking.istio.io` ServiceEntry.
    Entry,
}

/// Whom a BackendTLSPolicy believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Believed {
    /// `wellKnownCACertificates: System`: whom the waypoint's machine believes.
    System,
    /// `caCertificateRefs`, at least one.
    Refs(Box<[CaRef]>),
}

/// One of `caCertificateRefs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaRef {
    /// The key [`CA_KEY`] of a ConfigMap of the policy's namespace.
    ConfigMap(Arc<str>),
    /// A kind that nobody here reads: `group/Kind name`.
    Unknown(Arc<str>),
}

/// A `v1` ConfigMap with authorities; nothing else of it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaBundle {
    /// Namespace and name.
    pub object: ObjectName,
    /// `data["ca.crt"]`, or why it cannot be used.
    pub pem: Result<Pem, Arc<str>>,
}

/// Certificates as text. Cheap to clone and to hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pem {
    text: Arc<str>,
    /// Of the text; it may be long, and every request looks for a connection by it.
    digest: u64,
}

impl Pem {
    /// Of this text, which is not looked at.
    pub fn new(text: Arc<str>) -> Self {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        Self { digest: hasher.finish(), text }
    }

    /// The text.
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }
}

impl Hash for Pem {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.digest);
    }
}
