//! Routes of connections, TCPRoute and TLSRoute, from pod to pod through a waypoint.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    sync::Arc,
};

use anyhow::{Context, Result};
use ebb_tests::{
    app::App,
    behind::Behind,
    mesh::{SETTLED, eventually},
    peer::{SOON, Server},
};
use rcgen::CertificateParams;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    crypto::aws_lc_rs,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// Connections whose ends are counted, one in ten of which is to go to the second.
const COUNTED: usize = 300;
/// Fewer or more of them at the second happen less than once in a million runs of a correct waypoint.
const BOUNDS: std::ops::RangeInclusive<usize> = 7..=59;
/// Declared as TCP.
const TCP: u16 = 9000;
/// Declared as TLS.
const TLS: u16 = 9443;

struct Stage {
    behind: Behind,
    roots: RootCertStore,
    _servers: Vec<Server>,
}

impl Stage {
    /// Two pods, each with a port that says who it is, in the clear and by TLS of its own.
    fn build() -> Result<Self> {
        let mut behind = Behind::build()?;
        behind.mesh.apply("42-data.yaml", SERVICES)?;
        let data = |name: &str| App::new(name).label("part-of", "data");
        behind.mesh.run(&[data("data-v1"), data("data-v2").on(1)])?;
        let (mut roots, mut servers) = (RootCertStore::empty(), Vec::new());
        for name in ["data-v1", "data-v2"] {
            servers.push(Server::echo(behind.pod(name)?, TCP)?);
            let (certificate, config) = own_certificate()?;
            roots.add(certificate)?;
            let answer = move |stream: TcpStream, _| drop(greet(stream, config.clone(), name));
            servers.push(Server::start(behind.pod(name)?.namespace(), TLS, answer)?);
        }
        Ok(Self { behind, roots, _servers: servers })
    }

    fn connect(&self, port: u16) -> Result<TcpStream> {
        let to = SocketAddr::new(IpAddr::from([10, 96, 0, 30]), port);
        let stream = self.behind.pod("client")?.namespace().connect(to, SOON)?;
        stream.set_read_timeout(Some(SOON))?;
        Ok(stream)
    }

    /// Who answers a connection in the clear; `None` where it ends without a word. What is sent is sent back.
    fn ask(&self) -> Result<Option<String>> {
        let mut stream = self.connect(TCP)?;
        let written = stream.write_all(b"ping\n").and_then(|()| stream.shutdown(Shutdown::Write));
        let mut lines = Vec::new();
        for line in BufReader::new(&stream).lines() {
            match line {
                Ok(line) => lines.push(line),
                Err(_) => return Ok(None),
            }
        }
        let Some(first) = lines.first() else { return Ok(None) };
        written.context("somebody answered and took nothing")?;
        assert_eq!(lines.get(1).map(String::as_str), Some("ping"));
        Ok(first.split('-').nth(2).map(str::to_owned))
    }

    /// Who answers TLS that asks for a name, by a certificate that is verified; `None` where it ends before that.
    fn ask_tls(&self, name: &str) -> Result<Option<String>> {
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        let connection = ClientConnection::new(Arc::new(config), name.to_owned().try_into()?)?;
        let mut stream = StreamOwned::new(connection, self.connect(TLS)?);
        let mut answer = String::new();
        match stream.read_to_string(&mut answer) {
            Ok(_) if !answer.is_empty() => Ok(Some(answer)),
            _ if stream.conn.is_handshaking() => Ok(None),
            other => anyhow::bail!("{name}: {other:?} after {answer:?}"),
        }
    }
}

/// A certificate for every name that is asked for here, and a server's configuration by it.
fn own_certificate() -> Result<(CertificateDer<'static>, Arc<ServerConfig>)> {
    let names = ["a.example", "b.example", "x.b.example", "c.example"].map(str::to_owned);
    let key = rcgen::KeyPair::generate()?;
    let certificate = CertificateParams::new(names)?.self_signed(&key)?.der().clone();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )?;
    Ok((certificate, Arc::new(config)))
}

fn greet(stream: TcpStream, config: Arc<ServerConfig>, name: &str) -> Result<()> {
    let mut stream = StreamOwned::new(ServerConnection::new(config)?, stream);
    stream.write_all(name.as_bytes())?;
    stream.conn.send_close_notify();
    Ok(stream.flush()?)
}

#[test]
fn connections_go_where_tcp_routes_say() -> Result<()> {
    let mut stage = Stage::build()?;
    stage.behind.mesh.apply("50-route.yaml", TCP_ROUTE)?;
    eventually("the route to name its first backend alone", SETTLED, || {
        Ok((0..10).all(|_| stage.ask().is_ok_and(|it| it.as_deref() == Some("v1"))))
    })?;
    let split = TCP_ROUTE.replace("weight: 1}", "weight: 90}").replace("weight: 0}", "weight: 10}");
    stage.behind.mesh.apply("50-route.yaml", &split)?;
    eventually("the second backend to get some", SETTLED, || Ok(stage.ask()?.as_deref() == Some("v2")))?;
    let mut second = 0;
    for _ in 0..COUNTED {
        second += usize::from(stage.ask()?.context("a connection ended")? == "v2");
    }
    assert!(BOUNDS.contains(&second), "{second} of {COUNTED} went to v2");

    // A backend that is not there gets nobody, and nobody gets another instead.
    let missing = TCP_ROUTE.replace("data-v1, port: 9000", "gone, port: 9000");
    stage.behind.mesh.apply("50-route.yaml", &missing)?;
    eventually("connections to end", SETTLED, || Ok(stage.ask()?.is_none()))?;
    for _ in 0..5 {
        assert_eq!(stage.ask()?, None);
    }
    stage.behind.mesh.kubelet_mut().delete("50-route.yaml")?;
    eventually("the service itself", SETTLED, || Ok(stage.ask()?.is_some()))?;
    stage.behind.mesh.finish()
}

#[test]
fn tls_goes_by_the_name_it_asks_for_and_is_the_applications_own() -> Result<()> {
    let mut stage = Stage::build()?;
    stage.behind.mesh.apply("50-route.yaml", TLS_ROUTES)?;
    eventually("the first route to be in force", SETTLED, || {
        Ok((0..10).all(|_| stage.ask_tls("a.example").is_ok_and(|it| it.as_deref() == Some("data-v1"))))
    })?;
    for _ in 0..10 {
        assert_eq!(stage.ask_tls("x.b.example")?.as_deref(), Some("data-v2"));
    }
    // What no route names goes to the service itself, and so to either pod; `*.b.example` is one label more than this.
    for name in ["b.example", "c.example"] {
        let others: BTreeSet<_> = (0..40).map(|_| stage.ask_tls(name)).collect::<Result<_>>()?;
        let both = ["data-v1", "data-v2"].map(|it| Some(it.to_owned()));
        assert_eq!(others, BTreeSet::from(both), "{name}");
    }
    stage.behind.mesh.apply("50-route.yaml", &TLS_ROUTES.replace("data-v1", "gone"))?;
    eventually("connections of a missing backend to end", SETTLED, || {
        Ok(stage.ask_tls("a.example")?.is_none())
    })?;
    assert_eq!(stage.ask_tls("x.b.example")?.as_deref(), Some("data-v2"));
    stage.behind.mesh.finish()
}

const SERVICES: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: data, namespace: shop, labels: {istio.io/use-waypoint: wp}}
spec:
  clusterIP: 10.96.0.30
  selector: {part-of: data}
  ports: [{name: tcp, port: 9000}, {name: tls, port: 9443}]
---
apiVersion: v1
kind: Service
metadata: {name: data-v1, namespace: shop, labels: {istio.io/use-waypoint: wp}}
spec:
  clusterIP: 10.96.0.31
  selector: {app: data-v1}
  ports: [{name: tcp, port: 9000}, {name: tls, port: 9443}]
---
apiVersion: v1
kind: Service
metadata: {name: data-v2, namespace: shop, labels: {istio.io/use-waypoint: wp}}
spec:
  clusterIP: 10.96.0.32
  selector: {app: data-v2}
  ports: [{name: tcp, port: 9000}, {name: tls, port: 9443}]
"#;

const TCP_ROUTE: &str = r#"
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {name: data, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: data, port: 9000}]
  rules:
    - backendRefs:
        - {name: data-v1, port: 9000, weight: 1}
        - {name: data-v2, port: 9000, weight: 0}
"#;

const TLS_ROUTES: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: first, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: data, port: 9443}]
  hostnames: [a.example]
  rules: [{backendRefs: [{name: data-v1, port: 9443}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: second, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: data, port: 9443}]
  hostnames: ["*.b.example"]
  rules: [{backendRefs: [{name: data-v2, port: 9443}]}]
"#;
