//! `match` of an HTTP route.

use std::sync::Arc;

use http::HeaderName;
use serde::Deserialize;

use crate::config::decode::Fault;
use crate::config::decode::istio::scalar::{Entries, Whole};
use crate::config::decode::istio::{Reader, StringManifest, Texts, port};
use crate::config::decode::text::{Pairs, Text};
use crate::config::note::Caveat;
use crate::config::routing::StringMatch;
use crate::config::routing::request::{HeaderKey, HttpMatch, ValueMatch};

/// Keys of `headers` that are ignored, as by Istio: they look like the fields of the same name.
const NOT_HEADERS: [&str; 4] = ["uri", "scheme", "method", "authority"];
/// How the key of a JWT claim starts.
const CLAIMS: &str = "@request.auth.claims";

type Values<'a> = Entries<'a, Option<StringManifest<'a>>>;
type Conditions<K> = Box<[(K, ValueMatch)]>;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(super) struct MatchManifest<'a> {
    name: Option<Text<'a>>,
    uri: Option<StringManifest<'a>>,
    scheme: Option<StringManifest<'a>>,
    method: Option<StringManifest<'a>>,
    authority: Option<StringManifest<'a>>,
    headers: Option<Values<'a>>,
    without_headers: Option<Values<'a>>,
    query_params: Option<Values<'a>>,
    ignore_uri_case: Option<bool>,
    port: Option<Whole>,
    source_labels: Option<Pairs<'a>>,
    source_namespace: Option<Text<'a>>,
    gateways: Texts<'a>,
    stat_prefix: Option<Text<'a>>,
}

/// One entry of `match`.
pub(super) fn read(
    reader: &mut Reader<'_>,
    stated: MatchManifest<'_>,
    field: &str,
) -> Result<HttpMatch, Fault> {
    let at = |name: &str| format!("{field}.{name}");
    let ignoring_case = stated.ignore_uri_case.unwrap_or_default();
    if ignoring_case && stated.uri.as_ref().is_some_and(StringManifest::is_regex) {
        reader.note(at("ignoreUriCase"), Caveat::IgnoreCaseWithoutEffect);
    }
    let uri = stated.uri.as_ref();
    let namespace = stated.source_namespace.as_deref().filter(|it| !it.is_empty());
    Ok(HttpMatch {
        name: reader.filled(stated.name.as_ref()).unwrap_or_default(),
        path: uri.map(|it| reader.string(it, ignoring_case, &at("uri"))).transpose()?,
        scheme: string(reader, stated.scheme.as_ref(), &at("scheme"))?,
        method: string(reader, stated.method.as_ref(), &at("method"))?,
        authority: string(reader, stated.authority.as_ref(), &at("authority"))?,
        headers: headers(reader, stated.headers, &NOT_HEADERS, &at("headers"))?,
        without_headers: headers(reader, stated.without_headers, &[], &at("withoutHeaders"))?,
        query: query(reader, stated.query_params, &at("queryParams"))?,
        is_grpc: false,
        port: port(stated.port, &at("port"))?,
        source_labels: reader.labels(stated.source_labels.as_ref(), &at("sourceLabels"))?,
        source_namespace: namespace.map(|it| reader.label(it, &at("sourceNamespace"))).transpose()?,
        gateways: reader.gateways(stated.gateways, &at("gateways"))?,
        stat_prefix: reader.filled(stated.stat_prefix.as_ref()).unwrap_or_default(),
    })
}

fn string(
    reader: &mut Reader<'_>,
    stated: Option<&StringManifest<'_>>,
    field: &str,
) -> Result<Option<StringMatch>, Fault> {
    stated.map(|it| reader.string(it, false, field)).transpose()
}

fn value(
    reader: &mut Reader<'_>,
    stated: Option<&StringManifest<'_>>,
    field: &str,
) -> Result<ValueMatch, Fault> {
    match stated {
        None => Err(Fault::new(field, "states nothing; write {} to ask whether it is there")),
        Some(stated) if stated.asks_presence() => Ok(ValueMatch::Present),
        Some(stated) => reader.string(stated, false, field).map(ValueMatch::Value),
    }
}

fn headers(
    reader: &mut Reader<'_>,
    stated: Option<Values<'_>>,
    ignored: &[&str],
    field: &str,
) -> Result<Conditions<HeaderKey>, Fault> {
    let mut found = Vec::new();
    for (key, stated) in stated.unwrap_or_default().0 {
        let field = format!("{field}[{:?}]", &*key);
        if ignored.contains(&&*key) {
            reader.note(field, Caveat::HeaderKeyIgnored);
            continue;
        }
        let value = value(reader, stated.as_ref(), &field)?;
        found.push((header_key(reader, &key, &field)?, value));
    }
    Ok(found.into())
}

fn header_key(reader: &mut Reader<'_>, key: &str, field: &str) -> Result<HeaderKey, Fault> {
    if let Some(claim) = key.strip_prefix(CLAIMS) {
        let wrong = || {
            let reason = format!("{key:?} is no claim; write {CLAIMS}[name] or {CLAIMS}[name][inner]");
            Fault::new(field, reason)
        };
        let path: Vec<&str> = if let Some(dotted) = claim.strip_prefix('.') {
            dotted.split('.').collect()
        } else {
            let inner = claim.strip_prefix('[').and_then(|it| it.strip_suffix(']')).ok_or_else(wrong)?;
            inner.split("][").collect()
        };
        if path.iter().any(|name| name.is_empty() || name.contains(['[', ']'])) {
            return Err(wrong());
        }
        return Ok(HeaderKey::Claim(path.into_iter().map(|name| reader.share(name)).collect()));
    }
    let name = HeaderName::from_bytes(key.as_bytes());
    name.map(HeaderKey::Header).map_err(|_| Fault::new(field, format!("{key:?} is no header name")))
}

fn query(
    reader: &mut Reader<'_>,
    stated: Option<Values<'_>>,
    field: &str,
) -> Result<Conditions<Arc<str>>, Fault> {
    let mut found = Vec::new();
    for (key, stated) in stated.unwrap_or_default().0 {
        let field = format!("{field}[{:?}]", &*key);
        if key.is_empty() {
            return Err(Fault::new(field, "a parameter without a name"));
        }
        let value = value(reader, stated.as_ref(), &field)?;
        found.push((reader.share(&key), value));
    }
    Ok(found.into())
}
