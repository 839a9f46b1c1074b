//! `spec.metrics` of a Telemetry.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{ProviderManifest, filled, mode, providers, short_list};
use crate::config::decode::Fault;
use crate::config::decode::istio::scalar::Entries;
use crate::config::decode::istio::{List, Reader};
use crate::config::decode::text::Text;
use crate::config::expression::Expression;
use crate::config::note::Caveat;
use crate::config::telemetry::{MAX_TELEMETRY_ENTRIES, Metric, MetricOverride, Metrics, Mode, TagOverride};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(super) struct MetricsManifest<'a> {
    providers: List<ProviderManifest<'a>>,
    overrides: List<OverrideManifest<'a>>,
    reporting_interval: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct OverrideManifest<'a> {
    #[serde(rename = "match")]
    matching: Option<MetricManifest<'a>>,
    disabled: Option<bool>,
    tag_overrides: Option<Entries<'a, TagManifest<'a>>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct MetricManifest<'a> {
    metric: Option<Text<'a>>,
    custom_metric: Option<Text<'a>>,
    mode: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct TagManifest<'a> {
    operation: Option<Text<'a>>,
    value: Option<Text<'a>>,
}

impl MetricsManifest<'_> {
    pub(super) fn read(self, reader: &mut Reader<'_>, field: &str) -> Result<Metrics, Fault> {
        let at = |name: &str| format!("{field}.{name}");
        if self.reporting_interval.is_some() {
            reader.note(at("reportingInterval"), Caveat::ReportingIntervalIgnored);
        }
        let providers = providers(reader, self.providers, &at("providers"))?;
        let overrides = short_list(self.overrides, &at("overrides"), |it, at| it.read(reader, at))?;
        Ok(Metrics { providers, overrides: overrides.into_iter().flatten().collect() })
    }
}

impl OverrideManifest<'_> {
    /// `None` where it is about a metric that there is not, which is noted.
    fn read(self, reader: &mut Reader<'_>, field: &str) -> Result<Option<MetricOverride>, Fault> {
        let at = |name: &str| format!("{field}.{name}");
        let (metric, custom, stated) = match &self.matching {
            Some(it) => (it.metric.as_ref(), it.custom_metric.as_ref(), it.mode.as_ref()),
            None => (None, None, None),
        };
        let mode: Mode = mode(reader, stated, &at("match.mode"))?;
        let metric = match (metric, custom) {
            (Some(_), Some(_)) => {
                return Err(Fault::new(
                    at("match.customMetric"),
                    "stated together with metric; only one may be",
                ));
            }
            (Some(text), None) if **text != *"ALL_METRICS" => {
                let known = Metric::of(text).filter(|_| text.bytes().all(|it| !it.is_ascii_lowercase()));
                let field = at("match.metric");
                let unknown = || Fault::new(field, format!("{:?} is no standard metric", &**text));
                Some(known.ok_or_else(unknown)?)
            }
            (None, Some(text)) => match Metric::of(text) {
                Some(metric) => Some(metric),
                None => {
                    reader.note(at("match.customMetric"), Caveat::MetricUnknown);
                    return Ok(None);
                }
            },
            _ => None,
        };
        let tags = self.tag_overrides.unwrap_or_default().0;
        if tags.len() > MAX_TELEMETRY_ENTRIES {
            return Err(Fault::new(at("tagOverrides"), format!("more than {MAX_TELEMETRY_ENTRIES} tags")));
        }
        let tags: Result<Vec<_>, Fault> = tags
            .into_iter()
            .map(|(name, it)| {
                let field = format!("{field}.tagOverrides[{:?}]", &*name);
                let name = label(filled(Some(&name), &field)?, &field)?;
                Ok((reader.share(name), it.read(reader, &field)?))
            })
            .collect();
        Ok(Some(MetricOverride { mode, metric, disabled: self.disabled, tags: tags?.into() }))
    }
}

impl TagManifest<'_> {
    fn read(self, reader: &mut Reader<'_>, field: &str) -> Result<TagOverride, Fault> {
        let at = |name: &str| format!("{field}.{name}");
        match self.operation.as_deref() {
            Some("REMOVE") => Ok(TagOverride::Remove),
            None | Some("" | "UPSERT") => {
                let text = filled(self.value.as_ref(), &at("value"))?;
                let read = Expression::value(reader.share(text));
                read.map(TagOverride::Upsert).map_err(|why| Fault::new(at("value"), why))
            }
            Some(other) => {
                Err(Fault::new(at("operation"), format!("{other:?} is neither UPSERT nor REMOVE")))
            }
        }
    }
}

/// A label as Prometheus takes it.
fn label<'t>(text: &'t str, field: &str) -> Result<&'t str, Fault> {
    let spelled = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    match text.bytes().all(spelled)
        && !text.starts_with(|it: char| it.is_ascii_digit())
        && !text.starts_with("__")
        // What a histogram says itself.
        && text != "le"
    {
        true => Ok(text),
        false => Err(Fault::new(field, format!("{text:?} is no name of a label: letters, digits and _"))),
    }
}
