//! TLS towards backends outside: who is believed, and what is shown to them.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::backend_tls::Pem;
use crate::config::destination::tls::{Authorities, ClientTls, TlsMode};
use crate::tls::CONNECT_DEADLINE;
use crate::tls::origin::{Inside, Origin};

/// An authority with its files in a directory.
struct Outside {
    directory: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
    root: rustls_pki_types::CertificateDer<'static>,
}

impl Outside {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), root.pem()).unwrap();
        Self { directory, root: root.der().clone(), issuer: Issuer::new(params, key) }
    }

    fn path(&self, name: &str) -> Arc<str> {
        self.directory.path().join(name).display().to_string().into()
    }

    /// Certificate and key with these names; written to `<name>.pem` and `<name>.key` too.
    fn issue(&self, file: &str, names: &[&str]) -> (Vec<rustls_pki_types::CertificateDer<'static>>, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = names
            .iter()
            .map(|name| match name.contains("://") {
                true => SanType::URI((*name).try_into().unwrap()),
                false => SanType::DnsName((*name).try_into().unwrap()),
            })
            .collect();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(Path::new(&*self.path(&format!("{file}.pem"))), certificate.pem()).unwrap();
        std::fs::write(Path::new(&*self.path(&format!("{file}.key"))), key.serialize_pem()).unwrap();
        (vec![certificate.der().clone()], key)
    }

    fn tls(&self, mode: TlsMode) -> ClientTls {
        ClientTls {
            authorities: None,
            mode,
            client_certificate: "".into(),
            private_key: "".into(),
            ca_certificates: self.path("ca.pem"),
            ca_crl: "".into(),
            credential_name: "".into(),
            subject_alt_names: Box::default(),
            sni: "".into(),
            skip_verification: None,
        }
    }

    /// A backend with these names; it wants a certificate of this authority where `wants` says so.
    fn backend(
        &self,
        names: &[&str],
        wants: bool,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> ServerConfig {
        let (chain, key) = self.issue("server", names);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).unwrap();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = match wants {
            true => builder.with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap(),
            false => builder.with_no_client_auth().with_single_cert(chain, key).unwrap(),
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }
}

/// What the backend saw: the name that was sent, the protocol agreed on, whether a certificate was shown.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    name: Option<String>,
    protocol: Option<String>,
    certificate: bool,
}

async fn meet(
    backend: ServerConfig,
    tls: &ClientTls,
    names: &[&str],
    inside: Inside,
) -> Result<Seen, String> {
    let names: Vec<Arc<str>> = names.iter().map(|it| Arc::from(*it)).collect();
    let origin = Origin::read(tls, &names, inside).map_err(|error| error.to_string())?;
    let (near, far) = tokio::io::duplex(64 * 1024);
    let serving = tokio::spawn(async move { TlsAcceptor::from(Arc::new(backend)).accept(far).await });
    let stream = origin.connect(near, "api.example.com", CONNECT_DEADLINE).await;
    let stream = stream.map_err(|refusal| refusal.to_string())?;
    let server = serving.await.unwrap().map_err(|error| error.to_string())?;
    let session = server.get_ref().1;
    let text = |it: &[u8]| String::from_utf8_lossy(it).into_owned();
    drop(stream);
    Ok(Seen {
        name: session.server_name().map(str::to_owned),
        protocol: session.alpn_protocol().map(text),
        certificate: session.peer_certificates().is_some(),
    })
}

const BOTH: [&rustls::SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

#[tokio::test]
async fn a_backend_with_the_name_that_was_called_is_believed_by_either_version() {
    let outside = Outside::new();
    for versions in [&BOTH[..1], &BOTH[1..]] {
        for (inside, protocol) in
            [(Inside::Http1, Some("http/1.1")), (Inside::Http2, Some("h2")), (Inside::Bytes, None)]
        {
            let backend = outside.backend(&["api.example.com"], false, versions);
            let seen = meet(backend, &outside.tls(TlsMode::Simple), &[], inside).await.unwrap();
            let name = Some("api.example.com".to_owned());
            assert_eq!(seen, Seen { name, protocol: protocol.map(str::to_owned), certificate: false });
        }
    }
}

#[tokio::test]
async fn nobody_else_is() {
    let outside = Outside::new();
    let simple = outside.tls(TlsMode::Simple);
    let other = outside.backend(&["www.example.com"], false, &BOTH);
    let why = meet(other, &simple, &[], Inside::Http1).await.unwrap_err();
    assert!(why.contains("NotValidForName"), "{why}");
    let stranger = Outside::new().backend(&["api.example.com"], false, &BOTH);
    let why = meet(stranger, &simple, &[], Inside::Http1).await.unwrap_err();
    assert!(why.contains("UnknownIssuer") || why.contains("BadSignature"), "{why}");
    // The machine's own authorities do not know this one either.
    let system = ClientTls { ca_certificates: "system".into(), ..simple };
    let backend = outside.backend(&["api.example.com"], false, &BOTH);
    meet(backend, &system, &[], Inside::Http1).await.unwrap_err();
}

#[tokio::test]
async fn stated_names_take_the_place_of_the_called_one() {
    let outside = Outside::new();
    let spiffe = "spiffe://other.example/ns/x/sa/y";
    let stated = |names: &[&str]| ClientTls {
        subject_alt_names: names.iter().map(|it| Arc::from(*it)).collect(),
        ..outside.tls(TlsMode::Simple)
    };
    for (has, wants, entry, fine) in [
        (vec!["b.example.com"], vec!["a.example.com", "b.example.com"], vec![], true),
        (vec!["b.example.com"], vec![], vec!["b.example.com"], true),
        (vec!["b.example.com"], vec!["c.example.com"], vec!["b.example.com"], false),
        (vec!["api.example.com"], vec!["c.example.com"], vec![], false),
        (vec![spiffe], vec![spiffe], vec![], true),
        (vec![spiffe], vec!["spiffe://other.example/ns/x/sa/z"], vec![], false),
        // A pattern that is asked for has to stand in the certificate as it is.
        (vec!["*.example.com"], vec!["*.example.com"], vec![], true),
        (vec!["b.example.com"], vec!["*.example.com"], vec![], false),
    ] {
        let backend = outside.backend(&has, false, &BOTH);
        let met = meet(backend, &stated(&wants), &entry, Inside::Http1).await;
        assert_eq!(met.is_ok(), fine, "{has:?} {wants:?} {entry:?}: {met:?}");
    }
}

#[tokio::test]
async fn authorities_that_are_no_file_take_the_place_of_the_machine_s() {
    let outside = Outside::new();
    let pem = |of: &Outside| {
        let text = std::fs::read_to_string(&*of.path("ca.pem")).unwrap();
        Some(Authorities::Pem(Pem::new(text.into())))
    };
    let why = "there is no ConfigMap";
    for (authorities, expected) in [
        (pem(&outside), Ok(())),
        (pem(&Outside::new()), Err("invalid peer certificate")),
        (Some(Authorities::Unusable(why.into())), Err(why)),
        (Some(Authorities::Pem(Pem::new("nothing".into()))), Err("no certificate in it")),
        (None, Err("invalid peer certificate")),
    ] {
        let tls = ClientTls { authorities, ca_certificates: "".into(), ..outside.tls(TlsMode::Simple) };
        let met = match Origin::read(&tls, &[], Inside::Http1) {
            Err(error) => Err(error.to_string()),
            Ok(_) => {
                let backend = outside.backend(&["api.example.com"], false, &BOTH);
                meet(backend, &tls, &[], Inside::Http1).await.map(drop)
            }
        };
        match (met, expected) {
            (Ok(()), Ok(())) => {}
            (Err(why), Err(expected)) => assert!(why.contains(expected), "{why}"),
            (met, expected) => panic!("{met:?} {expected:?}"),
        }
    }
}

#[tokio::test]
async fn another_name_is_sent_and_asked_for_where_one_is_stated() {
    let outside = Outside::new();
    let tls = ClientTls { sni: "b.example.com".into(), ..outside.tls(TlsMode::Simple) };
    let backend = outside.backend(&["b.example.com"], false, &BOTH);
    let seen = meet(backend, &tls, &[], Inside::Http2).await.unwrap();
    assert_eq!(seen.name.as_deref(), Some("b.example.com"));
}

#[tokio::test]
async fn a_certificate_is_shown_where_mutual_is_stated_and_only_there() {
    let outside = Outside::new();
    outside.issue("client", &["client.example.com"]);
    let mutual = ClientTls {
        client_certificate: outside.path("client.pem"),
        private_key: outside.path("client.key"),
        ..outside.tls(TlsMode::Mutual)
    };
    let backend = || outside.backend(&["api.example.com"], true, &BOTH);
    assert!(meet(backend(), &mutual, &[], Inside::Http1).await.unwrap().certificate);
    meet(backend(), &outside.tls(TlsMode::Simple), &[], Inside::Http1).await.unwrap_err();
}

#[tokio::test]
async fn verification_is_left_out_only_where_that_is_stated() {
    let (outside, other) = (Outside::new(), Outside::new());
    for (stated, fine) in [(None, false), (Some(false), false), (Some(true), true)] {
        let tls = ClientTls { skip_verification: stated, ..outside.tls(TlsMode::Simple) };
        let met = meet(other.backend(&["x.example.com"], false, &BOTH), &tls, &[], Inside::Http1).await;
        assert_eq!(met.is_ok(), fine, "{stated:?}");
    }
}

#[test]
fn what_cannot_be_done_is_said_with_its_field() {
    let outside = Outside::new();
    let simple = || outside.tls(TlsMode::Simple);
    let mutual = || outside.tls(TlsMode::Mutual);
    outside.issue("client", &["client.example.com"]);
    std::fs::write(&*outside.path("empty.pem"), "").unwrap();
    for (tls, words) in [
        (ClientTls { credential_name: "s".into(), ..simple() }, "tls.credentialName"),
        (ClientTls { ca_crl: "/x".into(), ..simple() }, "tls.caCrl"),
        (ClientTls { ca_certificates: outside.path("none.pem"), ..simple() }, "tls.caCertificates"),
        (ClientTls { ca_certificates: outside.path("empty.pem"), ..simple() }, "no certificate in it"),
        (ClientTls { ca_certificates: "/dev/zero".into(), ..simple() }, "not a file"),
        (ClientTls { sni: "no name".into(), ..simple() }, "tls.sni"),
        (outside.tls(TlsMode::IstioMutual), "tls.mode"),
        (ClientTls { client_certificate: outside.path("client.pem"), ..mutual() }, "tls.privateKey"),
        (
            ClientTls {
                client_certificate: outside.path("client.pem"),
                private_key: outside.path("client.pem"),
                ..mutual()
            },
            "tls.privateKey",
        ),
    ] {
        let why = Origin::read(&tls, &[], Inside::Http1).unwrap_err().to_string();
        assert!(why.contains(words), "{why}");
    }
}
