//! Connections and listeners that come and go.

use std::{
    io,
    io::Read as _,
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use aya::programs::TcAttachType;
use ebb_loader::{
    PodFlags,
    abi::{Hook, ListenerKind, Verdict},
};
use socket2::{Domain, Socket, Type};

use crate::rig::{
    Enrolled, Namespace, Node, PATIENCE, PEER4, PEER6, POD4, POD6, SILENCE, Wire, Ztunnel, address,
    assert_inbound, assert_joined, assert_outbound, assert_silent, direct, enrolled, eventually, plain,
    running_on,
};

/// Connects from a port that an earlier socket may be about to leave.
fn connect_from(namespace: &Namespace, from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let until = Instant::now() + PATIENCE;
    loop {
        let connected = namespace.inside(|| {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&from.into())?;
            socket.connect_timeout(&to.into(), PATIENCE)?;
            Ok(socket.into())
        });
        match connected {
            Err(error) if is_in_use(&error) && Instant::now() < until => {
                thread::sleep(Duration::from_millis(2))
            }
            connected => return connected,
        }
    }
}

/// The client's own last socket has yet to hear that its FIN arrived. A SYN that is dropped is no such case.
fn is_in_use(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse)
}

#[test]
fn a_port_can_be_used_again_at_once_after_ztunnel_closed_first() {
    let rig = enrolled(1);
    let cases = [
        (&rig.wire.pod, POD4, address(PEER4, 80), ListenerKind::Outbound),
        (&rig.wire.peer, PEER4, address(POD4, 80), ListenerKind::Plaintext),
        (&rig.wire.pod, POD6, address(PEER6, 80), ListenerKind::Outbound),
        (&rig.wire.peer, PEER6, address(POD6, 80), ListenerKind::Plaintext),
    ];
    for (from, source, to, kind) in cases {
        let source = address(source, 45678);
        for round in 0..3 {
            let mut client = connect_from(from, source, to)
                .unwrap_or_else(|error| panic!("{kind:?} round {round}: {error}"));
            let mut accepted = rig.ztunnel.accept();
            assert_eq!((accepted.kind, accepted.peer), (kind, plain(source)));
            assert_joined(&mut client, &mut accepted.stream);
            drop(accepted);
            assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
        }
    }
}

#[test]
fn connections_spread_over_the_workers() {
    const WORKERS: usize = 4;
    const CONNECTIONS: usize = 96;
    let rig = enrolled(WORKERS);
    for (from, to) in [(&rig.wire.pod, address(PEER4, 80)), (&rig.wire.peer, address(POD6, 80))] {
        let mut taken = [0; WORKERS];
        for _ in 0..CONNECTIONS {
            let _client = from.connect(to).unwrap();
            taken[rig.ztunnel.accept().worker] += 1;
        }
        assert!(taken.iter().all(|&count| count >= CONNECTIONS / WORKERS / 3), "{taken:?}");
    }
}

#[test]
fn a_worker_that_is_gone_costs_no_connection() {
    let mut rig = enrolled(3);
    rig.ztunnel.listeners.remove(1);
    for _ in 0..24 {
        assert_outbound(&rig.wire, &rig.ztunnel);
    }
}

#[test]
fn without_listeners_a_connection_waits_and_succeeds_when_they_are_back() {
    let Enrolled { wire, pod, ztunnel, node: _node } = enrolled(2);
    let server = wire.peer.listen(address(PEER4, 80));
    server.set_nonblocking(true).unwrap();
    drop(ztunnel);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| wire.pod.connect(address(PEER4, 80)));
        let arriving = scope.spawn(|| wire.peer.connect(address(POD4, 80)));
        eventually("a drop each way", || {
            let counters = pod.counters().unwrap();
            counters.get(Hook::AssignOutbound, Verdict::DropNoListener) > 0
                && counters.get(Hook::AssignInbound, Verdict::DropNoListener) > 0
        });
        let back = Ztunnel::start(&wire.pod, 1);
        pod.set_listeners(&back.workers()).unwrap();
        let mut kinds = [back.accept().kind as u32, back.accept().kind as u32];
        kinds.sort_unstable();
        assert_eq!(kinds, [ListenerKind::Outbound as u32, ListenerKind::Plaintext as u32]);
        assert!(waiting.join().unwrap().is_ok() && arriving.join().unwrap().is_ok());
    });
    assert!(server.accept().is_err(), "a connection went past ztunnel");
}

#[test]
fn old_connections_go_on_until_they_are_cut() {
    let wire = Wire::new();
    let (mut client, mut served) = direct(&wire, 80);
    let node = Node::start();
    let ztunnel = Ztunnel::start(&wire.pod, 1);
    let pod = node.enrol(&wire.pod, &ztunnel);
    assert_joined(&mut client, &mut served);
    let (mut new, mut accepted) = assert_outbound(&wire, &ztunnel);

    pod.set_flags(PodFlags { cut_old: true, ..PodFlags::default() }).unwrap();
    std::io::Write::write_all(&mut client, b"cut").unwrap();
    assert_silent(&mut served);
    std::io::Write::write_all(&mut served, b"cut").unwrap();
    client.set_read_timeout(Some(SILENCE)).unwrap();
    assert_silent(&mut client);
    assert_joined(&mut new, &mut accepted);
    assert_inbound(&wire, &ztunnel);
}

#[test]
fn a_pod_with_bypass_takes_its_inbound_itself_but_not_its_tunnels() {
    let wire = Wire::new();
    let node = Node::start();
    let ztunnel = Ztunnel::start(&wire.pod, 1);
    let _pod = node.enrol_with(&wire.pod, &ztunnel, PodFlags { bypass_inbound: true, ..PodFlags::default() });
    let application = wire.pod.listen(address(POD4, 80));
    let mut client = wire.peer.connect(address(POD4, 80)).unwrap();
    assert_joined(&mut client, &mut application.accept().unwrap().0);
    let _tunnel = wire.peer.connect(address(POD4, 15008)).unwrap();
    assert_eq!(ztunnel.accept().kind, ListenerKind::Hbone);
    assert_outbound(&wire, &ztunnel);
}

#[test]
fn a_released_pod_finishes_what_ztunnel_holds_and_leaves_without_a_trace() {
    let Enrolled { wire, pod, ztunnel, node } = enrolled(1);
    let (mut held, mut accepted) = assert_outbound(&wire, &ztunnel);
    pod.set_flags(PodFlags { release: true, ..PodFlags::default() }).unwrap();
    let (mut client, mut served) = direct(&wire, 81);
    assert_joined(&mut client, &mut served);
    assert_joined(&mut held, &mut accepted);
    drop((held, accepted));

    pod.unenrol().unwrap();
    assert_joined(&mut client, &mut served);
    assert!(!node.pins().join("pod-1").exists());
    for (interface, direction) in
        [("lo", TcAttachType::Ingress), ("eth0", TcAttachType::Ingress), ("eth0", TcAttachType::Egress)]
    {
        assert_eq!(running_on(&wire.pod, interface, direction), []);
    }
    let (mut client, mut served) = direct(&wire, 82);
    assert_joined(&mut client, &mut served);
    assert!(ztunnel.accept_within(SILENCE).is_none());
}
