//! Sees what goes over the wire between nodes, and answers whether something was readable there.
//!
//! Between two nodes it listens at node-1's end of the cable; with a bridge, at every port on the way in: each packet is
//! seen once. Packets are kept in pcap files in the run directory. Every question first settles the capture, and a capture
//! that lost packets answers nothing: "not seen" must mean "was not there".

mod packet;
mod pcap;
mod search;
mod tap;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, UdpSocket},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result, ensure};

pub use self::{
    packet::{Packet, Transport},
    search::Sighting,
};
use self::{
    search::Search,
    tap::{Scope, Tap},
};
use crate::cluster::{Cluster, Node, WIRE};

/// TLS records seen on a port, by the packets that begin with one (RFC 8446, 5.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlsRecords {
    /// Packets that begin with a handshake record, `16 03`.
    pub handshake: u64,
    /// Packets that begin with an application data record, `17 03`.
    pub application_data: u64,
}

/// A running capture of the wire.
#[derive(Debug)]
pub struct Capture {
    tap: Tap,
    nodes: Vec<Arc<Node>>,
    barriers: AtomicU64,
    from: u64,
}

impl Capture {
    /// Starts; everything from here on is seen.
    ///
    /// # Errors
    /// The cluster has one node and so no wire, or the packet socket cannot be opened.
    pub fn start(cluster: &Cluster) -> Result<Self> {
        Self::start_with_buffer(cluster, tap::BUFFER)
    }

    /// Starts with another limit to what the kernel may hold for the capture, in bytes; 64 MiB otherwise.
    ///
    /// # Errors
    /// As [`Capture::start`].
    pub fn start_with_buffer(cluster: &Cluster, buffer: usize) -> Result<Self> {
        ensure!(cluster.nodes().len() > 1, "one node has no wire to listen on");
        let (namespace, scope) = match cluster.bridge() {
            Some(bridge) => (bridge.as_ref(), Scope::Bridge("br0")),
            None => (cluster.node(0).namespace(), Scope::Interface(WIRE)),
        };
        let run = cluster.run();
        let file = run.directory().join("captures").join(format!("wire.{}.pcap", run.next_number()));
        let tap = Tap::start(namespace, scope, buffer, &file)?;
        Ok(Self { tap, nodes: cluster.nodes().to_vec(), barriers: AtomicU64::new(0), from: pcap::HEADER })
    }

    /// The file with all packets, gone with the run unless `EBB_KEEP_RUN` keeps it.
    #[must_use]
    pub fn file(&self) -> &Path {
        self.tap.file()
    }

    /// Makes later questions be about packets after this moment only.
    ///
    /// # Errors
    /// As [`Capture::find`].
    pub fn forget(&mut self) -> Result<()> {
        self.from = self.settle()?;
        Ok(())
    }

    /// The first packet at which `marker` could be read: within it, or across consecutive segments of a TCP flow that end in
    /// it.
    ///
    /// # Errors
    /// Packets were lost, the wire is cut, or the capture broke off.
    pub fn find(&self, marker: impl AsRef<[u8]>) -> Result<Option<Sighting>> {
        let marker = marker.as_ref();
        ensure!(!marker.is_empty(), "an empty marker is everywhere");
        let (mut search, mut found) = (Search::new(marker), None);
        self.each_frame(|frame| {
            found = search.look(frame);
            found.is_none()
        })?;
        Ok(found)
    }

    /// Whether `marker` could be read.
    ///
    /// # Errors
    /// As [`Capture::find`].
    pub fn contains(&self, marker: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.find(marker)?.is_some())
    }

    /// Packets by transport and destination port, barrier packets of the capture itself left out.
    ///
    /// # Errors
    /// As [`Capture::find`].
    pub fn counts(&self) -> Result<BTreeMap<(Transport, u16), u64>> {
        let mut counts = BTreeMap::new();
        self.each(|packet| *counts.entry((packet.transport, packet.destination.port())).or_default() += 1)?;
        counts.remove(&(Transport::Udp, tap::BARRIER_PORT));
        Ok(counts)
    }

    /// TCP packets to a port.
    ///
    /// # Errors
    /// As [`Capture::find`].
    pub fn tcp_packets_to(&self, port: u16) -> Result<u64> {
        Ok(self.counts()?.get(&(Transport::Tcp, port)).copied().unwrap_or(0))
    }

    /// TLS records in either direction of a TCP port.
    ///
    /// # Errors
    /// As [`Capture::find`].
    pub fn tls_records(&self, port: u16) -> Result<TlsRecords> {
        let mut records = TlsRecords::default();
        self.each(|packet| {
            let there = [packet.source.port(), packet.destination.port()].contains(&port);
            match packet.payload {
                [0x16, 3, ..] if there => records.handshake += 1,
                [0x17, 3, ..] if there => records.application_data += 1,
                _ => {}
            }
        })?;
        Ok(records)
    }

    /// Hands every TCP and UDP packet to `look`, for questions of one's own.
    ///
    /// # Errors
    /// As [`Capture::find`].
    pub fn each(&self, mut look: impl FnMut(&Packet<'_>)) -> Result<()> {
        self.each_frame(|frame| {
            if let Some(packet) = Packet::parse(frame) {
                look(&packet);
            }
            true
        })
    }

    fn each_frame(&self, look: impl FnMut(&[u8]) -> bool) -> Result<()> {
        let to = self.settle()?;
        pcap::read(self.tap.file(), self.from, to, look)
    }

    /// Waits until all that was sent before is in the file, and returns the file's length then.
    fn settle(&self) -> Result<u64> {
        let mut readable = 0;
        for (sender, receiver) in self.barrier_paths() {
            let number = self.barriers.fetch_add(1, Ordering::Relaxed);
            let to = (receiver.addresses().v4, tap::BARRIER_PORT);
            let socket = sender.namespace().within(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?))?;
            socket.send_to(&tap::barrier_payload(number), to).context("send a barrier packet")?;
            readable = self.tap.wait_for(number)?;
        }
        Ok(readable)
    }

    /// One queue, so one sender is enough between two nodes; at a bridge each port has a queue of its own on the way in.
    fn barrier_paths(&self) -> impl Iterator<Item = (&Arc<Node>, &Arc<Node>)> {
        let senders = if self.nodes.len() == 2 { 1 } else { self.nodes.len() };
        let receivers = self.nodes.iter().cycle().skip(1);
        self.nodes.iter().zip(receivers).take(senders)
    }
}
