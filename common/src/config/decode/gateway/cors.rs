//! `cors`.

use std::time::Duration;

use serde::Deserialize;

use crate::config::decode::Fault;
use crate::config::decode::istio::scalar::{MAX_WHOLE, Whole, whole};
use crate::config::decode::istio::{Reader, Texts};
use crate::config::decode::policy::list;
use crate::config::decode::routing::cors::METHODS;
use crate::config::decode::routing::headers::header_name;
use crate::config::routing::StringMatch;
use crate::config::routing::cors::{CorsPolicy, Listed};
use crate::config::routing::strings::Pattern;

/// How long a preflight's answer is good for, where nothing is stated (Gateway API).
const DEFAULT_MAX_AGE: u32 = 5;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(super) struct CorsManifest<'a> {
    allow_origins: Texts<'a>,
    allow_credentials: Option<bool>,
    allow_methods: Texts<'a>,
    allow_headers: Texts<'a>,
    expose_headers: Texts<'a>,
    max_age: Option<Whole>,
}

/// `cors`.
pub(super) fn read(
    reader: &mut Reader<'_>,
    stated: CorsManifest<'_>,
    field: &str,
) -> Result<CorsPolicy, Fault> {
    let at = |name: &str| format!("{field}.{name}");
    let origins = list(stated.allow_origins, &at("allowOrigins"), |it, field| origin(reader, &it, field))?;
    let methods = list(stated.allow_methods, &at("allowMethods"), |it, field| {
        if !METHODS.contains(&&*it) {
            return Err(Fault::new(field, format!("{:?} is no HTTP method", &*it)));
        }
        Ok(reader.share(&it))
    })?;
    let age = whole(stated.max_age, 1..=MAX_WHOLE, &at("maxAge"))?;
    Ok(CorsPolicy {
        origins,
        methods,
        headers: listed(stated.allow_headers, &at("allowHeaders"))?,
        expose: listed(stated.expose_headers, &at("exposeHeaders"))?,
        max_age: Some(Duration::from_secs(age.unwrap_or(DEFAULT_MAX_AGE).into())),
        credentials: stated.allow_credentials,
        // A preflight without permission is not sent on to a backend that never asked for it.
        ignore_unmatched: true,
    })
}

/// `*`, `https://*.x` or a whole origin.
fn origin(reader: &mut Reader<'_>, text: &str, field: &str) -> Result<StringMatch, Fault> {
    if text == "*" {
        return Ok(StringMatch::Prefix("".into()));
    }
    if !text.contains("://") || !text.bytes().all(|it| it.is_ascii_graphic()) {
        return Err(Fault::new(field, format!("{text:?} is no origin: a scheme, :// and a host, or *")));
    }
    if !text.contains('*') {
        return Ok(StringMatch::Exact(reader.share(text)));
    }
    reader.pattern(field)?;
    let pattern = regex::escape(text).replace(r"\*", ".*");
    let pattern = Pattern::whole(pattern.into()).map_err(|reason| Fault::new(field, reason))?;
    Ok(StringMatch::Regex(pattern))
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
