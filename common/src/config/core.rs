//! Kubernetes' own kinds, cut down to the fields Ebb acts on.
//!
//! Unknown fields are no business of ours here: an API server may add some at any release.

use std::net::IpAddr;
use std::sync::Arc;

use super::ObjectName;
use super::names::Names;
use super::waypoint::UseWaypoint;

/// Labels, sorted by key and without duplicates; shared between resources that have the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels(Arc<[(Arc<str>, Arc<str>)]>);

impl Default for Labels {
    fn default() -> Self {
        Self(Arc::from([]))
    }
}

impl Labels {
    /// Takes key and value pairs in any order; of two with one key the later counts.
    pub fn new(pairs: Vec<(Arc<str>, Arc<str>)>) -> Self {
        Self(in_order(pairs).into())
    }

    /// The same, held once for all who have equal ones.
    pub fn shared(pairs: Vec<(Arc<str>, Arc<str>)>, names: &mut Names) -> Self {
        Self(names.share_pairs(&in_order(pairs)))
    }

    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&Arc<str>> {
        let at = self.0.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        self.0.get(at).map(|(_, value)| value)
    }

    /// Every pair, by key.
    pub fn iter(&self) -> std::slice::Iter<'_, (Arc<str>, Arc<str>)> {
        self.0.iter()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether each of these is also in `other`: how a selector picks (Kubernetes `matchLabels`).
    pub fn all_in(&self, other: &Self) -> bool {
        self.iter().all(|(key, value)| other.get(key) == Some(value))
    }
}

fn in_order(mut pairs: Vec<(Arc<str>, Arc<str>)>) -> Vec<(Arc<str>, Arc<str>)> {
    pairs.reverse();
    pairs.sort_by(|a, b| a.0.cmp(&b.0));
    pairs.dedup_by(|a, b| a.0 == b.0);
    pairs
}

/// `v1` Namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespace {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// Annotation `networking.istio.io/traffic-distribution`, which its services inherit.
    pub traffic_distribution: Option<Arc<str>>,
}

/// `v1` Node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.labels`, of which the topology counts.
    pub labels: Labels,
    /// From where it connects to its pods: `status.addresses` that are IP addresses, and the first address of each of
    /// `spec.podCIDRs`, which most CNI plugins give to the node's end of its pods' network.
    pub addresses: Arc<[IpAddr]>,
}

/// `v1` ServiceAccount. Stated for completeness: a pod's own `serviceAccountName` is what gives it its identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Namespace and name.
    pub object: ObjectName,
}

/// `status.phase` of a pod, as far as it matters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Phase {
    /// `Running`, or not stated.
    #[default]
    Running,
    /// `Pending` or `Unknown`: exists, is not ready.
    Waiting,
    /// `Succeeded` or `Failed`: its address may already be another pod's.
    Over,
}

/// The controller that owns a pod (`metadata.ownerReferences`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// `kind`.
    pub kind: Arc<str>,
    /// `name`.
    pub name: Arc<str>,
}

/// `v1` Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Namespace and name.
    pub object: ObjectName,
    /// `metadata.uid`; empty when not stated.
    pub uid: Arc<str>,
    /// `metadata.creationTimestamp`, seconds since 1970; `None` counts as oldest.
    pub created: Option<i64>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// The owning controller.
    pub owner: Option<Owner>,
    /// Annotation `ebb.dev/netns`: path of its network namespace.
    pub netns: Option<Arc<str>>,
    /// Annotation `ambient.istio.io/bypass-inbound-capture: "true"`.
    pub bypass_inbound: bool,
    /// Annotation `sidecar.istio.io/status` is there: the pod has a proxy of its own.
    pub has_sidecar: bool,
    /// `spec.nodeName`.
    pub node: Arc<str>,
    /// `spec.serviceAccountName`, `default` when not stated.
    pub service_account: Arc<str>,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// Named TCP ports of its containers.
    pub ports: Arc<[(Arc<str>, u16)]>,
    /// Ports that its containers' probes and life cycle hooks name, sorted.
    pub probed: Arc<[u16]>,
    /// `status.phase`.
    pub phase: Phase,
    /// Condition `Ready`, or running when no such condition is stated; never while it is being deleted.
    pub ready: bool,
    /// `status.podIPs`, or `status.podIP`; canonical.
    pub addresses: Arc<[IpAddr]>,
}

/// Where a service port leads in a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    /// A number.
    Number(u16),
    /// The name of a container port.
    Name(Arc<str>),
}

/// One TCP port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// `name`, empty when there is none.
    pub name: Arc<str>,
    /// `port`.
    pub port: u16,
    /// `targetPort`; the same port when not stated.
    pub target: TargetPort,
    /// `appProtocol`, empty when there is none.
    pub app_protocol: Arc<str>,
}

/// `v1` Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub object: ObjectName,
    /// `spec.type: ExternalName`: an alias in DNS, nothing to connect to.
    pub external_name: bool,
    /// `spec.clusterIPs` and the addresses of its load balancer; empty when headless.
    pub vips: Box<[IpAddr]>,
    /// TCP ports.
    pub ports: Box<[ServicePort]>,
    /// `spec.selector`; empty selects nothing.
    pub selector: Labels,
    /// `spec.publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// `spec.internalTrafficPolicy: Local`.
    pub local_only: bool,
    /// Annotation `networking.istio.io/traffic-distribution`, or `spec.trafficDistribution`.
    pub traffic_distribution: Option<Arc<str>>,
    /// Labels `istio.io/use-waypoint` and `istio.io/use-waypoint-namespace`.
    pub use_waypoint: Option<UseWaypoint>,
    /// Label `gateway.networking.k8s.io/gateway-name` is there: it stands before a Gateway.
    pub is_of_gateway: bool,
}

/// One endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// `addresses`, canonical.
    pub addresses: Box<[IpAddr]>,
    /// `conditions.ready`, true when not stated.
    pub ready: bool,
    /// Name of the pod behind it (`targetRef`), in the slice's namespace.
    pub pod: Option<Arc<str>>,
}

/// `discovery.k8s.io/v1` EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub object: ObjectName,
    /// Label `kubernetes.io/service-name`; `None` belongs to no service.
    pub service: Option<Arc<str>>,
    /// TCP ports by name (empty for the unnamed one).
    pub ports: Box<[(Arc<str>, u16)]>,
    /// The endpoints.
    pub endpoints: Box<[SliceEndpoint]>,
}
