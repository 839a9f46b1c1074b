//! What a pod's namespace needs besides the programs, so that captured packets are taken in on `lo`: for each
//! family a rule `fwmark STEER lookup TABLE` and a route `local default dev lo table TABLE`, and some sysctls.
//!
//! Everything here may be done twice, and undone when it is not there, by another process as well: what the sysctls were
//! is noted in the namespace itself, as the priority of our IPv4 route, which nothing else looks at in a table of one.

use std::{fs, io};

use ebb_abi::STEER_MARK;
use nix::libc;
use rtnetlink::{
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
        NetlinkMessage, NetlinkPayload,
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

/// Bytes of a netlink header.
const HEADER: usize = 16;

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

/// What a route's priority begins with when it is a note (the letters `Eb` and a version), above the values.
const NOTE: u32 = 0x4562_0100;
/// In a note: the value was none that fits, and is left alone.
const NOT_NOTED: u32 = 3;

/// Prepares the namespace; false when an earlier process had done so. A namespace without IPv6 is prepared for IPv4.
///
/// # Errors
/// When netlink or a sysctl refuses. What had been done is then taken back, unless it was there before.
pub fn install(netns: &Netns) -> io::Result<bool> {
    netns.run(|| {
        let netlink = Netlink::open()?;
        let is_first = netlink.ipv4_route()?.is_none();
        let installed = prepare(&netlink, is_first);
        if installed.is_err() && is_first {
            let _best_effort = take_back(&netlink);
        }
        installed.map(|()| is_first)
    })?
}

/// Takes back what [`install`] did, in this process or another: sysctls are again what they were.
///
/// # Errors
/// When netlink or a sysctl refuses; rules and routes that are not there are no error.
pub fn remove(netns: &Netns) -> io::Result<()> {
    netns.run(|| take_back(&Netlink::open()?))?
}

/// The IPv4 route comes first, because it carries the note of what is changed after it: whenever the process ends, the
/// next one finds what the namespace was like. The note goes with the namespace, as a file on the node would not.
fn prepare(netlink: &Netlink, is_first: bool) -> io::Result<()> {
    if is_first {
        let priority = note(SYSCTLS.iter().map(|(name, _)| read(name)))?;
        netlink.add_route(route(AddressFamily::Inet, Some(priority)))?;
    }
    for (name, value) in SYSCTLS {
        if read(name)? != value {
            fs::write(path(name), value)?;
        }
    }
    netlink.add_rule(AddressFamily::Inet)?;
    let six = netlink
        .add_route(route(AddressFamily::Inet6, None))
        .and_then(|()| netlink.add_rule(AddressFamily::Inet6));
    match six {
        Err(error) if is_absent_family(&error) => Ok(()),
        added => added,
    }
}

fn take_back(netlink: &Netlink) -> io::Result<()> {
    let before = netlink.ipv4_route()?.flatten();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        match netlink.remove_rule(family) {
            Err(error) if is_absent_family(&error) => {}
            removed => removed?,
        }
    }
    // Before the route, which says what they were; after the rules, without which nothing needs them.
    for ((name, value), was) in SYSCTLS.iter().zip(before.into_iter().flat_map(noted)) {
        // What somebody else has set since is theirs.
        if let Some(was) = was.filter(|was| was != value)
            && read(name)? == *value
        {
            fs::write(path(name), was)?;
        }
    }
    for family in [AddressFamily::Inet6, AddressFamily::Inet] {
        match netlink.remove_route(family) {
            Err(error) if is_absent_family(&error) => {}
            removed => removed?,
        }
    }
    Ok(())
}

fn path(sysctl: &str) -> String {
    format!("/proc/sys/net/ipv4/{sysctl}")
}

fn read(sysctl: &str) -> io::Result<String> {
    Ok(fs::read_to_string(path(sysctl))?.trim().to_owned())
}

/// Values of [`SYSCTLS`], each 0, 1 or 2, as a number that a route can carry.
fn note(values: impl Iterator<Item = io::Result<String>>) -> io::Result<u32> {
    values.enumerate().try_fold(NOTE, |note, (at, value)| {
        let value = value?.parse().unwrap_or(NOT_NOTED).min(NOT_NOTED);
        Ok(note | value << (2 * at))
    })
}

/// The values of a note; none in what is no note, such as the route of an earlier version.
fn noted(priority: u32) -> Vec<Option<String>> {
    if priority & !0xff != NOTE {
        return Vec::new();
    }
    let value = |at| priority >> (2 * at) & 3;
    (0..SYSCTLS.len())
        .map(|at| Some(value(at)).filter(|it| *it != NOT_NOTED).map(|it| it.to_string()))
        .collect()
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

    /// To be called before the rule is added: a rule that leads to an empty table would let captured packets fall through
    /// to the pod's ordinary routes.
    fn add_route(&self, route: RouteMessage) -> io::Result<()> {
        self.ask(RouteNetlinkMessage::NewRoute(route), NLM_F_CREATE | NLM_F_REPLACE)
    }

    fn add_rule(&self, family: AddressFamily) -> io::Result<()> {
        match self.ask(RouteNetlinkMessage::NewRule(rule(family)), NLM_F_CREATE | NLM_F_EXCL) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            added => added,
        }
    }

    fn remove_rule(&self, family: AddressFamily) -> io::Result<()> {
        self.remove(RouteNetlinkMessage::DelRule(rule(family)))
    }

    fn remove_route(&self, family: AddressFamily) -> io::Result<()> {
        self.remove(RouteNetlinkMessage::DelRoute(route(family, None)))
    }

    fn remove(&self, message: RouteNetlinkMessage) -> io::Result<()> {
        match self.ask(message, 0) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(()),
            removed => removed,
        }
    }

    /// Our IPv4 route, if it is there, and its priority, if it has one.
    fn ipv4_route(&self) -> io::Result<Option<Option<u32>>> {
        let mut all = RouteMessage::default();
        all.header.address_family = AddressFamily::Inet;
        self.send(RouteNetlinkMessage::GetRoute(all), NLM_F_DUMP)?;
        let mut found = None;
        loop {
            let (answers, _) = self.0.recv_from_full()?;
            let mut rest = &answers[..];
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest);
                let length = rest.first_chunk::<4>().map_or(0, |length| u32::from_ne_bytes(*length) as usize);
                rest = rest.get(length.next_multiple_of(4).max(HEADER)..).unwrap_or(&[]);
                // A route of a kind unknown here is not ours, and no reason to leave the pod unprotected.
                let Ok(answer) = answer else { continue };
                match answer.payload {
                    NetlinkPayload::Done(_) => return Ok(found),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) if is_ours(&route) => {
                        found = Some(priority(&route));
                    }
                    _ => {}
                }
            }
        }
    }

    fn ask(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, NLM_F_ACK | flags)?;
        let (answer, _) = self.0.recv_from_full()?;
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map_err(io::Error::other)?;
        match answer.payload {
            NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
            _ => Ok(()),
        }
    }

    fn send(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.0.send_to(&bytes, &SocketAddr::new(0, 0), 0).map(|_| ())
    }
}

fn is_ours(route: &RouteMessage) -> bool {
    route.attributes.contains(&RouteAttribute::Table(TABLE))
}

fn priority(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(priority) => Some(*priority),
        _ => None,
    })
}

fn route(family: AddressFamily, priority: Option<u32>) -> RouteMessage {
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
    message.attributes.extend(priority.map(RouteAttribute::Priority));
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
