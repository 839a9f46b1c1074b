//! Waypoints as stated: which Gateways are some, who may use each, and which one a service, a pod or a namespace asks for.
//!
//! Knows neither addresses nor routes of a waypoint. Sources: Istio's API labels `istio.io/use-waypoint`,
//! `istio.io/use-waypoint-namespace` and `istio.io/waypoint-for`; the Gateway API's Gateway.

use std::sync::Arc;

use super::{Labels, ObjectName};

/// Label that binds a namespace, Service, ServiceEntry, WorkloadEntry or Pod to a waypoint.
pub const USE_WAYPOINT: &str = "istio.io/use-waypoint";
/// The label that makes a pod, or a Service, one of the Gateway of that name in its own namespace.
pub const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

/// The port that a waypoint's pods, and all others of the mesh, take tunnels on.
pub const HBONE_PORT: u16 = 15008;

/// `spec.gatewayClassName` of the Gateways that are waypoints: Istio's word, and ours for where istiod takes its own.
const WAYPOINT_CLASSES: [&str; 2] = ["istio-waypoint", "ebb-waypoint"];

/// `gateway.networking.k8s.io` Gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Namespace and name.
    pub object: ObjectName,
    /// What it is as a waypoint; `None` where its class is for something else.
    pub waypoint: Option<Waypoint>,
}

/// A Gateway as a waypoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waypoint {
    /// `spec.gatewayClassName`.
    pub class: Arc<str>,
    /// Label `istio.io/waypoint-for`.
    pub stands_for: WaypointFor,
    /// `allowedRoutes.namespaces` of its listener.
    pub users: Users,
}

/// Whose objects a waypoint may stand before (Gateway API `allowedRoutes.namespaces.from`, which Istio reads so).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Users {
    /// `Same`, and what is meant when nothing is said: those of its own namespace.
    Same,
    /// `All`: anybody's.
    All,
    /// `Selector`: those of namespaces with these labels, its own among them only if it has them too.
    Selector(Labels),
}

impl Waypoint {
    /// Whether Gateways of this class are waypoints.
    pub fn is_class(name: &str) -> bool {
        WAYPOINT_CLASSES.contains(&name)
    }
}

/// Which traffic a waypoint is to be in the way of (label `istio.io/waypoint-for`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaypointFor {
    /// Calls to services; what a Gateway without the label stands for.
    Service,
    /// Calls to pods by their own addresses.
    Workload,
    /// Both; also what is assumed where it cannot be known.
    All,
    /// Neither.
    None,
}

impl WaypointFor {
    /// What a Gateway's labels say. A word we do not know may mean either, so it counts as both.
    pub fn of(labels: &Labels) -> Self {
        match labels.get("istio.io/waypoint-for").map(|it| &**it) {
            None | Some("service" | "") => Self::Service,
            Some("workload") => Self::Workload,
            Some("none") => Self::None,
            Some(_) => Self::All,
        }
    }

    /// Whether calls to services are to pass it.
    pub fn services(self) -> bool {
        matches!(self, Self::Service | Self::All)
    }

    /// Whether calls to pods are to pass it.
    pub fn workloads(self) -> bool {
        matches!(self, Self::Workload | Self::All)
    }
}

/// What labels say of the waypoint to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UseWaypoint {
    /// `none`: none, whatever the namespace says.
    OptOut,
    /// This Gateway.
    Gateway(ObjectName),
}

impl UseWaypoint {
    /// What the labels of an object in `namespace` say; `None` when nothing.
    pub fn of(labels: &Labels, namespace: &Arc<str>) -> Option<Self> {
        let name = labels.get(USE_WAYPOINT).filter(|it| !it.is_empty())?;
        if **name == *"none" {
            return Some(Self::OptOut);
        }
        let elsewhere = labels.get("istio.io/use-waypoint-namespace").filter(|it| !it.is_empty());
        let namespace = elsewhere.unwrap_or(namespace).clone();
        Some(Self::Gateway(ObjectName { namespace, name: name.clone() }))
    }

    /// The waypoint of an object that says `own` in a namespace that says `inherited`: its own word counts first.
    pub fn resolve(own: Option<&Self>, inherited: Option<Self>) -> Option<ObjectName> {
        match own.cloned().or(inherited)? {
            Self::OptOut => None,
            Self::Gateway(gateway) => Some(gateway),
        }
    }
}

/// Whether an object with these labels belongs to a Gateway itself: its own namespace's word is not meant for it, or a
/// waypoint would be behind itself.
pub fn is_of_gateway(labels: &Labels) -> bool {
    labels.get(GATEWAY_NAME).is_some()
}
