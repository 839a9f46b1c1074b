//! What a waypoint does with what comes in its tunnels, seen by a client that speaks them itself.
//!
//! The client holds a certificate of the mesh and talks to the waypoint's tunnel port, as a ztunnel would; behind the
//! waypoint are real ztunnels and servers.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use ebb_tests::{
    app::{App, service},
    hostile::{Answer, Forger, Tunnel},
    mesh::{Mesh, eventually},
};
use harness::{
    binaries,
    process::{Process, Spawn},
    report::Described,
};
use rustls::ClientConfig;

const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";
const TUNNEL: u16 = 15008;
const SOON: Duration = Duration::from_secs(10);

const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: wp, namespace: shop}\n\
    spec:\n  gatewayClassName: istio-waypoint\n  listeners: [{name: mesh, port: 15008, protocol: HBONE}]\n";

struct Stage {
    mesh: Mesh,
    client: Arc<ClientConfig>,
    waypoint: Process,
}

impl Stage {
    /// A service of two versions behind a waypoint, and a place to call from that is not in the mesh.
    fn build() -> Result<Self> {
        let mut mesh = Mesh::start()?;
        let bound = service("web", 10)
            .replace("namespace: shop}", "namespace: shop, labels: {istio.io/use-waypoint: wp}}");
        mesh.apply(
            "20-web.yaml",
            &bound
                .replace("name: tcp", "name: http")
                .replace("selector: {app: web}", "selector: {part-of: web}"),
        )?;
        mesh.apply("21-gateway.yaml", GATEWAY)?;
        let web = |name: &str| {
            App::new(name).http().label("part-of", "web").label("version", name.trim_start_matches("web-"))
        };
        mesh.run(&[web("web-v1"), web("web-v2").on(1)])?;
        let waypoint =
            App::new("waypoint").account("waypoint").label("gateway.networking.k8s.io/gateway-name", "wp");
        mesh.run(&[waypoint, App::new("caller").label("istio.io/dataplane-mode", "none")])?;
        let client = Forger::of(mesh.cluster().run().directory())?.client(&[CLIENT])?;
        let waypoint = start(&mesh)?;
        Ok(Self { mesh, client, waypoint })
    }

    /// A stream to port 80 of the service.
    fn open(&self) -> Result<Tunnel> {
        let to = SocketAddr::new(self.mesh.pod("waypoint")?.addresses().v4.into(), TUNNEL);
        let mut tunnel = Tunnel::open(self.mesh.pod("caller")?.namespace(), to, &self.client)?;
        match tunnel.connect(b"10.96.0.10:80")? {
            Answer::Status(200) => Ok(tunnel),
            answer => bail!("CONNECT was answered with {answer:?}"),
        }
    }

    fn ask(&self, request: &str) -> Result<Reply> {
        let mut tunnel = self.open()?;
        tunnel.send(request.as_bytes())?;
        Reply::read(&mut tunnel).with_context(|| self.waypoint.tail())
    }

    fn get(&self, path: &str, headers: &str) -> Result<Reply> {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: web.shop\r\n{headers}\r\n"))
    }
}

fn start(mesh: &Mesh) -> Result<Process> {
    let run = mesh.cluster().run().directory();
    let what = Spawn::new("waypoint", binaries::find("waypoint")?)
        .args(["--manifests".as_ref(), mesh.manifests().as_os_str()])
        .args(["--ca-dir".as_ref(), run.join("ca").as_os_str()])
        .args(["--node", "node-1", "--gateway", "shop/wp", "--pod-name", mesh.replica("waypoint")?.name()])
        .args(["--pod-namespace", "shop", "--service-account", "waypoint"])
        .env("RUST_LOG", "debug");
    let process = mesh.pod("waypoint")?.spawn(what)?;
    let ready = SocketAddr::new(mesh.pod("waypoint")?.addresses().v4.into(), 15021);
    let caller = mesh.pod("caller")?.namespace();
    eventually("the waypoint to be ready", SOON, || {
        ensure!(process.is_alive(), "it has ended: {}", process.tail());
        Ok(caller.http_get(ready, "/healthz/ready", SOON).is_ok_and(|(status, _)| status == 200))
    })?;
    Ok(process)
}

/// An answer of known length.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn read(tunnel: &mut Tunnel) -> Result<Self> {
        let mut bytes = Vec::new();
        loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
                let status = head.get(9..12).context("no status")?.parse()?;
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let length: usize = length.unwrap_or("0").parse()?;
                if bytes.len() >= end + 4 + length {
                    let body = String::from_utf8_lossy(&bytes[end + 4..end + 4 + length]).into_owned();
                    return Ok(Self { status, head, body });
                }
            }
            bytes.extend(tunnel.receive().context("wait for the answer")?);
        }
    }

    fn described(&self) -> Result<Described> {
        serde_json::from_str(&self.body).with_context(|| format!("{self:?}"))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

#[test]
fn a_request_takes_its_route() -> Result<()> {
    let mut stage = Stage::build()?;
    let mut versions = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let reply = stage.get("/orders?a=1", "x-mine: yes\r\n")?;
        assert_eq!(reply.status, 200, "{reply:?}");
        let seen = reply.described()?;
        assert_eq!(seen.path, "/orders?a=1");
        assert_eq!(seen.headers.get("host").map(String::as_str), Some("web.shop"));
        versions.insert(seen.version);
    }
    assert_eq!(versions.into_iter().collect::<Vec<_>>(), ["v1", "v2"]);

    stage.mesh.apply("50-routes.yaml", ROUTES)?;
    eventually("the route to be in force", SOON, || Ok(stage.get("/direct", "")?.status == 418))?;
    let reply = stage.get("/", "user: debug\r\n")?.described()?;
    assert_eq!((reply.version.as_str(), reply.headers["x-added"].as_str()), ("v2", "1"));
    let reply = stage.get("/v1/old/thing?q=2", "")?.described()?;
    assert_eq!((reply.version.as_str(), reply.path.as_str()), ("v1", "/new/thing?q=2"));
    let reply = stage.get("/moved", "")?;
    assert_eq!((reply.status, reply.header("location")), (302, Some("http://elsewhere.example/moved")));
    let reply = stage.get("/abort", "")?;
    assert_eq!((reply.status, reply.body.as_str()), (418, "fault filter abort"));
    let began = Instant::now();
    let reply = stage.get("/slow/delay/5000", "")?;
    assert_eq!((reply.status, reply.body.as_str()), (504, "upstream request timeout"));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let reply = stage.get("/nowhere", "")?;
    assert_eq!(reply.status, 503, "{reply:?}");
    Ok(())
}

#[test]
fn a_limit_of_connections_stated_over_open_ones_keeps_nobody_waiting() -> Result<()> {
    let mut stage = Stage::build()?;
    // Leaves a connection to each version waiting for its next request, one more than there may be.
    for _ in 0..20 {
        assert_eq!(stage.get("/", "")?.status, 200);
    }
    stage.mesh.apply("50-limit.yaml", LIMIT)?;
    eventually("the limit to be in force", SOON, || Ok(stage.get("/direct", "")?.status == 418))?;
    for _ in 0..20 {
        assert_eq!(stage.get("/", "")?.status, 200);
    }
    Ok(())
}

const LIMIT: &str = r#"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web, namespace: shop}
spec:
  host: web
  trafficPolicy: {connectionPool: {tcp: {maxConnections: 1}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: shop}
spec:
  hosts: [web]
  http:
    - match: [{uri: {exact: /direct}}]
      directResponse: {status: 418}
    - route: [{destination: {host: web}}]
"#;

const ROUTES: &str = r#"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web, namespace: shop}
spec:
  host: web
  subsets:
    - {name: v1, labels: {version: v1}}
    - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: shop}
spec:
  hosts: [web]
  http:
    - match: [{uri: {exact: /direct}}]
      directResponse: {status: 418}
    - match: [{headers: {user: {exact: debug}}}]
      headers: {request: {set: {x-added: "1"}}}
      route: [{destination: {host: web, subset: v2}}]
    - match: [{uri: {prefix: /v1/old}}]
      rewrite: {uri: /new}
      route: [{destination: {host: web, subset: v1}}]
    - match: [{uri: {exact: /moved}}]
      redirect: {authority: elsewhere.example, redirectCode: 302}
    - match: [{uri: {exact: /abort}}]
      fault: {abort: {httpStatus: 418, percentage: {value: 100}}}
      route: [{destination: {host: web}}]
    - match: [{uri: {prefix: /slow/}}]
      rewrite: {uri: /}
      timeout: 1s
      route: [{destination: {host: web}}]
    - match: [{uri: {exact: /nowhere}}]
      route: [{destination: {host: web, subset: v9}}]
    - route: [{destination: {host: web}}]
"#;
