//! `filters` of a rule or of a backend: headers, redirect, rewrite, mirrors, CORS, and our fault.

use std::sync::Arc;

use serde::Deserialize;

use super::backend::{self, BackendManifest};
use super::cors::{self, CorsManifest};
use super::external::{self, ExternalManifest};
use super::parent;
use super::rewrite::{self, RedirectManifest, RewriteManifest};
use crate::config::ObjectName;
use crate::config::decode::Fault;
use crate::config::decode::istio::scalar::{Double, MAX_WHOLE, Whole, percent, whole, whole_percent};
use crate::config::decode::istio::{List, Reader, Texts};
use crate::config::decode::policy::list;
use crate::config::decode::routing::headers::{self, OperationsManifest};
use crate::config::decode::text::{Pairs, Text};
use crate::config::gateway::EBB_GROUP;
use crate::config::note::Caveat;
use crate::config::routing::Share;
use crate::config::routing::cors::CorsPolicy;
use crate::config::routing::headers::HeaderChanges;
use crate::config::routing::http::{ExternalAuth, Redirect, Rewrite};
use crate::config::routing::resilience::Mirror;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(super) struct FilterManifest<'a> {
    r#type: Option<Text<'a>>,
    request_header_modifier: Option<HeadersManifest<'a>>,
    response_header_modifier: Option<HeadersManifest<'a>>,
    request_mirror: Option<Box<MirrorManifest<'a>>>,
    request_redirect: Option<Box<RedirectManifest<'a>>>,
    url_rewrite: Option<RewriteManifest<'a>>,
    cors: Option<Box<CorsManifest<'a>>>,
    external_auth: Option<Box<ExternalManifest<'a>>>,
    extension_ref: Option<ExtensionManifest<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct HeadersManifest<'a> {
    set: List<HeaderManifest<'a>>,
    add: List<HeaderManifest<'a>>,
    remove: Texts<'a>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct HeaderManifest<'a> {
    name: Text<'a>,
    value: Text<'a>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct MirrorManifest<'a> {
    backend_ref: Option<BackendManifest<'a>>,
    percent: Option<Whole>,
    fraction: Option<FractionManifest>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FractionManifest {
    numerator: Option<Whole>,
    denominator: Option<Whole>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct ExtensionManifest<'a> {
    group: Option<Text<'a>>,
    kind: Option<Text<'a>>,
    name: Option<Text<'a>>,
}

/// What all filters of a rule come to.
#[derive(Default)]
pub(super) struct Filters {
    pub(super) headers: HeaderChanges,
    pub(super) redirect: Option<Redirect>,
    pub(super) rewrite: Option<Rewrite>,
    pub(super) mirrors: Vec<Mirror>,
    pub(super) cors: Option<CorsPolicy>,
    pub(super) fault: Option<ObjectName>,
    pub(super) external_auth: Option<Box<ExternalAuth>>,
    /// One of them is not implemented, so that the requests must not be sent on.
    pub(super) is_broken: bool,
}

/// Which of the fields of a filter is stated.
fn kind<'a>(stated: &'a FilterManifest<'_>, field: &str) -> Result<&'a str, Fault> {
    let kind = stated.r#type.as_deref().unwrap_or_default();
    let fields = [
        ("requestHeaderModifier", "RequestHeaderModifier", stated.request_header_modifier.is_some()),
        ("responseHeaderModifier", "ResponseHeaderModifier", stated.response_header_modifier.is_some()),
        ("requestMirror", "RequestMirror", stated.request_mirror.is_some()),
        ("requestRedirect", "RequestRedirect", stated.request_redirect.is_some()),
        ("urlRewrite", "URLRewrite", stated.url_rewrite.is_some()),
        ("cors", "CORS", stated.cors.is_some()),
        ("externalAuth", "ExternalAuth", stated.external_auth.is_some()),
        ("extensionRef", "ExtensionRef", stated.extension_ref.is_some()),
    ];
    if !fields.iter().any(|(_, known, _)| *known == kind) {
        return Err(Fault::new(format!("{field}.type"), format!("{kind:?} is no type of filter")));
    }
    for (name, of, is_stated) in fields {
        if is_stated != (of == kind) {
            let said = if is_stated { "stated in a filter of type" } else { "not stated, with type" };
            return Err(Fault::new(format!("{field}.{name}"), format!("{said} {kind}")));
        }
    }
    Ok(kind)
}

/// `filters` of a rule; `grpc` has fewer.
pub(super) fn of_rule(
    reader: &mut Reader<'_>,
    namespace: &Arc<str>,
    stated: List<FilterManifest<'_>>,
    is_grpc: bool,
    field: &str,
) -> Result<Filters, Fault> {
    let (mut found, mut seen) = (Filters::default(), Vec::new());
    list(stated, field, |it, field| {
        let kind = kind(&it, field)?.to_owned();
        check_kind(&kind, &seen, is_grpc, field)?;
        seen.push(kind);
        take(reader, namespace, it, field, &mut found)
    })?;
    if found.redirect.is_some() && found.rewrite.is_some() {
        return Err(Fault::new(field, "states both RequestRedirect and URLRewrite"));
    }
    Ok(found)
}

fn take(
    reader: &mut Reader<'_>,
    namespace: &Arc<str>,
    stated: FilterManifest<'_>,
    field: &str,
    found: &mut Filters,
) -> Result<(), Fault> {
    let at = |name: &str| format!("{field}.{name}");
    header_changes(reader, stated.request_header_modifier, stated.response_header_modifier, field, found)?;
    if let Some(it) = &stated.request_mirror {
        found.mirrors.push(mirror(reader, namespace, it, &at("requestMirror"))?);
    }
    if let Some(it) = &stated.request_redirect {
        found.redirect = Some(rewrite::redirect(reader, it, &at("requestRedirect"))?);
    }
    if let Some(it) = &stated.url_rewrite {
        found.rewrite = Some(rewrite::rewrite(reader, it, &at("urlRewrite"))?);
    }
    if let Some(it) = stated.cors {
        found.cors = Some(cors::read(reader, *it, &at("cors"))?);
    }
    if let Some(it) = stated.external_auth {
        found.external_auth = Some(Box::new(external::read(reader, namespace, *it, &at("externalAuth"))?));
    }
    if let Some(it) = &stated.extension_ref {
        let field = at("extensionRef");
        match (it.group.as_deref(), it.kind.as_deref()) {
            (Some(EBB_GROUP), Some("HTTPFaultFilter")) if found.fault.is_some() => {
                return Err(Fault::new(field, "a second HTTPFaultFilter"));
            }
            (Some(EBB_GROUP), Some("HTTPFaultFilter")) => {
                found.fault = Some(parent::object(reader, namespace, None, it.name.as_ref(), &field)?);
            }
            _ => {
                reader.note(field, Caveat::FilterUnknown);
                found.is_broken = true;
            }
        }
    }
    Ok(())
}

/// `filters` of a backend: changes to headers, a rewrite, copies. What answers in place of it, or asks somebody first, is
/// implemented on rules only, where a client can rely on it whatever backend is drawn.
pub(super) fn of_backend(
    reader: &mut Reader<'_>,
    namespace: &Arc<str>,
    stated: List<FilterManifest<'_>>,
    is_grpc: bool,
    field: &str,
) -> Result<Filters, Fault> {
    let (mut found, mut seen) = (Filters::default(), Vec::new());
    list(stated, &format!("{field}.filters"), |it, field| {
        let kind = kind(&it, field)?.to_owned();
        check_kind(&kind, &seen, is_grpc, field)?;
        let is_known = matches!(
            &*kind,
            "RequestHeaderModifier" | "ResponseHeaderModifier" | "RequestMirror" | "URLRewrite"
        );
        seen.push(kind);
        if is_known {
            return take(reader, namespace, it, field, &mut found);
        }
        reader.note(field, Caveat::FilterUnknown);
        found.is_broken = true;
        Ok(())
    })?;
    Ok(found)
}

/// That a kind of filter has its place here, and is not stated a second time.
fn check_kind(kind: &str, seen: &[String], is_grpc: bool, field: &str) -> Result<(), Fault> {
    if is_grpc && matches!(kind, "RequestRedirect" | "URLRewrite" | "CORS" | "ExternalAuth") {
        return Err(Fault::new(format!("{field}.type"), format!("a GRPCRoute has no {kind}")));
    }
    if seen.iter().any(|it| it == kind) && !matches!(kind, "RequestMirror" | "ExtensionRef") {
        return Err(Fault::new(field, format!("a second {kind}; state both in one")));
    }
    Ok(())
}

fn header_changes(
    reader: &mut Reader<'_>,
    request: Option<HeadersManifest<'_>>,
    response: Option<HeadersManifest<'_>>,
    field: &str,
    found: &mut Filters,
) -> Result<(), Fault> {
    if let Some(stated) = request {
        let field = format!("{field}.requestHeaderModifier");
        let changes = headers::operations(reader, Some(operations(stated, &field)?), true, &field)?;
        (found.headers.request, found.headers.authority) = changes;
    }
    if let Some(stated) = response {
        let field = format!("{field}.responseHeaderModifier");
        found.headers.response =
            headers::operations(reader, Some(operations(stated, &field)?), false, &field)?.0;
    }
    Ok(())
}

fn operations<'a>(stated: HeadersManifest<'a>, field: &str) -> Result<OperationsManifest<'a>, Fault> {
    let pairs = |stated: List<HeaderManifest<'a>>, name: &str| {
        let mut pairs: Vec<(Text<'a>, Text<'a>)> = Vec::new();
        for (i, it) in stated.unwrap_or_default().into_iter().enumerate() {
            if pairs.iter().any(|(known, _)| known.eq_ignore_ascii_case(&it.name)) {
                return Err(Fault::new(format!("{field}.{name}[{i}].name"), "stated twice"));
            }
            pairs.push((it.name, it.value));
        }
        Ok(Some(Pairs(pairs)))
    };
    Ok(OperationsManifest {
        set: pairs(stated.set, "set")?,
        add: pairs(stated.add, "add")?,
        remove: stated.remove,
    })
}

fn mirror(
    reader: &mut Reader<'_>,
    namespace: &Arc<str>,
    stated: &MirrorManifest<'_>,
    field: &str,
) -> Result<Mirror, Fault> {
    let at = format!("{field}.backendRef");
    let Some(backend) = &stated.backend_ref else { return Err(Fault::new(at, "not stated")) };
    let destination = backend::of_mirror(reader, namespace, backend, &at)?;
    let share = match (&stated.percent, &stated.fraction) {
        (Some(_), Some(_)) => {
            return Err(Fault::new(format!("{field}.fraction"), "stated together with percent"));
        }
        (percent, None) => whole_percent(*percent, &format!("{field}.percent"))?,
        (None, Some(fraction)) => Some(self::fraction(fraction, &format!("{field}.fraction"))?),
    };
    Ok(Mirror { destination, share: share.unwrap_or(Share::ALL) })
}

fn fraction(stated: &FractionManifest, field: &str) -> Result<Share, Fault> {
    let denominator =
        whole(stated.denominator, 1..=MAX_WHOLE, &format!("{field}.denominator"))?.unwrap_or(100);
    let at = format!("{field}.numerator");
    let numerator = whole(stated.numerator, 0..=denominator, &at)?;
    let numerator = numerator.ok_or_else(|| Fault::new(at.clone(), "not stated"))?;
    let exact = f64::from(numerator) * 100.0 / f64::from(denominator);
    // What is less than a share can say, and more than nothing, is the least that it can say.
    let share = if numerator > 0 { exact.max(0.0001) } else { 0.0 };
    percent(Some(Double(share)), &at).map(Option::unwrap_or_default)
}
