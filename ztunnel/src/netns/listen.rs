//! Ztunnel's listening sockets in a pod.
//!
//! The kernel programs hand them connections directly, so they are bound to addresses nobody can reach: no
//! process of the pod can talk to ztunnel by connecting to its ports, and two generations of ztunnel can listen at the
//! same time. A process with CAP_NET_ADMIN can make them reachable by a local route; what then arrives is refused. The
//! numbers of the ports are Istio's, for people who look, unless an application has one of them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd as _,
};

use ebb_abi::{HBONE_PORT, ListenerKind, MAX_WORKERS, ZTUNNEL_MARK};
use ebb_loader::WorkerListeners;
use nix::libc;
use rand::Rng as _;
use socket2::{Domain, Socket, Type};

use common::net::socket::tune;

use super::{Netns, option};

/// Connections that may wait to be accepted, per listener; the kernel lowers it to `net.core.somaxconn`.
pub const BACKLOG: i32 = 4096;

/// Further attempts at an address and port that are not taken.
const ATTEMPTS: usize = 16;

/// First byte of every listener's address. Not all that begins so is a listener's: some clusters number their pods, their
/// nodes or their services with such addresses.
const FIRST_BYTE: u8 = 240;

/// One worker's listeners in one pod: nonblocking, transparent, marked as ztunnel's.
#[derive(Debug)]
pub struct PodListeners {
    /// Takes what the pod opens.
    pub outbound: TcpListener,
    /// Takes what arrives for the pod outside a tunnel.
    pub plaintext: TcpListener,
    /// Takes the tunnels that arrive for the pod.
    pub hbone: TcpListener,
    /// What they are bound to. IPv4 addresses are plain, though the sockets wrap them.
    pub bound: [SocketAddr; 3],
}

impl PodListeners {
    /// These.
    ///
    /// # Errors
    /// When the kernel does not say what one is bound to.
    pub fn new(outbound: TcpListener, plaintext: TcpListener, hbone: TcpListener) -> io::Result<Self> {
        let bound = [outbound.local_addr()?, plaintext.local_addr()?, hbone.local_addr()?].map(canonical);
        Ok(Self { outbound, plaintext, hbone, bound })
    }

    /// Opens a worker's listeners in the pod. `worker` is below [`MAX_WORKERS`].
    ///
    /// # Errors
    /// When the namespace cannot be entered or a socket cannot be opened.
    pub fn open(netns: &Netns, worker: u32) -> io::Result<Self> {
        if worker >= MAX_WORKERS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("there are at most {MAX_WORKERS} workers"),
            ));
        }
        netns.enter(|| {
            let [outbound, plaintext, hbone] = ListenerKind::ALL.map(listener);
            Self::new(outbound?, plaintext?, hbone?)
        })?
    }

    /// The listeners as the loader takes them.
    pub fn as_worker(&self) -> WorkerListeners<'_> {
        WorkerListeners {
            outbound: self.outbound.as_fd(),
            plaintext: self.plaintext.as_fd(),
            hbone: self.hbone.as_fd(),
        }
    }
}

/// Who connected to whom, on a connection that one of these listeners accepted: the true source, and the
/// destination the client asked for. IPv4 addresses are plain, though the socket wraps them.
///
/// # Errors
/// When the connection is gone already.
pub fn ends(accepted: &TcpStream) -> io::Result<(SocketAddr, SocketAddr)> {
    Ok((canonical(accepted.peer_addr()?), canonical(accepted.local_addr()?)))
}

/// An IPv4 address as itself, when a dual-stack socket wrapped it.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether a listener can be bound to `ip` at all, told at a glance.
pub fn may_be_listeners(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(v4) if v4.octets()[0] == FIRST_BYTE)
}

fn listener(kind: ListenerKind) -> io::Result<TcpListener> {
    match bound(Domain::IPV6, kind) {
        // A kernel without IPv6.
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => bound(Domain::IPV4, kind),
        opened => opened,
    }
}

fn port(kind: ListenerKind) -> u16 {
    match kind {
        ListenerKind::Outbound => 15001,
        ListenerKind::Plaintext => 15006,
        ListenerKind::Hbone => HBONE_PORT,
    }
}

/// A listener at a random address of those reserved for later use (RFC 1112, class E): none of loopback and none that a pod
/// calls by chance, though some clusters number their nodes with such. A socket of IPv6 is
/// bound to such a one too, in its mapped form: bound to an address of IPv6 it would be one for IPv6 alone, and the kernel
/// would not take it for the answer to a lookup for IPv4.
fn bound(domain: Domain, kind: ListenerKind) -> io::Result<TcpListener> {
    let mut outcome = Err(io::Error::from(io::ErrorKind::AddrInUse));
    // Where an application has the port everywhere, any other does as well.
    for port in std::iter::once(port(kind)).chain([0; ATTEMPTS]) {
        let socket = Socket::new(domain, Type::STREAM.nonblocking(), None)?;
        let [a, b, c]: [u8; 3] = rand::rng().random();
        let unreachable = Ipv4Addr::new(FIRST_BYTE, a, b, c);
        let ip: IpAddr = if domain == Domain::IPV6 {
            socket.set_only_v6(false)?;
            option::set_transparent_v6(&socket)?;
            unreachable.to_ipv6_mapped().into()
        } else {
            socket.set_ip_transparent_v4(true)?;
            unreachable.into()
        };
        outcome = listen(&socket, SocketAddr::new(ip, port), kind);
        match &outcome {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(_) => break,
            Ok(()) => return Ok(socket.into()),
        }
    }
    Err(outcome.err().unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
}

fn listen(socket: &Socket, at: SocketAddr, kind: ListenerKind) -> io::Result<()> {
    // Accepted connections inherit the mark, so that their packets are known as ztunnel's from the SYN-ACK on, and the
    // other options, which saves setting them on each.
    socket.set_mark(ZTUNNEL_MARK)?;
    match kind {
        // From the pod itself: one kernel holds both ends, so that neither can be dead without the other's knowing.
        ListenerKind::Outbound => socket.set_tcp_nodelay(true)?,
        ListenerKind::Plaintext | ListenerKind::Hbone => tune(socket)?,
    }
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)
}
