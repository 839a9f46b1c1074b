//! Pods.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;

use super::{List, Manifest, Metadata, NameRule, addresses, is_tcp};
use crate::config::Resource;
use crate::config::core::{Phase, Pod};
use crate::config::decode::text::{Number, NumberOrText, Text};
use crate::config::decode::{Fault, check};
use crate::config::names::Names;

type NamedPorts = Arc<[(Arc<str>, u16)]>;

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
    init_containers: List<Container<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct Container<'a> {
    ports: List<ContainerPort<'a>>,
    liveness_probe: Option<Handler<'a>>,
    readiness_probe: Option<Handler<'a>>,
    startup_probe: Option<Handler<'a>>,
    lifecycle: Option<Lifecycle<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct Lifecycle<'a> {
    post_start: Option<Handler<'a>>,
    pre_stop: Option<Handler<'a>>,
}

/// What a kubelet does to a container now and then; what it does inside the container is no business of ours.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct Handler<'a> {
    http_get: Option<Target<'a>>,
    tcp_socket: Option<Target<'a>>,
    grpc: Option<Target<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Target<'a> {
    port: Option<NumberOrText<'a>>,
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
        let ports = spec.named_ports(names)?;
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
            probed: spec.probed(&ports, names),
            ports,
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
        Ok(names.share_ports(&named))
    }

    /// The ports that probes and hooks name; one that makes no sense is the kubelet's to complain of.
    fn probed(&self, named: &NamedPorts, names: &mut Names) -> Arc<[u16]> {
        let containers = self.containers.iter().chain(&self.init_containers).flatten();
        let mut ports: Vec<u16> = containers
            .flat_map(Container::targets)
            .filter_map(|target| match target.port.as_ref()? {
                NumberOrText::Number(number) => check::port(*number).ok(),
                NumberOrText::Text(name) => {
                    named.iter().find(|(it, _)| **it == **name).map(|(_, port)| *port)
                }
            })
            .collect();
        ports.sort_unstable();
        ports.dedup();
        names.share_numbers(&ports)
    }
}

impl<'a> Container<'a> {
    fn targets(&self) -> impl Iterator<Item = &Target<'a>> {
        let hooks = self.lifecycle.iter().flat_map(|it| [&it.post_start, &it.pre_stop]);
        let probes = [&self.liveness_probe, &self.readiness_probe, &self.startup_probe];
        let handlers = probes.into_iter().chain(hooks).flatten();
        handlers.flat_map(|it| [&it.http_get, &it.tcp_socket, &it.grpc]).flatten()
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

    fn addresses(&self) -> Result<Arc<[IpAddr]>, Fault> {
        let listed = self.pod_ips.as_deref().unwrap_or_default().iter().map(|it| &*it.ip);
        let all = self.pod_ip.as_deref().into_iter().chain(listed).filter(|it| !it.is_empty());
        addresses(all, "status.podIPs").map(Arc::from)
    }
}
