//! ServiceEntry and WorkloadEntry, field by field. As strict as Istio's own validation, and stricter where a field would
//! have no effect: what Ebb does not do is refused, or noted where it only narrows.

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::istio::scalar::{Entries, Whole, whole};
use super::istio::{List, Reader, Texts, port};
use super::manifest::{Manifest, Metadata, NameRule};
use super::policy::list;
use super::text::{Pairs, Text};
use super::{Fault, check};
use crate::config::Resource;
use crate::config::entry::{EntryEndpoint, EntryPort, Resolution, ServiceEntry, Whereabouts, WorkloadEntry};
use crate::config::names::Names;
use crate::config::note::Caveat;
use crate::config::waypoint::UseWaypoint;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(crate) struct ServiceEntryManifest<'a> {
    #[serde(rename = "apiVersion")]
    _api_version: Option<IgnoredAny>,
    #[serde(rename = "kind")]
    _kind: Option<IgnoredAny>,
    #[serde(rename = "status")]
    _status: Option<IgnoredAny>,
    #[serde(default)]
    metadata: Metadata<'a>,
    #[serde(default)]
    spec: Option<Spec<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct Spec<'a> {
    hosts: Texts<'a>,
    addresses: Texts<'a>,
    ports: List<PortManifest<'a>>,
    location: Option<Text<'a>>,
    resolution: Option<Text<'a>>,
    endpoints: List<EndpointManifest<'a>>,
    workload_selector: Option<SelectorManifest<'a>>,
    export_to: Texts<'a>,
    subject_alt_names: Texts<'a>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct SelectorManifest<'a> {
    labels: Option<Pairs<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct PortManifest<'a> {
    number: Option<Whole>,
    protocol: Option<Text<'a>>,
    name: Option<Text<'a>>,
    target_port: Option<Whole>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct EndpointManifest<'a> {
    address: Option<Text<'a>>,
    ports: Option<Entries<'a, Whole>>,
    labels: Option<Pairs<'a>>,
    network: Option<Text<'a>>,
    locality: Option<Text<'a>>,
    weight: Option<Whole>,
    service_account: Option<Text<'a>>,
}

impl Manifest for ServiceEntryManifest<'_> {
    fn read(mut self, names: &mut Names) -> Result<Resource, Fault> {
        let named = self.metadata.named(NameRule::Name, names)?;
        let own = self.metadata.labels(names)?;
        let spec = self.spec.ok_or_else(|| Fault::new("spec", "not stated"))?;
        let mut reader = Reader::new(named.object.namespace.clone(), names);
        is_location(spec.location.as_deref())?;
        let resolution = resolution(spec.resolution.as_deref())?;
        let hosts = hosts(&mut reader, spec.hosts, resolution)?;
        let addresses = addresses(&mut reader, spec.addresses)?;
        let selected = spec.workload_selector.is_some();
        let stated = spec.workload_selector.and_then(|it| it.labels);
        let entry = ServiceEntry {
            use_waypoint: UseWaypoint::of(&own, &named.object.namespace),
            object: named.object,
            hosts,
            addresses,
            ports: ports(&mut reader, spec.ports)?,
            resolution,
            endpoints: list(spec.endpoints, "spec.endpoints", |it, field| endpoint(&mut reader, it, field))?,
            selector: reader.labels(stated.as_ref(), "spec.workloadSelector.labels")?,
            visibility: reader.visibility(spec.export_to, "spec.exportTo")?,
            subject_alt_names: list(
                spec.subject_alt_names,
                "spec.subjectAltNames",
                |it, field| match &*it {
                    "" => Err(Fault::new(field, "empty")),
                    name => Ok(reader.share(name)),
                },
            )?,
            notes: Box::default(),
        };
        agree(&entry, selected)?;
        Ok(Resource::ServiceEntry(Arc::new(ServiceEntry { notes: reader.notes(), ..entry })))
    }
}

/// It makes no difference whether a service is within the mesh or not: each endpoint is what it is.
fn is_location(stated: Option<&str>) -> Result<(), Fault> {
    match stated {
        None | Some("" | "MESH_EXTERNAL" | "MESH_INTERNAL") => Ok(()),
        Some(other) => {
            let reason = format!("{other:?} is neither MESH_EXTERNAL nor MESH_INTERNAL");
            Err(Fault::new("spec.location", reason))
        }
    }
}

fn resolution(stated: Option<&str>) -> Result<Resolution, Fault> {
    match stated {
        None | Some("" | "NONE") => Ok(Resolution::None),
        Some("STATIC") => Ok(Resolution::Static),
        Some("DNS" | "DNS_ROUND_ROBIN") => Ok(Resolution::Dns),
        Some("DYNAMIC_DNS") => Err(Fault::new("spec.resolution", "DYNAMIC_DNS is not implemented")),
        Some(other) => {
            let reason = format!("{other:?} is none of NONE, STATIC, DNS, DNS_ROUND_ROBIN");
            Err(Fault::new("spec.resolution", reason))
        }
    }
}

fn hosts(
    reader: &mut Reader<'_>,
    stated: Texts<'_>,
    resolution: Resolution,
) -> Result<Box<[Arc<str>]>, Fault> {
    let mut hosts: Vec<Arc<str>> = Vec::new();
    let stated = stated.unwrap_or_default();
    if stated.is_empty() {
        return Err(Fault::new("spec.hosts", "not stated"));
    }
    for (i, host) in stated.iter().enumerate() {
        let field = format!("spec.hosts[{i}]");
        if host.starts_with('*') {
            if resolution != Resolution::None {
                return Err(Fault::new(field, format!("{:?}: a pattern needs resolution NONE", &**host)));
            }
            reader.host(host, &field)?;
            reader.note(field, Caveat::WildcardHostIgnored);
            continue;
        }
        if !check::is_dns_name(host) || !host.contains('.') {
            let reason = format!("{:?} is no name of several labels in lower case", &**host);
            return Err(Fault::new(field, reason));
        }
        let host = reader.share(host);
        if hosts.contains(&host) {
            return Err(Fault::new(field, format!("{host} is stated twice")));
        }
        hosts.push(host);
    }
    Ok(hosts.into())
}

/// `spec.addresses`. Of networks only those that are one address can be looked up.
fn addresses(reader: &mut Reader<'_>, stated: Texts<'_>) -> Result<Box<[IpAddr]>, Fault> {
    let mut addresses = Vec::new();
    for (i, text) in stated.unwrap_or_default().iter().enumerate() {
        let field = format!("spec.addresses[{i}]");
        let network = check::network(text).map_err(|reason| Fault::new(field.as_str(), reason))?;
        if network.prefix_len() != network.max_prefix_len() {
            reader.note(field, Caveat::AddressRangeIgnored);
            continue;
        }
        let address = check::address(&network.addr().to_string());
        addresses.push(address.map_err(|reason| Fault::new(field, reason))?);
    }
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses.into())
}

fn ports(reader: &mut Reader<'_>, stated: List<PortManifest<'_>>) -> Result<Box<[EntryPort]>, Fault> {
    const KNOWN: [&str; 10] =
        ["http", "https", "http2", "grpc", "grpc-web", "tcp", "tls", "mongo", "mysql", "redis"];
    let mut ports: Vec<EntryPort> = Vec::new();
    for (i, it) in stated.unwrap_or_default().iter().enumerate() {
        let at = |name: &str| format!("spec.ports[{i}].{name}");
        let number = port(it.number, &at("number"))?;
        let number = number.ok_or_else(|| Fault::new(at("number"), "not stated"))?;
        let protocol = it.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
        if protocol == "udp" {
            reader.note(at("protocol"), Caveat::UdpIgnored);
            continue;
        }
        if !KNOWN.contains(&&*protocol) {
            let reason = format!("{protocol:?} is none of {}", KNOWN.join(", ").to_ascii_uppercase());
            return Err(Fault::new(at("protocol"), reason));
        }
        let name = it.name.as_deref().filter(|it| !it.is_empty());
        let name = name.ok_or_else(|| Fault::new(at("name"), "not stated"))?;
        if ports.iter().any(|it| it.number == number) {
            return Err(Fault::new(at("number"), format!("{number} is stated twice")));
        }
        if ports.iter().any(|it| *it.name == *name) {
            return Err(Fault::new(at("name"), format!("{name} is stated twice")));
        }
        ports.push(EntryPort {
            number,
            name: reader.share(name),
            protocol: reader.share(&protocol),
            target: port(it.target_port, &at("targetPort"))?.unwrap_or(number),
        });
    }
    Ok(ports.into())
}

fn endpoint(
    reader: &mut Reader<'_>,
    stated: EndpointManifest<'_>,
    field: &str,
) -> Result<EntryEndpoint, Fault> {
    let at = |name: &str| format!("{field}.{name}");
    let address = stated.address.as_deref().unwrap_or_default();
    if stated.network.is_some_and(|it| !it.is_empty()) {
        return Err(Fault::new(at("network"), "other networks are not implemented"));
    }
    let mut ports = Vec::new();
    for (name, number) in stated.ports.map(|it| it.0).unwrap_or_default() {
        let field = format!("{}.{}", at("ports"), &*name);
        let number = port(Some(number), &field)?.ok_or_else(|| Fault::new(field, "not stated"))?;
        ports.push((reader.share(&name), number));
    }
    let weight = whole(stated.weight, 0..=u32::MAX >> 1, &at("weight"))?;
    let account = stated.service_account.as_deref().filter(|it| !it.is_empty()).unwrap_or("default");
    if !check::is_dns_name(account) {
        return Err(Fault::new(at("serviceAccount"), format!("{account:?} is not a valid name")));
    }
    Ok(EntryEndpoint {
        at: whereabouts(reader, address, &at("address"))?,
        ports: ports.into(),
        labels: reader.labels(stated.labels.as_ref(), &at("labels"))?,
        locality: locality(reader, stated.locality.as_deref().unwrap_or_default(), &at("locality"))?,
        weight: weight.and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN),
        service_account: reader.share(account),
    })
}

fn whereabouts(reader: &mut Reader<'_>, text: &str, field: &str) -> Result<Whereabouts, Fault> {
    if text.is_empty() {
        return Err(Fault::new(field, "not stated"));
    }
    if text.parse::<IpAddr>().is_ok() {
        return check::address(text).map(Whereabouts::Ip).map_err(|reason| Fault::new(field, reason));
    }
    if !check::is_dns_name(text) {
        return Err(Fault::new(field, format!("{text:?} is neither an address nor a name in lower case")));
    }
    Ok(Whereabouts::Name(reader.share(text)))
}

/// `region/zone/subzone`, of which the later parts may be missing.
fn locality(reader: &mut Reader<'_>, text: &str, field: &str) -> Result<[Arc<str>; 3], Fault> {
    let mut parts = text.split('/');
    let mut next = || reader.share(parts.next().unwrap_or_default());
    let locality = [next(), next(), next()];
    match parts.next() {
        Some(_) => Err(Fault::new(field, format!("{text:?} has more parts than region/zone/subzone"))),
        None => Ok(locality),
    }
}

/// That what is stated fits together.
fn agree(entry: &ServiceEntry, selected: bool) -> Result<(), Fault> {
    let fault = |field: &str, reason: &str| Err(Fault::new(format!("spec.{field}"), reason));
    let named = |it: &EntryEndpoint| matches!(it.at, Whereabouts::Name(_));
    if selected && !entry.endpoints.is_empty() {
        return fault("workloadSelector", "endpoints are stated too; only one of both may be");
    }
    match entry.resolution {
        Resolution::None if !entry.endpoints.is_empty() || selected => {
            fault("resolution", "NONE goes where the caller meant to; endpoints need STATIC or DNS")
        }
        Resolution::Static if entry.endpoints.iter().any(named) => {
            fault("endpoints", "a name, where resolution STATIC needs addresses")
        }
        Resolution::Dns if selected => fault("workloadSelector", "needs resolution STATIC"),
        _ => Ok(()),
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(crate) struct WorkloadEntryManifest<'a> {
    #[serde(rename = "apiVersion")]
    _api_version: Option<IgnoredAny>,
    #[serde(rename = "kind")]
    _kind: Option<IgnoredAny>,
    #[serde(rename = "status")]
    _status: Option<IgnoredAny>,
    #[serde(default)]
    metadata: Metadata<'a>,
    #[serde(default)]
    spec: Option<EndpointManifest<'a>>,
}

impl Manifest for WorkloadEntryManifest<'_> {
    fn read(mut self, names: &mut Names) -> Result<Resource, Fault> {
        let named = self.metadata.named(NameRule::Name, names)?;
        let own = self.metadata.labels(names)?;
        let spec = self.spec.ok_or_else(|| Fault::new("spec", "not stated"))?;
        let mut reader = Reader::new(named.object.namespace.clone(), names);
        let mut endpoint = endpoint(&mut reader, spec, "spec")?;
        // A selector picks by either; what the spec says of a label counts.
        let pairs = own.iter().chain(endpoint.labels.iter()).cloned();
        endpoint.labels = crate::config::Labels::new(pairs.collect());
        Ok(Resource::WorkloadEntry(Arc::new(WorkloadEntry {
            object: named.object,
            endpoint,
            notes: reader.notes(),
        })))
    }
}
