//! No way of writing a path gets past policy to a server that reads paths as liberally as can be: every form is sent as it
//! is, from a pod of the mesh through its ztunnel and a waypoint, and the server keeps every byte that arrives.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use ebb_tests::{
    behind::{Behind, Port},
    frames::Frames,
    hostile::Answer,
    mesh::{SETTLED, eventually},
    peer::SOON,
    recorder::{Recorder, agreed},
};

#[path = "../../../waypoint/src/authz/tests/forms.rs"]
mod forms;

use forms::{PATHS, forms, liberally};

/// A list of paths as policies state it, and what it means of a path in the clear.
type List = (&'static str, fn(&str) -> bool);

/// One of each sort: a whole path, a beginning, an end and a template.
const LISTS: [List; 4] = [
    ("/admin", |it| it == "/admin"),
    ("/admin*", |it| it.starts_with("/admin")),
    ("*.html", |it| it.ends_with(".html")),
    ("/api/{*}/admin/{**}", |it| {
        let segments: Vec<&str> = it.split('/').collect();
        segments.len() >= 5 && segments[1] == "api" && !segments[2].is_empty() && segments[3] == "admin"
    }),
];
/// What all of it may take of a test run.
const AT_MOST: Duration = Duration::from_secs(60);

/// Calls to `deny-N` are denied by the N-th list, those to `allow-N` are allowed by it and by nothing else.
fn policies() -> String {
    let head = |name: &str, action: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec:\n  targetRefs: [{{group: \"\", kind: Service, name: server}}]\n  action: {action}\n  rules:\n"
        )
    };
    let rule = |host: String, path: &str| {
        format!("    - to: [{{operation: {{hosts: [\"{host}\"], paths: [\"{path}\"]}}}}]\n")
    };
    let each = |word: &str| -> String {
        LISTS.iter().enumerate().map(|(at, (path, _))| rule(format!("{word}-{at}"), path)).collect()
    };
    let open = "    - to: [{operation: {hosts: [\"deny-*\"]}}]\n";
    format!("{}{}---\n{}{open}{}", head("deny", "DENY"), each("deny"), head("allow", "ALLOW"), each("allow"))
}

/// One request: which list, whether it denies, and the path as it is sent.
struct Case<'f> {
    list: usize,
    denies: bool,
    form: &'f str,
}

impl Case<'_> {
    fn host(&self) -> String {
        format!("{}-{}", if self.denies { "deny" } else { "allow" }, self.list)
    }

    /// Whether policy keeps this path, in the clear, from the server.
    fn is_kept_out(&self, meant: &str) -> bool {
        (LISTS[self.list].1)(meant) == self.denies
    }
}

/// A client of HTTP/1.1 that says what it is told to, on one connection as long as there is one.
struct Client<'b> {
    behind: &'b Behind,
    stream: Option<TcpStream>,
}

impl Client<'_> {
    /// The status of the answer.
    fn ask(&mut self, case: &Case<'_>, number: usize) -> Result<u16> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = self.behind.pod("client")?.namespace().connect(Behind::at(Port::Http), SOON)?;
                stream.set_read_timeout(Some(SOON))?;
                stream.set_nodelay(true)?;
                stream
            }
        };
        let head = format!("GET {} HTTP/1.1\r\nHost: {}\r\nx-case: {number}\r\n\r\n", case.form, case.host());
        stream.write_all(head.as_bytes())?;
        let (status, stays) = answer(&mut stream)?;
        self.stream = Some(stream).filter(|_| stays);
        Ok(status)
    }
}

/// Reads one answer: its status, and whether the connection goes on.
fn answer(stream: &mut TcpStream) -> Result<(u16, bool)> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            let length: usize = field("content-length:").map_or(Ok(0), str::parse)?;
            if body.len() >= length {
                let status = head.get(9..12).context("no status")?.parse()?;
                return Ok((status, field("connection:") != Some("close")));
            }
        }
        let read = stream.read(&mut buffer)?;
        ensure!(read > 0, "the connection ended in the middle of {:?}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&buffer[..read]);
    }
}

/// The same by HTTP/2: whether it was answered with 200.
fn ask2(behind: &Behind, client: &mut Option<Frames>, case: &Case<'_>, number: usize) -> Result<bool> {
    let mut frames = match client.take() {
        Some(frames) => frames,
        None => {
            let stream = behind.pod("client")?.namespace().connect(Behind::at(Port::Http), SOON)?;
            stream.set_read_timeout(Some(SOON))?;
            Frames::open(stream)?
        }
    };
    let (host, number) = (case.host(), number.to_string());
    let fields: [(&[u8], &[u8]); 5] = [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":authority", host.as_bytes()),
        (b":path", case.form.as_bytes()),
        (b"x-case", number.as_bytes()),
    ];
    let stream = frames.request(&fields, None)?;
    let answer = frames.answer(stream)?;
    // Its streams are answered one by one, so that what a later one is told is its own.
    *client = Some(frames).filter(|_| answer == Answer::Status(200));
    Ok(answer == Answer::Status(200))
}

/// What arrived at the server, by the number of its case: the targets. Each head is whole, and read alike by everybody.
fn arrived(recorder: &Recorder) -> Result<BTreeMap<usize, Vec<String>>> {
    let mut all: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for connection in recorder.take()? {
        for head in agreed(&connection)?.heads {
            let target = head.split(' ').nth(1).context("no target")?.to_owned();
            let number = head.lines().find_map(|line| line.strip_prefix("x-case: ")).context("no number")?;
            all.entry(number.trim().parse()?).or_default().push(target);
        }
    }
    Ok(all)
}

#[test]
fn no_form_of_a_path_reaches_a_liberal_server_past_policy() -> Result<()> {
    let mut behind = Behind::build()?;
    let recorder = Recorder::start(behind.pod("server")?.namespace(), Port::Http as u16, Duration::ZERO)?;
    behind.mesh.apply("50-downgrade.yaml", DOWNGRADE)?;
    behind.mesh.apply("51-policies.yaml", &policies())?;
    let corpus: BTreeSet<String> = PATHS.into_iter().flat_map(forms).collect();
    ensure!(corpus.len() >= 500, "{} forms", corpus.len());
    let plain = |denies| Case { list: 0, denies, form: "/other" };
    eventually("policies to be in force", SETTLED, || {
        let mut client = Client { behind: &behind, stream: None };
        Ok((client.ask(&plain(true), 0)?, client.ask(&plain(false), 0)?) == (200, 403))
    })?;
    recorder.take()?;
    let mut cases = Vec::new();
    for form in &corpus {
        for list in 0..LISTS.len() {
            cases.extend([true, false].map(|denies| Case { list, denies, form }));
        }
    }
    let (began, mut wrong, mut admitted) = (Instant::now(), Vec::new(), 0);
    let mut client = Client { behind: &behind, stream: None };
    let mut answered = Vec::with_capacity(cases.len());
    for (number, case) in cases.iter().enumerate() {
        let status = client.ask(case, number).with_context(|| format!("{} of {}", case.form, case.host()))?;
        ensure!([200, 400, 403].contains(&status), "{status} to {}", case.form);
        answered.push(status == 200);
    }
    drop(client);
    // By HTTP/2 a target is a field like others; the server is asked by HTTP/1.1 all the same.
    let first = cases.len();
    let mut frames = None;
    for (number, case) in cases.iter().enumerate().filter(|(number, _)| number % (2 * LISTS.len()) < 2) {
        let was = ask2(&behind, &mut frames, case, first + number).with_context(|| case.form.to_owned())?;
        // The reader of HTTP/2 takes a fragment off before anybody sees it: what is left is judged, and arrives.
        let is_cut = case.form.contains('#');
        ensure!(!was || answered[number] || is_cut, "{} is let through by HTTP/2 alone", case.form);
    }
    drop(frames);
    for (number, targets) in arrived(&recorder)? {
        let case = &cases[number % first];
        ensure!(targets.len() == 1, "{} arrived as {targets:?}", case.form);
        admitted += 1;
        for target in targets {
            let meant = liberally(&target);
            if case.is_kept_out(&meant) {
                let list = LISTS[case.list].0;
                wrong.push(format!("{} of {} ({list}) arrived as {target}: {meant}", case.form, case.host()));
            }
        }
    }
    ensure!(wrong.is_empty(), "{} got past policy:\n{}", wrong.len(), wrong.join("\n"));
    ensure!(admitted > 500, "only {admitted} of {} arrived at all", cases.len());
    let took = began.elapsed();
    println!("{} requests, {admitted} arrived, {took:.1?}", cases.len());
    ensure!(took < AT_MOST, "it took {took:.1?}");
    behind.mesh.finish()
}

/// The server speaks HTTP/1.1 whatever the client does.
const DOWNGRADE: &str = r#"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: server, namespace: shop}
spec:
  host: server
  trafficPolicy: {connectionPool: {http: {h2UpgradePolicy: DO_NOT_UPGRADE}}}
"#;
