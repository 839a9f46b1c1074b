//! The shape of Kubernetes' own manifests, and the way from it to typed resources.
//!
//! Lists and mappings may be `null`, as the API server allows; the typed resource then has an empty one.

mod gateway;
mod node;
mod pod;
mod service;

use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;
use time::format_description::well_known::Rfc3339;

pub(crate) use self::gateway::GatewayManifest;
pub(crate) use self::node::NodeManifest;
pub(crate) use self::pod::PodManifest;
pub(crate) use self::service::{EndpointSliceManifest, ServiceManifest};
use super::text::{Annotations, Pairs, Text};
use super::{Fault, check};
use crate::config::core::{Labels, Namespace, Owner, ServiceAccount};
use crate::config::names::Names;
use crate::config::{ObjectName, Resource};

type List<T> = Option<Vec<T>>;

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
            // The name is not shared: every object has its own, and those known would be as many as there are objects.
            object: ObjectName { namespace: names.share(namespace), name: name.into() },
            created,
            annotations: self.annotations.take().unwrap_or_default(),
        })
    }

    pub(crate) fn labels(&self, names: &mut Names) -> Result<Labels, Fault> {
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
    Ok(Labels::shared(shared, names))
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
