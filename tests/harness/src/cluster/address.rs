//! Which addresses nodes and pods have. Pure arithmetic; the namespaces see to it that nobody else minds.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context, Result, ensure};

/// Nodes that fit the address plan.
pub const NODES_MAX: u8 = 100;

/// First and last host number of pods in a node's range.
const PODS: std::ops::RangeInclusive<u8> = 2..=250;

/// The two addresses of a pod or node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Addresses {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6.
    pub v6: Ipv6Addr,
}

impl Addresses {
    /// Both, IPv4 first.
    #[must_use]
    pub fn both(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} and {}", self.v4, self.v6)
    }
}

/// Address of node `number` (from 1) on the wire.
pub(super) fn node(number: u8) -> Addresses {
    Addresses {
        v4: Ipv4Addr::new(172, 30, 0, number),
        v6: Ipv6Addr::new(0xfd00, 0x30, 0, 0, 0, 0, 0, number.into()),
    }
}

/// What pods of node `number` call their gateway.
pub(super) fn gateway(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, number, 1)
}

/// The range of pods of node `number`, IPv4 then IPv6.
pub(super) fn pod_ranges(number: u8) -> [String; 2] {
    [format!("10.244.{number}.0/24"), format!("fd00:10:244:{number:x}::/64")]
}

fn pod(node: u8, host: u8) -> Addresses {
    Addresses {
        v4: Ipv4Addr::new(10, 244, node, host),
        v6: Ipv6Addr::new(0xfd00, 0x10, 0x244, node.into(), 0, 0, 0, host.into()),
    }
}

/// Hands out the pod addresses of one node: the one least recently used, so that an address comes back only when asked
/// for by name or when all others are taken.
#[derive(Debug)]
pub(super) struct Allocator {
    node: u8,
    taken: BTreeSet<u8>,
    last: u8,
}

impl Allocator {
    pub(super) fn new(node: u8) -> Self {
        Self { node, taken: BTreeSet::new(), last: *PODS.end() }
    }

    /// The next free addresses.
    pub(super) fn take(&mut self) -> Result<Addresses> {
        let from_last = PODS.filter(|host| *host > self.last).chain(PODS.filter(|host| *host <= self.last));
        let host = from_last.into_iter().find(|host| !self.taken.contains(host));
        self.last = host.with_context(|| format!("every pod address of node {} is taken", self.node))?;
        self.taken.insert(self.last);
        Ok(pod(self.node, self.last))
    }

    /// Exactly these addresses.
    pub(super) fn take_these(&mut self, wanted: Addresses) -> Result<()> {
        let host = wanted.v4.octets()[3];
        ensure!(pod(self.node, host) == wanted, "{wanted} are not pod addresses of node {}", self.node);
        ensure!(PODS.contains(&host) && self.taken.insert(host), "{wanted} are taken");
        Ok(())
    }

    pub(super) fn give_back(&mut self, addresses: Addresses) {
        self.taken.remove(&addresses.v4.octets()[3]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_given_back_is_not_handed_out_next_but_can_be_asked_for() {
        let mut allocator = Allocator::new(7);
        let first = allocator.take().unwrap();
        assert_eq!(first, pod(7, 2));
        allocator.give_back(first);
        assert_eq!(allocator.take().unwrap(), pod(7, 3));
        allocator.take_these(first).unwrap();
        assert!(allocator.take_these(first).is_err());
        assert!(allocator.take_these(pod(8, 9)).is_err());
    }

    #[test]
    fn a_full_node_refuses_and_recovers() {
        let mut allocator = Allocator::new(1);
        let all: Vec<_> = PODS.map(|_| allocator.take().unwrap()).collect();
        assert!(allocator.take().is_err());
        allocator.give_back(all[5]);
        assert_eq!(allocator.take().unwrap(), all[5]);
    }
}
