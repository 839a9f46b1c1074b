//! The shape of Kubernetes' own manifests, and the way from it to typed resources.
//!
//! Lists and mappings may be `null`, as the API server allows; the typed resource then has an empty one.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;
use time::format_description::well_known::Rfc3339;

use super::text::{Annotations, Number, NumberOrText, Pairs, Text};
use super::{Fault, check};
use crate::config::core::{
    EndpointSlice, Labels, Namespace, Node, Owner, Phase, Pod, Service, ServiceAccount, ServicePort,
    SliceEndpoint, TargetPort,
};
use crate::config::names::Names;
use crate::config::{ObjectName, Resource};

type List<T> = Option<Vec<T>>;
type NamedPorts = Arc<[(Arc<str>, u16)]>;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
pub(crate) struct Metadata<'a> {
    pub(crate) name: Option<Text<'a>>,
    pub(crate) namespace: Option<Text<'a>>,
    uid: Option<Text<'a>>,
    creation_timestamp: Option<Text<'a>>,
    deletion_timestamp: Option<Text<'a>>,
    labels: Option<Pairs<'a>>,
    annotations: Option<Annotations<'a>>,
    owner_references: List<OwnerReference<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct OwnerReference<'a> {
    kind: Text<'a>,
    name: Text<'a>,
    #[serde(default)]
    controller: Option<bool>,
}

/// Checked parts of the metadata that every kind has.
pub(crate) struct Named<'a> {
    pub(crate) object: ObjectName,
    pub(crate) created: Option<i64>,
    pub(crate) annotations: Annotations<'a>,
}

/// Which alphabet a kind's name is of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum NameRule {
    /// Cluster-wide, one label.
    ClusterLabel,
    /// Cluster-wide, a DNS name.
    ClusterName,
    /// In a namespace, one label.
    Label,
    /// In a namespace, a DNS name.
    Name,
}

impl<'a> Metadata<'a> {
    /// Checks name, namespace and time.
    pub(crate) fn named(&mut self, rule: NameRule, names: &mut Names) -> Result<Named<'a>, Fault> {
        let name = self.name.as_deref().unwrap_or_default();
        let fits = match rule {
            NameRule::ClusterLabel | NameRule::Label => check::is_dns_label(name),
            NameRule::ClusterName | NameRule::Name => check::is_dns_name(name),
        };
        if !fits {
            return Err(Fault::new("metadata.name", format!("{name:?} is not a valid name")));
        }
        let namespace = match rule {
            NameRule::ClusterLabel | NameRule::ClusterName => "",
            NameRule::Label | NameRule::Name => self.namespace.as_deref().unwrap_or("default"),
        };
        if !namespace.is_empty() && !check::is_dns_label(namespace)
            || namespace.is_empty() && matches!(rule, NameRule::Label | NameRule::Name)
        {
            return Err(Fault::new("metadata.namespace", format!("{namespace:?} is not a valid namespace")));
        }
        let created = self.creation_timestamp.as_deref().map(timestamp).transpose()?;
        Ok(Named {
            object: ObjectName { namespace: names.share(namespace), name: names.share(name) },
            created,
            annotations: self.annotations.take().unwrap_or_default(),
        })
    }

    fn labels(&self, names: &mut Names) -> Result<Labels, Fault> {
        self.labels.as_ref().map_or_else(|| Ok(Labels::default()), |it| labels(it, "metadata.labels", names))
    }

    fn owner(&self, names: &mut Names) -> Option<Owner> {
        let owners = self.owner_references.as_deref().unwrap_or_default();
        let owner = owners.iter().find(|it| it.controller == Some(true)).or_else(|| owners.first())?;
        Some(Owner { kind: names.share(&owner.kind), name: names.share(&owner.name) })
    }
}

/// Checks labels or a selector.
pub(crate) fn labels(pairs: &Pairs<'_>, field: &str, names: &mut Names) -> Result<Labels, Fault> {
    let mut shared = Vec::with_capacity(pairs.0.len());
    for (key, value) in &pairs.0 {
        if !check::is_label_value(value) {
            return Err(Fault::new(format!("{field}.{}", &**key), "not a valid label value"));
        }
        shared.push((names.share(key), names.share(value)));
    }
    Ok(Labels::new(shared))
}

fn timestamp(text: &str) -> Result<i64, Fault> {
    time::OffsetDateTime::parse(text, &Rfc3339)
        .map(time::OffsetDateTime::unix_timestamp)
        .map_err(|_| Fault::new("metadata.creationTimestamp", format!("{text:?} is not an RFC 3339 time")))
}

fn addresses<'a>(texts: impl IntoIterator<Item = &'a str>, field: &str) -> Result<Box<[IpAddr]>, Fault> {
    let mut found = Vec::new();
    for text in texts {
        let address = check::address(text).map_err(|reason| Fault::new(field, reason))?;
        if !found.contains(&address) {
            found.push(address);
        }
    }
    Ok(found.into())
}

fn is_tcp(protocol: Option<&Text<'_>>) -> bool {
    protocol.is_none_or(|it| &**it == "TCP" || it.is_empty())
}

/// A kind's manifest, which can say what it means.
pub(crate) trait Manifest {
    /// The resource it states.
    fn read(self, names: &mut Names) -> Result<Resource, Fault>;
}

/// Metadata and nothing else.
#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub(crate) struct NamespaceManifest<'a> {
    #[serde(default)]
    metadata: Metadata<'a>,
}

impl Manifest for NamespaceManifest<'_> {
    fn read(mut self, names: &mut Names) -> Result<Resource, Fault> {
        let named = self.metadata.named(NameRule::ClusterLabel, names)?;
        let labels = self.metadata.labels(names)?;
        let traffic_distribution = named.annotations.traffic_distribution.map(|it| names.share(&it));
        Ok(Resource::Namespace(Arc::new(Namespace { name: named.object.name, labels, traffic_distribution })))
    }
}

#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub(crate) struct NodeManifest<'a> {
    #[serde(default)]
    metadata: Metadata<'a>,
}

impl Manifest for NodeManifest<'_> {
    fn read(mut self, names: &mut Names) -> Result<Resource, Fault> {
        let named = self.metadata.named(NameRule::ClusterName, names)?;
        let labels = self.metadata.labels(names)?;
        Ok(Resource::Node(Arc::new(Node { name: named.object.name, labels })))
    }
}

#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub(crate) struct ServiceAccountManifest<'a> {
    #[serde(default)]
    metadata: Metadata<'a>,
}

impl Manifest for ServiceAccountManifest<'_> {
    fn read(mut self, names: &mut Names) -> Result<Resource, Fault> {
        let object = self.metadata.named(NameRule::Name, names)?.object;
        Ok(Resource::ServiceAccount(Arc::new(ServiceAccount { object })))
    }
}

#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub(crate) struct PodManifest<'a> {
    #[serde(default)]
    metadata: Metadata<'a>,
    #[serde(default)]
    spec: Option<PodSpec<'a>>,
    #[serde(default)]
    status: Option<PodStatus<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct PodSpec<'a> {
    node_name: Option<Text<'a>>,
    service_account_name: Option<Text<'a>>,
    host_network: Option<bool>,
    containers: List<Container<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Container<'a> {
    ports: List<ContainerPort<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct ContainerPort<'a> {
    name: Option<Text<'a>>,
    container_port: Number,
    protocol: Option<Text<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct PodStatus<'a> {
    phase: Option<Text<'a>>,
    #[serde(rename = "podIP")]
    pod_ip: Option<Text<'a>>,
    #[serde(rename = "podIPs")]
    pod_ips: List<PodIp<'a>>,
    conditions: List<PodCondition<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct PodIp<'a> {
    ip: Text<'a>,
}

#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct PodCondition<'a> {
    #[serde(rename = "type")]
    kind: Text<'a>,
    status: Text<'a>,
}

impl Manifest for PodManifest<'_> {
    fn read(mut self, names: &mut Names) -> Result<Resource, Fault> {
        let named = self.metadata.named(NameRule::Name, names)?;
        let labels = self.metadata.labels(names)?;
        let spec = self.spec.unwrap_or_default();
        let status = self.status.unwrap_or_default();
        let phase = status.phase();
        let deleting = self.metadata.deletion_timestamp.is_some();
        let node = spec.node_name.as_deref().unwrap_or_default();
        if !node.is_empty() && !check::is_dns_name(node) {
            return Err(Fault::new("spec.nodeName", format!("{node:?} is not a valid name")));
        }
        let account = spec.service_account_name.as_deref().filter(|it| !it.is_empty()).unwrap_or("default");
        if !check::is_dns_name(account) {
            return Err(Fault::new("spec.serviceAccountName", format!("{account:?} is not a valid name")));
        }
        Ok(Resource::Pod(Arc::new(Pod {
            object: named.object,
            // Not shared: every pod has its own.
            uid: self.metadata.uid.as_deref().unwrap_or_default().into(),
            created: named.created,
            labels,
            owner: self.metadata.owner(names),
            netns: netns(named.annotations.netns.as_ref())?,
            bypass_inbound: named.annotations.bypass_inbound.as_deref() == Some("true"),
            has_sidecar: named.annotations.sidecar,
            node: names.share(node),
            service_account: names.share(account),
            host_network: spec.host_network.unwrap_or_default(),
            ports: spec.named_ports(names)?,
            phase,
            ready: !deleting && status.ready(phase),
            addresses: status.addresses()?,
        })))
    }
}

fn netns(path: Option<&Text<'_>>) -> Result<Option<Arc<str>>, Fault> {
    let Some(path) = path else { return Ok(None) };
    if !path.starts_with('/') || path.len() > check::MAX_PATH_BYTES {
        return Err(Fault::new("metadata.annotations.ebb.dev/netns", "not an absolute path"));
    }
    Ok(Some((**path).into()))
}

impl PodSpec<'_> {
    fn named_ports(&self, names: &mut Names) -> Result<NamedPorts, Fault> {
        let mut named = Vec::new();
        for (c, container) in self.containers.as_deref().unwrap_or_default().iter().enumerate() {
            for (p, port) in container.ports.as_deref().unwrap_or_default().iter().enumerate() {
                let number = check::port(port.container_port.0).map_err(|reason| {
                    Fault::new(format!("spec.containers[{c}].ports[{p}].containerPort"), reason)
                })?;
                if let Some(name) = port.name.as_ref().filter(|_| is_tcp(port.protocol.as_ref())) {
                    named.push((names.share(name), number));
                }
            }
        }
        Ok(named.into())
    }
}

impl PodStatus<'_> {
    fn phase(&self) -> Phase {
        match self.phase.as_deref() {
            None | Some("Running" | "") => Phase::Running,
            Some("Succeeded" | "Failed") => Phase::Over,
            Some(_) => Phase::Waiting,
        }
    }

    fn ready(&self, phase: Phase) -> bool {
        let conditions = self.conditions.as_deref().unwrap_or_default();
        let stated = conditions.iter().find(|it| &*it.kind == "Ready").map(|it| &*it.status == "True");
        phase == Phase::Running && stated.unwrap_or(true)
    }

    fn addresses(&self) -> Result<Box<[IpAddr]>, Fault> {
        let listed = self.pod_ips.as_deref().unwrap_or_default().iter().map(|it| &*it.ip);
        addresses(
            self.pod_ip.as_deref().into_iter().chain(listed).filter(|it| !it.is_empty()),
            "status.podIPs",
        )
    }
}

#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub(crate) struct ServiceManifest<'a> {
    #[serde(default)]
    metadata: Metadata<'a>,
    #[serde(default)]
    spec: Option<ServiceSpec<'a>>,
    #[serde(default)]
    status: Option<ServiceStatus<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct ServiceSpec<'a> {
    #[serde(rename = "type")]
    kind: Option<Text<'a>>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<Text<'a>>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: List<Text<'a>>,
    ports: List<PortManifest<'a>>,
    selector: Option<Pairs<'a>>,
    publish_not_ready_addresses: Option<bool>,
    internal_traffic_policy: Option<Text<'a>>,
    traffic_distribution: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct PortManifest<'a> {
    name: Option<Text<'a>>,
    port: Number,
    target_port: Option<NumberOrText<'a>>,
    protocol: Option<Text<'a>>,
    app_protocol: Option<Text<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct ServiceStatus<'a> {
    #[serde(default)]
    load_balancer: Option<LoadBalancerStatus<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct LoadBalancerStatus<'a> {
    ingress: List<Ingress<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Ingress<'a> {
    ip: Option<Text<'a>>,
}

impl Manifest for ServiceManifest<'_> {
    fn read(mut self, names: &mut Names) -> Result<Resource, Fault> {
        let named = self.metadata.named(NameRule::Label, names)?;
        let spec = self.spec.unwrap_or_default();
        let ingress = self.status.unwrap_or_default().load_balancer.unwrap_or_default().ingress;
        let cluster = spec.cluster_ips.as_deref().unwrap_or_default().iter().map(|it| &**it);
        let vips = spec
            .cluster_ip
            .as_deref()
            .into_iter()
            .chain(cluster)
            .chain(ingress.as_deref().unwrap_or_default().iter().filter_map(|it| it.ip.as_deref()))
            .filter(|it| !it.is_empty() && *it != "None");
        let distribution = named.annotations.traffic_distribution.as_ref();
        let selector = spec.selector.as_ref();
        Ok(Resource::Service(Arc::new(Service {
            object: named.object,
            external_name: spec.kind.as_deref() == Some("ExternalName"),
            vips: addresses(vips, "spec.clusterIPs")?,
            ports: spec.ports(names)?,
            selector: selector
                .map_or_else(|| Ok(Labels::default()), |it| labels(it, "spec.selector", names))?,
            publish_not_ready: spec.publish_not_ready_addresses.unwrap_or_default(),
            local_only: spec.internal_traffic_policy.as_deref() == Some("Local"),
            traffic_distribution: distribution
                .or(spec.traffic_distribution.as_ref())
                .map(|it| names.share(it)),
        })))
    }
}

impl ServiceSpec<'_> {
    fn ports(&self, names: &mut Names) -> Result<Box<[ServicePort]>, Fault> {
        let mut ports: Vec<ServicePort> = Vec::new();
        for (i, port) in self.ports.as_deref().unwrap_or_default().iter().enumerate() {
            let fault = |field: &str, reason| Fault::new(format!("spec.ports[{i}].{field}"), reason);
            let number = check::port(port.port.0).map_err(|reason| fault("port", reason))?;
            let target = match &port.target_port {
                None | Some(NumberOrText::Number(0)) => TargetPort::Number(number),
                Some(NumberOrText::Number(n)) => {
                    TargetPort::Number(check::port(*n).map_err(|reason| fault("targetPort", reason))?)
                }
                Some(NumberOrText::Text(name)) => TargetPort::Name(names.share(name)),
            };
            if !is_tcp(port.protocol.as_ref()) {
                continue;
            }
            if ports.iter().any(|it| it.port == number) {
                return Err(fault("port", format!("{number} is stated twice")));
            }
            ports.push(ServicePort {
                name: names.share(port.name.as_deref().unwrap_or_default()),
                port: number,
                target,
                app_protocol: names.share(port.app_protocol.as_deref().unwrap_or_default()),
            });
        }
        Ok(ports.into())
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
pub(crate) struct EndpointSliceManifest<'a> {
    #[serde(default)]
    metadata: Metadata<'a>,
    #[serde(default)]
    address_type: Option<Text<'a>>,
    #[serde(default)]
    ports: List<SlicePort<'a>>,
    #[serde(default)]
    endpoints: List<EndpointManifest<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct SlicePort<'a> {
    name: Option<Text<'a>>,
    port: Option<Number>,
    protocol: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct EndpointManifest<'a> {
    addresses: List<Text<'a>>,
    conditions: Option<EndpointConditions>,
    target_ref: Option<TargetReference<'a>>,
}

#[derive(Debug, Default, Deserialize)]
struct EndpointConditions {
    ready: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct TargetReference<'a> {
    kind: Option<Text<'a>>,
    name: Option<Text<'a>>,
}

impl Manifest for EndpointSliceManifest<'_> {
    fn read(mut self, names: &mut Names) -> Result<Resource, Fault> {
        let named = self.metadata.named(NameRule::Name, names)?;
        let labels = self.metadata.labels(names)?;
        let mut ports = Vec::new();
        for (i, port) in self.ports.as_deref().unwrap_or_default().iter().enumerate() {
            let Some(number) = port.port.filter(|_| is_tcp(port.protocol.as_ref())) else { continue };
            let number =
                check::port(number.0).map_err(|reason| Fault::new(format!("ports[{i}].port"), reason))?;
            ports.push((names.share(port.name.as_deref().unwrap_or_default()), number));
        }
        let mut endpoints = Vec::new();
        // Endpoints that are names (addressType FQDN) are for DNS, not for us.
        let stated = self.endpoints.as_deref().unwrap_or_default();
        let stated = if self.address_type.as_deref() == Some("FQDN") { &[] } else { stated };
        for (i, endpoint) in stated.iter().enumerate() {
            let texts = endpoint.addresses.as_deref().unwrap_or_default().iter().map(|it| &**it);
            let pod = endpoint.target_ref.as_ref().filter(|it| it.kind.as_deref() == Some("Pod"));
            endpoints.push(SliceEndpoint {
                addresses: addresses(texts, &format!("endpoints[{i}].addresses"))?,
                ready: endpoint.conditions.as_ref().and_then(|it| it.ready).unwrap_or(true),
                pod: pod.and_then(|it| it.name.as_deref()).map(|name| names.share(name)),
            });
        }
        Ok(Resource::EndpointSlice(Arc::new(EndpointSlice {
            object: named.object,
            service: labels.get("kubernetes.io/service-name").cloned(),
            ports: ports.into(),
            endpoints: endpoints.into(),
        })))
    }
}
