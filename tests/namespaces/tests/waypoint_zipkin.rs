//! What a real Zipkin makes of what is told: one trace, in which the connection to the server's pod hangs below the call
//! that the waypoint made on it.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use ebb_tests::{
    app::App,
    behind::{Behind, Port},
    mesh::eventually,
};
use harness::{cluster::Pod, zipkin};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(10);
/// How long a Java program may take to serve, on a machine that has other things to do.
const STARTED: Duration = Duration::from_secs(60);
const TRACE: &str = "0af7651916cd43dd8448eb211c803190";
const CALLER: &str = "b7ad6b7169203331";

/// Asks Zipkin, from where it runs.
fn ask(pod: &Pod, path: &str) -> Result<(u16, String)> {
    pod.namespace().http_get(SocketAddr::from((Ipv4Addr::LOCALHOST, zipkin::PORT)), path, SOON)
}

fn call(stage: &Behind) -> Result<()> {
    let mut stream = stage.pod("client")?.namespace().connect(Behind::at(Port::Http), SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    write!(
        stream,
        "GET /cart HTTP/1.1\r\nHost: server.shop\r\nConnection: close\r\ntraceparent: 00-{TRACE}-{CALLER}-01\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(())
}

/// The span of a trace that is within `parent`.
fn within<'a>(all: &'a [Value], parent: &Value) -> Result<&'a Value> {
    let of = all.iter().find(|it| it["parentId"] == *parent);
    of.with_context(|| format!("a span within {parent} among {all:#?}"))
}

#[test]
fn zipkin_shows_one_trace_from_the_call_to_the_connection() -> Result<()> {
    let server = zipkin::server()?;
    let mut stage = Behind::build()?;
    stage.mesh.run(&[App::new("zipkin").on(1)])?;
    let collector = stage.pod("zipkin")?.spawn(server)?;
    let _server = stage.serve(&["http", "--name", "server"])?;
    stage.mesh.apply("50-mesh.yaml", MESH)?;
    let is_up = || Ok(ask(stage.pod("zipkin")?, "/health").is_ok_and(|(status, _)| status == 200));
    eventually("a Zipkin that serves", STARTED, is_up).with_context(|| collector.tail())?;

    call(&stage)?;
    let mut all: Vec<Value> = Vec::new();
    let told = eventually("three spans of the trace", SOON, || {
        let (status, body) = ask(stage.pod("zipkin")?, &format!("/api/v2/trace/{TRACE}"))?;
        all = if status == 200 { serde_json::from_str(&body)? } else { Vec::new() };
        Ok(all.len() >= 3)
    });
    told.with_context(|| format!("{all:#?}\n{}", collector.tail()))?;
    assert_eq!(all.len(), 3, "{all:#?}");
    let asked = within(&all, &CALLER.into())?;
    let sent = within(&all, &asked["id"])?;
    let carried = within(&all, &sent["id"])?;
    for (span, kind, service, name) in [
        (asked, "SERVER", "wp.shop", "server.shop.svc.cluster.local:8080/*"),
        (sent, "CLIENT", "wp.shop", "router outbound|8080||server.shop.svc.cluster.local egress"),
        (carried, "SERVER", "ztunnel.istio-system", "server.shop:8080"),
    ] {
        assert_eq!(
            (&span["traceId"], &span["kind"], &span["localEndpoint"]["serviceName"], &span["name"]),
            (&TRACE.into(), &kind.into(), &service.into(), &name.into()),
            "{span:#}"
        );
        assert!(span["duration"].as_u64().is_some_and(|it| it > 0), "{span:#}");
        assert!(span["tags"].get("error").is_none(), "{span:#}");
    }
    let tag = |span: &Value, name: &str| span["tags"][name].as_str().map(ToOwned::to_owned);
    assert_eq!(tag(asked, "http.method").as_deref(), Some("GET"));
    assert_eq!(tag(asked, "http.url").as_deref(), Some("http://server.shop/cart"));
    assert_eq!(tag(sent, "http.status_code").as_deref(), Some("200"));
    assert_eq!(tag(carried, "component").as_deref(), Some("ztunnel"));
    assert_eq!(tag(carried, "dst.service").as_deref(), Some("server.shop.svc.cluster.local"));
    assert!(tag(carried, "bytes_sent").is_some_and(|it| it != "0"), "{carried:#}");

    let (status, services) = ask(stage.pod("zipkin")?, "/api/v2/services")?;
    ensure!(status == 200, "{status}");
    let services: Vec<String> = serde_json::from_str(&services)?;
    assert_eq!(services, ["wp.shop", "ztunnel.istio-system"]);
    Ok(())
}

const MESH: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: zipkin, namespace: shop}
spec:
  clusterIP: 10.96.0.20
  selector: {app: zipkin}
  ports: [{name: http, port: 9411}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: server, namespace: shop}
spec:
  host: server
  trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 1}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |-
    defaultProviders: {tracing: [zipkin]}
    extensionProviders:
    - name: zipkin
      zipkin: {service: zipkin.shop.svc.cluster.local, port: 9411}
"#;
