//! Tokens out of arbitrary bytes, and requests that hold them: what is read is what stands there, and nothing is let
//! through that no key has signed.
//!
//! The input is a token alone, and again the value of a header, of a cookie and of a parameter of the query.

#![no_main]

use std::sync::{Arc, LazyLock, Mutex};

use common::config::authentication::{JwtRule, KeySource, TokenLocation};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use waypoint::authn::authenticate;
use waypoint::authn::places::Carrier;
use waypoint::authn::remote::{Keyring, RemoteKeys};
use waypoint::authn::rules::{Rule, Rules};
use waypoint::authn::token::{MAX_TOKEN_BYTES, Token};

/// A key whose other half nobody has: the example of RFC 8037, with its first byte changed.
const JWKS: &str = r#"{"keys":[
    {"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;

struct Nobody;

impl Keyring for Nobody {
    fn fetched(&self, _: &KeySource, _: std::time::Duration) -> Arc<RemoteKeys> {
        unreachable!("keys are stated")
    }
}

static RULES: LazyLock<Rules> = LazyLock::new(|| {
    let rule = JwtRule {
        issuer: "joe".into(),
        audiences: Box::default(),
        keys: KeySource::Inline(JWKS.into()),
        locations: Box::new([
            TokenLocation::Header { name: "authorization".into(), prefix: "Bearer ".into() },
            TokenLocation::Header { name: "x-token".into(), prefix: "".into() },
            TokenLocation::Parameter("access_token".into()),
            TokenLocation::Cookie("id".into()),
        ]),
        payload_header: Some("x-payload".parse().expect("a header's name")),
        claim_headers: Box::new([("x-sub".parse().expect("a header's name"), "sub".into())]),
        forward: false,
        timeout: std::time::Duration::from_secs(1),
        space_delimited: Box::default(),
    };
    Rules::new(vec![Arc::new(Rule::new(&rule, &Nobody))])
});

fuzz_target!(|input: &[u8]| {
    if let Ok(token) = Token::read(input) {
        assert!(input.len() <= MAX_TOKEN_BYTES);
        let text = std::str::from_utf8(input).expect("a token is ASCII");
        assert!(
            text.starts_with(token.signed) && text.matches('.').count() == 2,
            "what is signed is not what stands there"
        );
        assert!(token.claims.times.check(u64::MAX).is_ok() || token.claims.times.expires.is_some());
        assert!(!token.claims.issuer.is_empty() || token.claims.all.get("iss").is_none_or(|it| it == ""));
    }
    for name in ["authorization", "x-token", "cookie", "x-sub"] {
        let Ok(value) = HeaderValue::from_bytes(input) else { break };
        let mut headers = HeaderMap::new();
        headers.append(name, value);
        ask(headers, None);
    }
    if let Ok(query) = std::str::from_utf8(input) {
        ask(HeaderMap::new(), Some(query.to_owned()));
        ask(HeaderMap::new(), Some(format!("access_token={query}")));
    }
});

fn ask(mut headers: HeaderMap, mut query: Option<String>) {
    let (before, asked) = (headers.clone(), query.clone());
    let mut carrier = Carrier { headers: &mut headers, query: &mut query };
    match authenticate(&RULES, &mut carrier, &Mutex::default(), 1_300_819_380) {
        Ok(told) => {
            assert!(
                told.claims().is_none() && told.principal().is_none(),
                "a token is believed that nobody signed"
            );
            assert!(
                !headers.contains_key("x-sub") && !headers.contains_key("x-payload"),
                "a forged claim stays"
            );
            assert_eq!(query, asked);
        }
        Err(_) => assert_eq!((headers, query), (before, asked), "a request that is refused was changed"),
    }
}
