//! Owns the cryptography Ebb allows itself: three key exchanges, two ciphers, TLS 1.3.
//!
//! AES-128-GCM comes first, as in Envoy and Go: both ends of a handshake are authenticated by P-256, so the longer key
//! would not raise the weakest link. It costs 10 rounds a block against 14; measured, that is 6 % of the cipher alone on
//! a CPU with VAES and nothing that could be told from noise in a whole stream, so it is not a reason to change the
//! order for either. A peer that offers only AES-256-GCM is served.

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};

/// The only application protocol spoken inside the tunnel's TLS (RFC 7301 id of HTTP/2 over TLS).
pub const ALPN_HTTP2: &[u8] = b"h2";

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        cipher_suites: vec![cipher_suite::TLS13_AES_128_GCM_SHA256, cipher_suite::TLS13_AES_256_GCM_SHA384],
        // The hybrid goes first: recorded traffic stays closed to a later quantum computer. Plain X25519 travels in
        // the same ClientHello, so a peer without ML-KEM costs no extra round trip.
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1],
        ..aws_lc_rs::default_provider()
    })
});

/// The cryptography every Ebb handshake uses: aws-lc-rs, restricted to what the module head says.
///
/// Signature algorithms are not restricted, because a cluster's root may be RSA (istiod's self-signed one is).
pub fn provider() -> &'static Arc<CryptoProvider> {
    &PROVIDER
}
