//! What the mesh calls, or is made of, beside Kubernetes' services and pods: Istio's ServiceEntry and WorkloadEntry.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::ObjectName;
use super::core::Labels;
use super::note::Note;
use super::routing::Visibility;
use super::waypoint::UseWaypoint;

/// `networking.istio.io` ServiceEntry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceEntry {
    /// Namespace and name.
    pub object: ObjectName,
    /// `spec.hosts` that are names of their own; each is a service.
    pub hosts: Box<[Arc<str>]>,
    /// `spec.addresses` that are single ones: by these it is called.
    pub addresses: Box<[IpAddr]>,
    /// `spec.ports` of TCP.
    pub ports: Box<[EntryPort]>,
    /// `spec.resolution`.
    pub resolution: Resolution,
    /// `spec.endpoints`.
    pub endpoints: Box<[EntryEndpoint]>,
    /// `spec.workloadSelector`: pods and WorkloadEntries of its namespace; empty selects nothing.
    pub selector: Labels,
    /// `spec.exportTo`: whose routes may lead to it.
    pub visibility: Visibility,
    /// `spec.subjectAltNames`, of which a backend's certificate has to have one.
    pub subject_alt_names: Box<[Arc<str>]>,
    /// Labels `istio.io/use-waypoint` and `istio.io/use-waypoint-namespace`.
    pub use_waypoint: Option<UseWaypoint>,
    /// What is accepted with a caveat.
    pub notes: Box<[Note]>,
}

/// One of `spec.ports`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryPort {
    /// `number`.
    pub number: u16,
    /// `name`.
    pub name: Arc<str>,
    /// `protocol`, in lower case.
    pub protocol: Arc<str>,
    /// `targetPort`; the same number when not stated.
    pub target: u16,
}

/// `spec.resolution`: where the endpoints' addresses come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Resolution {
    /// `NONE`: the address that the caller called.
    #[default]
    None,
    /// `STATIC`: they are stated.
    Static,
    /// `DNS` and `DNS_ROUND_ROBIN`: looked up, again and again.
    Dns,
}

/// Where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whereabouts {
    /// An address.
    Ip(IpAddr),
    /// A name to look up.
    Name(Arc<str>),
}

/// One endpoint (Istio `WorkloadEntry`'s spec).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryEndpoint {
    /// `address`.
    pub at: Whereabouts,
    /// `ports`: by name of a service port, where the endpoint serves it.
    pub ports: Box<[(Arc<str>, u16)]>,
    /// `labels`.
    pub labels: Labels,
    /// `locality`: region, zone, subzone; empty is unknown.
    pub locality: [Arc<str>; 3],
    /// `weight` beside its neighbours; 1 when not stated.
    pub weight: NonZeroU32,
    /// `serviceAccount`; `default` when not stated.
    pub service_account: Arc<str>,
}

impl EntryEndpoint {
    /// Where it serves a port of its service.
    pub fn target(&self, port: &EntryPort) -> u16 {
        self.ports.iter().find(|(name, _)| *name == port.name).map_or(port.target, |(_, number)| *number)
    }
}

/// `networking.istio.io` WorkloadEntry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadEntry {
    /// Namespace and name.
    pub object: ObjectName,
    /// What it states.
    pub endpoint: EntryEndpoint,
    /// What is accepted with a caveat.
    pub notes: Box<[Note]>,
}
