//! `headers` of a route or a destination.

use std::sync::Arc;

use http::uri::Authority;
use http::{HeaderName, HeaderValue};
use serde::Deserialize;

use crate::config::decode::Fault;
use crate::config::decode::istio::{Reader, Texts};
use crate::config::decode::policy::list;
use crate::config::decode::text::Pairs;
use crate::config::note::Caveat;
use crate::config::routing::headers::{HeaderChanges, HeaderOperations};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(super) struct HeadersManifest<'a> {
    request: Option<OperationsManifest<'a>>,
    response: Option<OperationsManifest<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(in crate::config::decode) struct OperationsManifest<'a> {
    pub(in crate::config::decode) set: Option<Pairs<'a>>,
    pub(in crate::config::decode) add: Option<Pairs<'a>>,
    pub(in crate::config::decode) remove: Texts<'a>,
}

/// Headers to set or add, and what they make of the authority.
#[derive(Default)]
struct Values {
    headers: Vec<(HeaderName, HeaderValue)>,
    authority: Option<Arc<str>>,
}

/// `headers`.
pub(super) fn read(
    reader: &mut Reader<'_>,
    stated: Option<HeadersManifest<'_>>,
    field: &str,
) -> Result<HeaderChanges, Fault> {
    let Some(stated) = stated else { return Ok(HeaderChanges::default()) };
    let (request, authority) = operations(reader, stated.request, true, &format!("{field}.request"))?;
    let (response, _) = operations(reader, stated.response, false, &format!("{field}.response"))?;
    Ok(HeaderChanges { request, response, authority })
}

pub(in crate::config::decode) fn operations(
    reader: &mut Reader<'_>,
    stated: Option<OperationsManifest<'_>>,
    of_request: bool,
    field: &str,
) -> Result<(HeaderOperations, Option<Arc<str>>), Fault> {
    let stated = stated.unwrap_or_default();
    let set = values(reader, stated.set, of_request, &format!("{field}.set"))?;
    let add = values(reader, stated.add, of_request, &format!("{field}.add"))?;
    let remove = list(stated.remove, &format!("{field}.remove"), |name, field| {
        if is_special(&name) {
            reader.note(field, Caveat::PseudoHeaderIgnored);
            return Ok(None);
        }
        header_name(&name, field).map(Some)
    })?;
    let operations = HeaderOperations {
        set: set.headers.into(),
        add: add.headers.into(),
        remove: remove.into_iter().flatten().collect(),
    };
    Ok((operations, set.authority.or(add.authority)))
}

fn values(
    reader: &mut Reader<'_>,
    stated: Option<Pairs<'_>>,
    of_request: bool,
    field: &str,
) -> Result<Values, Fault> {
    let mut found = Values::default();
    for (name, value) in stated.unwrap_or_default().0 {
        let field = format!("{field}[{:?}]", &*name);
        let Ok(checked) = HeaderValue::from_bytes(value.as_bytes()) else {
            return Err(Fault::new(field, "the value holds a control character"));
        };
        if is_special(&name) {
            if !(of_request && is_authority(&name)) {
                reader.note(field, Caveat::PseudoHeaderIgnored);
            } else if value.parse::<Authority>().is_ok() {
                found.authority = Some(reader.share(&value));
            } else {
                return Err(Fault::new(field, format!("{:?} is no host or host:port", &*value)));
            }
            continue;
        }
        if names_formatter(&value) {
            reader.note(field.clone(), Caveat::FormatterNotExpanded);
        }
        found.headers.push((header_name(&name, &field)?, checked));
    }
    Ok(found)
}

/// Part of the request line rather than a header.
fn is_special(name: &str) -> bool {
    name.starts_with(':') || name.eq_ignore_ascii_case("host")
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
}

/// A value with one of Envoy's commands: `%REQ(x)%`.
fn names_formatter(value: &str) -> bool {
    let mut parts = value.split('%').skip(1);
    parts.any(|part| part.starts_with(|c: char| c.is_ascii_uppercase())) && value.matches('%').count() > 1
}

/// The name of a header, in lower case.
pub(in crate::config::decode) fn header_name(name: &str, field: &str) -> Result<HeaderName, Fault> {
    let read = HeaderName::from_bytes(name.as_bytes());
    read.map_err(|_| Fault::new(field, format!("{name:?} is no header name")))
}
