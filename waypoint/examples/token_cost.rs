//! What tokens cost: one that a worker has verified before, one that it has not, and a request without any.
//!
//! `cargo run --release -p waypoint --example token_cost [--json]`: microseconds of one core for each request, without the
//! request's own.

use std::hint::black_box;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::config::authentication::{JwtRule, KeySource, TokenLocation};
use http::HeaderMap;
use serde_json::{Value, json};
use waypoint::authn::authenticate;
use waypoint::authn::places::Carrier;
use waypoint::authn::remote::{Keyring, RemoteKeys};
use waypoint::authn::rules::{Rule, Rules};
use waypoint::authn::verified::Cache;

const NOW: u64 = 1_800_000_000;
const KNOWN: u32 = 200_000;
const UNKNOWN: u32 = 2_000;

fn main() -> Result<()> {
    let as_json = std::env::args().nth(1).is_some_and(|it| it == "--json");
    let mut costs = json!({});
    for (name, (jwks, token)) in [("RS256", rsa()?), ("ES256", elliptic()?)] {
        let rules = Rules::new(vec![Arc::new(Rule::new(&rule(&jwks), &Stated))]);
        let bearing = HeaderMap::from_iter([
            (http::header::AUTHORIZATION, format!("Bearer {token}").parse()?),
            (http::header::ACCEPT, "*/*".parse()?),
            (http::header::USER_AGENT, "token-cost".parse()?),
        ]);
        let cache = Mutex::<Cache>::default();
        costs[name] = json!({
            "token_bytes": token.len(),
            "known_us": each(KNOWN, &rules, &bearing, || Some(&cache))?,
            "unknown_us": each(UNKNOWN, &rules, &bearing, || None)?,
            "none_us": each(KNOWN, &rules, &HeaderMap::from_iter([(http::header::ACCEPT, "*/*".parse()?)]), || Some(&cache))?,
        });
    }
    if as_json {
        println!("{costs}");
        return Ok(());
    }
    println!("us of one core for a request         known   unknown   without a token");
    for (name, cost) in costs.as_object().into_iter().flatten() {
        let us = |what: &str| cost[what].as_f64().unwrap_or(f64::NAN);
        let [known, unknown, none] = ["known_us", "unknown_us", "none_us"].map(us);
        println!("{name}, {:4} bytes {known:23.3}{unknown:10.3}{none:18.3}", cost["token_bytes"]);
    }
    Ok(())
}

/// Time of one request, less that of making its head.
fn each<'c>(
    times: u32,
    rules: &Rules,
    headers: &HeaderMap,
    cache: impl Fn() -> Option<&'c Mutex<Cache>>,
) -> Result<f64> {
    let making = timed(times, || {
        black_box(headers.clone());
        Ok(())
    })?;
    let whole = timed(times, || {
        let (mut headers, mut query, fresh) = (headers.clone(), None, Mutex::default());
        let mut carrier = Carrier { headers: &mut headers, query: &mut query };
        let told = authenticate(rules, &mut carrier, cache().unwrap_or(&fresh), NOW);
        ensure!(black_box(told).is_ok(), "the token is refused");
        black_box(headers);
        Ok(())
    })?;
    Ok((whole.saturating_sub(making)).as_secs_f64() * 1e6 / f64::from(times))
}

fn timed(times: u32, mut work: impl FnMut() -> Result<()>) -> Result<Duration> {
    work()?;
    let began = Instant::now();
    (0..times).try_for_each(|_| work())?;
    Ok(began.elapsed())
}

struct Stated;

impl Keyring for Stated {
    fn fetched(&self, _: &KeySource, _: Duration) -> Arc<RemoteKeys> {
        unreachable!("every rule here states its keys")
    }
}

/// A rule as operators write it: Istio's own places, one claim told.
fn rule(jwks: &str) -> JwtRule {
    JwtRule {
        issuer: "https://accounts.example".into(),
        audiences: Box::new(["shop".into()]),
        keys: KeySource::Inline(jwks.into()),
        locations: Box::new([
            TokenLocation::Header { name: "authorization".into(), prefix: "Bearer ".into() },
            TokenLocation::Parameter("access_token".into()),
        ]),
        payload_header: None,
        claim_headers: Box::new([(http::HeaderName::from_static("x-user"), "sub".into())]),
        forward: false,
        timeout: Duration::from_secs(5),
        space_delimited: Box::default(),
    }
}

/// What is signed: claims of the usual number and length.
fn signed(algorithm: &str) -> String {
    let claims = json!({
        "iss": "https://accounts.example", "sub": "248289761001", "aud": ["shop", "bank"], "exp": NOW + 3600, "iat": NOW,
        "azp": "web-frontend", "scope": "openid profile email orders:read orders:write", "email": "alice@shop.example",
        "groups": ["customers", "testers"], "jti": "9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d",
    });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(&json!({ "alg": algorithm, "kid": "k", "typ": "JWT" })), part(&claims))
}

fn rsa() -> Result<(String, String)> {
    let key = RsaKeyPair::generate(KeySize::Rsa2048)?;
    let public = key.public_key();
    let (n, e) = (public.modulus(), public.exponent());
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let (n, e) = (part(n.big_endian_without_leading_zero()), part(e.big_endian_without_leading_zero()));
    let jwks = json!({ "keys": [{ "kty": "RSA", "kid": "k", "n": n, "e": e }] }).to_string();
    let signed = signed("RS256");
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)?;
    Ok((jwks, format!("{signed}.{}", part(&signature))))
}

fn elliptic() -> Result<(String, String)> {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
    let point = key.public_key().as_ref().get(1..).context("a point")?;
    let (x, y) = point.split_at(point.len() / 2);
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let jwks = json!({ "keys": [{ "kty": "EC", "crv": "P-256", "kid": "k", "x": part(x), "y": part(y) }] });
    let signed = signed("ES256");
    let signature = key.sign(&SystemRandom::new(), signed.as_bytes())?;
    Ok((jwks.to_string(), format!("{signed}.{}", part(signature.as_ref()))))
}
