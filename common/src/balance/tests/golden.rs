//! The ring, the Maglev table and the hash policies choose what a real Envoy chose. How the table was made is written
//! in it.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use twox_hash::XxHash64;

use super::shares;
use crate::balance::hash_key::{Cookie, HashKey, HashPolicy, Request, hash_key};
use crate::balance::maglev::{Maglev, TableSize};
use crate::balance::ring_hash::{DEFAULT_MINIMUM_ENTRIES, Ring};

const GOLDEN: &str = include_str!("envoy-1.40.0.txt");

/// Lines that begin with this word, split at tabs.
fn lines(word: &str) -> Vec<Vec<&'static str>> {
    let split = |line: &'static str| line.split('\t').collect::<Vec<_>>();
    let found: Vec<_> =
        GOLDEN.lines().map(split).filter(|it| it[0] == word).map(|it| it[1..].to_vec()).collect();
    assert!(!found.is_empty(), "{word}");
    found
}

/// `10.0.0.1:80=2`, separated by spaces.
fn endpoints(text: &str) -> Vec<(SocketAddr, u32)> {
    let one = |it: &str| {
        let (address, weight) = it.split_once('=').unwrap();
        (address.parse().unwrap(), weight.parse().unwrap())
    };
    text.split(' ').map(one).collect()
}

/// Endpoints are letters.
fn letter(position: Option<usize>) -> char {
    char::from(b'a' + u8::try_from(position.unwrap()).unwrap())
}

fn picks(asked: usize, choose: impl Fn(u64) -> Option<usize>) -> String {
    (0..asked).map(|n| letter(choose(XxHash64::oneshot(0, format!("key-{n}").as_bytes())))).collect()
}

#[test]
fn rings_are_envoy_s() {
    for line in lines("ring") {
        let ring = Ring::build(&shares(endpoints(line[1])), line[0].parse().unwrap());
        assert_eq!(picks(line[2].len(), |hash| ring.choose(hash)), line[2], "{line:?}");
    }
}

#[test]
fn tables_are_envoy_s() {
    for line in lines("maglev") {
        let size = TableSize::new(line[0].parse().unwrap()).unwrap();
        let table = Maglev::build(&shares(endpoints(line[1])), size);
        assert_eq!(picks(line[2].len(), |hash| table.choose(hash)), line[2], "{line:?}");
    }
}

fn policy(name: &str) -> Vec<HashPolicy> {
    let cookie = |ttl: Option<u64>, path: &str, attributes: &[(&str, &str)]| {
        HashPolicy::Cookie(Cookie {
            name: "sid".into(),
            ttl: ttl.map(Duration::from_secs),
            path: path.into(),
            attributes: attributes.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        })
    };
    let one = |it: &str| match it {
        "header" => HashPolicy::Header("x-key".parse().unwrap()),
        "query" => HashPolicy::QueryParameter("user".into()),
        "cookie" => cookie(None, "", &[]),
        "source" => HashPolicy::SourceAddress,
        "given" => cookie(Some(3600), "/shop", &[("SameSite", "Lax"), ("Secure", "")]),
        "session" => cookie(Some(0), "", &[]),
        other => panic!("{other}"),
    };
    name.split('+').map(one).collect()
}

/// The first of the rings, on which hash policies were tried.
fn first_ring() -> Ring {
    Ring::build(&shares(endpoints(lines("ring")[0][1])), DEFAULT_MINIMUM_ENTRIES)
}

fn key(policies: &str, path: &str, headers: &[&str]) -> HashKey {
    let pair = |it: &&str| {
        let (name, value) = it.split_once(": ").unwrap();
        (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap())
    };
    let headers: HeaderMap = headers.iter().map(pair).collect();
    let [connection] = &lines("connection")[..] else { panic!("one connection") };
    let request = Request {
        headers: &headers,
        query: path.split_once('?').map(|(_, query)| query),
        source: connection[0].parse().unwrap(),
        destination: connection[1].parse().unwrap(),
    };
    hash_key(&policy(policies), request)
}

#[test]
fn hashes_of_requests_are_envoy_s() {
    let ring = first_ring();
    for line in lines("key") {
        let found = key(line[0], line[1], &line[3..]);
        assert_eq!(letter(ring.choose(found.hash.unwrap())).to_string(), line[2], "{line:?}");
    }
}

#[test]
fn cookies_are_given_as_envoy_does() {
    let ring = first_ring();
    for line in lines("cookie") {
        let found = key(line[0], "/", &[]);
        assert_eq!(found.set_cookies, [line[2]]);
        assert_eq!(letter(ring.choose(found.hash.unwrap())).to_string(), line[1], "{line:?}");
    }
}
