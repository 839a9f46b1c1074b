//! What becomes of a request: `route`, `redirect`, `directResponse`; and `rewrite`.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::StatusCode;
use http::uri::Authority;
use serde::Deserialize;

use super::headers::{self, HeadersManifest};
use crate::config::decode::Fault;
use crate::config::decode::istio::scalar::{MAX_WHOLE, Whole, whole};
use crate::config::decode::istio::{DestinationManifest, List, Reader, port};
use crate::config::decode::policy::list;
use crate::config::decode::text::Text;
use crate::config::note::Caveat;
use crate::config::routing::StringMatch;
use crate::config::routing::http::{
    DirectResponse, HttpDestination, Redirect, RedirectPath, RedirectPort, Rewrite, RewritePath,
};
use crate::config::routing::request::HttpMatch;

/// Longest body of a direct response, in bytes (Istio's own limit).
pub(crate) const MAX_BODY_BYTES: usize = 1 << 20;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(super) struct DestinationsManifest<'a> {
    destination: Option<DestinationManifest<'a>>,
    weight: Option<Whole>,
    headers: Option<HeadersManifest<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(super) struct RedirectManifest<'a> {
    uri: Option<Text<'a>>,
    prefix_rewrite: Option<Text<'a>>,
    authority: Option<Text<'a>>,
    port: Option<Whole>,
    derive_port: Option<Text<'a>>,
    scheme: Option<Text<'a>>,
    redirect_code: Option<Whole>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(super) struct DirectResponseManifest<'a> {
    status: Option<Whole>,
    body: Option<BodyManifest<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct BodyManifest<'a> {
    string: Option<Text<'a>>,
    bytes: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(super) struct RewriteManifest<'a> {
    uri: Option<Text<'a>>,
    authority: Option<Text<'a>>,
    uri_regex_rewrite: Option<RegexRewriteManifest<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct RegexRewriteManifest<'a> {
    r#match: Option<Text<'a>>,
    rewrite: Option<Text<'a>>,
}

/// `route`: never empty here.
pub(super) fn destinations(
    reader: &mut Reader<'_>,
    stated: List<DestinationsManifest<'_>>,
    field: &str,
) -> Result<Box<[HttpDestination]>, Fault> {
    let found = list(stated, field, |it, field| {
        let destination = reader.destination(it.destination.as_ref(), &format!("{field}.destination"))?;
        let weight = weight(it.weight, field)?;
        let headers = headers::read(reader, it.headers, &format!("{field}.headers"))?;
        Ok(HttpDestination { destination, weight, headers, rewrite: None, mirrors: Box::default() })
    })?;
    check_weights(found.iter().map(|it| it.weight), field)?;
    Ok(found)
}

/// `weight` of a destination.
pub(super) fn weight(stated: Option<Whole>, field: &str) -> Result<u32, Fault> {
    whole(stated, 0..=MAX_WHOLE, &format!("{field}.weight")).map(Option::unwrap_or_default)
}

/// That somebody gets something, and that the sum can be drawn from.
pub(super) fn check_weights(weights: impl ExactSizeIterator<Item = u32>, field: &str) -> Result<(), Fault> {
    let several = weights.len() > 1;
    match weights.map(u64::from).sum::<u64>() {
        0 if several => Err(Fault::new(field, "the weights of several destinations add up to 0")),
        sum if sum > u64::from(u32::MAX) => Err(Fault::new(field, format!("the weights add up to {sum}"))),
        _ => Ok(()),
    }
}

/// `redirect`.
pub(super) fn redirect(
    reader: &mut Reader<'_>,
    stated: &RedirectManifest<'_>,
    field: &str,
) -> Result<Redirect, Fault> {
    let at = |name: &str| format!("{field}.{name}");
    let whole_path = path(reader, stated.uri.as_ref(), &at("uri"))?;
    let prefix = path(reader, stated.prefix_rewrite.as_ref(), &at("prefixRewrite"))?;
    let path = match (whole_path, prefix) {
        (Some(_), Some(_)) => return Err(Fault::new(at("prefixRewrite"), "stated together with uri")),
        (Some(path), None) => Some(RedirectPath::Whole(path)),
        (None, prefix) => prefix.map(RedirectPath::Prefix),
    };
    let authority = authority(reader, stated.authority.as_ref(), &at("authority"))?;
    let scheme = reader.filled(stated.scheme.as_ref());
    if let Some(scheme) = scheme.as_deref().filter(|it| !matches!(*it, "http" | "https")) {
        return Err(Fault::new(at("scheme"), format!("{scheme:?} is neither http nor https")));
    }
    let port = redirect_port(stated, field)?;
    if path.is_none() && authority.is_none() && scheme.is_none() && port.is_none() {
        return Err(Fault::new(field, "changes nothing: no uri, prefixRewrite, authority, scheme or port"));
    }
    let status = match stated.redirect_code {
        None | Some(Whole(0 | 301)) => StatusCode::MOVED_PERMANENTLY,
        Some(Whole(302)) => StatusCode::FOUND,
        Some(Whole(303)) => StatusCode::SEE_OTHER,
        Some(Whole(307)) => StatusCode::TEMPORARY_REDIRECT,
        Some(Whole(308)) => StatusCode::PERMANENT_REDIRECT,
        Some(Whole(other)) => {
            let reason = format!("{other} is no status of a redirect: 301, 302, 303, 307 or 308");
            return Err(Fault::new(at("redirectCode"), reason));
        }
    };
    Ok(Redirect { path, authority, port, scheme, status })
}

fn redirect_port(stated: &RedirectManifest<'_>, field: &str) -> Result<Option<RedirectPort>, Fault> {
    let at = format!("{field}.derivePort");
    let number = port(stated.port, &format!("{field}.port"))?;
    match (number, stated.derive_port.as_deref()) {
        (Some(_), Some(_)) => Err(Fault::new(at, "stated together with port")),
        (number, None) => Ok(number.map(RedirectPort::Number)),
        (None, Some("FROM_PROTOCOL_DEFAULT")) => Ok(Some(RedirectPort::OfScheme)),
        (None, Some("FROM_REQUEST_PORT")) => Ok(Some(RedirectPort::OfRequest)),
        (None, Some(other)) => {
            Err(Fault::new(at, format!("{other:?} is neither FROM_PROTOCOL_DEFAULT nor FROM_REQUEST_PORT")))
        }
    }
}

/// That a prefix to replace is one that was matched.
pub(super) fn check_prefix_rewrite(
    redirect: &Redirect,
    matches: &[HttpMatch],
    field: &str,
) -> Result<(), Fault> {
    let by_prefix =
        |it: &HttpMatch| matches!(it.path, Some(StringMatch::Prefix(_) | StringMatch::PrefixIgnoringCase(_)));
    let all = !matches.is_empty() && matches.iter().all(by_prefix);
    match &redirect.path {
        Some(RedirectPath::Prefix(_)) if !all => {
            Err(Fault::new(field, "needs a uri prefix in every entry of match"))
        }
        _ => Ok(()),
    }
}

/// `directResponse`.
pub(super) fn direct_response(
    stated: &DirectResponseManifest<'_>,
    field: &str,
) -> Result<DirectResponse, Fault> {
    let at = format!("{field}.status");
    let status = status(stated.status, &at)?.ok_or_else(|| Fault::new(at, "not stated"))?;
    let at = format!("{field}.body");
    let body = match stated.body.as_ref().map(|it| (&it.string, &it.bytes)) {
        None => Bytes::new(),
        Some((Some(text), None)) => Bytes::copy_from_slice(text.as_bytes()),
        Some((None, Some(encoded))) => {
            let decoded = STANDARD.decode(encoded.as_bytes());
            decoded.map_err(|_| Fault::new(format!("{at}.bytes"), "not base64"))?.into()
        }
        Some((Some(_), Some(_))) => return Err(Fault::new(at, "states both string and bytes")),
        Some((None, None)) => return Err(Fault::new(at, "states neither string nor bytes")),
    };
    if body.len() > MAX_BODY_BYTES {
        return Err(Fault::new(at, format!("{} bytes, more than {MAX_BODY_BYTES}", body.len())));
    }
    Ok(DirectResponse { status, body })
}

/// The status of an answer, 200 to 599, if it is stated.
pub(super) fn status(stated: Option<Whole>, field: &str) -> Result<Option<StatusCode>, Fault> {
    let code = whole(stated, 200..=599, field)?;
    // Every number of three digits is a `StatusCode`.
    Ok(code.and_then(|it| u16::try_from(it).ok()).and_then(|it| StatusCode::from_u16(it).ok()))
}

/// `rewrite`.
pub(super) fn rewrite(
    reader: &mut Reader<'_>,
    stated: RewriteManifest<'_>,
    field: &str,
) -> Result<Rewrite, Fault> {
    let at = |name: &str| format!("{field}.{name}");
    let uri = path(reader, stated.uri.as_ref(), &at("uri"))?;
    let path = match stated.uri_regex_rewrite {
        None => uri.map(RewritePath::Matched),
        Some(regex) => {
            if uri.is_some() {
                reader.note(at("uri"), Caveat::RegexRewriteWins);
            }
            let at = at("uriRegexRewrite");
            let Some(pattern) = regex.r#match.filter(|it| !it.is_empty()) else {
                return Err(Fault::new(format!("{at}.match"), "not stated"));
            };
            let template = regex.rewrite.unwrap_or_default();
            Some(RewritePath::Substitution(reader.substitution(&pattern, &template, &at)?))
        }
    };
    let authority = authority(reader, stated.authority.as_ref(), &at("authority"))?;
    if path.is_none() && authority.is_none() {
        return Err(Fault::new(field, "changes nothing: no uri, uriRegexRewrite or authority"));
    }
    Ok(Rewrite { path, authority })
}

/// A path that may stand in a request line or a `Location`.
fn path(reader: &mut Reader<'_>, stated: Option<&Text<'_>>, field: &str) -> Result<Option<Arc<str>>, Fault> {
    let Some(path) = reader.filled(stated) else { return Ok(None) };
    if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        let reason =
            format!("{path:?} is no path: it starts with / and has neither spaces nor bytes beyond ASCII");
        return Err(Fault::new(field, reason));
    }
    Ok(Some(path))
}

fn authority(
    reader: &mut Reader<'_>,
    stated: Option<&Text<'_>>,
    field: &str,
) -> Result<Option<Arc<str>>, Fault> {
    let authority = reader.filled(stated);
    match authority.as_deref().filter(|it| it.parse::<Authority>().is_err()) {
        Some(wrong) => Err(Fault::new(field, format!("{wrong:?} is no host or host:port"))),
        None => Ok(authority),
    }
}
