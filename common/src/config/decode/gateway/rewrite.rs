//! `requestRedirect` and `urlRewrite`: other hosts and paths.

use std::sync::Arc;

use http::StatusCode;
use http::uri::Authority;
use serde::Deserialize;

use crate::config::decode::Fault;
use crate::config::decode::istio::scalar::Whole;
use crate::config::decode::istio::{Reader, port};
use crate::config::decode::text::Text;
use crate::config::routing::http::{Redirect, RedirectPath, RedirectPort, Rewrite, RewritePath};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(super) struct RedirectManifest<'a> {
    scheme: Option<Text<'a>>,
    hostname: Option<Text<'a>>,
    path: Option<PathManifest<'a>>,
    port: Option<Whole>,
    status_code: Option<Whole>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(super) struct RewriteManifest<'a> {
    hostname: Option<Text<'a>>,
    path: Option<PathManifest<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct PathManifest<'a> {
    r#type: Option<Text<'a>>,
    replace_full_path: Option<Text<'a>>,
    replace_prefix_match: Option<Text<'a>>,
}

/// `requestRedirect`.
pub(super) fn redirect(
    reader: &mut Reader<'_>,
    stated: &RedirectManifest<'_>,
    field: &str,
) -> Result<Redirect, Fault> {
    let at = |name: &str| format!("{field}.{name}");
    let scheme = match stated.scheme.as_deref() {
        None => None,
        Some(scheme @ ("http" | "https")) => Some(reader.share(scheme)),
        Some(other) => {
            return Err(Fault::new(at("scheme"), format!("{other:?} is neither http nor https")));
        }
    };
    let path = match stated.path.as_ref().map(|it| path(reader, it, &at("path"))).transpose()? {
        None => None,
        Some(RewritePath::Whole(path)) => Some(RedirectPath::Whole(path)),
        Some(RewritePath::Matched(prefix)) => Some(RedirectPath::Prefix(prefix)),
        Some(RewritePath::Substitution(_)) => None,
    };
    let port = match (port(stated.port, &at("port"))?, &scheme) {
        (Some(port), _) => RedirectPort::Number(port),
        (None, Some(_)) => RedirectPort::OfScheme,
        (None, None) => RedirectPort::OfRequest,
    };
    let status = match stated.status_code {
        Some(Whole(301)) => StatusCode::MOVED_PERMANENTLY,
        None | Some(Whole(302)) => StatusCode::FOUND,
        Some(Whole(303)) => StatusCode::SEE_OTHER,
        Some(Whole(307)) => StatusCode::TEMPORARY_REDIRECT,
        Some(Whole(308)) => StatusCode::PERMANENT_REDIRECT,
        Some(Whole(other)) => {
            let reason = format!("{other} is no status of a redirect: 301, 302, 303, 307 or 308");
            return Err(Fault::new(at("statusCode"), reason));
        }
    };
    let authority = authority(reader, stated.hostname.as_ref(), &at("hostname"))?;
    Ok(Redirect { path, authority, port: Some(port), scheme, status })
}

/// `urlRewrite`.
pub(super) fn rewrite(
    reader: &mut Reader<'_>,
    stated: &RewriteManifest<'_>,
    field: &str,
) -> Result<Rewrite, Fault> {
    let path = stated.path.as_ref().map(|it| path(reader, it, &format!("{field}.path"))).transpose()?;
    let authority = authority(reader, stated.hostname.as_ref(), &format!("{field}.hostname"))?;
    if path.is_none() && authority.is_none() {
        return Err(Fault::new(field, "changes nothing: neither hostname nor path"));
    }
    Ok(Rewrite { path, authority })
}

/// The path of a redirect or a rewrite; [`RewritePath::Matched`] replaces a prefix.
fn path(reader: &mut Reader<'_>, stated: &PathManifest<'_>, field: &str) -> Result<RewritePath, Fault> {
    let at = |name: &str| format!("{field}.{name}");
    let written = |text: &Text<'_>, name: &str| {
        if text.bytes().all(|it| it.is_ascii_graphic() && !matches!(it, b'#' | b'?')) {
            return Ok(());
        }
        let reason = format!("{:?} has a space, a byte beyond ASCII, # or ?", &**text);
        Err(Fault::new(at(name), reason))
    };
    match (stated.r#type.as_deref(), &stated.replace_full_path, &stated.replace_prefix_match) {
        (Some("ReplaceFullPath"), Some(text), None) => {
            written(text, "replaceFullPath")?;
            // A path starts with a slash, whether it is written or not.
            let text = if text.starts_with('/') { text.to_string() } else { format!("/{}", &**text) };
            Ok(RewritePath::Whole(reader.share(&text)))
        }
        (Some("ReplacePrefixMatch"), None, Some(text)) => {
            written(text, "replacePrefixMatch")?;
            let text = text.trim_end_matches('/');
            let text = match text {
                "" => String::new(),
                text if text.starts_with('/') => text.to_owned(),
                text => format!("/{text}"),
            };
            Ok(RewritePath::Matched(reader.share(&text)))
        }
        (Some("ReplaceFullPath" | "ReplacePrefixMatch"), _, _) => {
            Err(Fault::new(field, "does not state the field of its type, and it alone"))
        }
        (other, _, _) => {
            let reason =
                format!("{:?} is neither ReplaceFullPath nor ReplacePrefixMatch", other.unwrap_or_default());
            Err(Fault::new(at("type"), reason))
        }
    }
}

fn authority(
    reader: &mut Reader<'_>,
    stated: Option<&Text<'_>>,
    field: &str,
) -> Result<Option<Arc<str>>, Fault> {
    let Some(text) = stated else { return Ok(None) };
    if text.is_empty() || text.contains(':') || text.parse::<Authority>().is_err() {
        return Err(Fault::new(field, format!("{:?} is no host name", &**text)));
    }
    Ok(Some(reader.share(text)))
}
