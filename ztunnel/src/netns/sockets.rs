//! The TCP sockets of a pod, as inet_diag shows them, and the end of those that policy no longer admits.
//!
//! Tells ztunnel's own sockets by their mark, accepted ones included, and never destroys one of them. Sockets in
//! TIME_WAIT have no mark to show; they are listed without one and left alone.

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ebb_abi::ZTUNNEL_MARK;
use nix::libc;
use rtnetlink::sys::{Socket as NetlinkSocket, SocketAddr as NetlinkAddr};

use super::{Netns, listen::canonical};

/// NETLINK_SOCK_DIAG (linux/netlink.h).
const NETLINK_SOCK_DIAG: isize = 4;
/// SOCK_DIAG_BY_FAMILY and SOCK_DESTROY (linux/sock_diag.h).
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// INET_DIAG_MARK (linux/inet_diag.h).
const INET_DIAG_MARK: u16 = 15;
/// LISTEN, and every other state.
const LISTENERS: u32 = 1 << 10;
const CONNECTIONS: u32 = 0xfff & !LISTENERS;

const HEADER: usize = 16;
const REQUEST: usize = 56;
const ANSWER: usize = 72;

/// State of a TCP socket (net/tcp_states.h), as far as anyone here cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Data may flow both ways.
    Established,
    /// A SYN is out.
    SynSent,
    /// A handshake somebody else began.
    SynReceived,
    /// Closed, but remembered for a minute.
    TimeWait,
    /// Any of the states in which one side at least has closed; the number is the kernel's.
    Closing(u8),
}

impl State {
    fn of(number: u8) -> Self {
        match number {
            1 => Self::Established,
            2 => Self::SynSent,
            3 | 12 => Self::SynReceived,
            6 => Self::TimeWait,
            other => Self::Closing(other),
        }
    }
}

/// One TCP connection's socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpSocketInfo {
    /// The pod's side. IPv4 addresses are plain even where the socket is IPv6.
    pub local: SocketAddr,
    /// The other side.
    pub remote: SocketAddr,
    /// State of the connection.
    pub state: State,
    /// SO_MARK; none in TIME_WAIT.
    pub mark: Option<u32>,
    /// Inode, zero when no process holds it any more.
    pub inode: u32,
    /// Owner's user id.
    pub uid: u32,
    /// How the kernel names it: addresses, interface and cookie.
    id: [u8; 48],
    family: u8,
}

impl TcpSocketInfo {
    /// Whether ztunnel opened or accepted it.
    pub fn is_ztunnels(&self) -> bool {
        self.mark == Some(ZTUNNEL_MARK)
    }

    /// Whether both ends are in the pod itself, as with 127.0.0.1 or the pod's own address.
    pub fn is_loopback(&self) -> bool {
        self.local.ip() == self.remote.ip() || self.local.ip().is_loopback() || self.remote.ip().is_loopback()
    }
}

/// Every TCP connection of the pod, of either family. Listening sockets are not among them.
///
/// # Errors
/// When inet_diag is not there or refuses.
pub fn list(netns: &Netns) -> io::Result<Vec<TcpSocketInfo>> {
    netns.run(|| {
        let mut found = dump(libc::AF_INET, CONNECTIONS)?;
        found.extend(dump(libc::AF_INET6, CONNECTIONS)?);
        Ok(found)
    })?
}

/// The connections that do not run through ztunnel, so those older than enrolment: neither ztunnel's, nor mirrored by
/// one of ztunnel's with the ends exchanged, nor within the pod.
///
/// # Errors
/// As for [`list`].
pub fn older_than_enrolment(netns: &Netns) -> io::Result<Vec<TcpSocketInfo>> {
    // A connection made while the kernel was listing can show one end without the other. Those that lack a
    // mirror in two listings are old.
    let (first, second) = (list(netns)?, list(netns)?);
    let mut old = unmirrored(second);
    let suspects: HashSet<[u8; 48]> = unmirrored(first).iter().map(|socket| socket.id).collect();
    old.retain(|socket| suspects.contains(&socket.id));
    Ok(old)
}

fn unmirrored(mut sockets: Vec<TcpSocketInfo>) -> Vec<TcpSocketInfo> {
    let ends: HashSet<(SocketAddr, SocketAddr)> =
        sockets.iter().map(|socket| (socket.local, socket.remote)).collect();
    sockets.retain(|socket| is_destroyable(socket) && !ends.contains(&(socket.remote, socket.local)));
    sockets
}

/// The ports on which somebody in the pod listens, ztunnel excepted.
///
/// # Errors
/// As for [`list`].
pub fn listening_ports(netns: &Netns) -> io::Result<HashSet<u16>> {
    netns.run(|| {
        let mut found = dump(libc::AF_INET, LISTENERS)?;
        found.extend(dump(libc::AF_INET6, LISTENERS)?);
        Ok(found.iter().filter(|socket| !socket.is_ztunnels()).map(|socket| socket.local.port()).collect())
    })?
}

/// The connection with exactly these ends, if the pod has it. Asks the kernel for that one, on the calling thread: the
/// answer is there when the question has been sent, however many connections the pod has.
///
/// # Errors
/// As for [`list`], and when the ends are of two families.
pub fn find(netns: &Netns, local: SocketAddr, remote: SocketAddr) -> io::Result<Option<TcpSocketInfo>> {
    let (family, id) = name(local, remote)?;
    // A dual-stack socket's IPv4 connection is found by its IPv4 ends: the kernel keeps it among those.
    let found = netns.enter(|| look_up(family, &id))??;
    // Where there is no connection, a listener that would take one is found instead.
    Ok(found.filter(|socket| (socket.local, socket.remote) == (local, remote)))
}

/// Destroys those of the sockets that are not ztunnel's and not loopback: both sides see a reset. Returns how
/// many there were.
///
/// # Errors
/// `Unsupported` when the kernel cannot destroy sockets (CONFIG_INET_DIAG_DESTROY): set
/// [`ebb_loader::PodFlags::cut_old`] instead. A socket that closed in the meantime is no error.
pub fn destroy(netns: &Netns, sockets: &[TcpSocketInfo]) -> io::Result<usize> {
    netns.run(|| {
        let mut destroyed = 0;
        for socket in sockets.iter().filter(|socket| is_destroyable(socket)) {
            match destroy_one(socket) {
                Ok(()) => destroyed += 1,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    return Err(io::Error::new(io::ErrorKind::Unsupported, error));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(destroyed)
    })?
}

fn is_destroyable(socket: &TcpSocketInfo) -> bool {
    // What shows no mark might be ztunnel's.
    socket.mark.is_some() && !socket.is_ztunnels() && !socket.is_loopback() && socket.state != State::TimeWait
}

fn dump(family: i32, states: u32) -> io::Result<Vec<TcpSocketInfo>> {
    let netlink = open()?;
    netlink.send_to(
        &request(SOCK_DIAG_BY_FAMILY, dump_flags(), family as u8, (states, None)),
        &NetlinkAddr::new(0, 0),
        0,
    )?;
    let mut found = Vec::new();
    loop {
        let (datagram, _) = netlink.recv_from_full()?;
        let mut rest = &datagram[..];
        while let Some((kind, body, next)) = message(rest) {
            match i32::from(kind) {
                libc::NLMSG_DONE => return Ok(found),
                libc::NLMSG_ERROR => match refusal(body) {
                    // The kernel has no sockets of that family.
                    Some(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(found),
                    Some(error) => return Err(error),
                    None => {}
                },
                _ => found.extend(socket(body)),
            }
            rest = next;
        }
    }
}

fn look_up(family: u8, id: &[u8; 48]) -> io::Result<Option<TcpSocketInfo>> {
    let netlink = open()?;
    let flags = libc::NLM_F_REQUEST as u16;
    netlink.send_to(
        &request(SOCK_DIAG_BY_FAMILY, flags, family, (CONNECTIONS, Some(id))),
        &NetlinkAddr::new(0, 0),
        0,
    )?;
    let (datagram, _) = netlink.recv_from_full()?;
    match message(&datagram) {
        Some((kind, body, _)) if i32::from(kind) == libc::NLMSG_ERROR => match refusal(body) {
            Some(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
            _ => Ok(None),
        },
        Some((_, body, _)) => Ok(socket(body)),
        None => Err(io::Error::other("the kernel did not answer")),
    }
}

/// `struct inet_diag_sockid` of a connection whose cookie is not known, and the family to ask for it.
fn name(local: SocketAddr, remote: SocketAddr) -> io::Result<(u8, [u8; 48])> {
    let mut id = [0; 48];
    id[0..2].copy_from_slice(&local.port().to_be_bytes());
    id[2..4].copy_from_slice(&remote.port().to_be_bytes());
    let family = match (local.ip(), remote.ip()) {
        (IpAddr::V4(local), IpAddr::V4(remote)) => {
            id[4..8].copy_from_slice(&local.octets());
            id[20..24].copy_from_slice(&remote.octets());
            libc::AF_INET
        }
        (IpAddr::V6(local), IpAddr::V6(remote)) => {
            id[4..20].copy_from_slice(&local.octets());
            id[20..36].copy_from_slice(&remote.octets());
            libc::AF_INET6
        }
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "ends of two families")),
    };
    // INET_DIAG_NOCOOKIE, twice (linux/inet_diag.h); any interface stays zero.
    id[40..48].copy_from_slice(&[0xff; 8]);
    Ok((family as u8, id))
}

fn destroy_one(socket: &TcpSocketInfo) -> io::Result<()> {
    let netlink = open()?;
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    netlink.send_to(
        &request(SOCK_DESTROY, flags, socket.family, (CONNECTIONS, Some(&socket.id))),
        &NetlinkAddr::new(0, 0),
        0,
    )?;
    let (datagram, _) = netlink.recv_from_full()?;
    match message(&datagram) {
        Some((kind, body, _)) if i32::from(kind) == libc::NLMSG_ERROR => refusal(body).map_or(Ok(()), Err),
        _ => Err(io::Error::other("the kernel did not answer")),
    }
}

fn open() -> io::Result<NetlinkSocket> {
    let mut socket = NetlinkSocket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    Ok(socket)
}

fn dump_flags() -> u16 {
    (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16
}

/// `struct inet_diag_req_v2` behind its netlink header.
fn request(kind: u16, flags: u16, family: u8, (states, id): (u32, Option<&[u8; 48]>)) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + REQUEST);
    bytes.extend(((HEADER + REQUEST) as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, libc::IPPROTO_TCP as u8, 0, 0]);
    bytes.extend(states.to_ne_bytes());
    bytes.extend(id.unwrap_or(&[0; 48]));
    bytes
}

/// The first message of a datagram: its kind, its body, and what follows.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(HEADER..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or(&[])))
}

fn refusal(body: &[u8]) -> Option<io::Error> {
    let code = i32::from_ne_bytes(body.get(..4)?.try_into().ok()?);
    (code != 0).then(|| io::Error::from_raw_os_error(-code))
}

/// `struct inet_diag_msg` and its attributes.
fn socket(body: &[u8]) -> Option<TcpSocketInfo> {
    let fixed: &[u8; ANSWER] = body.get(..ANSWER)?.try_into().ok()?;
    let family = fixed[0];
    let port = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
    let word = |at: usize| u32::from_ne_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    let end = |address: usize, port: u16| {
        canonical(SocketAddr::new(ip(family, &fixed[address..address + 16]), port))
    };
    Some(TcpSocketInfo {
        state: State::of(fixed[1]),
        local: end(8, port(4)),
        remote: end(24, port(6)),
        uid: word(64),
        inode: word(68),
        mark: attribute(&body[ANSWER..], INET_DIAG_MARK)
            .and_then(|value| value.try_into().ok())
            .map(u32::from_ne_bytes),
        id: fixed[4..52].try_into().ok()?,
        family,
    })
}

fn ip(family: u8, bytes: &[u8]) -> IpAddr {
    if i32::from(family) == libc::AF_INET {
        IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
    } else {
        let mut whole = [0; 16];
        whole.copy_from_slice(bytes);
        IpAddr::V6(Ipv6Addr::from(whole))
    }
}

fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}
