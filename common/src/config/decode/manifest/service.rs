//! Services and their EndpointSlices.

use std::sync::Arc;

use serde::Deserialize;

use super::{List, Manifest, Metadata, NameRule, addresses, is_tcp, labels};
use crate::config::Resource;
use crate::config::core::{EndpointSlice, Labels, Service, ServicePort, SliceEndpoint, TargetPort};
use crate::config::decode::text::{Number, NumberOrText, Pairs, Text};
use crate::config::decode::{Fault, check};
use crate::config::names::Names;
use crate::config::waypoint::{UseWaypoint, is_of_gateway};

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
        let own = self.metadata.labels(names)?;
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
            use_waypoint: UseWaypoint::of(&own, &named.object.namespace),
            is_of_gateway: is_of_gateway(&own),
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
                // Not shared, as names of pods are not where those are stated.
                pod: pod.and_then(|it| it.name.as_deref()).map(Into::into),
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
