//! Connections and listeners that come and go.

mod rig;

use std::{
    collections::HashSet,
    io::Read as _,
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    maps::{Array, Map, MapData},
    programs::{LinkOrder, SchedClassifier, TcAttachType, tc::TcAttachOptions},
};
use ebb_loader::{
    AttachMode, Attachment, EnrolledPod, FaultKind, Missing, PodFlags, Redirector,
    abi::{self, Hook, ListenerKind, PodConfig, Verdict, program},
};
use nix::libc;
use rig::{
    Namespace, Node, PATIENCE, PEER4, PEER6, POD4, POD6, SILENCE, Wire, Ztunnel, address, assert_joined, enrolled,
    plain, settings,
};
use socket2::{Domain, Socket, Type};

fn connect_from(namespace: &Namespace, from: SocketAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    namespace.inside(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&from.into())?;
        socket.connect_timeout(&to.into(), PATIENCE)?;
        Ok(socket.into())
    })
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
            let mut client = connect_from(from, source, to).unwrap_or_else(|error| panic!("{kind:?} round {round}: {error}"));
            let mut accepted = rig.ztunnel.accept();
            assert_eq!((accepted.kind, accepted.peer), (kind, plain(source)));
            assert_joined(&mut client, &mut accepted.stream);
            drop(accepted);
            assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
        }
    }
}

/// Waits for what must come about soon.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "{what} did not come about");
        thread::sleep(Duration::from_millis(2));
    }
}

fn assert_outbound(wire: &Wire, ztunnel: &Ztunnel) -> (TcpStream, TcpStream) {
    let mut client = wire.pod.connect(address(PEER4, 80)).expect("connect");
    let mut accepted = ztunnel.accept();
    assert_eq!((accepted.kind, accepted.local), (ListenerKind::Outbound, address(PEER4, 80)));
    assert_joined(&mut client, &mut accepted.stream);
    (client, accepted.stream)
}

fn assert_inbound(wire: &Wire, ztunnel: &Ztunnel) {
    let mut client = wire.peer.connect(address(POD6, 80)).expect("connect");
    let mut accepted = ztunnel.accept();
    assert_eq!((accepted.kind, accepted.local), (ListenerKind::Plaintext, address(POD6, 80)));
    assert_joined(&mut client, &mut accepted.stream);
}

/// A connection made straight from the pod to the peer.
fn direct(wire: &Wire, port: u16) -> (TcpStream, TcpStream) {
    let server = wire.peer.listen(address(PEER4, port));
    let client = wire.pod.connect(address(PEER4, port)).expect("connect");
    let (served, _) = server.accept().expect("accept");
    served.set_read_timeout(Some(SILENCE)).expect("timeout");
    (client, served)
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
    let Rig { wire, pod, ztunnel, node: _node } = rig_of(enrolled(2));
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

/// The parts of an [`rig::Enrolled`], to be dropped one by one.
struct Rig {
    wire: Wire,
    pod: EnrolledPod,
    ztunnel: Ztunnel,
    node: Node,
}

fn rig_of(enrolled: rig::Enrolled) -> Rig {
    let rig::Enrolled { pod, ztunnel, node, wire } = enrolled;
    Rig { wire, pod, ztunnel, node }
}

#[test]
fn a_crash_leaks_nothing_and_the_next_process_takes_over() {
    let Rig { wire, pod, ztunnel, node } = rig_of(enrolled(1));
    let (mut client, mut accepted) = assert_outbound(&wire, &ztunnel);
    let steered = pod.counters().unwrap().of(Verdict::SteerSyn);
    // All a crash does that dropping does not is close the sockets, which comes next.
    drop(pod);
    assert_joined(&mut client, &mut accepted);
    drop(ztunnel);
    let server = wire.peer.listen(address(PEER4, 80));
    server.set_nonblocking(true).unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| wire.pod.connect(address(PEER4, 80)));
        thread::sleep(SILENCE);
        let successor = Redirector::open(settings(&node.name, AttachMode::Auto)).unwrap();
        let fresh = Ztunnel::start(&wire.pod, 2);
        let adopted = Node { redirector: successor, name: node.name.clone() };
        let pod = adopted.enrol(&wire.pod, &fresh);
        assert!(pod.adopted());
        assert!(pod.counters().unwrap().of(Verdict::SteerSyn) > steered, "counters go on");
        assert_eq!(pod.verify().unwrap(), []);
        assert_eq!(fresh.accept().local, address(PEER4, 80));
        assert!(waiting.join().unwrap().is_ok());
        assert_inbound(&wire, &fresh);
    });
    assert!(server.accept().is_err(), "a connection went past ztunnel");
}

#[repr(transparent)]
#[derive(Clone, Copy)]
struct Entry(PodConfig);
// SAFETY: integers without padding.
unsafe impl aya::Pod for Entry {}

#[test]
fn maps_of_another_layout_are_replaced_and_their_links_switched_over() {
    let Rig { wire, pod, ztunnel, node } = rig_of(enrolled(1));
    drop(pod);
    let pin = node.pins().join("pod-1").join(abi::map::CONFIG);
    let mut config: Array<_, Entry> = Array::try_from(Map::Array(MapData::from_pin(pin).unwrap())).unwrap();
    config.set(0, Entry(PodConfig { layout_version: abi::LAYOUT_VERSION + 1, ..PodConfig::default() }), 0).unwrap();
    let pod = node.enrol(&wire.pod, &ztunnel);
    assert!(!pod.adopted());
    assert_eq!(pod.verify().unwrap(), []);
    assert_outbound(&wire, &ztunnel);
    assert_inbound(&wire, &ztunnel);
    assert_eq!(running(&wire.pod, TcAttachType::Egress).len(), 1, "two generations are attached");
}

#[test]
fn a_pod_made_anew_under_its_old_uid_is_covered_though_the_old_namespace_lives() {
    let Rig { wire: old, pod, ztunnel, node } = rig_of(enrolled(1));
    drop((pod, ztunnel));
    let new = Wire::new();
    let ztunnel = Ztunnel::start(&new.pod, 1);
    let pod = node.enrol(&new.pod, &ztunnel);
    assert!(!pod.adopted());
    assert_eq!(pod.verify().unwrap(), []);
    assert_outbound(&new, &ztunnel);
    assert_eq!(running(&old.pod, TcAttachType::Egress), []);
}

#[test]
fn a_second_interface_and_one_that_comes_later_are_redirected() {
    let wire = Wire::new();
    wire.join("eth1", "10.9.1", "fd09:1:");
    let node = Node::start();
    let ztunnel = Ztunnel::start(&wire.pod, 1);
    let pod = node.enrol(&wire.pod, &ztunnel);
    wire.join("late0", "10.9.2", "fd09:2:");
    let came = Instant::now();
    eventually("cover of the late interface", || running(&wire.pod, TcAttachType::Egress).len() == 1 && pod.verify().unwrap().is_empty());
    assert!(came.elapsed() < Duration::from_secs(2), "{:?}", came.elapsed());
    for peer in ["10.9.1.1", "10.9.2.1", "fd09:1::1", "fd09:2::1"] {
        let _client = wire.pod.connect(address(peer, 80)).unwrap();
        assert_eq!(ztunnel.accept().local, address(peer, 80));
    }
    for own in ["10.9.1.2", "10.9.2.2"] {
        let _client = wire.peer.connect(address(own, 80)).unwrap();
        assert_eq!((ztunnel.accept().kind, ztunnel.accept_within(Duration::ZERO).is_none()), (ListenerKind::Plaintext, true));
    }
    wire.pod.run("ip link del late0");
    eventually("the pins of an interface to go with it", || {
        std::fs::read_dir(node.pins().join("pod-1")).unwrap().filter(|pin| pin.as_ref().unwrap().file_name().to_string_lossy().contains("egress")).count() == 2
    });
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
    assert_eq!(served.read(&mut [0; 3]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    std::io::Write::write_all(&mut served, b"cut").unwrap();
    client.set_read_timeout(Some(SILENCE)).unwrap();
    assert_eq!(client.read(&mut [0; 3]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
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
    let Rig { wire, pod, ztunnel, node } = rig_of(enrolled(1));
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

#[test]
fn pods_that_are_gone_leave_nothing_behind_for_long() {
    let Rig { wire, pod, ztunnel: _, node } = rig_of(enrolled(1));
    drop(pod);
    assert!(node.redirector.leftovers(&HashSet::from(["pod-1".to_owned()])).unwrap().is_empty());
    assert_eq!(node.redirector.leftovers(&HashSet::new()).unwrap(), ["pod-1"]);
    node.redirector.remove_leftover("pod-1").unwrap();
    assert!(node.redirector.leftovers(&HashSet::new()).unwrap().is_empty());
    assert_eq!(running(&wire.pod, TcAttachType::Egress), []);
    assert!(node.redirector.remove_leftover("../escape").is_err());
}

fn running(pod: &Namespace, direction: TcAttachType) -> Vec<u32> {
    running_on(pod, "eth0", direction)
}

fn running_on(pod: &Namespace, interface: &str, direction: TcAttachType) -> Vec<u32> {
    let (_, programs) = pod.inside(|| SchedClassifier::query_tcx(interface, direction)).expect("query");
    programs.iter().map(aya::programs::ProgramInfo::id).collect()
}

#[test]
fn a_program_put_before_ours_is_noticed_and_overtaken() {
    let rig = enrolled(1);
    let mut foreign = Ebpf::load_file(rig::object()).unwrap();
    let other: &mut SchedClassifier = foreign.program_mut(program::ASSIGN_OUTBOUND).unwrap().try_into().unwrap();
    other.load().unwrap();
    let id = other.info().unwrap().id();
    rig.wire.pod.inside(|| {
        let first = TcAttachOptions::TcxOrder(LinkOrder::first());
        other.attach_with_options("eth0", TcAttachType::Egress, first).unwrap();
    });
    let faults = rig.pod.verify().unwrap();
    assert_eq!(faults.len(), 1);
    assert_eq!(faults[0].kind, FaultKind::Preceded { program: id });
    assert!(faults[0].to_string().contains("egress of eth0"), "{}", faults[0]);
    rig.pod.repair().unwrap();
    assert_eq!(rig.pod.verify().unwrap(), []);
    let order = running(&rig.wire.pod, TcAttachType::Egress);
    assert_eq!((order.len(), order[1]), (2, id), "ours first, theirs kept");
    assert_outbound(&rig.wire, &rig.ztunnel);
}

#[test]
fn a_link_that_someone_removed_is_noticed_and_put_back() {
    let rig = enrolled(1);
    let pins = rig.node.pins().join("pod-1");
    let egress = std::fs::read_dir(&pins).unwrap().map(|pin| pin.unwrap().path());
    let egress = egress.filter(|path| path.to_string_lossy().ends_with("-egress")).collect::<Vec<_>>();
    assert_eq!(egress.len(), 1);
    std::fs::remove_file(&egress[0]).unwrap();
    eventually("the link to go", || running(&rig.wire.pod, TcAttachType::Egress).is_empty());
    let faults = rig.pod.verify().unwrap();
    assert_eq!((faults.len(), faults[0].kind), (1, FaultKind::Detached));
    rig.pod.repair().unwrap();
    assert_eq!(rig.pod.verify().unwrap(), []);
    assert_outbound(&rig.wire, &rig.ztunnel);
}

#[test]
fn clsact_serves_where_tcx_is_not_to_be_had() {
    let wire = Wire::new();
    let node = Node::with(AttachMode::Clsact);
    assert_eq!(node.redirector.capabilities().attachment, Attachment::Clsact);
    let ztunnel = Ztunnel::start(&wire.pod, 1);
    let pod = node.enrol(&wire.pod, &ztunnel);
    assert_eq!(pod.verify().unwrap(), []);
    assert_outbound(&wire, &ztunnel);
    assert_inbound(&wire, &ztunnel);
    drop(pod);
    let pod = node.enrol(&wire.pod, &ztunnel);
    assert!(pod.adopted());
    assert_outbound(&wire, &ztunnel);
    wire.pod.run("tc filter del dev eth0 egress");
    assert_eq!(pod.verify().unwrap().len(), 1);
    pod.repair().unwrap();
    assert_outbound(&wire, &ztunnel);
    pod.unenrol().unwrap();
    assert_eq!(wire.pod.run("tc filter show dev eth0 egress").trim(), "");
    let (mut client, mut served) = direct(&wire, 83);
    assert_joined(&mut client, &mut served);
}

#[test]
fn drops_are_reported_with_pod_and_flow() {
    let Rig { wire, pod, ztunnel, node } = rig_of(enrolled(1));
    let mut reader = node.redirector.drops().unwrap();
    drop(ztunnel);
    wire.peer.inside(|| {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        let _times_out = socket.connect_timeout(&address(POD6, 80).into(), SILENCE);
    });
    let drops = reader.take();
    let drop = drops.iter().find(|drop| drop.hook == Hook::AssignInbound).expect("a report");
    assert_eq!((drop.verdict, drop.pod.as_deref()), (Verdict::DropNoListener, Some(pod.uid())));
    let (source, destination) = drop.flow.unwrap();
    assert_eq!((source.ip(), destination), (PEER6.parse().unwrap(), address(POD6, 80)));
    assert!(drop.to_string().contains("drop_no_listener at assign_inbound"), "{drop}");
    assert!(node.redirector.counters().unwrap().of(Verdict::DropNoListener) >= 1);
}

#[test]
fn what_is_missing_is_named_in_one_sentence() {
    rig::require_root();
    let open = |settings| match Redirector::open(settings) {
        Err(unsupported) => unsupported,
        Ok(_) => panic!("must not open"),
    };
    let mut absent = settings("ebb-test-absent", AttachMode::Auto);
    absent.object = "/nonexistent/ebb-redirect.o".into();
    let error = open(absent);
    assert!(matches!(error.missing, Missing::Object { .. }) && error.to_string().contains("cargo xtask ebpf"), "{error}");

    let unprivileged = settings("ebb-test-unprivileged", AttachMode::Auto);
    let denied = thread::spawn(move || {
        // SAFETY: the raw call changes this thread alone, which ends here.
        let changed = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
        assert_eq!(changed, 0);
        open(unprivileged)
    });
    let error = denied.join().unwrap();
    assert!(matches!(error.missing, Missing::Permission { .. }) && error.to_string().contains("CAP_BPF"), "{error}");
    let _absent = std::fs::remove_dir("/sys/fs/bpf/ebb-test-absent");
}

#[test]
fn a_bpffs_is_mounted_where_there_is_none() {
    rig::require_root();
    let place = std::env::temp_dir().join(rig::unique("ebb-bpffs"));
    let mut elsewhere = settings("node", AttachMode::Auto);
    elsewhere.bpffs = place.clone();
    let opened = Redirector::open(elsewhere).map(|_| ());
    let mounted = place.join("node").is_dir();
    let _unmounted = nix::mount::umount2(&place, nix::mount::MntFlags::MNT_DETACH);
    let _removed = std::fs::remove_dir(&place);
    opened.unwrap();
    assert!(mounted);
}

#[test]
fn nonsense_is_refused_before_anything_is_touched() {
    let wire = Wire::new();
    let node = Node::start();
    let ztunnel = Ztunnel::start(&wire.pod, 1);
    let workers = ztunnel.workers();
    let enrol = |uid: &str, count: usize| {
        let listeners = vec![workers[0]; count];
        let enrolment = ebb_loader::Enrolment { uid, netns: wire.pod.fd(), listeners: &listeners, flags: PodFlags::default() };
        node.redirector.enrol(enrolment).err().expect("refused").to_string()
    };
    assert!(enrol("../x", 1).contains("cannot name a pin"));
    assert!(enrol("pod", 0).contains("0 workers"));
    assert!(enrol("pod", 17).contains("17 workers"));
    assert!(node.redirector.leftovers(&HashSet::new()).unwrap().is_empty());
}
