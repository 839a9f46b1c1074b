//! In real namespaces, with the real programs, as root.

use std::{
    collections::HashSet,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use common::spiffe::Identity;
use ebb_abi::{Hook, Verdict};
use ebb_loader::{AttachMode, EnrolledPod, Enrolment, PodFlags, Redirector, Settings};
use nix::sched::{CloneFlags, unshare};

use super::{
    Netns,
    connect::dial,
    listen::{PodListeners, ends},
    sockets::{self, State},
    steer,
};
use crate::pods::{roster::Member, serve};

const PATIENCE: Duration = Duration::from_secs(8);

fn namespace() -> Netns {
    assert!(nix::unistd::geteuid().is_root(), "refused: this test makes network namespaces and needs root");
    let made = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        Netns::open("/proc/thread-self/ns/net").unwrap()
    });
    let netns = made.join().unwrap();
    run(&netns, "ip link set lo up");
    netns
}

fn run(netns: &Netns, command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = netns.run(|| Command::new(words.next().unwrap()).args(words).output().unwrap()).unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn here() -> super::Identity {
    Netns::open("/proc/thread-self/ns/net").unwrap().identity()
}

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse::<IpAddr>().unwrap(), port)
}

/// A pod and a peer on one wire.
fn wire() -> (Netns, Netns) {
    use std::os::fd::{AsFd as _, AsRawFd as _};
    let (pod, peer) = (namespace(), namespace());
    let path = format!("/proc/{}/fd/{}", std::process::id(), peer.as_fd().as_raw_fd());
    run(&pod, &format!("ip link add eth0 type veth peer name eth0 netns {path}"));
    for (netns, host) in [(&pod, 2), (&peer, 1)] {
        run(netns, &format!("ip addr add 10.7.0.{host}/24 dev eth0"));
        run(netns, &format!("ip addr add fd07::{host}/64 dev eth0 nodad"));
        run(netns, "ip link set eth0 up");
    }
    (pod, peer)
}

/// Where these tests pin: `<name>-<process id>-<number>`, so that `cargo xtask clean` finds what a killed one left.
const PINS: &str = "/sys/fs/bpf/ebb-tests";

/// The pins of a node, removed with it, whatever was pinned and however far its test came.
struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        let _best_effort = std::fs::remove_dir_all(&self.0);
    }
}

/// An enrolled pod whose pins go with it.
struct Enrolled {
    pod: Option<EnrolledPod>,
    redirector: Redirector,
    // Last: what the redirector does not remove goes with them.
    pins: Pins,
}

impl Enrolled {
    fn new(netns: &Netns, listeners: &PodListeners) -> Self {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let node = format!("netns-{}-{}", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed));
        let pins = Pins(PathBuf::from(PINS).join(&node));
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")), PathBuf::from);
        let object = target.join("ebpf/ebb-redirect.o");
        assert!(
            object.exists(),
            "refused: {} is missing; build it with `cargo xtask ebpf`",
            object.display()
        );
        let settings = Settings { object, bpffs: PINS.into(), node, attach: AttachMode::Auto };
        let redirector = Redirector::open(settings).unwrap();
        let enrolment = Enrolment {
            uid: "pod",
            netns: netns.try_clone_fd().unwrap(),
            listeners: &[listeners.as_worker()],
            flags: PodFlags::default(),
        };
        let pod = redirector.enrol(enrolment).unwrap();
        Self { pod: Some(pod), redirector, pins }
    }

    fn count(&self, verdict: Verdict) -> u64 {
        self.pod.as_ref().unwrap().counters().unwrap().of(verdict)
    }

    fn count_at(&self, hook: Hook, verdict: Verdict) -> u64 {
        self.pod.as_ref().unwrap().counters().unwrap().get(hook, verdict)
    }
}

impl Drop for Enrolled {
    fn drop(&mut self) {
        drop(self.pod.take());
        for uid in self.redirector.leftovers(&HashSet::new()).unwrap_or_default() {
            let _best_effort = self.redirector.remove_leftover(&uid, None);
        }
    }
}

fn accept(listener: &TcpListener) -> TcpStream {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            return stream;
        }
        thread::sleep(Duration::from_millis(2));
    }
    panic!("nothing to accept");
}

fn connect(netns: &Netns, to: SocketAddr) -> TcpStream {
    netns.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap().unwrap()
}

fn only_of_family(here: SocketAddr) -> std::io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(here), socket2::Type::STREAM, None)?;
    if here.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&here.into())?;
    socket.listen(1).map(|()| socket)
}

fn connect_from(netns: &Netns, own: SocketAddr, to: SocketAddr) -> TcpStream {
    let socket = || {
        let socket = socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&own.into())?;
        socket.connect_timeout(&to.into(), PATIENCE).map(|()| socket.into())
    };
    netns.run(|| -> std::io::Result<TcpStream> { socket() }).unwrap().unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn a_thread_is_home_again_after_entering_even_when_the_work_panics() {
    let netns = namespace();
    let home = here();
    assert_eq!(netns.enter(here).unwrap(), netns.identity());
    assert_eq!(here(), home);
    let panicked = catch_unwind(AssertUnwindSafe(|| netns.enter(|| panic!("on purpose"))));
    assert!(panicked.is_err());
    assert_eq!(here(), home);
}

#[test]
fn entering_from_within_a_namespace_is_refused() {
    let (one, other) = (namespace(), namespace());
    assert!(one.enter(|| other.enter(|| ())).unwrap().is_err());
    assert!(one.run(|| other.enter(|| ())).unwrap().is_err());
    assert!(other.enter(|| ()).is_ok());
}

#[test]
fn only_namespaces_are_taken_for_namespaces() {
    assert!(Netns::open("/etc/hostname").is_err());
    assert!(Netns::open("/proc/self/ns/absent").is_err());
    assert_ne!(namespace().identity(), here());
}

#[test]
fn steering_can_be_installed_twice_and_leaves_nothing_when_removed() {
    let netns = namespace();
    let look = || {
        let mut seen = run(&netns, "ip -4 rule show") + &run(&netns, "ip -6 rule show");
        seen += &run(&netns, "ip -4 route show table all");
        seen += &run(&netns, "ip -6 route show table all");
        for name in ["conf/lo/accept_local", "conf/lo/rp_filter", "conf/all/rp_filter", "tcp_syncookies"] {
            seen += &netns
                .run(|| std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap())
                .unwrap();
        }
        seen
    };
    // As somebody may have set it, and as steering needs it otherwise.
    run(&netns, "sysctl -q -w net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.lo.rp_filter=1");
    let untouched = look();
    assert!(steer::install(&netns).unwrap(), "nobody was here before");
    let installed = look();
    assert_ne!(installed, untouched);
    // The next process, which cannot ask this one what there was before.
    assert!(!steer::install(&netns).unwrap(), "somebody was here before");
    assert_eq!(look(), installed);
    for family in ["-4", "-6"] {
        assert_eq!(
            run(&netns, &format!("ip {family} rule show fwmark 0x111 table 15001")).lines().count(),
            1
        );
        assert!(run(&netns, &format!("ip {family} route show table 15001")).contains("local default dev lo"));
    }
    steer::remove(&netns).unwrap();
    assert_eq!(look(), untouched);
    steer::remove(&netns).unwrap();
    assert_eq!(look(), untouched, "nothing is put back that was never changed");
}

#[test]
fn a_sysctl_that_somebody_set_since_and_a_route_of_an_earlier_version_are_respected() {
    let netns = namespace();
    let syncookies = || run(&netns, "sysctl -n net.ipv4.tcp_syncookies").trim().to_owned();
    run(&netns, "sysctl -q -w net.ipv4.tcp_syncookies=1");
    steer::install(&netns).unwrap();
    run(&netns, "sysctl -q -w net.ipv4.tcp_syncookies=2");
    steer::remove(&netns).unwrap();
    assert_eq!(syncookies(), "2");
    run(&netns, "ip route add local default dev lo table 15001 proto static");
    assert!(!steer::install(&netns).unwrap());
    assert_eq!(syncookies(), "0");
    steer::remove(&netns).unwrap();
    assert_eq!(run(&netns, "ip route show table all scope host").matches("15001").count(), 0);
    assert_eq!(syncookies(), "0", "what it was is not known");
}

#[test]
fn a_start_that_fails_leaves_nothing_in_the_pod() {
    let (enrolled_pod, netns) = (namespace(), namespace());
    let listeners = PodListeners::open(&enrolled_pod, 0).unwrap();
    let enrolled = Enrolled::new(&enrolled_pod, &listeners);
    let untouched = run(&netns, "ip -4 rule show") + &run(&netns, "ip -4 route show table all");
    let member = Member {
        uid: "Kubernetes//Pod/shop/a".into(),
        // No name for a pin, which is found out last.
        incarnation: "not.a.name".into(),
        netns: "/run/netns/unused".into(),
        identity: Identity::new("cluster.local", "shop", "a"),
        addresses: Arc::new([at("10.7.0.2", 0).ip()]),
        bypass_inbound: false,
    };
    let again = Netns::from_fd(netns.try_clone_fd().unwrap()).unwrap();
    assert!(serve::start(&enrolled.redirector, again, &member, 1).is_err());
    assert_eq!(run(&netns, "ip -4 rule show") + &run(&netns, "ip -4 route show table all"), untouched);
    // What an earlier process had prepared is not ours to take away.
    steer::install(&netns).unwrap();
    let again = Netns::from_fd(netns.try_clone_fd().unwrap()).unwrap();
    assert!(serve::start(&enrolled.redirector, again, &member, 1).is_err());
    assert!(run(&netns, "ip -4 route show table 15001").contains("local default dev lo"));
}

#[test]
fn a_test_that_panics_leaves_no_pins() {
    let netns = namespace();
    let listeners = PodListeners::open(&netns, 0).unwrap();
    let mut path = PathBuf::new();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let enrolled = Enrolled::new(&netns, &listeners);
        path.clone_from(&enrolled.pins.0);
        assert!(path.join("pod").is_dir());
        panic!("on purpose");
    }));
    assert!(panicked.is_err() && path.starts_with(PINS));
    assert!(!path.exists(), "{}", path.display());
}

#[test]
fn a_pod_without_ipv6_is_steered_and_listened_in() {
    let netns = namespace();
    run(&netns, "sysctl -q -w net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.lo.disable_ipv6=1");
    steer::install(&netns).unwrap();
    assert!(run(&netns, "ip -4 route show table 15001").contains("local default dev lo"));
    PodListeners::open(&netns, 0).unwrap();
}

#[test]
fn two_generations_listen_at_once_and_nobody_reaches_them_by_connecting() {
    let netns = namespace();
    let old = PodListeners::open(&netns, 0).unwrap();
    let new = PodListeners::open(&netns, 0).unwrap();
    assert_ne!(old.outbound.local_addr().unwrap(), new.outbound.local_addr().unwrap());
    for port in [15001, 15006, 15008] {
        for ip in ["127.0.0.1", "::1"] {
            let refused = netns.run(|| TcpStream::connect_timeout(&at(ip, port), PATIENCE)).unwrap();
            assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        }
    }
    assert!(PodListeners::open(&netns, ebb_abi::MAX_WORKERS).is_err());
}

#[test]
fn what_reaches_a_listener_by_a_route_of_the_pods_own_is_known_by_its_destination() {
    let netns = namespace();
    let listeners = PodListeners::open(&netns, 0).unwrap();
    run(&netns, "ip route add local 240.0.0.0/8 dev lo");
    let kinds = [&listeners.outbound, &listeners.plaintext, &listeners.hbone];
    for (listener, bound) in kinds.into_iter().zip(listeners.bound) {
        let client = connect(&netns, bound);
        assert_eq!(ends(&accept(listener)).unwrap(), (client.local_addr().unwrap(), bound));
    }
}

#[test]
fn an_application_that_has_ztunnels_ports_keeps_them() {
    let (pod, peer) = wire();
    steer::install(&pod).unwrap();
    let _apps = ["0.0.0.0", "::"].map(|ip| {
        pod.run(|| [15001, 15006, 15008].map(|port| only_of_family(at(ip, port)).unwrap())).unwrap()
    });
    let listeners = PodListeners::open(&pod, 0).unwrap();
    let _enrolled = Enrolled::new(&pod, &listeners);
    for to in [at("10.7.0.2", 15008), at("fd07::2", 15008)] {
        let client = connect(&peer, to);
        assert_eq!(ends(&accept(&listeners.hbone)).unwrap(), (client.local_addr().unwrap(), to));
    }
}

#[test]
fn the_application_sees_its_client_through_ztunnel() {
    let (pod, peer) = wire();
    steer::install(&pod).unwrap();
    let listeners = PodListeners::open(&pod, 0).unwrap();
    let enrolled = Enrolled::new(&pod, &listeners);
    let runtime = runtime();
    for (pod_ip, peer_ip) in [("10.7.0.2", "10.7.0.1"), ("fd07::2", "fd07::1")] {
        let app = pod.run(|| TcpListener::bind(at(pod_ip, 80)).unwrap()).unwrap();
        app.set_nonblocking(true).unwrap();
        let client = connect(&peer, at(pod_ip, 80));
        let (from, to) = ends(&accept(&listeners.plaintext)).unwrap();
        assert_eq!((from, to), (client.local_addr().unwrap(), at(pod_ip, 80)));
        let mut onward = {
            let dialled = runtime.block_on(dial(&pod, to, Some(SocketAddr::new(from.ip(), 0)))).unwrap();
            dialled.into_std().unwrap()
        };
        onward.set_nonblocking(false).unwrap();
        let mut served = accept(&app);
        assert_eq!(served.peer_addr().unwrap().ip(), peer_ip.parse::<IpAddr>().unwrap());
        onward.write_all(b"hello").unwrap();
        let mut heard = [0; 5];
        served.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
        served.write_all(b"again").unwrap();
        onward.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"again");
    }
    assert_eq!(enrolled.count(Verdict::DropCollision), 0);
}

/// A connection by a new socket with the same addresses as one before it, on ztunnel's side of which TIME_WAIT is.
#[test]
fn a_client_that_uses_its_port_again_is_taken_at_once() {
    let (pod, peer) = wire();
    steer::install(&pod).unwrap();
    let listeners = PodListeners::open(&pod, 0).unwrap();
    let enrolled = Enrolled::new(&pod, &listeners);
    let mut seen = 0;
    for (from, own, to, listener, given) in [
        (&pod, "10.7.0.2", at("10.7.0.1", 80), &listeners.outbound, Verdict::AssignOutbound),
        (&pod, "fd07::2", at("fd07::1", 80), &listeners.outbound, Verdict::AssignOutbound),
        (&peer, "10.7.0.1", at("10.7.0.2", 80), &listeners.plaintext, Verdict::AssignPlaintext),
        (&peer, "fd07::1", at("fd07::2", 80), &listeners.plaintext, Verdict::AssignPlaintext),
        (&peer, "10.7.0.1", at("10.7.0.2", 15008), &listeners.hbone, Verdict::AssignHbone),
        (&peer, "fd07::1", at("fd07::2", 15008), &listeners.hbone, Verdict::AssignHbone),
    ] {
        for use_again in [false, true] {
            let mut client = connect_from(from, at(own, 40_000), to);
            let accepted = accept(listener);
            // Who closes first is left with TIME_WAIT.
            drop(accepted);
            assert_eq!(client.read(&mut [0]).unwrap(), 0, "{to}");
            drop(client);
            seen += u64::from(use_again);
            assert_eq!(enrolled.count(Verdict::PassTimeWait), seen, "{to}");
        }
        assert_ne!(enrolled.count_at(Hook::AnswerLookup, given), 0, "{to}");
    }
    assert_eq!(enrolled.count(Verdict::DropAssignFailed), 0);
}

#[test]
fn accepted_connections_inherit_what_the_proxy_wants_of_them() {
    let (pod, peer) = wire();
    steer::install(&pod).unwrap();
    let listeners = PodListeners::open(&pod, 0).unwrap();
    let _enrolled = Enrolled::new(&pod, &listeners);
    let _server = peer.run(|| TcpListener::bind(at("10.7.0.1", 80)).unwrap()).unwrap();
    let cases = [
        (&peer, at("10.7.0.2", 80), &listeners.plaintext, true),
        (&peer, at("fd07::2", 15008), &listeners.hbone, true),
        (&pod, at("10.7.0.1", 80), &listeners.outbound, false),
    ];
    for (from, to, listener, leaves_the_pod) in cases {
        let _client = connect(from, to);
        let accepted = accept(listener);
        assert!(accepted.nodelay().unwrap(), "{to}");
        let socket = socket2::SockRef::from(&accepted);
        assert_eq!(socket.keepalive().unwrap(), leaves_the_pod, "{to}");
        if leaves_the_pod {
            assert_eq!(socket.tcp_keepalive_time().unwrap(), common::net::socket::TCP_KEEPALIVE_TIME, "{to}");
        }
    }
}

#[test]
fn a_dial_from_the_clients_own_port_cannot_disturb_its_connection() {
    let (pod, peer) = wire();
    steer::install(&pod).unwrap();
    let listeners = PodListeners::open(&pod, 0).unwrap();
    let enrolled = Enrolled::new(&pod, &listeners);
    let _app = pod.run(|| TcpListener::bind(at("10.7.0.2", 80)).unwrap()).unwrap();
    let mut client = connect(&peer, at("10.7.0.2", 80));
    let mut accepted = accept(&listeners.plaintext);
    let (from, to) = ends(&accepted).unwrap();
    let runtime = runtime();
    let colliding = runtime
        .block_on(async { tokio::time::timeout(Duration::from_secs(1), dial(&pod, to, Some(from))).await });
    match colliding {
        Err(_) => assert!(enrolled.count(Verdict::DropCollision) >= 4, "each attempt is dropped"),
        // The kernel itself may have no room for such a connection.
        Ok(Err(error)) => assert_eq!(error.kind(), std::io::ErrorKind::AddrNotAvailable),
        Ok(Ok(_)) => panic!("a connection with the client's own port came about"),
    }
    client.write_all(b"alive").unwrap();
    let mut heard = [0; 5];
    accepted.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"alive");
}

#[test]
fn old_connections_are_destroyed_and_ztunnels_are_not() {
    let (pod, peer) = wire();
    let server = peer.run(|| TcpListener::bind(at("10.7.0.1", 80)).unwrap()).unwrap();
    let app = pod.run(|| TcpListener::bind("[::]:80").unwrap()).unwrap();
    let mut old_out = connect(&pod, at("10.7.0.1", 80));
    let mut old_in = connect(&peer, at("10.7.0.2", 80));
    let (mut kept_local, _local_end) = (connect(&pod, at("127.0.0.1", 80)), app.accept().unwrap());
    let mut served_out = server.accept().unwrap().0;
    steer::install(&pod).unwrap();
    let listeners = PodListeners::open(&pod, 0).unwrap();
    let _enrolled = Enrolled::new(&pod, &listeners);
    old_out.write_all(b"old").unwrap();
    served_out.read_exact(&mut [0; 3]).unwrap();

    let mut new = connect(&pod, at("10.7.0.1", 80));
    let mut accepted = accept(&listeners.outbound);
    let listed = sockets::list(&pod).unwrap();
    let of_ztunnel: Vec<_> = listed.iter().filter(|socket| socket.is_ztunnels()).collect();
    assert_eq!(of_ztunnel.len(), 1, "{listed:?}");
    assert_eq!(of_ztunnel[0].local, at("10.7.0.1", 80));
    let new_end = new.local_addr().unwrap();
    let old = sockets::older_than_enrolment(&pod).unwrap();
    assert!(
        old.iter().all(|socket| socket.state == State::Established && socket.local != new_end),
        "{old:?}"
    );
    assert_eq!(sockets::destroy(&pod, &old).unwrap(), 2);

    assert!(old_out.write_all(b"gone").is_err());
    old_in.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(old_in.read(&mut [0; 1]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    new.write_all(b"new").unwrap();
    accepted.read_exact(&mut [0; 3]).unwrap();
    kept_local.write_all(b"local").unwrap();
    let find = |local: SocketAddr, remote: SocketAddr| sockets::find(&pod, local, remote).unwrap();
    assert!(find(new_end, at("10.7.0.1", 80)).is_some_and(|socket| !socket.is_ztunnels()));
    // The other end is a dual-stack socket.
    assert!(find(at("10.7.0.1", 80), new_end).is_some_and(|socket| socket.is_ztunnels()));
    assert_eq!(find(new_end, at("10.7.0.1", 81)), None);
    assert_eq!(find(at("10.7.0.2", 80), at("10.7.0.1", 9)), None, "a listener is no connection");
    assert!(sockets::find(&pod, new_end, at("fd07::1", 80)).is_err());
    let six = at("fd07::1", 80);
    let client = connect(&pod, six).local_addr().unwrap();
    assert!(find(client, six).is_some(), "just closed, and remembered");
}
