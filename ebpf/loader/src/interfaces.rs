//! Lists the interfaces of the current thread's network namespace, and listens for new ones.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use nix::libc;
use rtnetlink::{
    packet_route::{
        RouteNetlinkMessage,
        link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage},
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

use crate::netlink;

/// RTMGRP_LINK: interfaces that come, go or change.
const LINK_GROUP: u32 = 1;

/// An interface of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) framing: Framing,
    pub(crate) is_up: bool,
}

/// How the packets of an interface begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Framing {
    /// `lo`.
    Loopback,
    /// With an Ethernet header: veth, netkit, macvlan, VLAN, bridge, tap, hardware.
    Ethernet,
    /// With the IP header: tun, WireGuard, IP-in-IP.
    Bare,
    /// Unknown to the programs.
    Unknown(String),
}

impl Framing {
    fn of(link_type: LinkLayerType, index: u32) -> Self {
        match link_type {
            LinkLayerType::Loopback if index == 1 => Self::Loopback,
            LinkLayerType::Ether => Self::Ethernet,
            LinkLayerType::None
            | LinkLayerType::Rawip
            | LinkLayerType::Tunnel
            | LinkLayerType::Tunnel6
            | LinkLayerType::Sit => Self::Bare,
            other => Self::Unknown(format!("{other:?} ({})", u16::from(other))),
        }
    }
}

/// Every interface of the calling thread's namespace, by index.
///
/// # Errors
/// When netlink fails.
pub(crate) fn list() -> io::Result<Vec<Interface>> {
    let answers = netlink::dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    let mut found: Vec<Interface> = answers
        .iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(interface(link)),
            _ => None,
        })
        .collect();
    found.sort_by_key(|interface| interface.index);
    Ok(found)
}

fn interface(link: &LinkMessage) -> Interface {
    let index = link.header.index;
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    });
    Interface {
        index,
        name: name.unwrap_or_else(|| format!("#{index}")),
        framing: Framing::of(link.header.link_layer_type, index),
        is_up: link.header.flags.contains(LinkFlags::Up),
    }
}

/// A socket that becomes readable when an interface of its namespace comes, goes or changes.
pub(crate) struct Changes(Socket);

impl Changes {
    /// Listens in the calling thread's namespace, whichever thread reads later.
    ///
    /// # Errors
    /// When netlink fails.
    pub(crate) fn listen() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, LINK_GROUP))?;
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    /// Throws away what has been announced: readers look at the namespace itself, so nothing is lost when
    /// the socket overflows either.
    pub(crate) fn discard(&self) {
        let mut buffer = Vec::with_capacity(4096);
        loop {
            buffer.clear();
            match self.0.recv(&mut buffer, 0) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(_) => return,
            }
        }
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is the socket's, which outlives the borrow of `self`.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn framing_follows_the_link_type_and_names_what_it_does_not_know() {
        assert_eq!(Framing::of(LinkLayerType::Ether, 2), Framing::Ethernet);
        assert_eq!(Framing::of(LinkLayerType::None, 2), Framing::Bare);
        assert_eq!(Framing::of(LinkLayerType::Loopback, 1), Framing::Loopback);
        assert_eq!(Framing::of(LinkLayerType::Infiniband, 3), Framing::Unknown("Infiniband (32)".into()));
    }

    #[test]
    fn the_own_namespace_has_a_loopback() {
        let found = list().unwrap();
        assert!(
            found.iter().any(|interface| interface.framing == Framing::Loopback && interface.name == "lo")
        );
    }
}
