//! TLS that a BackendTLSPolicy states, spoken by a waypoint to the pods of a Service: verified, or nothing is sent.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use ebb_tests::{
    behind::{Behind, Port},
    mesh::{SETTLED, eventually},
    peer::Server,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

const SOON: Duration = Duration::from_secs(5);
/// Largest head of a request that the backend takes.
const HEAD: u64 = 16 * 1024;
/// The first byte of every handshake of TLS (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 22;
/// The name in the backend's certificate.
const NAME: &str = "server.internal";

/// What the backend saw of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    /// Its first byte; none where it ended before.
    first: Option<u8>,
    /// The name that TLS was asked for, and the request within.
    request: Option<(Option<String>, String)>,
}

type Record = Arc<Mutex<Vec<Seen>>>;

fn seen(record: &Record) -> Vec<Seen> {
    record.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// An authority's certificate, and a server's configuration by it.
fn authority() -> Result<(String, Arc<ServerConfig>)> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&key)?.pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate()?;
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![SanType::DnsName(NAME.try_into()?)];
    let certificate = leaf.signed_by(&key, &issuer)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((root, Arc::new(config)))
}

/// A server in the pod that answers one request a connection, by TLS alone, and keeps what it saw.
fn serve(stage: &Behind, config: Arc<ServerConfig>, record: &Record) -> Result<Server> {
    let record = record.clone();
    Server::start(stage.pod("server")?.namespace(), Port::Http as u16, move |stream: TcpStream, _| {
        let mut first = [0];
        let first = matches!(stream.peek(&mut first), Ok(1)).then_some(first[0]);
        let request = match first {
            Some(HANDSHAKE) => answer(stream, config.clone()),
            _ => None,
        };
        record.lock().unwrap_or_else(PoisonError::into_inner).push(Seen { first, request });
    })
}

fn answer(stream: TcpStream, config: Arc<ServerConfig>) -> Option<(Option<String>, String)> {
    let mut stream = StreamOwned::new(ServerConnection::new(config).ok()?, stream);
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && head.len() as u64 <= HEAD {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok").ok()?;
    stream.flush().ok()?;
    Some((stream.conn.server_name().map(str::to_owned), String::from_utf8(head).ok()?))
}

/// The status of a request by the client.
fn get(stage: &Behind, path: &str) -> Result<u16> {
    let mut stream = stage.pod("client")?.namespace().connect(Behind::at(Port::Http), SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: server.shop\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    answer.split(' ').nth(1).context("no status")?.parse().context("no status")
}

fn comes(stage: &Behind, path: &str, status: u16) -> Result<()> {
    let what = format!("{path} to be answered {status}");
    eventually(&what, SETTLED, || Ok(get(stage, path).is_ok_and(|it| it == status)))
}

fn config_map(pem: &str) -> String {
    let lines: String = pem.lines().map(|it| format!("    {it}\n")).collect();
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: authority, namespace: shop}}\ndata:\n  ca.crt: |\n{lines}"
    )
}

/// A policy for the Service that asks for this name.
fn policy(hostname: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: secure, namespace: shop}}\n\
         spec:\n  targetRefs: [{{group: '', kind: Service, name: server, sectionName: http}}]\n  validation:\n    \
         hostname: {hostname}\n    caCertificateRefs: [{{group: '', kind: ConfigMap, name: authority}}]\n"
    )
}

#[test]
fn a_backend_is_spoken_to_by_tls_that_holds_or_not_at_all() -> Result<()> {
    let mut stage = Behind::build()?;
    let record = Record::default();
    let (root, config) = authority()?;
    let _server = serve(&stage, config, &record)?;
    // As nothing is stated it comes in plaintext: what is looked for below would be seen.
    comes(&stage, "/plain", 503)?;
    assert_eq!(seen(&record).first().and_then(|it| it.first), Some(b'G'));
    let policy_file = "60-policy.yaml";

    // Its ConfigMap is not there.
    stage.mesh.apply(policy_file, &policy(NAME))?;
    stage.logged(&["there is no ConfigMap shop/authority with ca.crt"])?;
    comes(&stage, "/missing", 503)?;
    let begun = seen(&record).len();
    assert_eq!(get(&stage, "/missing")?, 503);

    // Now it is.
    stage.mesh.apply("61-authority.yaml", &config_map(&root))?;
    comes(&stage, "/good", 200)?;
    let sni = |path: &str| {
        let all = seen(&record);
        all.iter()
            .filter_map(|it| it.request.clone())
            .find(|(_, head)| head.contains(path))
            .map(|(name, _)| name)
    };
    assert_eq!(sni("/good"), Some(Some(NAME.to_owned())));

    // Somebody else's name, somebody else's authority: what follows is mended without a restart.
    stage.mesh.apply(policy_file, &policy("other.internal"))?;
    comes(&stage, "/name", 503)?;
    stage.mesh.apply(policy_file, &policy(NAME))?;
    comes(&stage, "/named", 200)?;
    stage.mesh.apply("61-authority.yaml", &config_map(&authority()?.0))?;
    comes(&stage, "/stranger", 503)?;
    stage.mesh.apply("61-authority.yaml", &config_map(&root))?;
    comes(&stage, "/mended", 200)?;

    // What can no longer be read stays as it was; what never could be is not passed over.
    let broken = policy(NAME).replace("hostname: ", "hostname: /");
    stage.mesh.apply(policy_file, &broken)?;
    stage.logged(&["spec.validation.hostname", "the last good version stays in force"])?;
    assert_eq!(get(&stage, "/kept")?, 200);
    stage.mesh.apply("62-broken.yaml", &broken.replace("name: secure", "name: never"))?;
    comes(&stage, "/not-yet", 503)?;
    assert_eq!(get(&stage, "/never-read")?, 503);

    let since = &seen(&record)[begun..];
    assert!(since.iter().all(|it| it.first.is_none_or(|it| it == HANDSHAKE)), "{since:?}");
    for path in ["/missing", "/never-read"] {
        assert_eq!(sni(path), None);
    }
    stage.mesh.finish()
}
