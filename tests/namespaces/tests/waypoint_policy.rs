//! AuthorizationPolicy at a waypoint: requests of real pods are let through or refused by what they are and whose, and a
//! change holds for what is open already.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use ebb_tests::{
    behind::{Behind, Port},
    mesh::{SETTLED, eventually},
    multiplexed::Multiplexed,
    paced::Done,
    peer::{SOON, Server},
};

/// What a policy change may take, by promise.
const AT_ONCE: Duration = Duration::from_secs(1);
/// What two shared processor cores may add to it in this test.
const SLACK: Duration = Duration::from_millis(700);

/// How often a stream says something, so that its end is seen in time.
const BEAT: Duration = Duration::from_millis(20);

/// What Envoy tells who is refused.
const DENIED: &str = "RBAC: access denied";

/// A policy attached to the service.
fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  targetRefs: [{{group: \"\", kind: Service, name: server}}]\n{spec}"
    )
}

/// One request on a connection of its own: status and body.
fn ask(behind: &Behind, from: &str, request: &str) -> Result<(u16, String)> {
    let (line, headers) = request.split_once('\n').unwrap_or((request, ""));
    let mut stream = behind.pod(from)?.namespace().connect(Behind::at(Port::Http), SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    let headers: String = headers.lines().map(|it| format!("{it}\r\n")).collect();
    let head = format!("{line} HTTP/1.1\r\nHost: server.shop\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(head.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| format!("the answer to {request}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no end of a head")?;
    let status = head.get(9..12).context("no status")?.parse()?;
    Ok((status, body.to_owned()))
}

fn status(behind: &Behind, from: &str, request: &str) -> Result<u16> {
    ask(behind, from, request).map(|(status, _)| status)
}

/// Waits until a request is answered with a status.
fn settled(behind: &Behind, (from, request): (&str, &str), wanted: u16) -> Result<()> {
    let what = format!("{request} of {from} to be answered with {wanted}");
    eventually(&what, SETTLED, || Ok(status(behind, from, request)? == wanted))
        .with_context(|| behind.waypoint().map(|it| it.tail()).unwrap_or_default())
}

const ALLOW: &str = r#"  rules:
    - from: [{source: {principals: ["*/ns/shop/sa/client"]}}]
      to:
        - operation: {methods: [GET], paths: ["/orders*", "/api/{*}/items"]}
        - operation: {methods: [PUT], hosts: ["other.shop"]}
    - when: [{key: "request.headers[x-role]", values: [admin]}]
"#;

const DENY: &str = r#"  action: DENY
  rules: [{to: [{operation: {paths: ["/orders/secret*"]}}]}]
"#;

#[test]
fn requests_are_let_through_by_method_path_header_and_principal() -> Result<()> {
    let mut behind = Behind::build()?;
    let _server = behind.serve(&["http", "--port", "8080"])?;
    assert_eq!(status(&behind, "neighbour", "GET /")?, 200, "without a policy");

    behind.mesh.apply("60-allow.yaml", &policy("allow", ALLOW))?;
    settled(&behind, ("neighbour", "GET /orders/1"), 403)?;
    for (from, request, wanted) in [
        ("client", "GET /orders/1", 200),
        ("client", "GET /%6frders/1?x=y", 200),
        ("client", "POST /orders/1", 403),
        ("client", "GET /", 403),
        ("client", "GET /api/v1/items", 200),
        ("client", "GET /api/v1/x/items", 403),
        ("client", "PUT /orders/1", 403),
        ("client", "GET /orders/1;x", 400),
        ("neighbour", "GET /orders/1\nx-role: admin", 200),
        ("neighbour", "GET /orders/1\nx-role: Admin", 403),
        ("neighbour", "GET /orders/1\nx_role: admin", 400),
    ] {
        assert_eq!(status(&behind, from, request)?, wanted, "{from}: {request}");
    }
    assert_eq!(ask(&behind, "neighbour", "GET /none")?, (403, DENIED.to_owned()));
    behind.logged(&["GET /none", "403", "- rbac_access_denied_matched_policy[none]"])?;

    behind.mesh.apply("61-deny.yaml", &policy("deny", DENY))?;
    settled(&behind, ("client", "GET /orders/secret"), 403)?;
    for request in ["GET /orders/secret/x\nx-role: admin", "GET /orders/%73ecret", "PUT /orders/secret"] {
        assert_eq!(ask(&behind, "client", request)?, (403, DENIED.to_owned()), "{request}");
    }
    for request in ["GET /orders//secret", "GET /orders/x/../secret", "GET /orders/%2e/secret"] {
        assert_eq!(status(&behind, "client", request)?, 400, "{request}");
    }
    assert_eq!(status(&behind, "client", "GET /orders/1")?, 200);
    behind.logged(&[
        "GET /orders/%73ecret",
        "rbac_access_denied_matched_policy[ns[shop]-policy[deny]-rule[0]]",
    ])?;
    behind.mesh.finish()
}

#[test]
fn a_dry_run_is_told_custom_refuses_by_name_and_what_cannot_be_read_lets_nobody_in() -> Result<()> {
    let mut behind = Behind::build()?;
    let _server = behind.serve(&["http", "--port", "8080"])?;
    let deny = "  action: DENY\n  rules: [{to: [{operation: {paths: [/dry]}}]}]\n";
    let dry = policy("dry", deny)
        .replace("namespace: shop}", "namespace: shop, annotations: {istio.io/dry-run: 'true'}}");
    // In force together with one that can be seen to be.
    let custom =
        "  action: CUSTOM\n  provider: {name: opa}\n  rules: [{to: [{operation: {paths: [/custom]}}]}]\n";
    behind.mesh.apply("60-dry.yaml", &format!("{dry}---\n{}", policy("ask", custom)))?;
    settled(&behind, ("client", "GET /custom"), 403)?;
    behind.logged(&[
        "GET /custom",
        "rbac_access_denied_matched_policy[ns[shop]-policy[ask]-rule[0]-deny-due-to-bad-CUSTOM-action]",
    ])?;
    assert_eq!(status(&behind, "client", "GET /dry")?, 200);
    behind.logged(&["dry-run: would refuse", "ns[shop]-policy[dry]-rule[0]", "/dry"])?;

    let misspelt = deny.replace("paths", "path");
    behind.mesh.apply("61-odd.yaml", &policy("odd", &misspelt))?;
    settled(&behind, ("client", "GET /"), 403)?;
    behind.logged(&["GET / ", "rbac_access_denied_matched_policy[AuthorizationPolicy_shop/odd]"])?;
    behind.mesh.kubelet_mut().delete("61-odd.yaml")?;
    settled(&behind, ("client", "GET /"), 200)?;
    behind.mesh.finish()
}

// The server speaks HTTP/1.1 alone.
const HTTP1: &str = r#"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: server, namespace: shop}
spec:
  host: server
  trafficPolicy: {connectionPool: {http: {h2UpgradePolicy: DO_NOT_UPGRADE}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: server, namespace: shop}
spec:
  hosts: [server]
  http:
    - match: [{uri: {exact: /in-force}}]
      directResponse: {status: 418}
    - route: [{destination: {host: server}}]
"#;

const NO_GET: &str = "  action: DENY\n  rules: [{to: [{operation: {methods: [GET]}}]}]\n";

#[test]
fn a_policy_that_comes_under_load_holds_for_requests_of_open_connections_within_a_second() -> Result<()> {
    let mut behind = Behind::build()?;
    let _server = behind.serve(&["http", "--port", "8080"])?;
    behind.mesh.apply("50-http1.yaml", HTTP1)?;
    settled(&behind, ("client", "GET /in-force"), 418)?;
    let from = behind.pod("client")?.namespace();
    let load = Multiplexed::start(from, Behind::at(Port::Http), 200, 0)?;
    std::thread::sleep(AT_ONCE);
    let stated = Instant::now();
    behind.mesh.apply("60-deny.yaml", &policy("deny", NO_GET))?;
    settled(&behind, ("neighbour", "GET /"), 403)?;
    std::thread::sleep(2 * AT_ONCE + SLACK);
    let withdrawn = Instant::now();
    behind.mesh.kubelet_mut().delete("60-deny.yaml")?;
    settled(&behind, ("neighbour", "GET /"), 200)?;
    std::thread::sleep(2 * AT_ONCE + SLACK);
    let all = load.stop()?;
    let answered = |done: &Done| done.answer.as_ref().map_or(0, |answer| answer.status);
    let late = stated + AT_ONCE + SLACK;
    let (mut denied, mut let_in_again) = (0, 0);
    for done in &all {
        let told = answered(done);
        let wanted = match done.began {
            // A POST is none of the policy's business, and nothing is before it is stated.
            began if done.post || began < stated && done.ended < stated => 200,
            began if late < began && done.ended < withdrawn => 403,
            began if began > withdrawn + AT_ONCE + SLACK => 200,
            _ => continue,
        };
        ensure!(
            told == wanted,
            "{done:?}, {:?} after the policy",
            done.began.saturating_duration_since(stated)
        );
        denied += usize::from(told == 403);
        let_in_again += usize::from(done.began > withdrawn && !done.post);
    }
    let last = all
        .iter()
        .filter(|done| !done.post && done.began < withdrawn && answered(done) == 200)
        .map(|it| it.began);
    let took = last.max().unwrap_or(stated).saturating_duration_since(stated);
    println!("{} requests, {denied} surely denied, the last was let in after {took:?}", all.len());
    ensure!(denied > 20 && let_in_again > 20, "{denied} surely denied, {let_in_again} surely not again");
    behind.mesh.finish()
}

/// Serves `/stream`, an answer without end, and `/ws`, whose other protocol is an echo.
fn endless(mut stream: TcpStream) -> Result<()> {
    let (mut head, mut buffer) = (Vec::new(), [0; 1024]);
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        match stream.read(&mut buffer)? {
            0 => bail!("no request"),
            read => head.extend_from_slice(&buffer[..read]),
        }
    }
    if head.starts_with(b"GET /ws") {
        stream.write_all(b"HTTP/1.1 101 yes\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")?;
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(()),
                read => stream.write_all(&buffer[..read])?,
            }
        }
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    loop {
        stream.write_all(b"5\r\nhello\r\n")?;
        std::thread::sleep(BEAT);
    }
}

/// Something open through the waypoint.
struct Open {
    what: &'static str,
    stream: TcpStream,
    /// Says something that is to come back; a stream says something by itself.
    echoes: bool,
}

impl Open {
    fn begin(behind: &Behind, from: &str, what: &'static str) -> Result<Self> {
        let (port, request) = match what {
            "connection" => (Port::Tcp, ""),
            "stream" => (Port::OtherHttp, "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n"),
            _ => (
                Port::OtherHttp,
                "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            ),
        };
        let to: SocketAddr = Behind::at(port);
        let mut stream = behind.pod(from)?.namespace().connect(to, SOON)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.write_all(request.as_bytes())?;
        let mut open = Self { what, stream, echoes: what != "stream" };
        // The greeting, or the head of the answer.
        ensure!(open.read()? > 0, "{what} of {from} does not begin");
        ensure!(open.goes_on()?, "{what} of {from} does not go on");
        Ok(open)
    }

    fn read(&mut self) -> Result<usize> {
        match self.stream.read(&mut [0; 4096]) {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(0),
            read => Ok(read?),
        }
    }

    fn goes_on(&mut self) -> Result<bool> {
        if self.echoes && self.stream.write_all(b"x").is_err() {
            return Ok(false);
        }
        Ok(self.read()? > 0)
    }

    /// How long until it has ended, though nobody said anything.
    fn end(&mut self, since: Instant) -> Result<Duration> {
        while self.read().with_context(|| format!("the end of a {}", self.what))? > 0 {
            ensure!(since.elapsed() < SOON, "the {} goes on", self.what);
        }
        Ok(since.elapsed())
    }
}

const NOT_NEIGHBOUR: &str =
    "  action: DENY\n  rules: [{from: [{source: {principals: [\"*/ns/shop/sa/neighbour\"]}}]}]\n";

#[test]
fn what_a_new_policy_denies_is_cut_within_a_second_and_nothing_else_is() -> Result<()> {
    let mut behind = Behind::build()?;
    let server = behind.pod("server")?;
    let _echo = Server::echo(server, Port::Tcp as u16)?;
    let _endless = Server::start(server.namespace(), Port::OtherHttp as u16, |stream, _| {
        // Ends when its client does.
        let _ = endless(stream);
    })?;
    const KINDS: [&str; 3] = ["connection", "stream", "websocket"];
    let all = |from: &str| {
        KINDS.map(|what| Open::begin(&behind, from, what)).into_iter().collect::<Result<Vec<_>>>()
    };
    let (mut allowed, mut denied) = (all("client")?, all("neighbour")?);
    let stated = Instant::now();
    behind.mesh.apply("60-deny.yaml", &policy("deny", NOT_NEIGHBOUR))?;
    for open in &mut denied {
        let took = open.end(stated)?;
        println!("a {} was cut after {took:?}", open.what);
        ensure!(took < AT_ONCE + SLACK, "a {} went on for {took:?}", open.what);
    }
    for open in &mut allowed {
        // The first time with what came meanwhile.
        ensure!(open.goes_on()? && open.goes_on()?, "the {} of another was cut", open.what);
    }
    let rule = "rbac_access_denied_matched_policy[ns[shop]-policy[deny]-rule[0]]";
    behind.logged(&["GET /stream", "200", rule])?;
    behind.logged(&["GET /ws", "101", rule])?;
    behind.logged(&["- - -", "0", rule])?;
    ensure!(Open::begin(&behind, "neighbour", "connection").is_err(), "a new connection was let through");
    behind.mesh.finish()
}
