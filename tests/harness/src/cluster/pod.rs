//! A pod's sandbox: a namespace with `eth0`, cabled to its node and routed there. What runs inside is the caller's.

use std::sync::Arc;

use anyhow::Result;

use super::{Addresses, Node, address};
use crate::{
    netns::Namespace,
    process::{Process, Spawn},
};

/// Settings of every pod namespace. Reverse path filtering is as distributions have it, since the kernel's own default of
/// none would hide what the mesh must set for itself.
const SYSCTLS: &[(&str, &str)] = &[
    ("ipv4/tcp_congestion_control", "cubic"),
    ("ipv4/conf/all/rp_filter", "2"),
    ("ipv4/conf/default/rp_filter", "2"),
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
];

/// What is beyond the other end of a pod's cable when it has no neighbour to ask: the node, on its link-local address.
const NODE_LINK_LOCAL: &str = "fe80::1";

/// A pod's network namespace on a node, unplugged and removed on drop.
#[derive(Debug)]
pub struct Pod {
    name: String,
    namespace: Namespace,
    addresses: Addresses,
    cable: String,
    node: Arc<Node>,
}

impl Pod {
    /// Makes the pod with addresses taken for it, which go back to the node with the pod or on failure.
    pub(super) fn create(node: &Arc<Node>, name: &str, addresses: Addresses) -> Result<Self> {
        let namespace =
            Namespace::create(node.run(), name, SYSCTLS).inspect_err(|_| node.give_back(addresses))?;
        let cable = format!("veth{}", node.run().next_number());
        // From here on the destructor gives everything back.
        let pod = Self { name: name.into(), namespace, addresses, cable, node: Arc::clone(node) };
        pod.plug_in()?;
        Ok(pod)
    }

    /// As the point-to-point CNI plugin does it: host routes on the node, so that nothing is bridged or resolved.
    fn plug_in(&self) -> Result<()> {
        let (cable, pod, gateway) =
            (&self.cable, self.namespace.name(), address::gateway(self.node.number()));
        let Addresses { v4, v6 } = self.addresses;
        self.node.namespace().ip(&[
            format!("link add {cable} type veth peer name eth0 netns {pod}"),
            format!("link set {cable} up"),
            format!("addr add {gateway}/32 dev {cable}"),
            format!("addr add {NODE_LINK_LOCAL}/64 dev {cable} nodad"),
            format!("route add {v4}/32 dev {cable}"),
            format!("route add {v6}/128 dev {cable}"),
        ])?;
        self.namespace.ip(&[
            "link set lo up".into(),
            format!("addr add {v4}/32 dev eth0"),
            format!("addr add {v6}/128 dev eth0 nodad"),
            "link set eth0 up".into(),
            format!("route add {gateway}/32 dev eth0 scope link"),
            format!("route add default via {gateway} dev eth0"),
            format!("route add default via {NODE_LINK_LOCAL} dev eth0"),
        ])
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its network namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its addresses.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// The node it is on.
    #[must_use]
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// The node's end of its cable, by name in the node's namespace.
    #[must_use]
    pub fn cable(&self) -> &str {
        &self.cable
    }

    /// Starts a process inside.
    ///
    /// # Errors
    /// The program cannot be run.
    pub fn spawn(&self, what: Spawn) -> Result<Process> {
        Process::spawn(self.node.run(), &self.namespace, what)
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // As a CNI plugin does on DEL, at once and whoever still holds the namespace. When the cluster ended first the
        // node's namespace is gone and the cable with it, so there is nothing to report.
        let _ = self.node.namespace().ip(&[format!("link del {}", self.cable)]);
        self.node.give_back(self.addresses);
    }
}
