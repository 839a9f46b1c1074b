use serde_json::{Value, json};

use super::super::keys::{InvalidKeys, KeySet, MAX_KEYS};
use super::super::refusal::Refusal;
use super::super::token::{Algorithm, MAX_TOKEN_BYTES, Token};
use super::signer::{SIGNERS, Signer, base64, by};
use super::{Asked, NOW, rule_with, rules, signer, token, token_of};

fn claims() -> Value {
    json!({ "iss": "me", "sub": "you" })
}

#[test]
fn every_algorithm_is_verified_by_its_own_key_and_by_no_other() {
    for by in SIGNERS.iter() {
        let text = by.token("k", &claims());
        let token = Token::read(text.as_bytes()).unwrap();
        for key in SIGNERS.iter() {
            let keys = KeySet::read(key.jwks("k").as_bytes()).unwrap();
            let expected = match key.algorithm == by.algorithm {
                true => Ok(()),
                // A key of that kind could have signed it; one of another kind could not.
                false if is_rsa(by.algorithm) && is_rsa(key.algorithm) => Err(Refusal::WrongSignature),
                false => Err(Refusal::NoMatchingKey),
            };
            assert_eq!(keys.verify(&token), expected, "{:?} by a key of {:?}", by.algorithm, key.algorithm);
        }
        let same = Signer::new(by.algorithm);
        let keys = KeySet::read(same.jwks("k").as_bytes()).unwrap();
        assert_eq!(keys.verify(&token), Err(Refusal::WrongSignature), "{:?}", by.algorithm);
    }
}

fn is_rsa(algorithm: Algorithm) -> bool {
    matches!(algorithm.name().as_bytes()[0], b'R' | b'P')
}

#[test]
fn a_changed_bit_anywhere_is_seen() {
    let rules = rules(&rule_with(""));
    let good = token(json!({}));
    assert!(Asked::bearing(&good).judge(&rules).is_ok());
    for at in (0..good.len()).filter(|at| good.as_bytes()[*at] != b'.') {
        let mut bytes = good.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        assert!(Asked::bearing(&changed).judge(&rules).is_err(), "byte {at} of {good}");
    }
}

#[test]
fn a_key_is_good_for_what_it_says_and_nothing_else() {
    let rsa = by(Algorithm::Rs256);
    let ec = by(Algorithm::Es256);
    let edwards = by(Algorithm::EdDsa);
    let one = |key: Value| json!({ "keys": [key] }).to_string();
    let no_match = Err(Refusal::NoMatchingKey);
    for (signer, more, expected) in [
        (rsa, json!({ "alg": "RS256", "use": "sig" }), Ok(())),
        (rsa, json!({ "key_ops": ["verify"] }), Ok(())),
        (rsa, json!({ "kid": "k" }), Ok(())),
        (rsa, json!({ "kid": "other" }), no_match),
        (rsa, json!({ "alg": "RS384" }), no_match),
        (rsa, json!({ "alg": "PS256" }), no_match),
        (ec, json!({ "alg": "ES256" }), Ok(())),
        (edwards, json!({ "alg": "EdDSA" }), Ok(())),
        (edwards, json!({ "alg": "Ed25519" }), Ok(())),
    ] {
        let text = signer.token("k", &claims());
        let keys = KeySet::read(one(signer.jwk(more.clone())).as_bytes()).unwrap();
        assert_eq!(keys.verify(&Token::read(text.as_bytes()).unwrap()), expected, "{more}");
    }
    for (signer, more) in [
        (rsa, json!({ "use": "enc" })),
        (rsa, json!({ "use": 1 })),
        (rsa, json!({ "key_ops": ["sign"] })),
        (rsa, json!({ "key_ops": "verify" })),
        (rsa, json!({ "alg": "HS256" })),
        (rsa, json!({ "alg": "none" })),
        (rsa, json!({ "alg": "RSA-OAEP" })),
        (rsa, json!({ "alg": "ES256" })),
        (rsa, json!({ "alg": ["RS256"] })),
        (rsa, json!({ "kty": "oct", "k": base64("secret") })),
        (rsa, json!({ "n": "AQAB" })),
        (rsa, json!({ "e": "" })),
        (rsa, json!({ "kid": 7 })),
        (ec, json!({ "alg": "RS256" })),
        (ec, json!({ "crv": "P-384" })),
        (ec, json!({ "crv": "secp256k1" })),
        (ec, json!({ "x": base64([0; 32]) })),
        (ec, json!({ "x": base64([1; 31]) })),
        (edwards, json!({ "crv": "X25519" })),
        (edwards, json!({ "x": base64([1; 31]) })),
    ] {
        let keys = KeySet::read(one(signer.jwk(more.clone())).as_bytes());
        assert_eq!(keys.err(), Some(InvalidKeys::NoneUsable), "{more}");
    }
}

#[test]
fn a_public_key_is_no_secret_and_no_signature_is_none() {
    let rsa = by(Algorithm::Rs256);
    let rules = rules(&format!("{{issuer: me, jwks: '{}'}}", rsa.jwks("k")));
    for algorithm in
        ["HS256", "HS384", "HS512", "none", "None", "NONE", "", "rs256", "RS256 ", "RS1", "A128KW"]
    {
        let header = json!({ "alg": algorithm, "kid": "k" });
        for signature in ["", "AAAA"] {
            let text = format!("{}.{}.{signature}", base64(header.to_string()), base64(claims().to_string()));
            let told = Asked::bearing(&text).judge(&rules).err();
            assert_eq!(told, Some(Refusal::UnknownAlgorithm), "{algorithm:?}");
        }
    }
    let text = format!("{}.{}.", base64(r#"{"alg":"RS256","kid":"k"}"#), base64(claims().to_string()));
    assert_eq!(Asked::bearing(&text).judge(&rules).err(), Some(Refusal::WrongSignature));
}

#[test]
fn a_token_without_an_id_is_tried_with_every_key_that_could_be_its_own() {
    let (mine, other) = (by(Algorithm::Es256), Signer::new(Algorithm::Es256));
    let text = mine.sign(&json!({ "alg": "ES256" }), &claims().to_string());
    let token = Token::read(text.as_bytes()).unwrap();
    let keys = json!({ "keys": [other.jwk(json!({"kid": "a"})), mine.jwk(json!({"kid": "b"}))] }).to_string();
    assert_eq!(KeySet::read(keys.as_bytes()).unwrap().verify(&token), Ok(()));
    let keys = other.jwks("a");
    assert_eq!(KeySet::read(keys.as_bytes()).unwrap().verify(&token), Err(Refusal::WrongSignature));
}

#[test]
fn what_is_no_jwks_gives_no_keys() {
    let many = json!({ "keys": vec![json!({}); MAX_KEYS + 1] }).to_string();
    for (text, expected) in [
        (&*many, "more than 64 keys"),
        ("", "no JWKS"),
        ("[]", "no JWKS"),
        ("{}", "no list of keys"),
        (r#"{"keys": {}}"#, "no list of keys"),
        (r#"{"keys": [], "keys": []}"#, "no JWKS"),
        (r#"{"keys": []}"#, "no key that a token could be verified by"),
        (r#"{"keys": [1, {"kty": "RSA"}, null]}"#, "no key that a token could be verified by"),
    ] {
        let told = KeySet::read(text.as_bytes()).err().unwrap().to_string();
        assert!(told.contains(expected), "{told}");
    }
}

const AUDIENCES: &str = ", audiences: [shop, 'https://x.example/']";

/// A token for one of them, with further claims.
fn with(more: Value) -> String {
    let mut all = json!({ "aud": "shop" });
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    token(all)
}

/// A token with this payload, whatever it is.
fn payload(text: &str) -> String {
    signer().sign(&json!({ "alg": "ES256", "kid": "k" }), text)
}

#[test]
fn what_is_wrong_with_a_token_is_told_in_envoys_words() {
    let rules = rules(&rule_with(AUDIENCES));
    let header = |header: &str| format!("{}.{}.AAAA", base64(header), base64(claims().to_string()));
    let longest = "a".repeat(MAX_TOKEN_BYTES + 1);
    for (text, expected) in [
        (with(json!({ "iss": "others" })), Refusal::UnknownIssuer),
        (with(json!({ "iss": "" })), Refusal::UnknownIssuer),
        (payload(r#"{"aud":"shop"}"#), Refusal::UnknownIssuer),
        (with(json!({ "iss": 7 })), Refusal::IssuerNotString),
        (with(json!({ "sub": {} })), Refusal::SubjectNotString),
        (with(json!({ "aud": "other" })), Refusal::AudienceNotAllowed),
        (with(json!({ "aud": [] })), Refusal::AudienceNotAllowed),
        (with(json!({ "aud": [7] })), Refusal::AudienceNotString),
        (with(json!({ "aud": null })), Refusal::AudienceNotString),
        (token(json!({})), Refusal::AudienceNotAllowed),
        (with(json!({ "exp": NOW - 61 })), Refusal::Expired),
        (with(json!({ "exp": 0 })), Refusal::Expired),
        (with(json!({ "exp": 1.5 })), Refusal::Expired),
        (with(json!({ "exp": "never" })), Refusal::ExpiryNotNumber),
        (with(json!({ "exp": -1 })), Refusal::ExpiryNotNumber),
        (with(json!({ "exp": null })), Refusal::ExpiryNotNumber),
        (with(json!({ "exp": 1e300 })), Refusal::ExpiryNotNumber),
        (with(json!({ "nbf": NOW + 61 })), Refusal::NotYetValid),
        (with(json!({ "nbf": true })), Refusal::NotBeforeNotNumber),
        (token_of(&Signer::new(Algorithm::Es256), json!({ "aud": "shop" })), Refusal::WrongSignature),
        (signer().token("unknown", &json!({ "iss": "me", "aud": "shop" })), Refusal::NoMatchingKey),
        (String::new(), Refusal::NotThreeParts),
        ("a.b".into(), Refusal::NotThreeParts),
        ("a.b.c.d".into(), Refusal::NotThreeParts),
        ("..".into(), Refusal::HeaderJson),
        ("a=.b.c".into(), Refusal::HeaderBase64),
        ("a\u{e9}.b.c".into(), Refusal::HeaderBase64),
        (header("{"), Refusal::HeaderJson),
        (header("[]"), Refusal::HeaderJson),
        (header(r#"{"alg":"ES256","alg":"none"}"#), Refusal::HeaderJson),
        (header("{}"), Refusal::NoAlgorithm),
        (header(r#"{"alg":1}"#), Refusal::NoAlgorithm),
        (header(r#"{"alg":"ES256","kid":1}"#), Refusal::KeyIdNotString),
        (header(r#"{"alg":"ES256","crit":["b64"],"b64":false}"#), Refusal::Critical),
        (payload("{"), Refusal::PayloadJson),
        (payload("7"), Refusal::PayloadJson),
        (payload(r#"{"iss":"me","iss":"me"}"#), Refusal::PayloadJson),
        (payload(&format!(r#"{{"a":{}1{}}}"#, "[".repeat(500), "]".repeat(500))), Refusal::PayloadJson),
        (format!("{}.b=.c", base64(r#"{"alg":"ES256"}"#)), Refusal::PayloadBase64),
        (format!("{}.{}.!", base64(r#"{"alg":"ES256"}"#), base64("{}")), Refusal::SignatureBase64),
        (longest, Refusal::TooLong),
    ] {
        let bytes = format!("Bearer {text}");
        let mut asked = Asked::default();
        asked.headers.insert("authorization", http::HeaderValue::from_bytes(bytes.as_bytes()).unwrap());
        assert_eq!(asked.judge(&rules).err(), Some(expected), "{}", &text[..text.len().min(300)]);
        assert!(asked.headers.contains_key("authorization"), "a request that is refused is as it was");
    }
}

#[test]
fn clocks_may_be_a_minute_apart_and_audiences_have_no_scheme() {
    let rules = rules(&rule_with(AUDIENCES));
    for good in [
        with(json!({})),
        with(json!({ "aud": ["other", "shop"] })),
        with(json!({ "aud": "x.example" })),
        with(json!({ "aud": "http://shop/" })),
        with(json!({ "exp": NOW - 60 })),
        with(json!({ "nbf": NOW + 60 })),
        with(json!({ "exp": (NOW + 5) as f64 + 0.5 })),
        payload(r#"{"iss":"me","aud":"shop"}"#),
    ] {
        let told = Asked::bearing(&good).judge(&rules);
        assert!(told.is_ok(), "{:?} {good}", told.err());
    }
}

#[test]
fn a_refusal_is_answered_as_envoy_does() {
    let answer = Refusal::Expired.answer("web.shop:80", "/a/b", false);
    assert_eq!((answer.status.as_u16(), &*answer.body), (401, &b"Jwt is expired"[..]));
    assert_eq!(
        answer.headers["www-authenticate"],
        "Bearer realm=\"http://web.shop:80/a/b\", error=\"invalid_token\""
    );
    let answer = Refusal::AudienceNotAllowed.answer("web", "/", false);
    assert_eq!((answer.status.as_u16(), &*answer.body), (403, &b"Audiences in Jwt are not allowed"[..]));
    let answer = Refusal::WrongSignature.answer("web", "/", true);
    assert_eq!((answer.status.as_u16(), &answer.headers["grpc-status"]), (200, &"16".parse().unwrap()));
    assert_eq!(answer.headers["grpc-message"], "Jwt verification fails");
    assert!(answer.headers.contains_key("www-authenticate"));
    let long = Refusal::Expired.answer("web", &format!("/{}", "a".repeat(1000)), false);
    assert!(long.headers["www-authenticate"].len() < 320);
    assert_eq!(Refusal::Unreadable.answer("web", "/", false).status.as_u16(), 403);
}
