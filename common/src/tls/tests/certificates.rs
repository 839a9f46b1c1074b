//! Which certificates are believed, in both directions of dialling.

use rcgen::{ExtendedKeyUsagePurpose, KeyPair, SanType};

use super::*;
use crate::tls::testing::{HOUR, NOON, credentials, moment, roots_of};
use crate::tls::{PeerCertificateError, identity_in_certificate, identity_in_uri_bytes};

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const API: &str = "spiffe://cluster.local/ns/shop/sa/api";

/// A workload with a bad certificate is refused as a caller and as a server, for the same stated reason, and the
/// other side learns that its certificate was the trouble.
async fn refused_both_ways(mesh: &Mesh, bad: Credentials, because: &str) {
    let as_caller = shake_hands(mesh.server(), &bad.client().unwrap(), &workload("web")).await;
    assert!(reason(&as_caller.server).contains(because), "as caller: {}", reason(&as_caller.server));

    let as_server = shake_hands(bad.server().unwrap(), &mesh.client(), &workload("web")).await;
    assert!(reason(&as_server.client).contains(because), "as server: {}", reason(&as_server.client));
    assert!(
        reason(&as_server.server).contains("refused our certificate"),
        "the refused server is told: {}",
        reason(&as_server.server)
    );
}

#[tokio::test]
async fn bad_names_are_refused() {
    let mesh = Mesh::new();
    let uri = |text: &str| Leaf::named(&[text]);
    let dns = || SanType::DnsName("web.shop".to_owned().try_into().unwrap());
    let cases = [
        ("no name", Leaf::named(&[]), "has 0 subject alternative names"),
        ("two ids", Leaf::named(&[WEB, API]), "has 2 subject alternative names"),
        ("the same id twice", Leaf::named(&[WEB, WEB]), "has 2 subject alternative names"),
        ("an id and a DNS name", uri(WEB).with(|p| p.subject_alt_names.push(dns())), "has 2 subject"),
        ("a DNS name", Leaf::named(&[]).with(|p| p.subject_alt_names.push(dns())), "is not a URI"),
        (
            "an id and an address",
            uri(WEB).with(|p| p.subject_alt_names.push(SanType::IpAddress([10, 0, 0, 1].into()))),
            "has 2 subject",
        ),
        (
            "upper-case trust domain",
            uri("spiffe://CLUSTER.local/ns/shop/sa/web"),
            "not a workload's SPIFFE id",
        ),
        ("percent encoding", uri("spiffe://cluster.local/ns/shop/sa/w%65b"), "not a workload's SPIFFE id"),
        ("dot segment", uri("spiffe://cluster.local/ns/../sa/web"), "not a workload's SPIFFE id"),
        ("another scheme", uri("https://cluster.local/ns/shop/sa/web"), "not a workload's SPIFFE id"),
        ("trailing slash", uri("spiffe://cluster.local/ns/shop/sa/web/"), "not a workload's SPIFFE id"),
        ("another trust domain", uri("spiffe://other.mesh/ns/shop/sa/web"), "of another trust domain"),
    ];
    for (name, leaf, because) in cases {
        println!("{name}");
        refused_both_ways(&mesh, mesh.ca.credentials(&leaf, &mesh.clock), because).await;
    }
}

#[tokio::test]
async fn names_no_library_would_write_are_refused() {
    let mesh = Mesh::new();
    let tagged = |tag: u8, text: &[u8]| {
        let mut name = vec![tag, u8::try_from(text.len()).unwrap()];
        name.extend_from_slice(text);
        name
    };
    let nul_inside = tagged(0x86, b"spiffe://cluster.local/ns/shop/sa/web\0.evil");
    let nul_at_end = tagged(0x86, b"spiffe://cluster.local/ns/shop/sa/web\0");
    let not_text = tagged(0x86, b"spiffe://cluster.local/ns/shop/sa/\xff");
    let as_mail = tagged(0x81, WEB.as_bytes());
    let cut_short = vec![0x86, 0x7f, b's'];
    let cases = [
        ("NUL inside", nul_inside, "not a workload's SPIFFE id"),
        ("NUL at the end", nul_at_end, "not a workload's SPIFFE id"),
        ("not UTF-8", not_text, "is not a URI"),
        ("an id as e-mail name", as_mail, "is not a URI"),
        ("a name cut short", cut_short, "cannot be decoded"),
    ];
    for (name, raw, because) in cases {
        println!("{name}");
        refused_both_ways(&mesh, mesh.ca.credentials(&Leaf::raw_names(&raw), &mesh.clock), because).await;
    }
}

#[tokio::test]
async fn bad_dates_and_uses_are_refused() {
    let mesh = Mesh::new();
    let web = || Leaf::of(&workload("web"));
    let expired = web().with(|p| p.not_after = moment(NOON - 60));
    let early = web().with(|p| p.not_before = moment(NOON + 60));
    let code_signing = web().with(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]);
    let authority = web().with(|p| p.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
    for (name, leaf, because) in [
        ("expired", expired, "expired 60 s ago"),
        ("not yet valid", early, "valid only in 60 s"),
        ("code signing only", code_signing, "extended key usage"),
        ("a certificate authority", authority, "chain is not valid"),
    ] {
        println!("{name}");
        refused_both_ways(&mesh, mesh.ca.credentials(&leaf, &mesh.clock), because).await;
    }
}

#[tokio::test]
async fn a_certificate_for_one_role_is_refused_in_the_other() {
    let mesh = Mesh::new();
    let only = |usage| Leaf::of(&workload("web")).with(|p| p.extended_key_usages = vec![usage]);
    let client_only = mesh.ca.credentials(&only(ExtendedKeyUsagePurpose::ClientAuth), &mesh.clock);
    let as_caller = shake_hands(mesh.server(), &client_only.client().unwrap(), &workload("web")).await;
    assert_eq!(as_caller.server.unwrap().peer, workload("web"));
    let as_server = shake_hands(client_only.server().unwrap(), &mesh.client(), &workload("web")).await;
    assert!(reason(&as_server.client).contains("may not be used by a server"));

    let server_only = mesh.ca.credentials(&only(ExtendedKeyUsagePurpose::ServerAuth), &mesh.clock);
    let as_caller = shake_hands(mesh.server(), &server_only.client().unwrap(), &workload("web")).await;
    assert!(reason(&as_caller.server).contains("may not be used by a client"));
}

#[tokio::test]
async fn strangers_are_refused() {
    let mesh = Mesh::new();
    let other = TestCa::new("mesh");
    let leaf = Leaf::of(&workload("web"));
    let key = KeyPair::generate().unwrap();
    let same_name = credentials(vec![other.sign(&leaf, &key)], &key, mesh.ca.roots(), &mesh.clock);
    refused_both_ways(&mesh, same_name, "not issued by a root known here").await;

    let renamed = TestCa::new("another mesh");
    let unknown = credentials(vec![renamed.sign(&leaf, &key)], &key, mesh.ca.roots(), &mesh.clock);
    refused_both_ways(&mesh, unknown, "not issued by a root known here").await;

    let own = leaf.params.self_signed(&key).unwrap().der().clone();
    let self_signed = credentials(vec![own], &key, mesh.ca.roots(), &mesh.clock);
    refused_both_ways(&mesh, self_signed, "not issued by a root known here").await;
}

#[tokio::test]
async fn a_caller_without_a_certificate_is_refused() {
    let mesh = Mesh::new();
    let verifier = mesh.client().expecting(&workload("web"));
    let mut bare = rustls::ClientConfig::clone(&verifier);
    bare.client_auth_cert_resolver = Arc::new(NoCertificate);
    let (near, far) = tokio::io::duplex(PIPE_BYTES);
    let name = rustls::pki_types::ServerName::try_from("web").unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(bare));
    let (server, _) =
        tokio::join!(accept(far, mesh.server(), ACCEPT_DEADLINE), connector.connect(name, near));
    assert!(reason(&server).contains("presented no certificate"), "{}", reason(&server));
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn another_workload_than_the_expected_one_sees_neither_certificate_nor_payload() {
    let mesh = Mesh::new();
    let outcome = shake_hands(mesh.server(), &mesh.client(), &workload("db")).await;
    let why = reason(&outcome.client);
    assert!(why.contains("it is spiffe://cluster.local/ns/shop/sa/web, not the expected"), "{why}");
    // The server never got as far as knowing its caller.
    assert!(reason(&outcome.server).contains("refused our certificate"), "{}", reason(&outcome.server));
}

#[tokio::test]
async fn a_huge_chain_is_refused() {
    let mesh = Mesh::new();
    let key = KeyPair::generate().unwrap();
    let leaf = mesh.ca.sign(&Leaf::of(&workload("web")), &key);
    let many = |count: usize| {
        let mut chain = vec![leaf.clone()];
        chain.extend(std::iter::repeat_n(mesh.ca.root.clone(), count));
        credentials(chain, &key, mesh.ca.roots(), &mesh.clock)
    };
    let fitting = shake_hands(mesh.server(), &many(7).client().unwrap(), &workload("web")).await;
    assert_eq!(fitting.server.unwrap().peer, workload("web"));
    refused_both_ways(&mesh, many(8), "chain is too large (9 certificates").await;

    // Past 64 KiB rustls stops reading before the certificates are even taken apart.
    let outcome = shake_hands(mesh.server(), &many(400).client().unwrap(), &workload("web")).await;
    assert!(reason(&outcome.server).contains("message too large to be read"), "{}", reason(&outcome.server));
}

#[tokio::test]
async fn a_chain_through_an_expired_root_is_refused_and_overlapping_roots_are_believed() {
    let mesh = Mesh::new();
    let expired = TestCa::dated("old", NOON - 100 * HOUR, NOON - HOUR);
    let key = KeyPair::generate().unwrap();
    let leaf = Leaf::of(&workload("web"));
    let from_expired = vec![expired.sign(&leaf, &key)];

    let mut server = mesh.workload("web");
    server.roots = roots_of(&[&mesh.ca, &expired]);
    let caller = credentials(from_expired, &key, mesh.ca.roots(), &mesh.clock);
    let outcome = shake_hands(server.server().unwrap(), &caller.client().unwrap(), &workload("web")).await;
    assert!(reason(&outcome.server).contains("root certificate that is not valid now"));

    let next = TestCa::new("next");
    server.roots = roots_of(&[&mesh.ca, &expired, &next]);
    for issuer in [&mesh.ca, &next] {
        let caller = credentials(vec![issuer.sign(&leaf, &key)], &key, mesh.ca.roots(), &mesh.clock);
        let outcome =
            shake_hands(server.server().unwrap(), &caller.client().unwrap(), &workload("web")).await;
        assert_eq!(outcome.server.unwrap().peer, workload("web"));
    }
}

#[tokio::test]
async fn expiry_is_noticed_by_the_clock_of_the_moment() {
    let mesh = Mesh::new();
    let (server, client) = (mesh.server(), mesh.client());
    assert!(shake_hands(server.clone(), &client, &workload("web")).await.server.is_ok());
    mesh.clock.set(NOON + 24 * HOUR);
    let outcome = shake_hands(server, &client, &workload("web")).await;
    assert!(reason(&outcome.client).contains("expired 3600 s ago"), "{}", reason(&outcome.client));
}

#[test]
fn hostile_bytes_are_an_error_and_not_a_panic() {
    let mesh = Mesh::new();
    let key = KeyPair::generate().unwrap();
    let good = mesh.ca.sign(&Leaf::of(&workload("web")), &key);
    assert_eq!(identity_in_certificate(&good), Ok(workload("web")));
    for end in 0..good.len() {
        assert!(identity_in_certificate(&good[..end]).is_err());
    }
    let mut trailing = good.to_vec();
    trailing.push(0);
    assert_eq!(identity_in_certificate(&trailing), Err(PeerCertificateError::Malformed));
    for position in 0..good.len() {
        let mut flipped = good.to_vec();
        flipped[position] ^= 0x80;
        if let Ok(found) = identity_in_certificate(&flipped) {
            let spelled = found.to_string();
            assert!(flipped.windows(spelled.len()).any(|bytes| bytes == spelled.as_bytes()), "{spelled}");
        }
    }
    assert!(identity_in_uri_bytes(b"spiffe://cluster.local/ns/shop/sa/\xff").is_err());
    assert_eq!(identity_in_uri_bytes(WEB.as_bytes()), Ok(workload("web")));
}
