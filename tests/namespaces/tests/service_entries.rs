//! Backends outside the mesh, as ServiceEntries state them: reached through a waypoint that routes and speaks their TLS, or
//! straight from the node.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use ebb_tests::{
    app::{App, gateway},
    mesh::{Mesh, SETTLED, eventually},
    peer::Server,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

const SOON: Duration = Duration::from_secs(5);
/// Largest head of a request that the backend takes.
const HEAD: u64 = 16 * 1024;

/// What the backend was asked, and by which name its TLS was.
type Asked = Arc<Mutex<Vec<(Option<String>, String)>>>;

/// An authority, its certificate in a file, and a server's configuration for a name.
fn authority(directory: &Path, name: &str) -> Result<(PathBuf, Arc<ServerConfig>)> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&key)?;
    let file = directory.join("partner-ca.pem");
    std::fs::write(&file, root.pem())?;
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate()?;
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![SanType::DnsName(name.try_into()?)];
    let certificate = leaf.signed_by(&key, &issuer)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((file, Arc::new(config)))
}

/// Reads the head of one request.
fn head(stream: &mut impl Read) -> Option<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    let mut bytes = stream.take(HEAD);
    while !head.ends_with(b"\r\n\r\n") {
        bytes.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

/// Answers requests with its name, one a connection.
fn serve(stream: &mut (impl Read + Write), name: &str) -> Option<String> {
    let head = head(stream)?;
    let answer =
        format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{name}", name.len());
    stream.write_all(answer.as_bytes()).ok()?;
    stream.flush().ok()?;
    Some(head)
}

fn plain(mesh: &Mesh, name: &'static str, port: u16, asked: &Asked) -> Result<Server> {
    let asked = asked.clone();
    Server::start(mesh.pod(name)?.namespace(), port, move |mut stream: TcpStream, _| {
        if let Some(head) = serve(&mut stream, name) {
            asked.lock().unwrap_or_else(PoisonError::into_inner).push((None, head));
        }
    })
}

fn secured(mesh: &Mesh, config: Arc<ServerConfig>, asked: &Asked) -> Result<Server> {
    let asked = asked.clone();
    Server::start(mesh.pod("partner")?.namespace(), 8443, move |stream: TcpStream, _| {
        let Ok(session) = ServerConnection::new(config.clone()) else { return };
        let mut stream = StreamOwned::new(session, stream);
        if let Some(head) = serve(&mut stream, "partner by TLS") {
            let name = stream.conn.server_name().map(str::to_owned);
            asked.lock().unwrap_or_else(PoisonError::into_inner).push((name, head));
        }
    })
}

/// Status and body of a GET by the client.
fn get(mesh: &Mesh, to: &str, path: &str) -> Result<(u16, String)> {
    let to: SocketAddr = to.parse()?;
    let mut stream = mesh.pod("client")?.namespace().connect(to, SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: api.partner.example\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no end of the head")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, body.to_owned()))
}

fn comes(mesh: &Mesh, to: &str, path: &str, expected: (u16, &str)) -> Result<()> {
    let what = format!("{to}{path} to be {expected:?}");
    let last = Mutex::new(String::new());
    let outcome = eventually(&what, SETTLED, || {
        let got = get(mesh, to, path);
        *last.lock().unwrap_or_else(PoisonError::into_inner) = format!("{got:?}");
        Ok(got.is_ok_and(|(status, body)| status == expected.0 && body.contains(expected.1)))
    });
    outcome.with_context(|| last.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn entries(partner: std::net::Ipv4Addr, authority: &Path) -> String {
    let authority = authority.display();
    format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: partner, namespace: shop, labels: {{istio.io/use-waypoint: wp}}}}
spec:
  hosts: [api.partner.example]
  addresses: [10.99.0.1]
  location: MESH_EXTERNAL
  ports:
  - {{number: 80, name: web, protocol: HTTP, targetPort: 8080}}
  - {{number: 81, name: secured, protocol: HTTP, targetPort: 8443}}
  resolution: STATIC
  endpoints: [{{address: {partner}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: partner, namespace: shop}}
spec:
  hosts: [api.partner.example]
  http:
  - match: [{{uri: {{prefix: /teapot}}}}]
    directResponse: {{status: 418, body: {{string: short and stout}}}}
  - route: [{{destination: {{host: api.partner.example}}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: partner, namespace: shop}}
spec:
  host: api.partner.example
  trafficPolicy:
    portLevelSettings:
    - {{port: {{number: 81}}, tls: {{mode: SIMPLE, caCertificates: {authority}}}}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: straight, namespace: shop}}
spec:
  hosts: [straight.partner.example]
  addresses: [10.99.0.2]
  ports: [{{number: 80, name: web, protocol: HTTP, targetPort: 8080}}]
  resolution: STATIC
  endpoints: [{{address: {partner}}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: where-called, namespace: shop, labels: {{istio.io/use-waypoint: wp}}}}
spec:
  hosts: [called.partner.example]
  addresses: [{partner}]
  ports: [{{number: 8080, name: web, protocol: HTTP}}]
  resolution: NONE
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: machines, namespace: shop, labels: {{istio.io/use-waypoint: wp}}}}
spec:
  hosts: [machines.partner.example]
  addresses: [10.99.0.3]
  ports: [{{number: 80, name: web, protocol: HTTP}}]
  resolution: STATIC
  workloadSelector: {{labels: {{app: machine}}}}
"
    )
}

fn by_proxy(partner: std::net::Ipv4Addr) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: proxy, namespace: shop, labels: {{istio.io/use-waypoint: wp}}}}
spec:
  hosts: [proxy.partner.example]
  addresses: [10.99.0.4]
  ports: [{{number: 9000, name: proxy, protocol: TCP, targetPort: 3128}}]
  resolution: STATIC
  endpoints: [{{address: {partner}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: proxy, namespace: shop}}
spec:
  host: proxy.partner.example
  trafficPolicy: {{tunnel: {{targetHost: far.example, targetPort: 9}}}}
"
    )
}

/// A forward proxy that leads to itself: it says what it was asked for, and what came then.
fn proxy(mesh: &Mesh) -> Result<Server> {
    Server::start(mesh.pod("partner")?.namespace(), 3128, |mut stream: TcpStream, _| {
        let Some(head) = head(&mut stream) else { return };
        let asked = head.lines().next().unwrap_or_default().to_owned();
        let mut said = [0; 5];
        let led_on = stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").is_ok();
        if led_on && stream.read_exact(&mut said).is_ok() {
            let _ = stream.write_all(format!("{asked} {}", String::from_utf8_lossy(&said)).as_bytes());
        }
    })
}

#[test]
fn a_forward_proxy_is_asked_to_lead_on() -> Result<()> {
    let mut mesh = Mesh::start()?;
    mesh.apply("21-gateway.yaml", &gateway("wp", "service"))?;
    mesh.run(&[App::new("client"), App::new("partner").label("istio.io/dataplane-mode", "none").on(1)])?;
    mesh.run(&[App::new("wp").waypoint("wp").account("waypoint")])?;
    mesh.wait_ready("wp")?;
    let _proxy = proxy(&mesh)?;
    mesh.apply("30-proxy.yaml", &by_proxy(mesh.pod("partner")?.addresses().v4))?;
    eventually("the far end to be reached", SETTLED, || {
        let mut stream = mesh.pod("client")?.namespace().connect("10.99.0.4:9000".parse()?, SOON)?;
        stream.set_read_timeout(Some(SOON))?;
        let (mut said, sent) = (String::new(), stream.write_all(b"hello"));
        Ok(sent.is_ok()
            && stream.read_to_string(&mut said).is_ok()
            && said == "CONNECT far.example:9 HTTP/1.1 hello")
    })?;
    mesh.finish()
}

fn machine(address: std::net::Ipv4Addr) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: m, namespace: shop}}\nspec: {{address: \
         {address}, labels: {{app: machine}}, ports: {{web: 8080}}}}\n"
    )
}

#[test]
fn backends_outside_are_reached_as_stated_and_by_tls_only_where_it_holds() -> Result<()> {
    let mut mesh = Mesh::start()?;
    let outside = |name: &str| App::new(name).label("istio.io/dataplane-mode", "none").on(1);
    mesh.apply("21-gateway.yaml", &gateway("wp", "service"))?;
    mesh.run(&[App::new("client"), outside("partner"), outside("other")])?;
    mesh.run(&[App::new("wp").waypoint("wp").account("waypoint")])?;
    mesh.wait_ready("wp")?;
    let directory = mesh.cluster().run().directory().to_path_buf();
    let (file, config) = authority(&directory, "api.partner.example")?;
    let asked = Asked::default();
    let partner = plain(&mesh, "partner", 8080, &asked)?;
    let _other = plain(&mesh, "other", 8080, &asked)?;
    let _secured = secured(&mesh, config, &asked)?;
    let (at, elsewhere) = (mesh.pod("partner")?.addresses().v4, mesh.pod("other")?.addresses().v4);
    mesh.apply("30-entries.yaml", &entries(at, &file))?;

    // Through the waypoint, which applies the routes of the host.
    comes(&mesh, "10.99.0.1:80", "/", (200, "partner"))?;
    comes(&mesh, "10.99.0.1:80", "/teapot", (418, "short and stout"))?;
    // By TLS that the waypoint speaks, with the host's name.
    comes(&mesh, "10.99.0.1:81", "/safe", (200, "partner by TLS"))?;
    let by_tls = asked.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (name, head) =
        by_tls.iter().find(|(_, head)| head.starts_with("GET /safe ")).context("never asked")?;
    assert_eq!(name.as_deref(), Some("api.partner.example"), "{head}");

    // Straight from the node, where no waypoint is asked for: the backend sees the client.
    comes(&mesh, "10.99.0.2:80", "/", (200, "partner"))?;
    let client = mesh.pod("client")?.addresses().v4;
    assert!(partner.accepted().iter().any(|it| it.peer.ip() == client), "{:?}", partner.accepted());
    // Where the caller meant to.
    comes(&mesh, &format!("{at}:8080"), "/", (200, "partner"))?;
    // To whatever is selected, as it comes.
    comes(&mesh, "10.99.0.3:80", "/", (503, ""))?;
    mesh.apply("31-machine.yaml", &machine(elsewhere))?;
    comes(&mesh, "10.99.0.3:80", "/", (200, "other"))?;

    // A certificate of somebody else is not taken, and nothing is sent in its stead.
    let strangers = directory.join("strangers");
    std::fs::create_dir(&strangers)?;
    let (wrong, _) = authority(&strangers, "api.partner.example")?;
    mesh.apply("30-entries.yaml", &entries(at, &wrong))?;
    comes(&mesh, "10.99.0.1:81", "/in-force", (503, ""))?;
    assert_eq!(get(&mesh, "10.99.0.1:81", "/unsafe")?.0, 503);
    let unsafe_heads = asked.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert!(!unsafe_heads.iter().any(|(_, head)| head.starts_with("GET /unsafe ")), "it arrived");
    drop(partner);
    mesh.finish()
}
