//! Connections whose end in ztunnel goes away without a word: what the application still sends leaves in no form.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    os::fd::{AsFd, AsRawFd as _},
};

use ebb_loader::{
    PodFlags,
    abi::{Hook, Verdict, ZTUNNEL_MARK},
};
use nix::libc;
use socket2::{Domain, Socket, Type};

use crate::rig::{
    Namespace, Node, PATIENCE, PEER4, POD4, SILENCE, Wire, Ztunnel, address, assert_joined, assert_outbound,
    direct, enrolled, eventually, raw::Raw,
};

const SECRET: &[u8] = b"not for the wire";

/// Closes a socket so that its peer hears nothing, as when the process that had it is killed and the kernel's RST is lost.
fn vanish(socket: impl AsFd) {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open for the call, and the value is an int of the length given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_REPAIR,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as u32,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    drop(socket);
}

/// Whether any frame that comes by within a while holds the secret.
fn leaks(wire: &Raw) -> bool {
    let frames = wire.receive_for(SILENCE);
    frames.iter().any(|frame| frame.windows(SECRET.len()).any(|bytes| bytes == SECRET))
}

/// What ztunnel does with an inbound connection: connects to the application in its client's name.
fn connect_as_client(pod: &Namespace, port: u16) -> Socket {
    pod.inside(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        socket.set_mark(ZTUNNEL_MARK).expect("mark");
        socket.set_ip_transparent_v4(true).expect("transparent");
        socket.bind(&address(PEER4, 0).into()).expect("bind");
        socket.connect_timeout(&address(POD4, port).into(), PATIENCE).expect("connect");
        socket
    })
}

#[test]
fn what_follows_a_connection_that_ztunnel_lost_stays_in_the_pod_while_older_ones_go_on() {
    let wire = Wire::new();
    let (mut old, mut old_served) = direct(&wire, 80);
    let node = Node::start();
    let ztunnel = Ztunnel::start(&wire.pod, 1);
    let pod = node.enrol(&wire.pod, &ztunnel);
    let (mut client, accepted) = assert_outbound(&wire, &ztunnel);
    let seen = Raw::open(&wire.peer, "eth0");
    vanish(accepted);
    client.write_all(SECRET).unwrap();
    assert_joined(&mut old, &mut old_served);
    assert!(!leaks(&seen), "bytes of a captured connection left the pod");
    assert!(pod.counters().unwrap().get(Hook::CaptureOutbound, Verdict::DropOrphan) > 0);
    assert_joined(&mut old, &mut old_served);
    // The older one's bytes would have been found.
    old.write_all(SECRET).unwrap();
    assert!(leaks(&seen));
}

#[test]
fn marks_outlive_the_process_that_made_them() {
    let rig = enrolled(1);
    let (mut client, accepted) = assert_outbound(&rig.wire, &rig.ztunnel);
    drop(rig.pod);
    let pod = rig.node.enrol(&rig.wire.pod, &rig.ztunnel);
    assert!(pod.adopted());
    let seen = Raw::open(&rig.wire.peer, "eth0");
    vanish(accepted);
    client.write_all(SECRET).unwrap();
    assert!(!leaks(&seen));
    assert!(pod.counters().unwrap().of(Verdict::DropOrphan) > 0);
}

#[test]
fn an_application_that_speaks_first_to_nobody_is_not_heard() {
    let rig = enrolled(1);
    let application = rig.wire.pod.listen(address(POD4, 8080));
    let seen = Raw::open(&rig.wire.peer, "eth0");
    let from_ztunnel = connect_as_client(&rig.wire.pod, 8080);
    let (mut served, from) = application.accept().unwrap();
    assert_eq!(from.ip(), address(PEER4, 0).ip());
    vanish(from_ztunnel);
    served.write_all(SECRET).unwrap();
    assert!(!leaks(&seen));
    assert!(rig.pod.counters().unwrap().of(Verdict::DropOrphan) > 0);
}

#[test]
fn a_listener_that_ztunnel_used_serves_direct_connections_after_release() {
    let rig = enrolled(1);
    let application = rig.wire.pod.listen(address(POD4, 8080));
    let _from_ztunnel = connect_as_client(&rig.wire.pod, 8080);
    drop(application.accept().unwrap());
    rig.pod.set_flags(PodFlags { release: true, ..PodFlags::default() }).unwrap();
    let mut client = rig.wire.peer.connect(address(POD4, 8080)).unwrap();
    let (mut served, _) = application.accept().unwrap();
    assert_joined(&mut client, &mut served);
    assert_eq!(rig.pod.counters().unwrap().of(Verdict::DropOrphan), 0);
}

#[test]
fn a_connection_that_waited_for_ztunnel_goes_on_directly_after_release() {
    let rig = enrolled(1);
    drop(rig.ztunnel);
    let server = rig.wire.peer.listen(address(PEER4, 80));
    let opening = rig.wire.pod.inside(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        let started = socket.connect(&address(PEER4, 80).into());
        assert_eq!(started.unwrap_err().raw_os_error(), Some(libc::EINPROGRESS));
        socket
    });
    eventually("a captured SYN", || rig.pod.counters().unwrap().of(Verdict::SteerSyn) > 0);
    rig.pod.set_flags(PodFlags { release: true, ..PodFlags::default() }).unwrap();
    let (mut served, _) = server.accept().unwrap();
    opening.set_nonblocking(false).unwrap();
    let mut client = TcpStream::from(opening);
    assert_joined(&mut client, &mut served);
}

#[test]
fn an_end_that_closes_in_order_is_heard_to_the_last() {
    let rig = enrolled(1);
    let (mut client, mut accepted) = assert_outbound(&rig.wire, &rig.ztunnel);
    client.write_all(b"last words").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut heard = String::new();
    accepted.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "last words");
    drop(accepted);
    assert_eq!(client.read(&mut [0; 1]).map_err(|error| error.kind()), Ok::<_, ErrorKind>(0));
    assert_eq!(rig.pod.counters().unwrap().of(Verdict::DropOrphan), 0);
}
