//! Turns documents into typed resources, or says where and why not. Pure: bytes in, values out.
//!
//! The surprising thing: a document that cannot be read still says something. When it may be a policy, the
//! rejection says so, and whoever it may concern is denied until it can be read.

pub(crate) mod authentication;
pub mod check;
pub(crate) mod destination;
pub(crate) mod entry;
pub(crate) mod gateway;
pub(crate) mod istio;
pub(crate) mod manifest;
pub(crate) mod mesh;
pub(crate) mod peer;
pub(crate) mod policy;
pub(crate) mod routing;
pub(crate) mod telemetry;
pub(crate) mod text;
pub mod yaml;

use std::sync::Arc;

use super::{Origin, Rejected, Stated};

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Path of the field, `spec.ports[0].port`.
    pub(crate) field: String,
    /// What is wrong, in words.
    pub(crate) reason: String,
    /// Where, in lines of the document, from 1; 0 when that is not known.
    pub(crate) line: u32,
}

impl Fault {
    pub(crate) fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into(), line: 0 }
    }

    /// The same on a line, unless it knows its own.
    pub(crate) fn on(self, line: u32) -> Self {
        let line = if self.line == 0 { line } else { self.line };
        Self { line, ..self }
    }
}

/// A document of a kind Ebb does not act on. Not an error: manifests hold many kinds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Where it stands.
    pub origin: Origin,
    /// `apiVersion/kind` as stated.
    pub kind: Arc<str>,
}

/// API groups of which every object is expected to change what a mesh does.
const OF_THE_MESH: [&str; 6] = [
    "networking.istio.io/",
    "security.istio.io/",
    "telemetry.istio.io/",
    "extensions.istio.io/",
    "install.istio.io/",
    "gateway.networking.k8s.io/",
];
/// One of a group of the mesh that says which Gateways there may be, and nothing of traffic.
const GATEWAY_CLASS: &str = "GatewayClass";

impl Skipped {
    /// Whether it was meant to change what the mesh does, of which nothing is in force.
    pub fn is_of_the_mesh(&self) -> bool {
        OF_THE_MESH.iter().any(|group| self.kind.starts_with(group)) && !self.kind.ends_with(GATEWAY_CLASS)
    }
}

/// All that one file says.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// Resources, in the order of their documents.
    pub stated: Vec<Stated>,
    /// Documents turned away.
    pub rejected: Vec<Rejected>,
    /// Documents of other kinds.
    pub skipped: Vec<Skipped>,
    /// The file itself, when it states no manifests.
    pub foreign: Vec<Foreign>,
}

/// A file that is passed over because it states no manifests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// Its name.
    pub file: Arc<str>,
    /// How that shows.
    pub why: &'static str,
}
