//! `matches` of an HTTPRoute, and how particular each is.

use http::HeaderName;
use serde::Deserialize;

use crate::config::decode::Fault;
use crate::config::decode::istio::{List, Reader};
use crate::config::decode::policy::list;
use crate::config::decode::text::Text;
use crate::config::gateway::{PathRank, Rank};
use crate::config::routing::StringMatch;
use crate::config::routing::request::{HeaderKey, HttpMatch, ValueMatch};
use crate::config::routing::strings::Pattern;

/// What may be asked for as a method.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
/// What no path to match may hold (Gateway API), because no request's path does.
const NOT_IN_PATHS: [&str; 6] = ["//", "/./", "/../", "%2f", "%2F", "#"];

type Conditions<K> = Box<[(K, ValueMatch)]>;
/// Matches, and the rank of each.
type Ranked = (Box<[HttpMatch]>, Box<[Rank]>);

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(super) struct MatchManifest<'a> {
    path: Option<PathManifest<'a>>,
    headers: List<ValueManifest<'a>>,
    query_params: List<ValueManifest<'a>>,
    method: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct PathManifest<'a> {
    r#type: Option<Text<'a>>,
    value: Option<Text<'a>>,
}

/// A header or a parameter.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(super) struct ValueManifest<'a> {
    r#type: Option<Text<'a>>,
    name: Text<'a>,
    value: Option<Text<'a>>,
}

/// `matches`; where none is stated, one of the prefix `/`.
pub(super) fn matches(
    reader: &mut Reader<'_>,
    stated: List<MatchManifest<'_>>,
    field: &str,
) -> Result<Ranked, Fault> {
    let stated = stated.filter(|it| !it.is_empty()).unwrap_or_else(|| vec![MatchManifest::default()]);
    let read = list(Some(stated), field, |it, field| one(reader, it, field))?;
    let (matches, ranks): (Vec<_>, Vec<_>) = read.into_iter().unzip();
    Ok((matches.into(), ranks.into()))
}

fn one(reader: &mut Reader<'_>, stated: MatchManifest<'_>, field: &str) -> Result<(HttpMatch, Rank), Fault> {
    let at = |name: &str| format!("{field}.{name}");
    let (path, (kind, length)) = path(reader, stated.path, &at("path"))?;
    let method = stated.method.as_deref().map(|it| method(reader, it, &at("method"))).transpose()?;
    let headers = headers(reader, stated.headers, &at("headers"))?;
    let query = values(reader, stated.query_params, &at("queryParams"), |reader, name, field| {
        if name.is_empty() {
            return Err(Fault::new(field, "a parameter without a name"));
        }
        Ok(reader.share(name))
    })?;
    let rank = Rank {
        path: kind,
        length,
        method: usize::from(method.is_some()),
        headers: headers.len(),
        query: query.len(),
    };
    Ok((HttpMatch { path: Some(path), method, headers, query, ..HttpMatch::default() }, rank))
}

fn path(
    reader: &mut Reader<'_>,
    stated: Option<PathManifest<'_>>,
    field: &str,
) -> Result<(StringMatch, (PathRank, usize)), Fault> {
    let kind = stated.as_ref().and_then(|it| it.r#type.as_deref()).unwrap_or("PathPrefix");
    let value = stated.as_ref().and_then(|it| it.value.as_deref()).unwrap_or("/");
    let at = format!("{field}.value");
    match kind {
        "Exact" => {
            check_path(value, &at)?;
            Ok((StringMatch::Exact(reader.share(value)), (PathRank::Exact, value.len())))
        }
        "PathPrefix" => {
            check_path(value, &at)?;
            let segments = StringMatch::Segments(reader.share(value.trim_end_matches('/')));
            Ok((segments, (PathRank::Prefix, value.len())))
        }
        "RegularExpression" => Ok((regex(reader, value, &at)?, (PathRank::Regex, value.len()))),
        other => {
            let reason = format!("{other:?} is none of Exact, PathPrefix, RegularExpression");
            Err(Fault::new(format!("{field}.type"), reason))
        }
    }
}

fn check_path(path: &str, field: &str) -> Result<(), Fault> {
    let cut = path.ends_with("/.") || path.ends_with("/..");
    let odd = NOT_IN_PATHS.into_iter().find(|it| path.contains(it));
    match odd {
        Some(odd) => Err(Fault::new(field, format!("{path:?} holds {odd:?}, as no request's path does"))),
        None if cut || !path.starts_with('/') || !path.bytes().all(|it| it.is_ascii_graphic()) => {
            let reason = format!(
                "{path:?} is no path: it starts with /, does not end in /. or /.., and is printable ASCII"
            );
            Err(Fault::new(field, reason))
        }
        None => Ok(()),
    }
}

pub(super) fn regex(reader: &mut Reader<'_>, text: &str, field: &str) -> Result<StringMatch, Fault> {
    reader.pattern(field)?;
    let pattern = Pattern::whole(reader.share(text)).map_err(|reason| Fault::new(field, reason))?;
    Ok(StringMatch::Regex(pattern))
}

fn method(reader: &mut Reader<'_>, text: &str, field: &str) -> Result<StringMatch, Fault> {
    if !METHODS.contains(&text) {
        return Err(Fault::new(field, format!("{text:?} is no HTTP method")));
    }
    Ok(StringMatch::Exact(reader.share(text)))
}

/// `headers` of a match.
pub(super) fn headers(
    reader: &mut Reader<'_>,
    stated: List<ValueManifest<'_>>,
    field: &str,
) -> Result<Conditions<HeaderKey>, Fault> {
    values(reader, stated, field, |_, name, field| {
        let name = HeaderName::from_bytes(name.as_bytes());
        name.map(HeaderKey::Header).map_err(|_| Fault::new(field, "no header name"))
    })
}

fn values<K: PartialEq>(
    reader: &mut Reader<'_>,
    stated: List<ValueManifest<'_>>,
    field: &str,
    key: impl Fn(&mut Reader<'_>, &str, &str) -> Result<K, Fault>,
) -> Result<Conditions<K>, Fault> {
    let mut found: Vec<(K, ValueMatch)> = Vec::new();
    list(stated, field, |it, field| {
        let key = key(reader, &it.name, &format!("{field}.name"))?;
        if found.iter().any(|(known, _)| *known == key) {
            return Err(Fault::new(format!("{field}.name"), format!("{:?} is stated twice", &*it.name)));
        }
        let at = format!("{field}.value");
        let Some(value) = it.value.as_deref() else { return Err(Fault::new(at, "not stated")) };
        let condition = match it.r#type.as_deref().unwrap_or("Exact") {
            "Exact" => StringMatch::Exact(reader.share(value)),
            "RegularExpression" => regex(reader, value, &at)?,
            other => {
                let reason = format!("{other:?} is neither Exact nor RegularExpression");
                return Err(Fault::new(format!("{field}.type"), reason));
            }
        };
        found.push((key, ValueMatch::Value(condition)));
        Ok(())
    })?;
    Ok(found.into())
}
