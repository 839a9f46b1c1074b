//! Istio's VirtualService as stated: which requests go where, and what happens to them on the way.
//!
//! Knows no services and no order between several VirtualServices: hosts stay the names that were written (a short one
//! is of the VirtualService's own namespace). What can be compiled by itself is: strings and regexes are ready to match,
//! percentages are exact shares, headers are checked names and values.

pub mod cors;
pub mod headers;
pub mod http;
pub mod layer4;
pub mod request;
pub mod resilience;
pub mod session;
pub mod share;
pub mod strings;

use std::sync::Arc;

pub use self::http::{HttpAction, HttpRoute};
pub use self::layer4::{TcpRoute, TlsRoute};
pub use self::share::Share;
pub use self::strings::StringMatch;
use super::ObjectName;
use super::gateway::Backend;
use super::note::Note;

/// `networking.istio.io` VirtualService.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualService {
    /// Namespace and name.
    pub object: ObjectName,
    /// `metadata.creationTimestamp`, seconds since 1970; `None` counts as oldest. Of several for one host the oldest
    /// comes first.
    pub created: Option<i64>,
    /// `spec.hosts`: names as written, perhaps short, perhaps `*.x` or `*`, or addresses. Empty for one that others
    /// delegate to.
    pub hosts: Box<[Arc<str>]>,
    /// `spec.gateways`: where it is in force.
    pub gateways: Gateways,
    /// `spec.exportTo`.
    pub visibility: Visibility,
    /// `spec.http`: the first that matches counts.
    pub http: Box<[HttpRoute]>,
    /// `spec.tls`: tried before `tcp`.
    pub tls: Box<[TlsRoute]>,
    /// `spec.tcp`.
    pub tcp: Box<[TcpRoute]>,
    /// What is accepted with a caveat.
    pub notes: Box<[Note]>,
}

/// Where routes are in force: `gateways` of a VirtualService or of one match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateways {
    /// Inside the mesh: `mesh` is listed, or nothing is.
    pub mesh: bool,
    /// At these gateways; a short name is of the VirtualService's namespace.
    pub named: Box<[ObjectName]>,
}

impl Default for Gateways {
    fn default() -> Self {
        Self { mesh: true, named: Box::default() }
    }
}

/// Who sees a resource (`exportTo`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum Visibility {
    /// `*`, or not stated.
    #[default]
    Everywhere,
    /// Clients in these namespaces; `.` is already the resource's own.
    Namespaces(Box<[Arc<str>]>),
}

impl Visibility {
    /// Whether a client in this namespace sees the resource.
    pub fn reaches(&self, namespace: &str) -> bool {
        match self {
            Self::Everywhere => true,
            Self::Namespaces(namespaces) => namespaces.iter().any(|it| **it == *namespace),
        }
    }
}

/// Where traffic goes (`Destination`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// `host`: as written, perhaps short. Empty where `backend` says what it is.
    pub host: Arc<str>,
    /// The `backendRef` of a route of the Gateway API.
    pub backend: Option<Backend>,
    /// `subset` of the host's DestinationRule.
    pub subset: Option<Arc<str>>,
    /// `port.number`; `None` is the service's only port, or the one that was called.
    pub port: Option<u16>,
}
