//! What is decided, in words for a reader.

use std::fmt::Write as _;
use std::time::Duration;

use common::config::routing::StringMatch;
use common::config::routing::request::{HeaderKey, HttpMatch, ValueMatch};
use http::HeaderMap;

use crate::routes::Unmet;

/// A string that is asked for.
pub(super) fn string(stated: &StringMatch) -> String {
    match stated {
        StringMatch::Exact(text) => format!("{text:?}"),
        StringMatch::ExactIgnoringCase(text) => format!("{text:?} in any case"),
        StringMatch::Prefix(text) => format!("prefix {text:?}"),
        StringMatch::PrefixIgnoringCase(text) => format!("prefix {text:?} in any case"),
        StringMatch::Segments(text) => format!("segments {:?}", if text.is_empty() { "/" } else { text }),
        StringMatch::Regex(pattern) => format!("regex {:?}", pattern.source()),
    }
}

fn value(stated: &ValueMatch) -> String {
    match stated {
        ValueMatch::Present => "any value".to_owned(),
        ValueMatch::Value(stated) => string(stated),
    }
}

fn key(key: &HeaderKey) -> String {
    match key {
        HeaderKey::Header(name) => format!("header {name}"),
        HeaderKey::Claim(path) => format!("claim {}", path.join(".")),
    }
}

/// What a rule asks for.
pub(super) fn condition(stated: Option<&HttpMatch>) -> String {
    let Some(stated) = stated else { return "every request".to_owned() };
    let plain = [
        ("path", &stated.path),
        ("method", &stated.method),
        ("authority", &stated.authority),
        ("scheme", &stated.scheme),
    ];
    let mut parts: Vec<String> =
        plain.iter().filter_map(|(name, it)| Some(format!("{name} {}", string(it.as_ref()?)))).collect();
    parts.extend(stated.headers.iter().map(|(name, it)| format!("{} {}", key(name), value(it))));
    parts.extend(stated.without_headers.iter().map(|(name, it)| format!("no {} {}", key(name), value(it))));
    parts.extend(stated.query.iter().map(|(name, it)| format!("parameter {name} {}", value(it))));
    if stated.is_grpc {
        parts.push("gRPC".to_owned());
    }
    if !stated.source_labels.is_empty() || stated.source_namespace.is_some() {
        parts.push("certain callers".to_owned());
    }
    if parts.is_empty() { "every request".to_owned() } else { parts.join(", ") }
}

/// Why a rule does not take a request.
pub(super) fn unmet(why: &Unmet<'_>) -> String {
    match why {
        Unmet::Path(stated) => format!("the path is not {}", string(stated)),
        Unmet::Grpc => "it is no call of gRPC".to_owned(),
        Unmet::Method(stated) => format!("the method is not {}", string(stated)),
        Unmet::Scheme(stated) => format!("the scheme is not {}", string(stated)),
        Unmet::Authority(stated) => format!("the authority is not {}", string(stated)),
        Unmet::Source => "the caller is not of its sourceLabels and sourceNamespace".to_owned(),
        Unmet::Header(name, ValueMatch::Present) => format!("{} is not there", key(name)),
        Unmet::Header(name, stated) => format!("{} is not {}", key(name), value(stated)),
        Unmet::Without(name, stated) => format!("{} is {}, as it must not be", key(name), value(stated)),
        Unmet::Parameter(name, ValueMatch::Present) => format!("parameter {name} is not there"),
        Unmet::Parameter(name, stated) => format!("parameter {name} is not {}", value(stated)),
    }
}

/// A time as a manifest has it.
pub(super) fn duration(of: Duration) -> String {
    if of.is_zero() {
        return "0s".to_owned();
    }
    let (seconds, millis) = (of.as_secs(), of.subsec_millis());
    match (seconds, millis) {
        (0, 0) => format!("{}us", of.subsec_micros()),
        (0, millis) => format!("{millis}ms"),
        (seconds, 0) => format!("{seconds}s"),
        (seconds, millis) => format!("{seconds}.{millis:03}s"),
    }
}

/// A part of 1, in percent.
pub(super) fn percent(part: f64) -> String {
    let text = format!("{:.2}", part * 100.0);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

/// How headers come to differ: `-name`, and `name: value` of those that are set or added. Values of what may carry a secret
/// are not shown.
pub(super) fn changes(before: &HeaderMap, after: &HeaderMap) -> Vec<String> {
    let mut all: Vec<String> =
        before.keys().filter(|it| !after.contains_key(*it)).map(|it| format!("-{it}")).collect();
    for name in after.keys() {
        if after.get_all(name).iter().eq(before.get_all(name).iter()) {
            continue;
        }
        for value in after.get_all(name) {
            let mut line = format!("{name}: ");
            let shown = if is_secret(name.as_str()) { "..." } else { value.to_str().unwrap_or("(bytes)") };
            // Writing to a string cannot fail.
            let _ = write!(line, "{shown}");
            all.push(line);
        }
    }
    all
}

fn is_secret(name: &str) -> bool {
    matches!(name, "authorization" | "cookie" | "proxy-authorization" | "set-cookie")
}
