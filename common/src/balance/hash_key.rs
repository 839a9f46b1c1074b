//! What of a request consistent hashing goes by (Istio `consistentHash`).
//!
//! Envoy's hash policies to the bit: xxHash64 of the value; several combine by rotating what there is left by one and
//! the new one upon it. A request without the value has no hash, and then chance is its hash.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::header::{COOKIE, HeaderName};
use twox_hash::XxHash64;

/// One thing to go by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashPolicy {
    /// `httpHeaderName`. Of a header with several values all count, in whatever order they come: they are sorted, and
    /// the hash of each is the seed of the next.
    Header(HeaderName),
    /// `httpCookie`.
    Cookie(Cookie),
    /// `httpQueryParameterName`: its first value, as it is written.
    QueryParameter(Arc<str>),
    /// `useSourceIp`.
    SourceAddress,
}

/// `httpCookie`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cookie {
    /// `name`.
    pub name: Arc<str>,
    /// `ttl`: with one, a client without the cookie is given it; 0 makes it one of the session.
    pub ttl: Option<Duration>,
    /// `path`, empty for none.
    pub path: Arc<str>,
    /// `attributes`, name and value; an empty value for the name alone.
    pub attributes: Box<[(Arc<str>, Arc<str>)]>,
}

/// What is known of a request.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Its query, without the `?`.
    pub query: Option<&'a str>,
    /// The client, as the network or a trusted peer states it.
    pub source: SocketAddr,
    /// What the client called.
    pub destination: SocketAddr,
}

/// The outcome.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HashKey {
    /// The hash; `None` when the request has nothing to go by.
    pub hash: Option<u64>,
    /// `set-cookie` headers for the response, for cookies that were generated.
    pub set_cookies: Vec<String>,
}

/// What a request hashes to.
pub fn hash_key(policies: &[HashPolicy], request: Request<'_>) -> HashKey {
    let mut key = HashKey::default();
    for policy in policies {
        let found = match policy {
            HashPolicy::Header(name) => header(request.headers, name),
            HashPolicy::Cookie(cookie) => cookie_hash(cookie, request, &mut key.set_cookies),
            HashPolicy::QueryParameter(name) => parameter(request.query, name).map(|it| hash(it.as_bytes())),
            HashPolicy::SourceAddress => {
                Some(hash(request.source.ip().to_canonical().to_string().as_bytes()))
            }
        };
        if let Some(found) = found {
            key.hash = Some(key.hash.unwrap_or(0).rotate_left(1) ^ found);
        }
    }
    key
}

fn hash(bytes: &[u8]) -> u64 {
    XxHash64::oneshot(0, bytes)
}

fn header(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.as_bytes();
    if values.next().is_none() {
        return Some(hash(first));
    }
    let mut all: Vec<&[u8]> = headers.get_all(name).iter().map(|it| it.as_bytes()).collect();
    all.sort_unstable();
    Some(all.into_iter().fold(0, XxHash64::oneshot))
}

fn cookie_hash(cookie: &Cookie, request: Request<'_>, set_cookies: &mut Vec<String>) -> Option<u64> {
    let sent = sent_cookie(request.headers, cookie.name.as_bytes());
    if let Some(value) = sent.filter(|it| !it.is_empty()) {
        return Some(hash(value));
    }
    let ttl = cookie.ttl?;
    // Of both ends of the connection, so that requests that race on it are given the same.
    let value = format!("{:016x}", hash(format!("{}{}", request.source, request.destination).as_bytes()));
    set_cookies.push(set_cookie(cookie, &value, ttl));
    Some(hash(value.as_bytes()))
}

/// The first cookie of that name, without the quotes it may have. Spaces count but for those before the name.
fn sent_cookie<'a>(headers: &'a HeaderMap, name: &[u8]) -> Option<&'a [u8]> {
    let all = headers.get_all(COOKIE).iter().flat_map(|it| it.as_bytes().split(|byte| *byte == b';'));
    let mut named = all.filter_map(|cookie| {
        let equals = cookie.iter().position(|byte| *byte == b'=')?;
        let (key, value) = cookie.split_at(equals);
        let spaces = key.iter().take_while(|byte| **byte == b' ').count();
        (&key[spaces..] == name).then_some(&value[1..])
    });
    let value = named.next()?;
    Some(value.strip_prefix(b"\"").and_then(|it| it.strip_suffix(b"\"")).unwrap_or(value))
}

fn set_cookie(cookie: &Cookie, value: &str, ttl: Duration) -> String {
    let mut text = format!("{}=\"{value}\"", cookie.name);
    if ttl.as_secs() > 0 {
        text.push_str(&format!("; Max-Age={}", ttl.as_secs()));
    }
    if !cookie.path.is_empty() {
        text.push_str(&format!("; Path={}", cookie.path));
    }
    for (name, value) in &cookie.attributes {
        text.push_str("; ");
        text.push_str(name);
        if !value.is_empty() {
            text.push('=');
            text.push_str(value);
        }
    }
    text.push_str("; HttpOnly");
    text
}

/// The first value of a parameter; empty when the parameter is there without one.
fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    let pairs = query?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next()
}
