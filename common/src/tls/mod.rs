//! Mutual TLS between proxies: the identities are SPIFFE ids and a peer can negotiate nothing down.
//!
//! Knows nothing of where certificates come from (`certs` does) nor of policy. Surprising: there are no server names.
//! No SNI is sent or looked at, and a certificate is judged by its one URI name instead of by an address.

mod admission;
mod blame;
mod config;
mod handshake;
pub mod origin;
mod peer;
mod provider;
mod roots;
mod verify;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use admission::{
    HandshakeLimiter, HandshakePermit, MAX_HANDSHAKES_IN_FLIGHT, MAX_HANDSHAKES_IN_FLIGHT_PER_SOURCE,
};
pub use config::{Client, Credentials};
pub use handshake::{
    ACCEPT_DEADLINE, Accepted, CONNECT_DEADLINE, ClientStream, ServerStream, accept, connect,
};
pub(crate) use peer::parse_certificate;
pub use peer::{
    MAX_CHAIN_BYTES, MAX_CHAIN_CERTIFICATES, PeerCertificateError, identity_in_certificate,
    identity_in_uri_bytes, peer_identity,
};
pub use provider::{ALPN_HTTP2, provider};
pub(crate) use roots::validity;
pub use roots::{InvalidRoots, MAX_ROOTS, MAX_ROOTS_PEM_BYTES, TrustRoots};
pub use verify::{PeerRole, PeerVerifier};
