//! What a pod's namespace needs besides the programs, so that captured packets are taken in on `lo`: for each
//! family a rule `fwmark STEER lookup TABLE` and a route `local default dev lo table TABLE`, and some sysctls.
//!
//! Everything here may be done twice, and undone when it is not there.

use std::{fs, io};

use ebb_abi::STEER_MARK;
use nix::libc;
use rtnetlink::{
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
        NetlinkPayload,
    },
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
        rule::{RuleAction, RuleAttribute, RuleMessage},
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

use super::Netns;

/// Routing table of captured packets.
pub const TABLE: u32 = 15001;
/// Place of our rule: before the rules of any CNI we know of.
pub const RULE_PRIORITY: u32 = 150;
/// Index of `lo`, the same in every namespace.
const LOOPBACK: u32 = 1;

/// Sysctls under `/proc/sys/net/ipv4`, and why.
const SYSCTLS: [(&str, &str); 4] = [
    // A captured packet has the pod's own address as its source and comes in on `lo`.
    ("conf/lo/accept_local", "1"),
    // Its answer comes from an address that is not routed through `lo`.
    ("conf/lo/rp_filter", "0"),
    ("conf/all/rp_filter", "0"),
    // A cookie's last packet would look for a listener at the original destination and find none of ours. When
    // the backlog overflows a SYN is dropped instead, and repeated.
    ("tcp_syncookies", "0"),
];

/// Sysctl values as they were, to be put back on un-enrolment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Before(Vec<(&'static str, String)>);

/// Prepares the namespace, and says what its sysctls were. A namespace without IPv6 is prepared for IPv4.
///
/// # Errors
/// When netlink or a sysctl refuses.
pub fn install(netns: &Netns) -> io::Result<Before> {
    netns.run(|| {
        let mut before = Vec::new();
        for (name, value) in SYSCTLS {
            let path = format!("/proc/sys/net/ipv4/{name}");
            let was = fs::read_to_string(&path)?.trim().to_owned();
            if was != value {
                fs::write(&path, value)?;
                before.push((name, was));
            }
        }
        let netlink = Netlink::open()?;
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            match netlink.install(family) {
                Err(error) if family == AddressFamily::Inet6 && is_absent_family(&error) => {}
                installed => installed?,
            }
        }
        Ok(Before(before))
    })?
}

/// Takes back what [`install`] did; sysctls only when what they were is known.
///
/// # Errors
/// When netlink or a sysctl refuses; rules and routes that are not there are no error.
pub fn remove(netns: &Netns, before: Option<&Before>) -> io::Result<()> {
    netns.run(|| {
        let netlink = Netlink::open()?;
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            match netlink.remove(family) {
                Err(error) if is_absent_family(&error) => {}
                removed => removed?,
            }
        }
        for (name, value) in before.map_or(&[][..], |before| &before.0) {
            fs::write(format!("/proc/sys/net/ipv4/{name}"), value)?;
        }
        Ok(())
    })?
}

fn is_absent_family(error: &io::Error) -> bool {
    // EOPNOTSUPP: no IPv6 in the kernel. ENODEV and EACCES: `disable_ipv6` takes it away from `lo`.
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::ENODEV | libc::EACCES))
}

/// A conversation with the routing netlink of the thread's namespace.
struct Netlink(Socket);

impl Netlink {
    fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        Ok(Self(socket))
    }

    /// The route comes first: a rule that leads to an empty table would let captured packets fall through to
    /// the pod's ordinary routes.
    fn install(&self, family: AddressFamily) -> io::Result<()> {
        self.ask(RouteNetlinkMessage::NewRoute(route(family)), NLM_F_CREATE | NLM_F_REPLACE)?;
        match self.ask(RouteNetlinkMessage::NewRule(rule(family)), NLM_F_CREATE | NLM_F_EXCL) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            added => added,
        }
    }

    fn remove(&self, family: AddressFamily) -> io::Result<()> {
        let steps =
            [RouteNetlinkMessage::DelRule(rule(family)), RouteNetlinkMessage::DelRoute(route(family))];
        for step in steps {
            match self.ask(step, 0) {
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {}
                removed => removed?,
            }
        }
        Ok(())
    }

    fn ask(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.0.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
        let (answer, _) = self.0.recv_from_full()?;
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map_err(io::Error::other)?;
        match answer.payload {
            NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
            _ => Ok(()),
        }
    }
}

fn route(family: AddressFamily) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family,
        table: RouteHeader::RT_TABLE_UNSPEC,
        protocol: RouteProtocol::Static,
        scope: RouteScope::Host,
        kind: RouteType::Local,
        ..RouteHeader::default()
    };
    message.attributes = vec![RouteAttribute::Table(TABLE), RouteAttribute::Oif(LOOPBACK)];
    message
}

fn rule(family: AddressFamily) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family;
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Priority(RULE_PRIORITY),
        RuleAttribute::FwMark(STEER_MARK),
        RuleAttribute::FwMask(u32::MAX),
        RuleAttribute::Table(TABLE),
    ];
    message
}
