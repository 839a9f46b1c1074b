//! A node: a namespace that forwards between its pods' cables and the wire.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;

use super::{
    Addresses, Pod,
    address::{self, Allocator},
};
use crate::{
    netns::Namespace,
    process::{Process, Spawn},
    run::Run,
};

const SYSCTLS: &[(&str, &str)] = &[
    ("ipv4/tcp_congestion_control", "cubic"),
    ("ipv4/ip_forward", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/all/forwarding", "1"),
];

/// The interface of a node that leads to the other nodes.
pub const WIRE: &str = "wire0";

/// A node of a cluster.
#[derive(Debug)]
pub struct Node {
    number: u8,
    name: String,
    namespace: Namespace,
    allocator: Mutex<Allocator>,
    run: Arc<Run>,
}

impl Node {
    pub(super) fn create(run: &Arc<Run>, number: u8) -> Result<Arc<Self>> {
        let name = format!("node-{number}");
        let namespace = Namespace::create(run, &name, SYSCTLS)?;
        let allocator = Mutex::new(Allocator::new(number));
        Ok(Arc::new(Self { number, name, namespace, allocator, run: Arc::clone(run) }))
    }

    /// `ip` commands that give the node its address and the routes to the pods of `others`, once `wire0` is there.
    pub(super) fn wire_up(&self, others: impl Iterator<Item = u8>) -> Vec<String> {
        let Addresses { v4, v6 } = self.addresses();
        let mut commands = vec![
            format!("addr add {v4}/24 dev {WIRE}"),
            format!("addr add {v6}/64 dev {WIRE} nodad"),
            format!("link set {WIRE} up"),
        ];
        for other in others.filter(|other| *other != self.number) {
            let via = address::node(other);
            for (range, via) in address::pod_ranges(other).iter().zip(via.both()) {
                commands.push(format!("route add {range} via {via} dev {WIRE}"));
            }
        }
        commands
    }

    /// From 1.
    #[must_use]
    pub fn number(&self) -> u8 {
        self.number
    }

    /// `node-1` and so on.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its network namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its own addresses.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        address::node(self.number)
    }

    /// The ranges its pods' addresses are from, IPv4 then IPv6.
    #[must_use]
    pub fn pod_ranges(&self) -> [String; 2] {
        address::pod_ranges(self.number)
    }

    /// The run it is part of.
    #[must_use]
    pub fn run(&self) -> &Arc<Run> {
        &self.run
    }

    /// Frees a pod's addresses for another.
    pub(super) fn give_back(&self, addresses: Addresses) {
        self.allocator.lock().unwrap_or_else(PoisonError::into_inner).give_back(addresses);
    }

    /// Makes a pod with the next free addresses. The name must be new in the cluster.
    ///
    /// # Errors
    /// No address is free, or the namespace cannot be made.
    pub fn add_pod(self: &Arc<Self>, name: &str) -> Result<Pod> {
        let addresses = self.allocator.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Pod::create(self, name, addresses)
    }

    /// Makes a pod with addresses that an earlier one had.
    ///
    /// # Errors
    /// They are taken or not of this node, or the namespace cannot be made.
    pub fn add_pod_at(self: &Arc<Self>, name: &str, addresses: Addresses) -> Result<Pod> {
        self.allocator.lock().unwrap_or_else(PoisonError::into_inner).take_these(addresses)?;
        Pod::create(self, name, addresses)
    }

    /// Starts a process on the node itself.
    ///
    /// # Errors
    /// The program cannot be run.
    pub fn spawn(&self, what: Spawn) -> Result<Process> {
        Process::spawn(&self.run, &self.namespace, what)
    }
}
