//! Nodes as network namespaces, joined by a wire, with pods behind them; IPv4 and IPv6 throughout.
//!
//! Two nodes are joined by a cable, more by a bridge in a namespace of its own. Pods are routed, never bridged: traffic
//! between pods of different nodes crosses the wire, between pods of one node it does not. There is no kube-proxy, so
//! nothing but the mesh gives a Service address any meaning.

mod address;
mod node;
mod pod;

use std::sync::Arc;

use anyhow::{Result, ensure};

pub use self::{
    address::{Addresses, NODES_MAX},
    node::{Node, WIRE},
    pod::Pod,
};
use crate::{netns::Namespace, run::Run};

/// A running cluster. Dropping it ends every process and removes everything the run made.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Arc<Node>>,
    bridge: Option<Arc<Namespace>>,
    run: Arc<Run>,
}

impl Cluster {
    /// Two nodes, `node-1` and `node-2`.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn two_nodes() -> Result<Self> {
        Self::start(2)
    }

    /// Any number of nodes up to [`NODES_MAX`].
    ///
    /// # Errors
    /// `refused: ...` without root or the kernel features needed; otherwise what failed.
    pub fn start(nodes: u8) -> Result<Self> {
        ensure!((1..=NODES_MAX).contains(&nodes), "a cluster has 1 to {NODES_MAX} nodes, not {nodes}");
        let run = Run::start()?;
        // Built first, filled after: on any failure from here on the destructor removes what there is.
        let mut cluster = Self { nodes: Vec::new(), bridge: None, run };
        for number in 1..=nodes {
            cluster.nodes.push(Node::create(&cluster.run, number)?);
        }
        match nodes {
            1 => cluster.nodes[0].namespace().ip(&["link set lo up".into()])?,
            2 => cluster.join_by_cable()?,
            _ => cluster.join_by_bridge()?,
        }
        Ok(cluster)
    }

    fn join_by_cable(&self) -> Result<()> {
        let (one, two) = (&self.nodes[0], &self.nodes[1]);
        let cable = format!("link add {WIRE} type veth peer name {WIRE} netns {}", two.namespace().name());
        one.namespace().ip(&[vec!["link set lo up".into(), cable], one.wire_up(1..=2)].concat())?;
        two.namespace().ip(&[vec!["link set lo up".into()], two.wire_up(1..=2)].concat())
    }

    fn join_by_bridge(&mut self) -> Result<()> {
        let sysctls = [("ipv6/conf/default/disable_ipv6", "1")];
        let bridge = Namespace::create(&self.run, "wire", &sysctls)?;
        let mut commands = vec!["link add br0 type bridge".to_owned(), "link set br0 up".to_owned()];
        for node in &self.nodes {
            let port = port_name(node.number());
            let far_end = node.namespace().name();
            commands.push(format!("link add {port} type veth peer name {WIRE} netns {far_end}"));
            commands.push(format!("link set {port} master br0"));
            commands.push(format!("link set {port} up"));
        }
        bridge.ip(&commands)?;
        // Where the kernel would hand bridged packets to the host's firewall, it must not. Where it cannot, all is well.
        let _ = bridge.sysctl("bridge/bridge-nf-call-iptables", "0");
        let _ = bridge.sysctl("bridge/bridge-nf-call-ip6tables", "0");
        self.bridge = Some(Arc::new(bridge));
        let count = u8::try_from(self.nodes.len())?;
        for node in &self.nodes {
            node.namespace().ip(&[vec!["link set lo up".into()], node.wire_up(1..=count)].concat())?;
        }
        Ok(())
    }

    /// The nodes in order.
    #[must_use]
    pub fn nodes(&self) -> &[Arc<Node>] {
        &self.nodes
    }

    /// One node by its place in the order, from 0.
    ///
    /// # Panics
    /// There are not so many.
    #[must_use]
    pub fn node(&self, index: usize) -> &Arc<Node> {
        &self.nodes[index]
    }

    /// The namespace of the bridge, in which each node has the port `port1` and so on; none up to two nodes.
    #[must_use]
    pub fn bridge(&self) -> Option<&Arc<Namespace>> {
        self.bridge.as_ref()
    }

    /// The run: prefix, directory, roles, pins.
    #[must_use]
    pub fn run(&self) -> &Arc<Run> {
        &self.run
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.run.end();
    }
}

/// The bridge's port to a node.
pub(crate) fn port_name(node: u8) -> String {
    format!("port{node}")
}
