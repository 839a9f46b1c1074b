//! What a waypoint tells of requests: spans to a real collector, inside the mesh and outside of it, and logs as they are
//! stated. And what the node of the server adds to the same trace: the connection that was made for the request.

use std::{
    io::{Read, Write},
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use ebb_tests::{
    app::App,
    behind::{Behind, Port},
    mesh::{SETTLED, eventually},
};
use harness::{
    binaries,
    process::{Process, Spawn},
    report::{Described, TracedSpan},
};

const SOON: Duration = Duration::from_secs(10);
const TRACE: &str = "0af7651916cd43dd8448eb211c80319";
const CALLER: &str = "b7ad6b7169203331";
/// As the routes have it.
const DELAY: Duration = Duration::from_millis(300);

/// A request by the client, and the body of its answer.
fn ask(stage: &Behind, path: &str, headers: &str) -> Result<String> {
    let mut stream = stage.pod("client")?.namespace().connect(Behind::at(Port::Http), SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: server.shop\r\nConnection: close\r\n{headers}\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(answer.split_once("\r\n\r\n").context("no end of the head")?.1.to_owned())
}

/// A number of a trace of its own for each way of telling.
fn trace(number: u8) -> String {
    format!("{TRACE}{number:x}")
}

/// Starts a collector in a pod.
fn collect(stage: &Behind, pod: &str) -> Result<Process> {
    let what = Spawn::new("collector", binaries::find("ebb-app")?).args(["collector"]);
    let process = stage.pod(pod)?.spawn(what)?;
    process.wait_for_log("ready:", SOON)?;
    Ok(process)
}

/// The spans of a trace that came in one way so far.
fn spans(collector: &Process, trace: &str, via: &str) -> Result<Vec<TracedSpan>> {
    let lines = collector.stdout()?;
    let all = lines.lines().filter(|line| line.contains(trace)).map(serde_json::from_str);
    let all: Vec<TracedSpan> = all.collect::<Result<_, _>>().context("a span")?;
    Ok(all.into_iter().filter(|it| it.via == via).collect())
}

/// Has every request told to `provider`, by the waypoint and by the nodes.
fn tell(stage: &mut Behind, provider: &str) -> Result<()> {
    stage.mesh.apply(
        "52-telemetry.yaml",
        &format!(
            "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: mesh, namespace: istio-system}}\nspec: \
             {{tracing: [{{providers: [{{name: {provider}}}]}}]}}\n"
        ),
    )?;
    stage.mesh.apply(
        "51-telemetry.yaml",
        &format!(
            "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: traced, namespace: shop}}\nspec:\n  \
             targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: wp}}]\n  tracing:\n  - providers: [{{name: \
             {provider}}}]\n    randomSamplingPercentage: 100\n  accessLogging:\n  - providers: [{{name: {provider}-log}}]\n    \
             filter: {{expression: 'response.code == 200 && request.url_path.startsWith(\"/slow\")'}}\n"
        ),
    )
}

/// What was told of one request.
struct Told {
    /// What the waypoint was asked.
    server: TracedSpan,
    /// What it asked the server.
    client: TracedSpan,
    /// The connection that it did that on, as the server's node saw it.
    connection: TracedSpan,
}

impl Told {
    /// The spans of one request among those of a trace, once they are all there.
    fn find(all: &[TracedSpan]) -> Option<Self> {
        let of_node = |it: &&TracedSpan| it.service == "ztunnel.istio-system";
        let connection = all.iter().rev().find(of_node)?;
        let client = all.iter().find(|it| it.id == connection.parent)?;
        let server = all.iter().find(|it| it.id == client.parent)?;
        Some(Self { server: server.clone(), client: client.clone(), connection: connection.clone() })
    }
}

/// Asks until spans come, and says what they are.
fn told(stage: &Behind, collector: &Process, (trace, via): (&str, &str)) -> Result<Told> {
    let (mut seen, mut found) = (String::new(), None);
    let outcome = eventually(&format!("spans of {trace}"), SETTLED, || {
        seen = ask(stage, "/slow", &format!("traceparent: 00-{trace}-{CALLER}-01\r\nx-user: ann\r\n"))?;
        // Longer than spans wait for others.
        std::thread::sleep(Duration::from_millis(1500));
        found = Told::find(&spans(collector, trace, via)?);
        Ok(found.is_some())
    });
    outcome.with_context(|| collector.tail())?;
    let described: Described = serde_json::from_str(&seen)?;
    let handed = described.headers.get("traceparent").context("the server sees a trace")?;
    ensure!(handed.starts_with(&format!("00-{trace}-")), "{handed}");
    found.context("what was found")
}

#[test]
fn each_request_is_told_to_a_collector_wherever_that_is() -> Result<()> {
    let mut stage = Behind::build()?;
    let outside = App::new("outside").on(1).label("istio.io/dataplane-mode", "none");
    stage.mesh.run(&[App::new("inside").on(1), outside])?;
    let _server = stage.serve(&["http", "--name", "server"])?;
    let (inside, outside) = (collect(&stage, "inside")?, collect(&stage, "outside")?);
    stage.mesh.apply("50-mesh.yaml", MESH)?;
    for (number, provider, collector, via) in [
        (1, "grpc-inside", &inside, "grpc"),
        (2, "grpc-outside", &outside, "grpc"),
        (3, "http-outside", &outside, "http"),
        (4, "zipkin-inside", &inside, "zipkin"),
    ] {
        tell(&mut stage, provider)?;
        let trace = trace(number);
        let Told { server, client, connection } =
            told(&stage, collector, (&trace, via)).with_context(|| provider.to_owned())?;
        assert_eq!(server.parent, CALLER, "{server:?}");
        assert_eq!(server.service, "wp.shop");
        assert_eq!(server.name, "server.shop.svc.cluster.local:8080/*");
        assert_eq!(client.name, "router outbound|8080||server.shop.svc.cluster.local egress");
        let tag = |name: &str| server.tags.get(name).map(String::as_str);
        assert_eq!((tag("response_flags"), tag("http.status_code")), (Some("DI"), Some("200")), "{server:?}");
        assert_eq!(tag("istio.source_workload"), Some("client"), "{server:?}");
        assert!(
            server.took_us >= DELAY.as_micros() as u64 && client.took_us < server.took_us,
            "{server:?} {client:?}"
        );
        let tag = |name: &str| connection.tags.get(name).map(String::as_str);
        assert_eq!((client.kind.as_str(), connection.kind.as_str()), ("CLIENT", "SERVER"));
        assert_eq!(connection.name, "server.shop:8080");
        assert_eq!(
            (tag("component"), tag("direction")),
            (Some("ztunnel"), Some("inbound")),
            "{connection:?}"
        );
        assert_eq!(tag("dst.service"), Some("server.shop.svc.cluster.local"), "{connection:?}");
        let source = tag("istio.source_principal");
        assert_eq!(source, Some("spiffe://cluster.local/ns/shop/sa/waypoint"), "{connection:?}");
        assert!(tag("bytes_sent").is_some_and(|it| it != "0"), "{connection:?}");
        stage.logged(&[&format!("{{\"provider\":\"{provider}\""), "\"code\":200", "\"user\":\"ann\""])?;
    }
    let nodes = stage.mesh.metrics()?;
    for provider in ["grpc-inside", "grpc-outside", "http-outside", "zipkin-inside"] {
        let sent = nodes[1].sum("ebb_spans_total", &[("provider", provider), ("outcome", "sent")]);
        assert!(sent >= 1.0, "{provider}: {sent}");
        // The node of the caller sees no trace that a waypoint tells of.
        assert_eq!(nodes[0].sum("ebb_spans_total", &[("provider", provider), ("outcome", "sent")]), 0.0);
    }
    lost(&mut stage, inside)
}

/// A collector that is gone costs spans, which are counted, and nothing else.
fn lost(stage: &mut Behind, collector: Process) -> Result<()> {
    tell(stage, "grpc-inside")?;
    drop(collector);
    let outcome = eventually("spans that are lost", SETTLED, || {
        let began = Instant::now();
        ask(stage, "/", "")?;
        ensure!(began.elapsed() < Duration::from_secs(2), "a request waited for a collector");
        std::thread::sleep(Duration::from_millis(500));
        let counts = metrics(stage)?;
        let failed = counts.lines().find(|line| {
            line.starts_with("ebb_spans_total")
                && line.contains("\"grpc-inside\"")
                && line.contains("\"failed\"")
        });
        Ok(failed.is_some_and(|line| !line.ends_with(" 0")))
    });
    outcome.with_context(|| metrics(stage).unwrap_or_default())?;
    stage.logged(&["spans are lost", "grpc-inside"]).map(|_| ())
}

/// What a scrape of the waypoint shows.
fn metrics(stage: &Behind) -> Result<String> {
    let waypoint = stage.pod("wp")?;
    let at = SocketAddr::new(waypoint.addresses().v4.into(), 15020);
    let mut stream = waypoint.namespace().connect(at, SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    write!(stream, "GET /stats/prometheus HTTP/1.1\r\nHost: wp\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

const MESH: &str = r#"
# A connection is told of in the trace of the request that it was opened for, and not in those of later ones.
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: server, namespace: shop}
spec: {host: server, trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 1}}}}
---
apiVersion: v1
kind: Service
metadata: {name: inside, namespace: shop}
spec:
  clusterIP: 10.96.0.20
  selector: {app: inside}
  ports: [{name: grpc, port: 4317}, {name: http, port: 4318}]
---
apiVersion: v1
kind: Service
metadata: {name: outside, namespace: shop}
spec:
  clusterIP: 10.96.0.21
  selector: {app: outside}
  ports: [{name: grpc, port: 4317}, {name: http, port: 4318}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: server, namespace: shop}
spec:
  hosts: [server]
  http:
    - match: [{uri: {prefix: /slow}}]
      fault: {delay: {fixedDelay: 300ms, percentage: {value: 100}}}
      route: [{destination: {host: server}}]
    - route: [{destination: {host: server}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |-
    extensionProviders:
    - name: grpc-inside
      opentelemetry: {service: inside.shop.svc.cluster.local, port: 4317}
    - name: grpc-outside
      opentelemetry: {service: outside.shop.svc.cluster.local, port: 4317}
    - name: http-outside
      opentelemetry: {service: outside.shop.svc.cluster.local, port: 4318, http: {path: /v1/traces, timeout: 5s}}
    - name: zipkin-inside
      zipkin: {service: inside.shop.svc.cluster.local, port: 4318}
    - name: grpc-inside-log
      envoyFileAccessLog: {path: /dev/stdout, logFormat: {labels: {provider: grpc-inside, code: "%RESPONSE_CODE%", user: "%REQ(X-USER)%"}}}
    - name: grpc-outside-log
      envoyFileAccessLog: {path: /dev/stdout, logFormat: {labels: {provider: grpc-outside, code: "%RESPONSE_CODE%", user: "%REQ(X-USER)%"}}}
    - name: http-outside-log
      envoyFileAccessLog: {path: /dev/stdout, logFormat: {labels: {provider: http-outside, code: "%RESPONSE_CODE%", user: "%REQ(X-USER)%"}}}
    - name: zipkin-inside-log
      envoyFileAccessLog: {path: /dev/stdout, logFormat: {labels: {provider: zipkin-inside, code: "%RESPONSE_CODE%", user: "%REQ(X-USER)%"}}}
"#;
