//! Who a peer is, out of the bytes of its certificate.
//!
//! The first byte chooses: arbitrary bytes as a certificate, or as the URI inside one, where a mutation of DER would
//! rarely get to.

#![no_main]

use common::spiffe::Identity;
use common::tls::{identity_in_certificate, identity_in_uri_bytes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((choice, bytes)) = input.split_first() else { return };
    let identity = if choice & 1 == 0 {
        identity_in_certificate(bytes).ok()
    } else {
        identity_in_uri_bytes(bytes).ok().inspect(|identity| {
            assert_eq!(identity.to_string().as_bytes(), bytes, "an identity was repaired while it was read");
        })
    };
    let Some(identity) = identity else { return };
    let text = identity.to_string();
    assert_eq!(Identity::parse(&text).as_ref(), Ok(&identity), "{text} is not an identity");
    let id = text.as_bytes();
    assert!(bytes.windows(id.len()).any(|window| window == id), "{text} is not in what was read");
});
