//! Nodes: where they are, and from which addresses they connect to their pods.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::Deserialize;

use super::{List, Manifest, Metadata, NameRule};
use crate::config::Resource;
use crate::config::core::Node;
use crate::config::decode::text::Text;
use crate::config::decode::{Fault, check};
use crate::config::names::Names;

#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub(crate) struct NodeManifest<'a> {
    #[serde(default)]
    metadata: Metadata<'a>,
    #[serde(default)]
    spec: Option<NodeSpec<'a>>,
    #[serde(default)]
    status: Option<NodeStatus<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct NodeSpec<'a> {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<Text<'a>>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: List<Text<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct NodeStatus<'a> {
    addresses: List<NodeAddress<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct NodeAddress<'a> {
    address: Option<Text<'a>>,
}

impl Manifest for NodeManifest<'_> {
    fn read(mut self, names: &mut Names) -> Result<Resource, Fault> {
        let named = self.metadata.named(NameRule::ClusterName, names)?;
        let labels = self.metadata.labels(names)?;
        let mut addresses: Vec<IpAddr> = self.status.unwrap_or_default().own().collect();
        addresses.extend(self.spec.unwrap_or_default().gateways());
        addresses.sort_unstable();
        addresses.dedup();
        Ok(Resource::Node(Arc::new(Node { name: named.object.name, labels, addresses: addresses.into() })))
    }
}

impl NodeStatus<'_> {
    /// Host names are among them, which are nobody's address.
    fn own(&self) -> impl Iterator<Item = IpAddr> {
        let listed = self.addresses.as_deref().unwrap_or_default();
        listed.iter().filter_map(|it| check::address(it.address.as_deref()?).ok())
    }
}

impl NodeSpec<'_> {
    fn gateways(&self) -> impl Iterator<Item = IpAddr> {
        let ranges = self.pod_cidr.iter().chain(self.pod_cidrs.as_deref().unwrap_or_default());
        ranges.filter_map(|it| match it.parse::<IpNet>().ok()?.network() {
            IpAddr::V4(first) => Some(Ipv4Addr::from(u32::from(first).checked_add(1)?).into()),
            IpAddr::V6(first) => Some(Ipv6Addr::from(u128::from(first).checked_add(1)?).into()),
        })
    }
}
