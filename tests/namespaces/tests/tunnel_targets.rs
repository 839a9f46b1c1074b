//! A tunnel ends in the pod it was made to, and nowhere else, whoever asks for whatever.
//!
//! The client is authenticated and hostile. That nothing was dialled is read off the kernel's own count of connections
//! begun in the pod's namespace and in the node's, and off listeners at the likely targets.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use ebb_tests::{
    app::{App, service},
    hostile::{Answer, Forger, Tunnel},
    mesh::Mesh,
    peer::{Server, refused},
    traces::connections_begun,
};
use harness::cluster::Pod;
use rustls::ClientConfig;

const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";
const TUNNEL: u16 = 15008;
/// Authorities that the corpus must at least hold.
const CORPUS_MIN: usize = 300;

struct Stage {
    mesh: Mesh,
    client: Arc<ClientConfig>,
    _servers: Vec<Server>,
}

/// A victim and a bystander on one node, the attacker outside the mesh, and a listener wherever an attack could lead.
fn stage() -> Result<Stage> {
    let mut mesh = Mesh::start()?;
    mesh.apply("20-victim.yaml", &service("victim", 10))?;
    mesh.run(&[App::new("victim").on(1), App::new("bystander").on(1), App::new("client")])?;
    mesh.run(&[App::new("attacker").of("outside")])?;
    let client = Forger::of(mesh.cluster().run().directory())?.client(&[CLIENT])?;
    let mut servers =
        vec![Server::echo(mesh.pod("victim")?, 8080)?, Server::echo(mesh.pod("bystander")?, 8080)?];
    servers.push(Server::start(mesh.node(1).namespace(), 8080, |_, _| {})?);
    Ok(Stage { mesh, client, _servers: servers })
}

impl Stage {
    fn open(&self) -> Result<Tunnel> {
        let to = SocketAddr::new(self.mesh.pod("victim")?.addresses().v4.into(), TUNNEL);
        Tunnel::open(self.mesh.pod("outside/attacker")?.namespace(), to, &self.client)
    }

    fn begun(&self) -> Result<[u64; 3]> {
        let (victim, bystander) = (self.mesh.pod("victim")?, self.mesh.pod("bystander")?);
        Ok([
            connections_begun(victim.namespace())?,
            connections_begun(bystander.namespace())?,
            connections_begun(self.mesh.node(1).namespace())?,
        ])
    }

    /// Asks for each of `authorities`; all must be refused without anything dialled.
    fn all_are_refused(&self, authorities: &BTreeSet<Vec<u8>>) -> Result<()> {
        let before = self.begun()?;
        let mut tunnel = self.open()?;
        for authority in authorities {
            let shown = String::from_utf8_lossy(&authority[..authority.len().min(80)]);
            let mut answer = tunnel.connect(authority)?;
            if answer == Answer::Closed {
                // An earlier one may have been the last straw. What closes a fresh connection is refused.
                tunnel = self.open()?;
                answer = tunnel.connect(authority)?;
            }
            if answer == Answer::Closed {
                tunnel = self.open()?;
            }
            ensure!(answer != Answer::Status(200), "a tunnel to {shown:?} was opened");
        }
        assert_eq!(
            self.begun()?,
            before,
            "something was dialled for one of {} authorities",
            authorities.len()
        );
        Ok(())
    }
}

/// Hosts that are never the victim's.
const ELSEWHERE: &[&str] = &[
    "127.0.0.1",
    "127.0.0.2",
    "127.255.255.254",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "0.0.0.0",
    "[::]",
    "[::ffff:0.0.0.0]",
    "169.254.169.254",
    "[::ffff:169.254.169.254]",
    "[fd00:ec2::254]",
    "169.254.7.127",
    "224.0.0.1",
    "239.255.255.255",
    "[ff02::1]",
    "[ff0e::1]",
    "255.255.255.255",
    "10.244.2.255",
    "10.96.0.10",
    "[fd00:10:96::a]",
    "[fe80::1]",
    "[fe80::1%eth0]",
    "[fe80::1%25eth0]",
    "10.244.1.1",
    "10.244.2.1",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "127.1",
    "localhost",
    "localhost.",
    "victim",
    "victim.shop",
    "victim.shop.svc.cluster.local",
    "bystander.shop.svc.cluster.local",
    "metadata.google.internal",
    "kubernetes.default.svc",
    "*",
    "",
];

/// What is no port of an application, or no port at all.
const BAD_PORTS: &[&str] = &[
    "0",
    "15001",
    "15006",
    "15008",
    "",
    "-1",
    "65536",
    "18446744073709551616",
    "+8080",
    "0x1f90",
    "8080 ",
    " 8080",
    "8080/",
    "8080/x",
    "8080?",
    "8080#",
    "8080:8080",
    "80,8080",
    "http",
    "８０８０",
    "8080\r\nHost: x",
    "8080\0",
];

/// Every way that comes to mind of naming an address that is not the victim's on a port of an application.
fn corpus(victim: &Pod, bystander: &Pod) -> BTreeSet<Vec<u8>> {
    let (own4, own6) = (victim.addresses().v4, victim.addresses().v6);
    let (other4, other6) = (bystander.addresses().v4, bystander.addresses().v6);
    let node = victim.node().addresses();
    let known = [
        other4.to_string(),
        format!("[{other6}]"),
        format!("[::ffff:{other4}]"),
        node.v4.to_string(),
        format!("[{}]", node.v6),
        format!("[{own6}%eth0]"),
        format!("[{own6}%25lo]"),
        format!("[{own6}%1]"),
    ];
    let elsewhere = known.iter().map(String::as_str).chain(ELSEWHERE.iter().copied());
    let ports = ["8080", "80", "1", "65535", "15000", "15020"];
    let mut corpus: BTreeSet<Vec<u8>> = BTreeSet::new();
    for host in elsewhere {
        corpus.extend(ports.iter().map(|port| format!("{host}:{port}").into_bytes()));
    }
    // The victim's own address, where the port or the spelling is what is wrong.
    for own in [own4.to_string(), format!("[{own6}]"), format!("[::ffff:{own4}]")] {
        for port in BAD_PORTS {
            corpus.insert(format!("{own}:{port}").into_bytes());
        }
        for before in ["user@", "user:pw@", "//", "http://", "https://", " ", "\t", "x", "."] {
            corpus.insert(format!("{before}{own}:8080").into_bytes());
        }
        corpus.insert(own.clone().into_bytes());
    }
    corpus.extend(odd_spellings(own4, own6, other4).map(String::into_bytes));
    corpus.extend([
        vec![0],
        vec![0xff, 0xfe],
        vec![0xc0, 0x80, b':', b'8'],
        b"\xef\xbb\xbf10.244.2.2:8080".to_vec(),
    ]);
    // The v4-mapped spelling of the victim's own address on a good port is judged in a test of its own.
    corpus.remove(format!("[::ffff:{own4}]:8080").as_bytes());
    corpus
}

fn odd_spellings(own4: Ipv4Addr, own6: Ipv6Addr, other4: Ipv4Addr) -> [String; 16] {
    let bytes = own4.octets();
    [
        format!("{}.{}.{}.0{}:8080", bytes[0], bytes[1], bytes[2], bytes[3]),
        format!("{}.{}.{}.{}.:8080", bytes[0], bytes[1], bytes[2], bytes[3]),
        format!("{}:8080", u32::from(own4)),
        format!("{own6}:8080"),
        format!("[{own6}:8080"),
        format!("{own6}]:8080"),
        format!("[[{own6}]]:8080"),
        format!("[{own6}]8080"),
        format!("[{own6}] :8080"),
        format!("[::ffff:{other4}%eth0]:8080"),
        "[]:8080".into(),
        ":".into(),
        "@".into(),
        "[".into(),
        "a".repeat(70_000),
        format!("{}:8080", "a.".repeat(200)),
    ]
}

#[test]
fn a_connect_to_anything_but_the_pods_own_address_is_refused_and_nothing_is_dialled() -> Result<()> {
    let stage = stage()?;
    let corpus = corpus(stage.mesh.pod("victim")?, stage.mesh.pod("bystander")?);
    assert!(corpus.len() >= CORPUS_MIN, "only {} authorities", corpus.len());
    stage.all_are_refused(&corpus)?;
    stage.mesh.finish()
}

#[test]
fn the_same_client_reaches_the_pod_by_its_own_address() -> Result<()> {
    // The control: what is refused elsewhere is refused for its target, not for a client that is broken.
    let stage = stage()?;
    let mut tunnel = stage.open()?;
    let own = format!("{}:8080", stage.mesh.pod("victim")?.addresses().v4);
    let before = stage.begun()?;
    assert_eq!(tunnel.connect(own.as_bytes())?, Answer::Status(200));
    assert_eq!(stage.begun()?, [before[0] + 1, before[1], before[2]], "the count counts what is dialled");
    let greeting = String::from_utf8(tunnel.receive()?)?;
    assert!(greeting.starts_with(stage.mesh.pod("victim")?.name()), "{greeting}");
    tunnel.send(stage.mesh.marker().as_bytes())?;
    assert_eq!(tunnel.receive()?, stage.mesh.marker().as_bytes());
    stage.mesh.finish()
}

#[test]
fn a_mapped_spelling_of_the_pods_own_address_never_leads_elsewhere() -> Result<()> {
    let stage = stage()?;
    let mut tunnel = stage.open()?;
    let victim = stage.mesh.pod("victim")?;
    let answer = tunnel.connect(format!("[::ffff:{}]:8080", victim.addresses().v4).as_bytes())?;
    if answer == Answer::Status(200) {
        assert!(String::from_utf8(tunnel.receive()?)?.starts_with(victim.name()));
    }
    stage.mesh.finish()
}

#[test]
fn requests_that_are_no_plain_connect_are_refused_and_nothing_is_dialled() -> Result<()> {
    let stage = stage()?;
    let before = stage.begun()?;
    let own = format!("{}:8080", stage.mesh.pod("victim")?.addresses().v4).into_bytes();
    let other = format!("{}:8080", stage.mesh.pod("bystander")?.addresses().v4).into_bytes();
    let plain: [(&str, &[u8]); 4] =
        [(":method", b"GET"), (":scheme", b"http"), (":path", b"/"), (":authority", &own)];
    let with = |method: &'static [u8]| {
        let mut fields = plain.to_vec();
        fields[0].1 = method;
        fields
    };
    let connect: (&str, &[u8]) = (":method", b"CONNECT");
    let requests: Vec<Vec<(&str, &[u8])>> = vec![
        with(b"GET"),
        with(b"POST"),
        with(b"OPTIONS"),
        with(b"connect"),
        with(b"CONNECT"),
        with(b""),
        vec![connect],
        vec![(":authority", &own)],
        vec![connect, (":authority", &own), (":authority", &other)],
        vec![connect, (":authority", &other), (":authority", &own)],
        vec![connect, (":authority", &own), (":protocol", b"websocket")],
        vec![
            connect,
            (":authority", &own),
            (":protocol", b"connect-udp"),
            (":scheme", b"https"),
            (":path", b"/"),
        ],
        vec![connect, (":authority", &own), (":path", b"/")],
        vec![connect, (":authority", &own), (":scheme", b"https")],
        vec![connect, ("host", &own)],
        vec![connect, (":authority", &other), ("host", &own)],
        vec![(":method", b"CONNECT"), (":method", b"CONNECT"), (":authority", &own)],
        vec![connect, (":authority", &own), ("Upper", b"case")],
        vec![connect, ("a", b"b"), (":authority", &own)],
        vec![connect, (":authority", &own), ("x", b"\r\n")],
    ];
    for request in &requests {
        let answer = stage.open()?.ask(request)?;
        let shown: Vec<_> =
            request.iter().map(|(name, value)| (name, String::from_utf8_lossy(value))).collect();
        ensure!(answer != Answer::Status(200), "{shown:?} opened a tunnel");
    }
    assert_eq!(stage.begun()?, before, "something was dialled");
    stage.mesh.finish()
}

#[test]
fn a_certificate_that_is_not_exactly_a_workload_of_the_mesh_gets_no_tunnel() -> Result<()> {
    let stage = stage()?;
    let forger = Forger::of(stage.mesh.cluster().run().directory())?;
    let to = SocketAddr::new(stage.mesh.pod("victim")?.addresses().v4.into(), TUNNEL);
    let attacker = stage.mesh.pod("outside/attacker")?.namespace();
    let names: [&[&str]; 8] = [
        &[],
        &["spiffe://other.domain/ns/shop/sa/client"],
        &[CLIENT, "spiffe://cluster.local/ns/shop/sa/victim"],
        &["https://cluster.local/ns/shop/sa/client"],
        &["spiffe://cluster.local/ns/shop/sa/"],
        &["spiffe://CLUSTER.LOCAL/ns/shop/sa/client"],
        &["spiffe://cluster.local/ns/shop/sa/client/../victim"],
        &["spiffe://cluster.local/ns/sh%6fp/sa/client"],
    ];
    for uris in names {
        let client = forger.client(uris)?;
        ensure!(Tunnel::open(attacker, to, &client).is_err(), "{uris:?} was accepted");
    }
    Tunnel::open(attacker, to, &forger.client(&[CLIENT])?).context("the control")?;
    stage.mesh.finish()
}

#[test]
fn the_proxys_own_ports_lead_nowhere_from_inside_and_outside_a_pod() -> Result<()> {
    let stage = stage()?;
    let victim = stage.mesh.pod("victim")?;
    for port in [15001, 15006, 15008] {
        for ip in victim.addresses().both() {
            refused(stage.mesh.pod("client")?.namespace(), SocketAddr::new(ip, port), stage.mesh.marker())?;
            refused(victim.namespace(), SocketAddr::new(ip, port), stage.mesh.marker())?;
        }
        refused(victim.namespace(), format!("127.0.0.1:{port}").parse()?, stage.mesh.marker())?;
    }
    stage.mesh.finish()
}
