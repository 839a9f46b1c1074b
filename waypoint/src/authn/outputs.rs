//! What applications are told of a verified token, in headers. Pure.
//!
//! Nobody else can write those headers: what a client sends in them is taken out of every request, and a client cannot have
//! them taken out as something for the next hop alone either.

use http::header::CONNECTION;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};

use super::rules::Rule;
use super::verified::Verified;
use crate::authz::are_twins;

/// Takes out what a client says in headers that are ours to write.
pub fn forget(outputs: &[HeaderName], headers: &mut HeaderMap) {
    // Some servers take `_` for `-`.
    let is_ours = |sent: &HeaderName| outputs.iter().any(|it| are_twins(it.as_str(), sent.as_str()));
    let forged: Vec<HeaderName> = headers.keys().filter(|it| is_ours(it)).cloned().collect();
    for name in forged {
        headers.remove(name);
    }
    if outputs.is_empty() || !headers.contains_key(CONNECTION) {
        return;
    }
    let values = headers.get_all(CONNECTION).into_iter().filter_map(|it| it.to_str().ok());
    let words = values.flat_map(|it| it.split(',')).map(str::trim);
    let is_ours = |word: &str| outputs.iter().any(|it| it.as_str().eq_ignore_ascii_case(word));
    let (ours, others): (Vec<&str>, Vec<&str>) = words.partition(|it| is_ours(it));
    if ours.is_empty() {
        return;
    }
    // Words of a header, joined as they were.
    match HeaderValue::from_str(&others.join(", ")) {
        Ok(left) if !left.is_empty() => drop(headers.insert(CONNECTION, left)),
        _ => drop(headers.remove(CONNECTION)),
    }
}

/// Writes what a rule wants told of a token. What was written for a rule before it stays.
pub fn tell(rule: &Rule, verified: &Verified, headers: &mut HeaderMap) {
    if let Some(name) = rule.payload_header()
        && let Ok(value) = HeaderValue::from_str(&verified.payload)
    {
        headers.entry(name).or_insert(value);
    }
    for (name, claim) in rule.claim_headers() {
        let string = verified.string(claim).map(str::to_owned);
        let told = string.or_else(|| claim_at(&verified.claims, claim).and_then(text));
        // A claim that no header can hold is not told, as one that is not there.
        if let Some(value) = told.and_then(|it| HeaderValue::try_from(it).ok()) {
            headers.entry(name).or_insert(value);
        }
    }
}

/// The claim of a name that may be a path with dots. A claim of just that name comes first: names that are URLs have dots.
pub fn claim_at<'c>(claims: &'c Map<String, Value>, name: &str) -> Option<&'c Value> {
    if let Some(claim) = claims.get(name) {
        return Some(claim);
    }
    let (first, rest) = name.split_once('.')?;
    rest.split('.').try_fold(claims.get(first)?, |value, part| value.as_object()?.get(part))
}

/// Strings, whole numbers and booleans.
fn text(claim: &Value) -> Option<String> {
    match claim {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Number(number) if !number.is_f64() => Some(number.to_string()),
        _ => None,
    }
}
