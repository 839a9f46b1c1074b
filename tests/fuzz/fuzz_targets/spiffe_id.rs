//! Identities out of arbitrary text: what is accepted is exactly what would be written.

#![no_main]

use common::spiffe::{Identity, MAX_SPIFFE_ID_BYTES};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(identity) = Identity::parse(text) else { return };
    assert_eq!(identity.to_string(), text, "an identity was repaired while it was read");
    assert!(text.len() <= MAX_SPIFFE_ID_BYTES);
    assert_eq!(Identity::parse(text).as_ref(), Ok(&identity), "the same text gave two identities");
    for part in [&identity.trust_domain, &identity.namespace, &identity.service_account] {
        assert!(!part.is_empty() && !part.contains('/') && &**part != "..", "{identity} names another path");
    }
});
