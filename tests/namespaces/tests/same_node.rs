//! Two pods of one node: with a tunnel between them and without one, everything that anybody can see is the same.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use ebb_tests::{
    app::{App, service},
    mesh::{Mesh, SETTLED, eventually},
    peer::{Flow, SOON, Server, at, call},
};
use harness::{netns::Namespace, ztunnel::Settings};
use nix::sys::signal::Signal;
use serde_json::Value;
use socket2::SockRef;

const BULK: usize = 24 * 1024 * 1024;
const MESSAGES: usize = 2000;
const SCRIPTED: u16 = 7000;
const NOBODY: u16 = 9999;
/// A policy change, and a reset, are over within a second by promise; the rest is for two shared cores.
const AT_ONCE: Duration = Duration::from_millis(1700);
/// What the proxy gives open connections when it is asked to end.
const DRAIN: &str = "2s";
/// Until a tunnel to a pod that is gone is given up, of which nothing can tell.
const NOTICED: Duration = Duration::from_secs(40);
const TOTALS: [&str; 4] = [
    "istio_tcp_connections_opened_total",
    "istio_tcp_connections_closed_total",
    "istio_tcp_sent_bytes_total",
    "istio_tcp_received_bytes_total",
];

/// The mesh of one setting: `client`, `intruder`, `server` and `victim`, all on one node.
struct Stage {
    mesh: Mesh,
    names: BTreeMap<String, String>,
    _echo: Vec<Server>,
}

/// What is seen of one case.
#[derive(Debug, PartialEq)]
struct Seen {
    /// By the client and the application.
    ends: Vec<String>,
    /// In the access log, but for times and the callers' ports, and in any order.
    lines: Vec<String>,
    /// In the metrics: what each series grew by.
    counts: BTreeMap<String, u64>,
}

impl Seen {
    /// All of it, a line each.
    fn told(&self) -> Vec<String> {
        let counts = self.counts.iter().map(|(series, grown)| format!("{grown} {series}"));
        self.ends.iter().chain(&self.lines).cloned().chain(counts).collect()
    }
}

type Case = fn(&mut Stage) -> Result<Vec<String>>;

/// The last one ends the proxy.
const CASES: [(&str, Case); 12] = [
    ("called by every address", called_by_every_address),
    ("many small messages", many_small_messages),
    ("much both ways at once", much_both_ways_at_once),
    ("half-closes", half_closes),
    ("resets", resets),
    ("denied by identity", denied_by_identity),
    ("denied by port", denied_by_port),
    ("a policy that cannot be read", a_policy_that_cannot_be_read),
    ("a policy that changes under an open connection", policy_changes),
    ("nobody listens", nobody_listens),
    ("the calling pod goes, and the called one", pods_go),
    ("the proxy drains", the_proxy_drains),
];

#[test]
fn with_a_tunnel_and_without_one_the_same_is_seen() -> Result<()> {
    let (tunnelled, direct) = (play("off")?, play("on")?);
    for ((name, _), (with, without)) in CASES.iter().zip(tunnelled.iter().zip(&direct)) {
        ensure!(!with.lines.is_empty(), "{name}: nothing was logged");
        let (with, without) = (with.told(), without.told());
        let alone = |of: &[String], other: &[String]| -> Vec<String> {
            of.iter().filter(|it| !other.contains(it)).cloned().collect()
        };
        let (with_alone, without_alone) = (alone(&with, &without), alone(&without, &with));
        ensure!(
            with == without,
            "{name}: seen with a tunnel only: {with_alone:#?}\nand without one only: {without_alone:#?}"
        );
    }
    Ok(())
}

fn play(same_node_path: &str) -> Result<Vec<Seen>> {
    let mut stage = Stage::set(same_node_path)?;
    let seen = CASES.iter().map(|(name, case)| {
        let begun = Instant::now();
        let seen = stage.see(*case).with_context(|| format!("{name}, same-node path {same_node_path}"))?;
        eprintln!("{name}, same-node path {same_node_path}: {:?}", begun.elapsed());
        Ok(seen)
    });
    let seen = seen.collect::<Result<_>>()?;
    stage.mesh.finish()?;
    Ok(seen)
}

impl Stage {
    fn set(same_node_path: &str) -> Result<Self> {
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let environment = vec![
            variable("SAME_NODE_PATH", same_node_path),
            variable("CONNECTION_TERMINATION_DEADLINE", DRAIN),
            variable("LOG_FORMAT", "json"),
        ];
        // One worker, or a case would meet now a worker that has a tunnel and now one that has none.
        let mut mesh = Mesh::start_with(Settings { environment, workers: Some(1), ..Settings::default() })?;
        mesh.apply("20-server.yaml", &service("server", 10))?;
        mesh.run(&[App::new("client"), App::new("intruder"), App::new("server"), App::new("victim")])?;
        let server = mesh.pod("server")?;
        let echo = vec![Server::echo(server, 8080)?, Server::echo(server, 9090)?];
        let mut stage = Self { mesh, names: BTreeMap::new(), _echo: echo };
        stage.learn_names()?;
        // The path that was set is the one that is taken.
        call(stage.mesh.pod("client")?, stage.web()?, stage.mesh.marker())?;
        let tunnels = tunnels_of(stage.mesh.pod("client")?.namespace())?;
        ensure!((tunnels == 0) == (same_node_path == "on"), "{same_node_path}: {tunnels} tunnels");
        stage.until_over(&BTreeMap::new(), 0)?;
        Ok(stage)
    }

    fn web(&self) -> Result<SocketAddr> {
        Ok(at(self.mesh.pod("server")?.addresses().v4))
    }

    fn open(&self, from: &str) -> Result<Flow> {
        let mut flow = Flow::open(self.mesh.pod(from)?.namespace(), self.web()?)?;
        flow.say(self.mesh.marker())?;
        Ok(flow)
    }

    /// Connects `client` to a server that runs `script`; its outcome comes out of the channel.
    fn scripted<T: Send + 'static>(
        &self,
        script: impl Fn(TcpStream) -> Result<T> + Clone + Send + 'static,
    ) -> Result<(TcpStream, Receiver<Result<T>>, Server)> {
        let (sender, receiver) = channel();
        let server = self.mesh.pod("server")?;
        let serving = Server::start(server.namespace(), SCRIPTED, move |stream, _| {
            let _ = stream.set_read_timeout(Some(SOON));
            // The test may have failed and gone.
            let _ = sender.send(script(stream));
        })?;
        let to = SocketAddr::new(server.addresses().v6.into(), SCRIPTED);
        let client = self.mesh.pod("client")?.namespace().connect(to, SOON)?;
        client.set_read_timeout(Some(SOON))?;
        Ok((client, receiver, serving))
    }

    /// Applies a policy and waits until it is in force.
    fn policy(&mut self, spec: &str) -> Result<()> {
        let file = format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: \
             shop}}\nspec: {spec}\n"
        );
        self.mesh.apply("60-p.yaml", &file)?;
        self.until_policy_is(true)
    }

    fn no_policy(&mut self) -> Result<()> {
        self.mesh.kubelet_mut().delete("60-p.yaml")?;
        self.until_policy_is(false)
    }

    fn until_policy_is(&self, there: bool) -> Result<()> {
        eventually("the policy to be in force, or gone", SETTLED, || {
            let dump = self.mesh.ztunnel(0).config_dump()?;
            let named = |section: &str| dump[section].to_string().contains("\"p\"");
            let rejected = dump["rejected"].to_string().contains("60-p.yaml");
            Ok((named("policies") || rejected) == there)
        })
    }

    /// Plays a case, and looks at everything once its connections have ended.
    fn see(&mut self, case: Case) -> Result<Seen> {
        let (counted, logged) = (self.counts()?, self.logged()?.len());
        let ends = case(self)?;
        let ended = !self.mesh.ztunnel(0).process().is_alive();
        if ended {
            return Ok(Seen { ends, lines: self.lines(logged)?, counts: BTreeMap::new() });
        }
        let counts = self.until_over(&counted, logged)?;
        Ok(Seen { ends, lines: self.lines(logged)?, counts })
    }

    /// Waits until whatever was begun has ended and is logged. Returns what it was counted as.
    fn until_over(&self, counted: &BTreeMap<String, u64>, logged: usize) -> Result<BTreeMap<String, u64>> {
        let mut counts = BTreeMap::new();
        let over = eventually("every connection to have ended", NOTICED, || {
            counts = grown(counted, &self.counts()?);
            let sum = |total: &str| {
                counts.iter().filter(|(series, _)| series.starts_with(total)).map(|(_, n)| n).sum::<u64>()
            };
            let (opened, closed) = (sum(TOTALS[0]), sum(TOTALS[1]));
            Ok(opened > 0 && opened == closed && self.logged()?.len() == logged + closed as usize)
        });
        over.with_context(|| format!("{counts:#?}"))?;
        Ok(counts)
    }

    /// Notes what is called differently in each run, and what it is called here.
    fn learn_names(&mut self) -> Result<()> {
        for of in ["client", "intruder", "server", "victim"] {
            let replica = self.mesh.replica(of)?;
            let [v4, v6] = replica.pod().addresses().both();
            for (name, role) in [(replica.name(), "pod"), (&v4.to_string(), "v4"), (&v6.to_string(), "v6")] {
                self.names.insert(name.to_owned(), format!("{of}-{role}"));
            }
        }
        Ok(())
    }

    fn logged(&self) -> Result<Vec<String>> {
        let lines = self.mesh.ztunnel(0).log_lines("\"connection ")?;
        Ok(lines.into_iter().filter(|line| line.contains("dst.addr")).collect())
    }

    fn lines(&self, after: usize) -> Result<Vec<String>> {
        let line = |line: &String| {
            let mut fields: Value = serde_json::from_str(line).with_context(|| line.clone())?;
            let object = fields.as_object_mut().context("an object")?;
            ensure!(object.remove("time").is_some(), "no time: {line}");
            object.remove("duration");
            let source = object["src.addr"].as_str().context("an address")?;
            let without_port = source.rsplit_once(':').context("a port")?.0.to_owned();
            object.insert("src.addr".into(), without_port.into());
            // Which of both is found first is a matter of chance, with a tunnel as well.
            let text = fields.to_string().replace("unknown workload", "the pod is gone");
            // The longest first: an address may begin with another.
            let mut names: Vec<_> = self.names.iter().collect();
            names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
            Ok(names.iter().fold(text, |text, (name, role)| text.replace(*name, role)))
        };
        let mut lines = self.logged()?[after..].iter().map(line).collect::<Result<Vec<_>>>()?;
        lines.sort();
        Ok(lines)
    }

    fn counts(&self) -> Result<BTreeMap<String, u64>> {
        let metrics = self.mesh.ztunnel(0).metrics()?;
        let samples = metrics.samples().iter().filter(|sample| TOTALS.contains(&&*sample.name));
        Ok(samples.map(|it| (format!("{} {:?}", it.name, it.labels), it.value as u64)).collect())
    }
}

fn grown(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let growth = |(key, now): (&String, &u64)| (key.clone(), now - before.get(key).unwrap_or(&0));
    after.iter().map(growth).filter(|(_, grown)| *grown > 0).collect()
}

/// Connections from a namespace to the port of tunnels, as `/proc/net/tcp` writes it.
fn tunnels_of(namespace: &Namespace) -> Result<usize> {
    let text = namespace.within(|| {
        let read = |file| fs::read_to_string(format!("/proc/thread-self/net/{file}"));
        Ok(read("tcp")? + &read("tcp6")?)
    })?;
    let port = format!(":{:04X}", 15008);
    Ok(text
        .lines()
        .filter(|line| line.split_whitespace().nth(2).is_some_and(|it| it.ends_with(&port)))
        .count())
}

/// How a connection ends that no further byte is sent on.
fn end_of(mut stream: &TcpStream, within: Duration) -> Result<String> {
    stream.set_read_timeout(Some(within))?;
    let (mut buffer, mut bytes) = ([0; 4096], 0);
    Ok(loop {
        match stream.read(&mut buffer) {
            Ok(0) => break format!("{bytes} bytes and FIN"),
            Ok(read) => bytes += read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break format!("{bytes} bytes, no end"),
            Err(error) => break format!("{bytes} bytes and {:?}", error.kind()),
        }
    })
}

/// What becomes of a connection on which something is said.
fn attempt(stage: &Stage, from: &str, to: SocketAddr) -> Result<String> {
    let said = stage.mesh.pod(from)?.namespace().connect(to, SOON).and_then(|mut stream| {
        stream.write_all(stage.mesh.marker().as_bytes())?;
        Ok(stream)
    });
    match said {
        Ok(stream) => end_of(&stream, SOON),
        // It was accepted, and is refused already: an error is told once, to whatever comes first.
        Err(error) => match error.root_cause().downcast_ref::<io::Error>() {
            Some(early) => Ok(format!("0 bytes and {:?}", early.kind())),
            None => Err(error),
        },
    }
}

/// Noise that begins with the marker, and what it comes to.
fn noise(stage: &Stage) -> (Vec<u8>, u64) {
    let mut bytes: Vec<u8> = (0..BULK as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let marker = stage.mesh.marker().as_bytes();
    bytes[..marker.len()].copy_from_slice(marker);
    let sum = checksum(&bytes);
    (bytes, sum)
}

/// FNV-1a.
fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn read_all(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).context("read to the end")?;
    Ok(bytes)
}

fn outcome<T>(of: &Receiver<Result<T>>) -> Result<T> {
    of.recv_timeout(SOON).map_err(|_| anyhow!("the server did not end"))?.context("at the server")
}

fn called_by_every_address(stage: &mut Stage) -> Result<Vec<String>> {
    let server = stage.mesh.pod("server")?.addresses();
    for to in [at(server.v4), at(server.v6), "10.96.0.10:80".parse()?, "[fd00:10:96::a]:80".parse()?] {
        // Makes sure that the application sees the caller's own address.
        call(stage.mesh.pod("client")?, to, stage.mesh.marker())?;
    }
    Ok(Vec::new())
}

fn many_small_messages(stage: &mut Stage) -> Result<Vec<String>> {
    let mut flow = stage.open("client")?;
    for _ in 0..MESSAGES {
        flow.say(stage.mesh.marker())?;
    }
    flow.stream().shutdown(Shutdown::Write)?;
    Ok(vec![end_of(flow.stream(), SOON)?])
}

fn much_both_ways_at_once(stage: &mut Stage) -> Result<Vec<String>> {
    let (bulk, sum) = noise(stage);
    let theirs = bulk.clone();
    let both_ways = move |mut stream: TcpStream, bulk: Vec<u8>| -> Result<u64> {
        let mut writer = stream.try_clone()?;
        let writing = std::thread::spawn(move || -> Result<()> {
            writer.write_all(&bulk)?;
            Ok(writer.shutdown(Shutdown::Write)?)
        });
        let read = read_all(&mut stream)?;
        writing.join().map_err(|_| anyhow!("the writer panicked"))??;
        Ok(checksum(&read))
    };
    let (client, server, _serving) = stage.scripted(move |stream| both_ways(stream, theirs.clone()))?;
    ensure!(both_ways(client, bulk)? == sum, "what the client got differs");
    ensure!(outcome(&server)? == sum, "what the server got differs");
    Ok(Vec::new())
}

fn half_closes(stage: &mut Stage) -> Result<Vec<String>> {
    let (bulk, sum) = noise(stage);
    let answer = bulk.clone();
    let (mut client, server, serving) = stage.scripted(move |mut stream| {
        let asked = read_all(&mut stream)?;
        stream.write_all(&answer)?;
        Ok(asked)
    })?;
    client.write_all(b"question")?;
    client.shutdown(Shutdown::Write)?;
    ensure!(checksum(&read_all(&mut client)?) == sum, "the answer differs");
    ensure!(outcome(&server)? == b"question", "the question differs");
    drop((client, server, serving));

    let (mut client, server, _serving) = stage.scripted(|mut stream| {
        stream.write_all(b"all I have to say")?;
        stream.shutdown(Shutdown::Write)?;
        Ok(checksum(&read_all(&mut stream)?))
    })?;
    ensure!(read_all(&mut client)? == b"all I have to say");
    client.write_all(&bulk)?;
    client.shutdown(Shutdown::Write)?;
    ensure!(outcome(&server)? == sum, "the upload differs");
    Ok(Vec::new())
}

fn resets(stage: &mut Stage) -> Result<Vec<String>> {
    let reset = |stream: &TcpStream| SockRef::from(stream).set_linger(Some(Duration::ZERO));
    let (mut client, server, serving) = stage.scripted(move |mut stream| {
        stream.read_exact(&mut [0; 8])?;
        Ok(reset(&stream)?)
    })?;
    client.write_all(b"question")?;
    let at_client = end_of(&client, AT_ONCE)?;
    outcome(&server)?;
    drop((client, server, serving));

    let (mut client, server, _serving) = stage.scripted(|mut stream| {
        stream.write_all(b"x")?;
        end_of(&stream, AT_ONCE)
    })?;
    client.read_exact(&mut [0])?;
    reset(&client)?;
    drop(client);
    Ok(vec![at_client, outcome(&server)?])
}

fn denied_by_identity(stage: &mut Stage) -> Result<Vec<String>> {
    let to = stage.web()?;
    stage.policy("{action: DENY, rules: [{from: [{source: {principals: [\"*/sa/intruder\"]}}]}]}")?;
    let denied = attempt(stage, "intruder", to)?;
    call(stage.mesh.pod("client")?, to, stage.mesh.marker())?;
    stage.policy("{action: ALLOW, rules: [{from: [{source: {principals: [\"*/sa/client\"]}}]}]}")?;
    // In force once it is what denies.
    eventually("the other policy to be in force", SETTLED, || {
        let dump = stage.mesh.ztunnel(0).config_dump()?;
        Ok(dump["policies"].to_string().contains("sa/client"))
    })?;
    let not_allowed = attempt(stage, "intruder", to)?;
    call(stage.mesh.pod("client")?, to, stage.mesh.marker())?;
    stage.no_policy()?;
    call(stage.mesh.pod("intruder")?, to, stage.mesh.marker())?;
    Ok(vec![denied, not_allowed])
}

fn denied_by_port(stage: &mut Stage) -> Result<Vec<String>> {
    let to = stage.web()?;
    stage.policy("{action: DENY, rules: [{to: [{operation: {ports: [\"9090\"]}}]}]}")?;
    let denied = attempt(stage, "client", SocketAddr::new(to.ip(), 9090))?;
    call(stage.mesh.pod("client")?, to, stage.mesh.marker())?;
    stage.no_policy()?;
    Ok(vec![denied])
}

fn a_policy_that_cannot_be_read(stage: &mut Stage) -> Result<Vec<String>> {
    stage.policy("{action: PERHAPS, rules: [{}]}")?;
    let denied = attempt(stage, "client", stage.web()?)?;
    stage.no_policy()?;
    Ok(vec![denied])
}

fn policy_changes(stage: &mut Stage) -> Result<Vec<String>> {
    let (client, mut intruder) = (stage.open("client")?, stage.open("intruder")?);
    stage.policy("{action: DENY, rules: [{from: [{source: {principals: [\"*/sa/client\"]}}]}]}")?;
    let ended = end_of(client.stream(), AT_ONCE)?;
    intruder.say(stage.mesh.marker()).context("the connection that is still allowed")?;
    stage.no_policy()?;
    Ok(vec![ended])
}

fn nobody_listens(stage: &mut Stage) -> Result<Vec<String>> {
    let to = SocketAddr::new(stage.web()?.ip(), NOBODY);
    Ok(vec![attempt(stage, "client", to)?])
}

/// The pods of either side go while a connection is open, of two connections at once: of a tunnel whose pod has lost its
/// interface nothing tells the other side, which then waits.
fn pods_go(stage: &mut Stage) -> Result<Vec<String>> {
    let victim = stage.mesh.pod("victim")?;
    let serving = Server::echo(victim, 8080)?;
    let to_victim = Flow::open(stage.mesh.pod("client")?.namespace(), at(victim.addresses().v4))?;
    let (mut neighbour, from_intruder) = (stage.open("client")?, stage.open("intruder")?);
    stage.mesh.kubelet_mut().scale("shop", "intruder", 0)?;
    stage.mesh.kubelet_mut().scale("shop", "victim", 0)?;
    stage.mesh.settle()?;
    neighbour.say(stage.mesh.marker()).context("the neighbour's connection")?;
    let ended = end_of(to_victim.stream(), NOTICED)?;
    drop((serving, from_intruder));
    Ok(vec![ended])
}

fn the_proxy_drains(stage: &mut Stage) -> Result<Vec<String>> {
    let mut flow = stage.open("client")?;
    let process = stage.mesh.ztunnel(0).process();
    process.signal(Signal::SIGTERM)?;
    process.wait_for_log("draining", SOON)?;
    flow.say(stage.mesh.marker()).context("it goes on while the proxy drains")?;
    let ended = end_of(flow.stream(), SOON)?;
    ensure!(process.wait(SOON)?.success());
    Ok(vec![ended])
}
