//! A pod, a peer and a stand-in for ztunnel, in namespaces without names that vanish with the test.
//!
//! Shares nothing with ztunnel's own code, so that both sides of the contract are written down twice.
pub(crate) mod frames;
pub(crate) mod raw;
pub(crate) mod ways;

use std::{
    collections::HashSet,
    fs::File,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use aya::programs::{SchedClassifier, TcAttachType};
use ebb_loader::{
    AttachMode, EnrolledPod, Enrolment, PodFlags, Redirector, Settings, WorkerListeners,
    abi::{self, ListenerKind, ZTUNNEL_MARK},
};
use nix::sched::{CloneFlags, setns, unshare};
use socket2::{Domain, Socket, Type};

pub(crate) const POD4: &str = "10.9.0.2";
pub(crate) const PEER4: &str = "10.9.0.1";
pub(crate) const POD6: &str = "fd09::2";
pub(crate) const PEER6: &str = "fd09::1";
/// Long enough for a SYN to be sent a second and a third time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(8);
/// How long nothing must happen for it to count as not happening.
pub(crate) const SILENCE: Duration = Duration::from_millis(300);

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// A name no other test, in this process or another, uses at the same time.
pub(crate) fn unique(what: &str) -> String {
    format!("{what}-{}-{}", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed))
}

/// Fails, and says why, where the real thing cannot be tested.
pub(crate) fn require_root() {
    assert!(nix::unistd::geteuid().is_root(), "refused: this test makes network namespaces and needs root");
}

/// A network namespace without a name.
pub(crate) struct Namespace(pub(crate) File);

impl Namespace {
    pub(crate) fn new() -> Self {
        require_root();
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare");
            File::open("/proc/thread-self/ns/net").expect("open own namespace")
        });
        let this = Self(made.join().expect("namespace thread"));
        this.run("ip link set lo up");
        this
    }

    /// Does something inside, on a thread of its own.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).expect("setns");
                work()
            });
            inside.join().expect("work in the namespace panicked")
        })
    }

    /// Runs a command inside; panics unless it succeeds.
    pub(crate) fn run(&self, command: &str) -> String {
        let (ok, output) = self.try_run(command);
        assert!(ok, "{command}: {output}");
        output
    }

    pub(crate) fn try_run(&self, command: &str) -> (bool, String) {
        let mut words = command.split_whitespace();
        let mut child = Command::new(words.next().expect("a command"));
        child.args(words);
        let output = self.inside(move || child.output().expect("start command"));
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text.into_owned())
    }

    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    pub(crate) fn fd(&self) -> OwnedFd {
        self.0.try_clone().expect("dup").into()
    }

    pub(crate) fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        self.inside(|| {
            let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(stream)
        })
    }

    pub(crate) fn listen(&self, at: SocketAddr) -> TcpListener {
        self.inside(|| TcpListener::bind(at)).expect("listen")
    }
}

pub(crate) fn address(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse::<IpAddr>().expect("address"), port)
}

/// Two namespaces joined by a veth pair, `eth0` on either side.
pub(crate) struct Wire {
    pub(crate) pod: Namespace,
    pub(crate) peer: Namespace,
}

impl Wire {
    pub(crate) fn new() -> Self {
        let wire = Self { pod: Namespace::new(), peer: Namespace::new() };
        wire.join("eth0", "10.9.0", "fd09:");
        wire.pod.run(&format!("ip route add default via {PEER4}"));
        wire.pod.run(&format!("ip -6 route add default via {PEER6}"));
        wire.peer.run(&format!("ip route add default via {POD4}"));
        steer(&wire.pod);
        wire
    }

    /// Adds a veth pair with addresses `.2` in the pod and `.1` at the peer.
    pub(crate) fn join(&self, name: &str, four: &str, six: &str) {
        let peer = self.peer.path();
        self.pod.run(&format!("ip link add {name} type veth peer name {name} netns {peer}"));
        for (namespace, host) in [(&self.pod, 2), (&self.peer, 1)] {
            namespace.run(&format!("ip addr add {four}.{host}/24 dev {name}"));
            namespace.run(&format!("ip addr add {six}:{host}/64 dev {name} nodad"));
            namespace.run(&format!("ip link set {name} up"));
        }
    }
}

/// What a pod's namespace needs besides the programs.
fn steer(pod: &Namespace) {
    for family in ["-4", "-6"] {
        pod.run(&format!("ip {family} rule add fwmark 0x111 lookup 4321"));
        pod.run(&format!("ip {family} route add local default dev lo table 4321"));
    }
    pod.inside(|| {
        for (name, value) in [
            ("conf/lo/accept_local", "1"),
            ("conf/lo/rp_filter", "0"),
            ("conf/all/rp_filter", "0"),
            ("tcp_syncookies", "0"),
        ] {
            std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value).expect("sysctl");
        }
    });
}

/// Ztunnel's listeners: `workers` of each kind, and an accept that finds out which of them was chosen.
pub(crate) struct Ztunnel {
    pub(crate) listeners: Vec<[TcpListener; 3]>,
}

fn worker([outbound, plaintext, hbone]: &[TcpListener; 3]) -> WorkerListeners<'_> {
    WorkerListeners { outbound: outbound.as_fd(), plaintext: plaintext.as_fd(), hbone: hbone.as_fd() }
}

/// A connection as one of the listeners got it.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) kind: ListenerKind,
    pub(crate) worker: usize,
    pub(crate) stream: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
}

impl Ztunnel {
    pub(crate) fn start(pod: &Namespace, workers: usize) -> Self {
        let make = |kind: ListenerKind, worker: usize| {
            let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
            pod.inside(|| listener(kind, worker, serial)).expect("listener")
        };
        Self {
            listeners: (0..workers).map(|worker| ListenerKind::ALL.map(|kind| make(kind, worker))).collect(),
        }
    }

    pub(crate) fn workers(&self) -> Vec<WorkerListeners<'_>> {
        self.listeners.iter().map(worker).collect()
    }

    /// The next connection any listener gets within `time`.
    pub(crate) fn accept_within(&self, time: Duration) -> Option<Accepted> {
        let until = Instant::now() + time;
        loop {
            for (worker, set) in self.listeners.iter().enumerate() {
                for (kind, listener) in ListenerKind::ALL.into_iter().zip(set) {
                    if let Ok((stream, peer)) = listener.accept() {
                        stream.set_nonblocking(false).expect("blocking");
                        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
                        let local = plain(stream.local_addr().expect("local"));
                        return Some(Accepted { kind, worker, stream, peer: plain(peer), local });
                    }
                }
            }
            if Instant::now() >= until {
                return None;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn accept(&self) -> Accepted {
        self.accept_within(PATIENCE).expect("no listener of ztunnel got a connection")
    }
}

/// An IPv4 address as itself, when a dual-stack socket wrapped it.
pub(crate) fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn listener(kind: ListenerKind, worker: usize, serial: u32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
    socket.set_only_v6(false)?;
    socket.set_mark(ZTUNNEL_MARK)?;
    transparent_v6(&socket)?;
    // An address of IPv4 in its mapped form, as ztunnel's have: one of IPv6 would make it a socket for IPv6 alone.
    let [.., high, low] = serial.to_be_bytes();
    let place = (kind as u8) << 6 | worker as u8;
    let ip = Ipv4Addr::new(240, place, high, low).to_ipv6_mapped();
    socket.bind(&SocketAddr::V6(SocketAddrV6::new(ip, 15001, 0, 0)).into())?;
    socket.listen(128)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

pub(crate) fn transparent_v6(socket: &impl AsFd) -> io::Result<()> {
    use nix::libc;
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open for the call, and the value is an int of the length given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_IPV6,
            libc::IPV6_TRANSPARENT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as u32,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Waits in vain for a byte, for as long as the socket's timeout says. A wait that a signal cut short starts anew.
pub(crate) fn assert_silent(stream: &mut TcpStream) {
    loop {
        match stream.read(&mut [0; 1]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => {
                assert_eq!(outcome.map_err(|error| error.kind()), Err(io::ErrorKind::WouldBlock));
                return;
            }
        }
    }
}

/// Sends a line one way, and back.
pub(crate) fn assert_joined(one: &mut TcpStream, other: &mut TcpStream) {
    for _ in 0..2 {
        one.write_all(b"ping").expect("write");
        let mut buffer = [0; 4];
        other.read_exact(&mut buffer).expect("read");
        assert_eq!(&buffer, b"ping");
        other.write_all(b"pong").expect("write");
        one.read_exact(&mut buffer).expect("read");
        assert_eq!(&buffer, b"pong");
    }
}

/// A redirector with a folder of pins of its own, removed with it.
pub(crate) struct Node {
    pub(crate) redirector: Redirector,
    pub(crate) name: String,
}

pub(crate) fn object() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target")), PathBuf::from);
    let object = target.join("ebpf/ebb-redirect.o");
    assert!(object.exists(), "refused: {} is missing; build it with `cargo xtask ebpf`", object.display());
    object
}

/// Where these tests pin: `<name>-<process id>-<number>`, so that `cargo xtask clean` finds what a killed one left.
const PINS: &str = "/sys/fs/bpf/ebb-tests";

pub(crate) fn settings(name: &str, attach: AttachMode) -> Settings {
    Settings { object: object(), bpffs: PINS.into(), node: name.to_owned(), attach }
}

/// Where a node of this name has its pins.
pub(crate) fn pins(name: &str) -> PathBuf {
    Path::new(PINS).join(name)
}

impl Node {
    pub(crate) fn start() -> Self {
        Self::with(AttachMode::Auto)
    }

    pub(crate) fn with(attach: AttachMode) -> Self {
        require_root();
        let name = unique("redirect");
        let redirector = Redirector::open(settings(&name, attach)).expect("open");
        Self { redirector, name }
    }

    pub(crate) fn pins(&self) -> PathBuf {
        pins(&self.name)
    }

    pub(crate) fn enrol(&self, pod: &Namespace, ztunnel: &Ztunnel) -> EnrolledPod {
        self.enrol_with(pod, ztunnel, PodFlags::default())
    }

    pub(crate) fn enrol_with(&self, pod: &Namespace, ztunnel: &Ztunnel, flags: PodFlags) -> EnrolledPod {
        let enrolment = Enrolment { uid: "pod-1", netns: pod.fd(), listeners: &ztunnel.workers(), flags };
        self.redirector.enrol(enrolment).expect("enrol")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for uid in self.redirector.leftovers(&HashSet::new()).unwrap_or_default() {
            let _best_effort = self.redirector.remove_leftover(&uid, None);
        }
        for map in [abi::map::LOG, abi::map::REPORTERS] {
            let _best_effort = std::fs::remove_file(self.pins().join("log").join(map));
        }
        let _best_effort = std::fs::remove_dir(self.pins().join("log"));
        let _best_effort = std::fs::remove_dir(self.pins());
    }
}

/// A wire, its node, ztunnel's listeners and the enrolled pod: what most tests begin with.
pub(crate) struct Enrolled {
    pub(crate) pod: EnrolledPod,
    pub(crate) ztunnel: Ztunnel,
    pub(crate) node: Node,
    pub(crate) wire: Wire,
}

pub(crate) fn enrolled(workers: usize) -> Enrolled {
    let wire = Wire::new();
    let node = Node::start();
    let ztunnel = Ztunnel::start(&wire.pod, workers);
    let pod = node.enrol(&wire.pod, &ztunnel);
    Enrolled { pod, ztunnel, node, wire }
}

/// Waits for what must come about soon.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "{what} did not come about");
        thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn assert_outbound(wire: &Wire, ztunnel: &Ztunnel) -> (TcpStream, TcpStream) {
    let mut client = wire.pod.connect(address(PEER4, 80)).expect("connect");
    let mut accepted = ztunnel.accept();
    assert_eq!((accepted.kind, accepted.local), (ListenerKind::Outbound, address(PEER4, 80)));
    assert_joined(&mut client, &mut accepted.stream);
    (client, accepted.stream)
}

pub(crate) fn assert_inbound(wire: &Wire, ztunnel: &Ztunnel) {
    let mut client = wire.peer.connect(address(POD6, 80)).expect("connect");
    let mut accepted = ztunnel.accept();
    assert_eq!((accepted.kind, accepted.local), (ListenerKind::Plaintext, address(POD6, 80)));
    assert_joined(&mut client, &mut accepted.stream);
}

/// A connection made straight from the pod to the peer.
pub(crate) fn direct(wire: &Wire, port: u16) -> (TcpStream, TcpStream) {
    let server = wire.peer.listen(address(PEER4, port));
    let client = wire.pod.connect(address(PEER4, port)).expect("connect");
    let (served, _) = server.accept().expect("accept");
    served.set_read_timeout(Some(SILENCE)).expect("timeout");
    (client, served)
}

pub(crate) fn running(pod: &Namespace, direction: TcAttachType) -> Vec<u32> {
    running_on(pod, "eth0", direction)
}

pub(crate) fn running_on(pod: &Namespace, interface: &str, direction: TcAttachType) -> Vec<u32> {
    let (_, programs) = pod.inside(|| SchedClassifier::query_tcx(interface, direction)).expect("query");
    programs.iter().map(aya::programs::ProgramInfo::id).collect()
}
