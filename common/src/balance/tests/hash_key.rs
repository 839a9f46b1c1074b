//! What has no hash, and cookies that are given. The hashes themselves are compared with Envoy's in `golden.rs`.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use twox_hash::XxHash64;

use crate::balance::hash_key::{Cookie, HashKey, HashPolicy, Request, hash_key};

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
}

fn by_header() -> HashPolicy {
    HashPolicy::Header("x-user".parse().unwrap())
}

fn by_cookie(ttl: Option<u64>) -> HashPolicy {
    let ttl = ttl.map(Duration::from_secs);
    let attributes = Box::new([("SameSite".into(), "Lax".into()), ("Secure".into(), "".into())]);
    HashPolicy::Cookie(Cookie { name: "sid".into(), ttl, path: "/shop".into(), attributes })
}

/// The key of a request with these headers and this query.
fn key(policies: &[HashPolicy], pairs: &[(&'static str, &'static str)], query: Option<&str>) -> HashKey {
    let headers = headers(pairs);
    let source: SocketAddr = "10.0.0.9:40000".parse().unwrap();
    let destination = "10.96.0.1:80".parse().unwrap();
    hash_key(policies, Request { headers: &headers, query, source, destination })
}

fn of(text: &str) -> Option<u64> {
    Some(XxHash64::oneshot(0, text.as_bytes()))
}

#[test]
fn a_request_without_the_value_has_no_hash() {
    let query = || HashPolicy::QueryParameter("user".into());
    for (policies, pairs, asked) in [
        (vec![], vec![("x-user", "a")], None),
        (vec![by_header()], vec![("x-other", "a")], None),
        (vec![by_cookie(None)], vec![("cookie", "other=1; sid; sidecar=2")], None),
        (vec![by_cookie(None)], vec![("cookie", "sid=; sid=2")], None),
        (vec![query()], vec![], None),
        (vec![query()], vec![], Some("users=1&x-user=2")),
        (vec![by_header(), query()], vec![], Some("")),
    ] {
        assert_eq!(key(&policies, &pairs, asked), HashKey::default(), "{policies:?} {pairs:?} {asked:?}");
    }
}

#[test]
fn policies_combine_and_those_without_a_value_do_not_take_part() {
    let policies = [by_header(), by_cookie(None), HashPolicy::QueryParameter("user".into())];
    let (header, query) = (of("a").unwrap(), of("b").unwrap());
    assert_eq!(key(&policies, &[("x-user", "a")], Some("user=b")).hash, Some(header.rotate_left(1) ^ query));
    assert_eq!(key(&policies, &[("x-user", "a")], None).hash, Some(header));
    assert_eq!(key(&policies, &[], Some("user=b")).hash, Some(query));
    let twice = [by_header(), by_header()];
    assert_ne!(key(&twice, &[("x-user", "a")], None).hash, Some(0), "the same twice does not cancel out");
}

#[test]
fn the_order_of_a_header_s_values_does_not_matter() {
    let there = key(&[by_header()], &[("x-user", "a"), ("x-user", "b")], None);
    assert_eq!(there, key(&[by_header()], &[("x-user", "b"), ("x-user", "a")], None));
    assert_eq!(there.hash, Some(XxHash64::oneshot(of("a").unwrap(), b"b")));
}

#[test]
fn the_client_s_address_counts_without_its_port_and_however_it_is_written() {
    let headers = HeaderMap::new();
    let hash = |source: &str| {
        let request = Request {
            headers: &headers,
            query: None,
            source: source.parse().unwrap(),
            destination: "10.96.0.1:80".parse().unwrap(),
        };
        hash_key(&[HashPolicy::SourceAddress], request).hash
    };
    assert_eq!(hash("10.0.0.9:1"), of("10.0.0.9"));
    assert_eq!(hash("[::ffff:10.0.0.9]:2"), of("10.0.0.9"));
    assert_eq!(hash("[fd00::9]:3"), of("fd00::9"));
}

#[test]
fn who_has_no_cookie_is_given_one_and_hashes_as_if_it_had_come() {
    let given = key(&[by_cookie(Some(3600))], &[], None);
    let [cookie] = &given.set_cookies[..] else { panic!("one cookie: {given:?}") };
    let (value, rest) = cookie.strip_prefix("sid=\"").unwrap().split_once('"').unwrap();
    assert_eq!(rest, "; Max-Age=3600; Path=/shop; SameSite=Lax; Secure; HttpOnly");
    assert_eq!(value.len(), 16);
    assert_eq!(given.hash, of(value));
    let session = key(&[by_cookie(Some(0))], &[], None).set_cookies;
    assert!(!session[0].contains("Max-Age"), "{session:?}");
    let sent = key(&[by_cookie(Some(3600))], &[("cookie", "a=b; sid=\"x y\"")], None);
    assert_eq!(sent, HashKey { hash: of("x y"), set_cookies: Vec::new() });
}
