//! `corsPolicy`.

use std::sync::Arc;

use serde::Deserialize;

use super::headers::header_name;
use crate::config::decode::Fault;
use crate::config::decode::istio::scalar::duration;
use crate::config::decode::istio::{List, Reader, StringManifest, Texts};
use crate::config::decode::policy::list;
use crate::config::decode::text::Text;
use crate::config::note::Caveat;
use crate::config::routing::StringMatch;
use crate::config::routing::cors::{CorsPolicy, Listed};

/// What may be listed as a method.
pub(in crate::config::decode) const METHODS: [&str; 10] =
    ["*", "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(super) struct CorsManifest<'a> {
    allow_origin: Texts<'a>,
    allow_origins: List<StringManifest<'a>>,
    allow_methods: Texts<'a>,
    allow_headers: Texts<'a>,
    expose_headers: Texts<'a>,
    max_age: Option<Text<'a>>,
    allow_credentials: Option<bool>,
    unmatched_preflights: Option<Text<'a>>,
}

/// `corsPolicy`.
pub(super) fn read(
    reader: &mut Reader<'_>,
    stated: CorsManifest<'_>,
    field: &str,
) -> Result<CorsPolicy, Fault> {
    let at = |name: &str| format!("{field}.{name}");
    if stated.allow_origin.as_ref().is_some_and(|it| !it.is_empty()) {
        reader.note(at("allowOrigin"), Caveat::LegacyAllowOrigin);
    }
    let newer = list(stated.allow_origins, &at("allowOrigins"), |it, field| {
        reader.string(&it, false, field).map(any_origin)
    })?;
    let older = list(stated.allow_origin, &at("allowOrigin"), |it, _| {
        Ok(any_origin(StringMatch::Exact(reader.share(&it))))
    })?;
    let max_age = duration(stated.max_age.as_ref(), &at("maxAge"))?;
    if max_age.is_some_and(|it| it.subsec_nanos() != 0) {
        return Err(Fault::new(at("maxAge"), "not whole seconds, which is all that the header can say"));
    }
    let ignore_unmatched = match stated.unmatched_preflights.as_deref() {
        None | Some("UNSPECIFIED" | "FORWARD") => false,
        Some("IGNORE") => true,
        Some(other) => {
            let reason = format!("{other:?} is neither FORWARD nor IGNORE");
            return Err(Fault::new(at("unmatchedPreflights"), reason));
        }
    };
    Ok(CorsPolicy {
        origins: newer.into_iter().chain(older).collect(),
        methods: list(stated.allow_methods, &at("allowMethods"), |it, field| method(reader, &it, field))?,
        headers: listed(stated.allow_headers, &at("allowHeaders"))?,
        expose: listed(stated.expose_headers, &at("exposeHeaders"))?,
        max_age,
        credentials: stated.allow_credentials,
        ignore_unmatched,
    })
}

/// The exact origin `*` allows every origin, as in Envoy.
fn any_origin(stated: StringMatch) -> StringMatch {
    match stated {
        StringMatch::Exact(text) if *text == *"*" => StringMatch::Prefix("".into()),
        stated => stated,
    }
}

fn method(reader: &mut Reader<'_>, text: &str, field: &str) -> Result<Arc<str>, Fault> {
    if !METHODS.contains(&text) {
        return Err(Fault::new(field, format!("{text:?} is no HTTP method")));
    }
    Ok(reader.share(text))
}

fn listed(stated: Texts<'_>, field: &str) -> Result<Listed, Fault> {
    let names = list(stated, field, |it, field| match &*it {
        "*" => Ok(None),
        name => header_name(name, field).map(Some),
    })?;
    if names.iter().any(Option::is_none) {
        return Ok(Listed::Any);
    }
    Ok(Listed::Names(names.into_iter().flatten().collect()))
}
