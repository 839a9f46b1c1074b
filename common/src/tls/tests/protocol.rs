//! What may be negotiated, and how long it may take.

use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::pki_types::ServerName;
use rustls::{CipherSuite, ClientConfig, HandshakeKind, NamedGroup, ProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::*;
use crate::tls::ALPN_HTTP2;

/// A client of another make: it believes every server, and is changed by each case.
fn plain_client(mesh: &Mesh, provider: CryptoProvider) -> ClientConfig {
    let ours = mesh.client().expecting(&workload("web"));
    let certified = mesh.workload("api").certified;
    let mut config = ClientConfig::builder_with_details(Arc::new(provider), mesh.clock.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(crate::tls::verify::ExpectedServer {
            verifier: Arc::new(crate::tls::PeerVerifier::new(mesh.ca.roots(), "cluster.local".into())),
            expected: Some(workload("web")),
        }))
        .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    config.alpn_protocols = ours.alpn_protocols.clone();
    config
}

async fn plain_handshake(mesh: &Mesh, client: ClientConfig) -> Result<Accepted<DuplexStream>, Refusal> {
    let (near, far) = tokio::io::duplex(PIPE_BYTES);
    let name = ServerName::try_from("web.shop.svc.cluster.local").unwrap();
    let connector = TlsConnector::from(Arc::new(client));
    let (server, _client) =
        tokio::join!(accept(far, mesh.server(), ACCEPT_DEADLINE), connector.connect(name, near));
    server
}

#[tokio::test]
async fn two_of_ours_agree_on_tls13_h2_and_post_quantum_key_exchange() {
    let mesh = Mesh::new();
    let outcome = shake_hands(mesh.server(), &mesh.client(), &workload("web")).await;
    let (mut server, mut client) = (outcome.server.unwrap(), outcome.client.unwrap());
    assert_eq!(server.peer, workload("api"));

    let session = server.stream.get_ref().1;
    assert_eq!(session.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(session.alpn_protocol(), Some(ALPN_HTTP2));
    assert_eq!(session.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
    assert_eq!(session.negotiated_cipher_suite().unwrap().suite(), CipherSuite::TLS13_AES_128_GCM_SHA256);
    assert_eq!(session.handshake_kind(), Some(HandshakeKind::Full));
    assert_eq!(session.server_name(), None);

    client.write_all(b"payload").await.unwrap();
    client.flush().await.unwrap();
    let mut payload = [0; 7];
    server.stream.read_exact(&mut payload).await.unwrap();
    assert_eq!(&payload, b"payload");
}

#[tokio::test]
async fn peers_without_post_quantum_key_exchange_are_served() {
    let mesh = Mesh::new();
    for (group, name) in
        [(kx_group::X25519, NamedGroup::X25519), (kx_group::SECP256R1, NamedGroup::secp256r1)]
    {
        let provider = CryptoProvider { kx_groups: vec![group], ..aws_lc_rs::default_provider() };
        let server = plain_handshake(&mesh, plain_client(&mesh, provider)).await.unwrap();
        assert_eq!(server.stream.get_ref().1.negotiated_key_exchange_group().unwrap().name(), name);
        // A name in the hello changes nothing: the certificate is the pod's, whatever is asked for.
        assert_eq!(server.peer, workload("api"));
    }
}

#[tokio::test]
async fn a_peer_with_only_aes256_is_served_and_one_with_only_chacha_is_not() {
    let mesh = Mesh::new();
    let only = |suite| CryptoProvider { cipher_suites: vec![suite], ..aws_lc_rs::default_provider() };
    let aes256 = only(aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384);
    let served = plain_handshake(&mesh, plain_client(&mesh, aes256)).await.unwrap();
    let suite = served.stream.get_ref().1.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, CipherSuite::TLS13_AES_256_GCM_SHA384);

    let chacha = only(aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256);
    let refused = plain_handshake(&mesh, plain_client(&mesh, chacha)).await;
    assert!(
        reason(&refused).contains("the caller offers no TLS 1.3 with the ciphers"),
        "{}",
        reason(&refused)
    );
}

#[tokio::test]
async fn a_peer_that_does_not_agree_on_h2_is_refused() {
    let mesh = Mesh::new();
    for offered in [vec![], vec![b"http/1.1".to_vec()], vec![b"H2".to_vec()], vec![b"h2c".to_vec()]] {
        let mut client = plain_client(&mesh, aws_lc_rs::default_provider());
        client.alpn_protocols = offered.clone();
        let refused = plain_handshake(&mesh, client).await;
        assert!(reason(&refused).contains("HTTP/2 (ALPN h2)"), "{offered:?}: {}", reason(&refused));
    }
}

#[tokio::test]
async fn nothing_is_resumed_and_no_early_data_is_taken() {
    let mesh = Mesh::new();
    let mut client = plain_client(&mesh, aws_lc_rs::default_provider());
    client.enable_early_data = true;
    let client = Arc::new(client);
    let server = mesh.server();
    for _ in 0..2 {
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let name = ServerName::try_from("web.shop.svc.cluster.local").unwrap();
        let connector = TlsConnector::from(client.clone());
        let (accepted, dialled) =
            tokio::join!(accept(far, server.clone(), ACCEPT_DEADLINE), connector.connect(name, near));
        let (mut accepted, mut dialled) = (accepted.unwrap(), dialled.unwrap());
        assert_eq!(accepted.stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        // Tickets would travel behind the handshake, so let a byte pass that comes after them.
        accepted.stream.write_all(b"x").await.unwrap();
        accepted.stream.flush().await.unwrap();
        dialled.read_u8().await.unwrap();
        let session = dialled.get_ref().1;
        assert_eq!(session.tls13_tickets_received(), 0);
        assert!(!session.is_early_data_accepted());
    }
}

#[tokio::test]
async fn a_tls12_hello_is_refused() {
    // A ClientHello that knows no supported_versions extension, as every TLS 1.2-only client sends it.
    let mut hello = vec![0x03, 0x03];
    hello.extend([7; 32]);
    hello.extend([0x00, 0x00, 0x04, 0xc0, 0x2b, 0xc0, 0x2f, 0x01, 0x00]);
    let extensions = [
        0x00, 0x0a, 0x00, 0x04, 0x00, 0x02, 0x00, 0x1d, // supported_groups: x25519
        0x00, 0x0d, 0x00, 0x04, 0x00, 0x02, 0x04, 0x03, // signature_algorithms: ecdsa_secp256r1_sha256
        0x00, 0x0b, 0x00, 0x02, 0x01, 0x00, // ec_point_formats: uncompressed
    ];
    hello.extend([0x00, u8::try_from(extensions.len()).unwrap()]);
    hello.extend(extensions);
    let length = u8::try_from(hello.len()).unwrap();
    let mut record = vec![0x16, 0x03, 0x01, 0x00, length + 4, 0x01, 0x00, 0x00, length];
    record.extend(hello);

    let mesh = Mesh::new();
    let (mut near, far) = tokio::io::duplex(PIPE_BYTES);
    near.write_all(&record).await.unwrap();
    let refused = accept(far, mesh.server(), ACCEPT_DEADLINE).await;
    assert!(reason(&refused).contains("the caller offers no TLS 1.3"), "{}", reason(&refused));
    let mut alert = Vec::new();
    near.read_to_end(&mut alert).await.unwrap();
    assert_eq!(alert, [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 70], "a fatal protocol_version alert");
}

#[tokio::test]
async fn plaintext_is_named_as_such_and_a_closed_connection_too() {
    let mesh = Mesh::new();
    let (mut near, far) = tokio::io::duplex(PIPE_BYTES);
    near.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n").await.unwrap();
    let refused = accept(far, mesh.server(), ACCEPT_DEADLINE).await;
    assert!(reason(&refused).contains("the caller does not speak TLS"), "{}", reason(&refused));

    let (near, far) = tokio::io::duplex(PIPE_BYTES);
    drop(near);
    let refused = accept(far, mesh.server(), ACCEPT_DEADLINE).await;
    assert!(reason(&refused).contains("the caller closed the connection"), "{}", reason(&refused));
}

#[tokio::test(start_paused = true)]
async fn a_hello_that_drips_in_is_cut_at_the_deadline() {
    let mesh = Mesh::new();
    let (mut near, far) = tokio::io::duplex(PIPE_BYTES);
    let drip = tokio::spawn(async move {
        for byte in [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03].into_iter().cycle() {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if near.write_all(&[byte]).await.is_err() {
                return;
            }
        }
    });
    let began = Instant::now();
    let refused = accept(far, mesh.server(), ACCEPT_DEADLINE).await;
    assert_eq!(began.elapsed(), ACCEPT_DEADLINE);
    assert!(reason(&refused).contains("within 5000 ms"), "{}", reason(&refused));
    drip.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_is_given_up_at_the_deadline() {
    let mesh = Mesh::new();
    let (near, _far) = tokio::io::duplex(PIPE_BYTES);
    let began = Instant::now();
    let refused = connect(near, &mesh.client(), &workload("web"), CONNECT_DEADLINE).await;
    assert_eq!(began.elapsed(), CONNECT_DEADLINE);
    assert!(reason(&refused).contains("the peer did not complete"), "{}", reason(&refused));
}
