//! Keys out of arbitrary bytes: what is read is bounded and says the same each time, and verifies nothing that it did not
//! sign.

#![no_main]

use libfuzzer_sys::fuzz_target;
use waypoint::authn::keys::{KeySet, MAX_KEYS};
use waypoint::authn::token::{Algorithm, Token};

fuzz_target!(|input: &[u8]| {
    let read = KeySet::read(input);
    assert_eq!(read.as_ref().err(), KeySet::read(input).as_ref().err(), "one text, two meanings");
    let Ok(keys) = read else { return };
    assert!(!keys.is_empty() && keys.len() <= MAX_KEYS);
    // {"iss":"joe"} under each algorithm, with a signature of zeros in the length that ES256 and EdDSA have.
    for algorithm in Algorithm::ALL {
        let token = Token {
            algorithm,
            key_id: None,
            signed: "e30.eyJpc3MiOiJqb2UifQ",
            signature: vec![0; 64],
            payload: "eyJpc3MiOiJqb2UifQ",
            claims: Token::read(b"eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UifQ.AAAA").expect("a token").claims,
        };
        // A key of small order takes nearly any signature; who states one as an issuer's does so on purpose.
        let told = keys.verify(&token);
        assert!(told.is_err() || algorithm == Algorithm::EdDsa, "zeros are a signature by {algorithm:?}");
    }
});
