//! The shape of a Telemetry. What Ebb does not implement is named; a misspelt word is refused, because what it was to turn
//! off would go on.

mod metrics;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;

use self::metrics::MetricsManifest;
use super::Fault;
use super::istio::scalar::{Double, Entries, percent};
use super::istio::{List, Reader};
use super::manifest::{Manifest, Metadata, NameRule};
use super::policy::{Selector, TargetManifest, list, selector, target};
use super::text::Text;
use crate::config::Resource;
use crate::config::access_format::Format;
use crate::config::expression::Expression;
use crate::config::names::Names;
use crate::config::note::Caveat;
use crate::config::telemetry::{
    AccessLogging, CustomTag, MAX_TELEMETRY_ENTRIES, Mode, TagSource, Telemetry, Tracing,
};

/// Longest name of a tag or provider, and longest value of a tag, in bytes.
const MAX_TEXT_BYTES: usize = 1024;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(crate) struct TelemetryManifest<'a> {
    #[serde(rename = "apiVersion")]
    _api_version: Option<IgnoredAny>,
    #[serde(rename = "kind")]
    _kind: Option<IgnoredAny>,
    #[serde(rename = "status")]
    _status: Option<IgnoredAny>,
    #[serde(default)]
    metadata: Metadata<'a>,
    #[serde(default)]
    spec: Option<Spec<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct Spec<'a> {
    selector: Option<Selector<'a>>,
    target_ref: Option<TargetManifest<'a>>,
    target_refs: List<TargetManifest<'a>>,
    tracing: List<TracingManifest<'a>>,
    metrics: List<MetricsManifest<'a>>,
    access_logging: List<LoggingManifest<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct ProviderManifest<'a> {
    name: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct MatchManifest<'a> {
    mode: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct TracingManifest<'a> {
    #[serde(rename = "match")]
    matching: Option<MatchManifest<'a>>,
    providers: List<ProviderManifest<'a>>,
    random_sampling_percentage: Option<Double>,
    disable_span_reporting: Option<bool>,
    custom_tags: Option<Entries<'a, TagManifest<'a>>>,
    #[serde(alias = "useRequestIDForTraceSampling")]
    use_request_id_for_trace_sampling: Option<bool>,
    enable_istio_tags: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct TagManifest<'a> {
    literal: Option<ValueManifest<'a>>,
    environment: Option<NamedManifest<'a>>,
    header: Option<NamedManifest<'a>>,
    formatter: Option<ValueManifest<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct ValueManifest<'a> {
    value: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct NamedManifest<'a> {
    name: Option<Text<'a>>,
    default_value: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct LoggingManifest<'a> {
    #[serde(rename = "match")]
    matching: Option<MatchManifest<'a>>,
    providers: List<ProviderManifest<'a>>,
    disabled: Option<bool>,
    filter: Option<FilterManifest<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct FilterManifest<'a> {
    expression: Option<Text<'a>>,
}

impl Manifest for TelemetryManifest<'_> {
    fn read(mut self, names: &mut Names) -> Result<Resource, Fault> {
        let named = self.metadata.named(NameRule::Name, names)?;
        let spec = self.spec.unwrap_or_default();
        let selector = selector(spec.selector, names)?;
        let own = named.object.namespace.clone();
        let mut targets =
            list(spec.target_refs, "spec.targetRefs", |it, field| target(&it, &own, field, names))?;
        if let Some(it) = spec.target_ref {
            if !targets.is_empty() {
                return Err(Fault::new("spec.targetRef", "stated together with targetRefs; only one may be"));
            }
            targets = Box::new([target(&it, &own, "spec.targetRef", names)?]);
        }
        if !targets.is_empty() && !selector.is_empty() {
            return Err(Fault::new("spec.targetRefs", "stated together with a selector; only one may be"));
        }
        let mut reader = Reader::new(own, names);
        if !selector.is_empty() {
            reader.note("spec.selector", Caveat::NeedsTargets);
        }
        let tracing = short_list(spec.tracing, "spec.tracing", |it, at| tracing(&mut reader, it, at))?;
        let metrics = short_list(spec.metrics, "spec.metrics", |it, at| it.read(&mut reader, at))?;
        let access_logging =
            short_list(spec.access_logging, "spec.accessLogging", |it, at| logging(&mut reader, it, at))?;
        Ok(Resource::Telemetry(Arc::new(Telemetry {
            object: named.object,
            created: named.created,
            selector,
            targets,
            tracing,
            metrics,
            access_logging,
            notes: reader.notes(),
        })))
    }
}

fn tracing(reader: &mut Reader<'_>, stated: TracingManifest<'_>, field: &str) -> Result<Tracing, Fault> {
    let at = |name: &str| format!("{field}.{name}");
    let matching = stated.matching.as_ref().and_then(|it| it.mode.as_ref());
    let mode = mode(reader, matching, &at("match.mode"))?;
    let providers = providers(reader, stated.providers, &at("providers"))?;
    if providers.len() > 1 {
        reader.note(at("providers"), Caveat::FirstProviderOnly);
    }
    if stated.use_request_id_for_trace_sampling == Some(true) {
        reader.note(at("useRequestIdForTraceSampling"), Caveat::SampledByTrace);
    }
    let tags = stated.custom_tags.unwrap_or_default().0;
    if tags.len() > MAX_TELEMETRY_ENTRIES {
        return Err(Fault::new(at("customTags"), format!("more than {MAX_TELEMETRY_ENTRIES} tags")));
    }
    let tags: Result<Vec<_>, Fault> =
        tags.into_iter().map(|(name, it)| tag(reader, &name, it, &at("customTags"))).collect();
    Ok(Tracing {
        mode,
        providers,
        sampling: percent(stated.random_sampling_percentage, &at("randomSamplingPercentage"))?,
        disabled: stated.disable_span_reporting,
        tags: tags?.into(),
        istio_tags: stated.enable_istio_tags,
    })
}

fn tag(
    reader: &mut Reader<'_>,
    name: &str,
    stated: TagManifest<'_>,
    field: &str,
) -> Result<CustomTag, Fault> {
    let at = |part: &str| format!("{field}[{name:?}]{part}");
    if name.is_empty() || name.len() > MAX_TEXT_BYTES {
        return Err(Fault::new(at(""), format!("a name of 1 to {MAX_TEXT_BYTES} bytes is needed")));
    }
    let own = reader.share(name);
    let value = match (stated.literal, stated.environment, stated.header, stated.formatter) {
        (Some(it), None, None, None) => {
            TagSource::Literal(reader.share(filled(it.value.as_ref(), &at(".literal.value"))?))
        }
        (None, Some(it), None, None) => {
            let variable = reader.share(filled(it.name.as_ref(), &at(".environment.name"))?);
            TagSource::Environment(variable, reader.filled(it.default_value.as_ref()))
        }
        (None, None, Some(it), None) => {
            let field = at(".header.name");
            let text = filled(it.name.as_ref(), &field)?;
            let header = text.parse();
            let header = header.map_err(|_| Fault::new(field, format!("{text:?} is no name of a header")))?;
            TagSource::Header(header, reader.filled(it.default_value.as_ref()))
        }
        (None, None, None, Some(it)) => {
            let field = at(".formatter.value");
            let format = Format::read(filled(it.value.as_ref(), &field)?, |name| std::env::var(name).ok());
            TagSource::Formatter(Arc::new(format.map_err(|why| Fault::new(field, why))?))
        }
        _ => {
            let why = "exactly one of literal, environment, header and formatter has to be stated";
            return Err(Fault::new(at(""), why));
        }
    };
    Ok(CustomTag { name: own, value })
}

fn logging(
    reader: &mut Reader<'_>,
    stated: LoggingManifest<'_>,
    field: &str,
) -> Result<AccessLogging, Fault> {
    let at = |name: &str| format!("{field}.{name}");
    let matching = stated.matching.as_ref().and_then(|it| it.mode.as_ref());
    let filter = stated.filter.as_ref().and_then(|it| it.expression.as_ref()).filter(|it| !it.is_empty());
    let filter = filter.map(|text| {
        let read = Expression::condition(reader.share(text));
        read.map_err(|why| Fault::new(at("filter.expression"), why))
    });
    Ok(AccessLogging {
        mode: mode(reader, matching, &at("match.mode"))?,
        providers: providers(reader, stated.providers, &at("providers"))?,
        disabled: stated.disabled,
        filter: filter.transpose()?,
    })
}

fn mode(reader: &mut Reader<'_>, stated: Option<&Text<'_>>, field: &str) -> Result<Mode, Fault> {
    match stated.map(|it| &**it) {
        None | Some("" | "CLIENT_AND_SERVER") => Ok(Mode::ClientAndServer),
        Some("SERVER") => Ok(Mode::Server),
        Some("CLIENT") => {
            reader.note(field, Caveat::ClientModeIgnored);
            Ok(Mode::Client)
        }
        Some(other) => {
            let why = format!("{other:?} is none of CLIENT_AND_SERVER, CLIENT and SERVER");
            Err(Fault::new(field, why))
        }
    }
}

fn providers(
    reader: &mut Reader<'_>,
    stated: List<ProviderManifest<'_>>,
    field: &str,
) -> Result<Box<[Arc<str>]>, Fault> {
    short_list(stated, field, |it, field| {
        Ok(reader.share(filled(it.name.as_ref(), &format!("{field}.name"))?))
    })
}

fn short_list<T, U>(
    stated: List<T>,
    field: &str,
    read: impl FnMut(T, &str) -> Result<U, Fault>,
) -> Result<Box<[U]>, Fault> {
    if stated.as_ref().is_some_and(|it| it.len() > MAX_TELEMETRY_ENTRIES) {
        return Err(Fault::new(field, format!("more than {MAX_TELEMETRY_ENTRIES} entries")));
    }
    list(stated, field, read)
}

/// A text that has to be there.
fn filled<'t>(stated: Option<&'t Text<'_>>, field: &str) -> Result<&'t str, Fault> {
    match stated.map(|it| &**it) {
        None | Some("") => Err(Fault::new(field, "not stated")),
        Some(text) if text.len() > MAX_TEXT_BYTES => {
            Err(Fault::new(field, format!("more than {MAX_TEXT_BYTES} bytes")))
        }
        Some(text) => Ok(text),
    }
}
