//! The ways round redirection, on a real wire: frames that reach the pod's interface past its sockets.

use std::{io::ErrorKind, time::Duration};

use crate::rig::{
    Namespace, Node, PEER4, POD4, SILENCE, Wire, Ztunnel, address, enrolled,
    frames::{ACK, Frame, SYN},
    raw::{Raw, mac},
    ways::ways_round,
};
use ebb_loader::{
    PodFlags,
    abi::{Hook, Verdict},
};
use socket2::{Domain, Socket, Type};

/// The frames of [`ways_round`], each from a port of its own where it has room for one, so that they and their
/// answers can be told apart.
fn numbered(from: [u8; 6], to: [u8; 6], inbound: bool) -> Vec<(&'static str, u16, Frame, Verdict)> {
    let ways = ways_round().into_iter().zip(20_000..);
    ways.map(|((name, mut frame, egress, ingress), port)| {
        frame.macs = [to, from];
        if inbound {
            std::mem::swap(&mut frame.source, &mut frame.destination);
        }
        if frame.payload.len() >= 20 && frame.payload[12] >> 4 >= 5 {
            frame.payload[..2].copy_from_slice(&u16::to_be_bytes(port));
            frame.checksum();
        }
        (name, port, frame, if inbound { ingress } else { egress })
    })
    .collect()
}

/// Source and destination port of each TCP segment among the frames, and its flags.
fn segments(frames: &[Vec<u8>]) -> Vec<(u16, u16, u8)> {
    let read = |frame: &Vec<u8>| {
        let at = match (frame.get(12..14)?, frame.get(14)?, frame.get(20)?, frame.get(23)?) {
            ([0x08, 0x00], first, _, 6) => 14 + usize::from(first & 15) * 4,
            ([0x86, 0xdd], _, 6, _) => 54,
            _ => return None,
        };
        let half = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
        Some((half(at)?, half(at + 2)?, *frame.get(at + 13)?))
    };
    frames.iter().filter_map(read).collect()
}

#[test]
fn no_frame_that_could_open_a_connection_leaves_the_pod() {
    let rig = enrolled(1);
    let (pod, peer) = (mac(&rig.wire.pod, "eth0"), mac(&rig.wire.peer, "eth0"));
    let (out, seen) = (Raw::open(&rig.wire.pod, "eth0"), Raw::open(&rig.wire.peer, "eth0"));
    let sent = numbered(pod, peer, false);
    for (_, _, frame, _) in &sent {
        out.send(&frame.bytes());
    }
    let arrived = seen.receive_for(SILENCE);
    for (name, _, frame, verdict) in &sent {
        let there = arrived.contains(&frame.bytes());
        let passes = !verdict.is_drop() && !matches!(verdict, Verdict::SteerSyn | Verdict::SteerSegment);
        assert_eq!(there, passes, "{name}");
    }
    let counters = rig.pod.counters().unwrap();
    let steered = sent.iter().filter(|(.., verdict)| *verdict == Verdict::SteerSyn).count() as u64;
    assert_eq!(counters.get(Hook::AssignOutbound, Verdict::AssignOutbound), steered, "{counters:?}");
}

#[test]
fn no_frame_that_arrives_opens_a_connection_past_ztunnel() {
    let rig = enrolled(1);
    let application = rig.wire.pod.listen("[::]:80".parse().unwrap());
    application.set_nonblocking(true).unwrap();
    let (pod, peer) = (mac(&rig.wire.pod, "eth0"), mac(&rig.wire.peer, "eth0"));
    let wire = Raw::open(&rig.wire.peer, "eth0");
    let sent = numbered(peer, pod, true);
    let before = rig.pod.counters().unwrap().of(Verdict::AssignPlaintext);
    for (_, _, frame, _) in &sent {
        wire.send(&frame.bytes());
    }
    let answers = segments(&wire.receive_for(SILENCE));
    let assigned = rig.pod.counters().unwrap().of(Verdict::AssignPlaintext) - before;
    let mut answered = 0;
    for (name, port, frame, verdict) in &sent {
        let syn_ack = answers.iter().any(|(_, to, flags)| to == port && flags & (SYN | ACK) == SYN | ACK);
        // The bench's "no listener" is here a listener; a tagged frame is assigned, and then nobody's, because
        // the pod has no VLAN interface.
        let expected = *verdict == Verdict::DropNoListener && frame.tags.is_empty();
        assert_eq!(syn_ack, expected, "{name}");
        answered += u64::from(syn_ack);
    }
    assert!(answered >= 8 && assigned >= answered, "{answered} answers, {assigned} assigned");
    assert_eq!(application.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn an_application_cannot_meet_a_peer_that_opens_at_the_same_time() {
    let wire = Wire::new();
    let node = Node::start();
    let ztunnel = Ztunnel::start(&wire.pod, 1);
    let pod = node.enrol(&wire.pod, &ztunnel);
    // Without listeners the application's SYN is dropped and its socket waits for a SYN-ACK, or a SYN.
    drop(ztunnel);
    let opening = wire.pod.inside(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.bind(&address(POD4, 5000).into()).unwrap();
        let started = socket.connect(&address(PEER4, 6000).into());
        assert_eq!(started.unwrap_err().raw_os_error(), Some(nix::libc::EINPROGRESS));
        socket
    });
    let raw = Raw::open(&wire.peer, "eth0");
    let (pod_mac, peer_mac) = (mac(&wire.pod, "eth0"), mac(&wire.peer, "eth0"));
    let syn = Frame::tcp((PEER4, 6000), (POD4, 5000), SYN, b"").with(|f| f.macs = [pod_mac, peer_mac]);
    raw.send(&syn.bytes());
    let answers = segments(&raw.receive_for(SILENCE));
    assert!(answers.iter().all(|(_, to, flags)| *to != 6000 || flags & SYN == 0), "{answers:?}");
    assert!(opening.peer_addr().is_err());
    assert_eq!(pod.counters().unwrap().of(Verdict::DropSimultaneousOpen), 1);
}

#[test]
fn a_repeated_syn_neither_opens_twice_nor_reaches_the_application() {
    let rig = enrolled(1);
    let application = rig.wire.pod.listen(address(POD4, 80));
    application.set_nonblocking(true).unwrap();
    let raw = Raw::open(&rig.wire.peer, "eth0");
    let (pod_mac, peer_mac) = (mac(&rig.wire.pod, "eth0"), mac(&rig.wire.peer, "eth0"));
    // An address nobody has, so that nobody resets the handshake.
    rig.wire.pod.run(&format!("ip neigh add 10.9.0.77 lladdr {} dev eth0", text(peer_mac)));
    let syn = Frame::tcp(("10.9.0.77", 6000), (POD4, 80), SYN, b"").with(|f| f.macs = [pod_mac, peer_mac]);
    raw.send(&syn.bytes());
    assert!(!segments(&raw.receive_for(SILENCE)).is_empty());
    drop(rig.ztunnel);
    raw.send(&syn.bytes());
    raw.receive_for(SILENCE);
    let counters = rig.pod.counters().unwrap();
    assert_eq!(counters.of(Verdict::DropRepeatedSyn), 1, "{counters:?}");
    assert_eq!(application.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[test]
fn a_tunnel_to_the_own_pod_finds_the_hbone_listener_through_lo() {
    let rig = enrolled(1);
    let stream = rig.wire.pod.inside(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_mark(ebb_loader::abi::ZTUNNEL_MARK).unwrap();
        socket.connect_timeout(&address(POD4, 15008).into(), crate::rig::PATIENCE).unwrap();
        socket
    });
    let accepted = rig.ztunnel.accept();
    assert_eq!(accepted.kind, ebb_loader::abi::ListenerKind::Hbone);
    assert_eq!(accepted.local, address(POD4, 15008));
    drop(stream);
}

#[test]
fn what_carries_ztunnels_mark_goes_out_as_it_is() {
    let rig = enrolled(1);
    let server = rig.wire.peer.listen(address(PEER4, 80));
    let stream = rig.wire.pod.inside(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_mark(ebb_loader::abi::ZTUNNEL_MARK).unwrap();
        socket.connect_timeout(&address(PEER4, 80).into(), crate::rig::PATIENCE).unwrap();
        socket
    });
    assert_eq!(server.accept().unwrap().1, stream.local_addr().unwrap().as_socket().unwrap());
    assert!(rig.ztunnel.accept_within(Duration::ZERO).is_none());
}

#[test]
fn an_interface_without_ethernet_header_is_redirected_both_ways() {
    let wire = Wire::new();
    let tun = tun(&wire.pod, "tun0", None);
    wire.pod.run("ip addr add 10.8.0.2/24 dev tun0");
    wire.pod.run("ip link set tun0 up");
    let node = Node::start();
    let ztunnel = Ztunnel::start(&wire.pod, 1);
    let pod = node.enrol(&wire.pod, &ztunnel);
    assert_eq!(pod.verify().unwrap(), []);

    let mut client = wire.pod.connect(address("10.8.0.1", 80)).unwrap();
    let mut accepted = ztunnel.accept();
    assert_eq!(accepted.local, address("10.8.0.1", 80));
    crate::rig::assert_joined(&mut client, &mut accepted.stream);

    let syn = Frame::tcp(("10.8.0.1", 4000), ("10.8.0.2", 80), SYN, b"");
    nix::unistd::write(&tun, &syn.packet()).unwrap();
    let counted = || pod.counters().unwrap().get(Hook::AssignInbound, Verdict::AssignPlaintext);
    let until = std::time::Instant::now() + crate::rig::PATIENCE;
    while counted() == 0 && std::time::Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(counted(), 1);
}

#[test]
fn a_drop_on_an_interface_without_ethernet_header_is_reported_with_its_flow() {
    // A pod of its own for each, because a cpu that has told its first drop is silent for a while.
    for (from, to) in [("10.8.0.1", "10.8.0.2"), ("fd08::1", "fd08::2")] {
        let wire = Wire::new();
        let tun = tun(&wire.pod, "tun0", None);
        wire.pod.run("ip addr add 10.8.0.2/24 dev tun0");
        wire.pod.run("ip addr add fd08::2/64 dev tun0 nodad");
        wire.pod.run("ip link set tun0 up");
        let node = Node::start();
        let mut reader = node.redirector.drops().unwrap();
        let ztunnel = Ztunnel::start(&wire.pod, 1);
        let _pod = node.enrol(&wire.pod, &ztunnel);
        drop(ztunnel);
        let syn = Frame::tcp((from, 4000), (to, 80), SYN, b"");
        nix::unistd::write(&tun, &syn.packet()).unwrap();
        let mut reported = Vec::new();
        crate::rig::eventually("a report", || {
            reported.extend(reader.take().unwrap());
            !reported.is_empty()
        });
        assert_eq!((reported[0].hook, reported[0].verdict), (Hook::AssignInbound, Verdict::DropNoListener));
        assert_eq!(reported[0].flow, Some((address(from, 4000), address(to, 80))), "{}", reported[0]);
    }
}

#[test]
fn an_interface_of_unknown_framing_is_refused_by_name_or_let_nothing_through() {
    const INFINIBAND: u16 = 32;
    let wire = Wire::new();
    let _tun = tun(&wire.pod, "odd0", Some(INFINIBAND));
    let node = Node::start();
    let ztunnel = Ztunnel::start(&wire.pod, 1);
    // Down, it does no harm, and it is covered all the same.
    let pod = node.enrol(&wire.pod, &ztunnel);
    assert_eq!(pod.verify().unwrap(), []);
    pod.unenrol().unwrap();

    wire.pod.run("ip link set odd0 up");
    let (workers, netns) = (ztunnel.workers(), wire.pod.fd());
    let enrolment =
        ebb_loader::Enrolment { uid: "pod-1", netns, listeners: &workers, flags: PodFlags::default() };
    let refused = node.redirector.enrol(enrolment).err().expect("refused").to_string();
    assert!(refused.contains("odd0") && refused.contains("Infiniband"), "{refused}");
    assert!(
        node.redirector.leftovers(&Default::default()).unwrap().is_empty(),
        "half an enrolment was left behind"
    );
}

/// A tun interface of the pod, with a link type of its own if wanted.
fn tun(pod: &Namespace, name: &str, link_type: Option<u16>) -> std::os::fd::OwnedFd {
    use nix::libc;
    use std::os::fd::AsRawFd as _;
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    const TUNSETLINK: libc::c_ulong = 0x4004_54cd;
    const IFF_TUN_NO_PI: i16 = 0x1001;
    pod.inside(|| {
        let file =
            std::fs::File::options().read(true).write(true).open("/dev/net/tun").expect("/dev/net/tun");
        // SAFETY: an ifreq of zeros is valid, and lives across the calls.
        unsafe {
            let mut request: libc::ifreq = std::mem::zeroed();
            for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
                *to = from as libc::c_char;
            }
            request.ifr_ifru.ifru_flags = IFF_TUN_NO_PI;
            assert_eq!(libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request), 0);
            if let Some(link_type) = link_type {
                assert_eq!(libc::ioctl(file.as_raw_fd(), TUNSETLINK, libc::c_ulong::from(link_type)), 0);
            }
        }
        file.into()
    })
}
