//! What several Telemetries amount to: the mesh's, then the namespace's, then the target's, as in Istio. Pure.

use std::sync::Arc;

use crate::config::expression::Expression;
use crate::config::mesh::DefaultProviders;
use crate::config::routing::Share;
use crate::config::telemetry::{CustomTag, MetricOverride, Telemetry};

/// The provider of access logs that is there without being stated, as in Istio.
pub const BUILT_IN_LOG: &str = "envoy";
/// That of metrics.
pub const BUILT_IN_METRICS: &str = "prometheus";

/// What several Telemetries amount to.
#[derive(Debug, Clone, PartialEq)]
pub struct Merged {
    /// Of tracing.
    pub tracing: Tracing,
    /// Of access logs, by provider; `None` where nobody says anything of them.
    pub logs: Option<Vec<Logging>>,
    /// Of metrics, the widest first; each goes for its own metrics and modes.
    pub metrics: Vec<MetricOverride>,
}

/// Of tracing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracing {
    /// Who gets spans.
    pub provider: Option<Arc<str>>,
    /// `randomSamplingPercentage`.
    pub sampling: Option<Share>,
    /// `disableSpanReporting`.
    pub is_disabled: bool,
    /// `customTags`; those of the closest that states any.
    pub tags: Box<[CustomTag]>,
    /// `enableIstioTags`.
    pub istio_tags: bool,
}

/// Of one access log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logging {
    /// Who writes it.
    pub provider: Arc<str>,
    /// `disabled`.
    pub is_disabled: bool,
    /// Which requests stand in it.
    pub filter: Option<Expression>,
}

/// Merges `levels`, the widest first, upon what the mesh says.
pub fn merge(levels: &[&Telemetry], defaults: &DefaultProviders) -> Merged {
    let metrics = levels.iter().flat_map(|it| it.metrics.iter());
    let counted =
        |providers: &[Arc<str>]| providers.is_empty() || providers.iter().any(|it| **it == *BUILT_IN_METRICS);
    let metrics = metrics.filter(|it| counted(&it.providers)).flat_map(|it| it.overrides.iter());
    Merged {
        tracing: tracing(levels, defaults),
        logs: logs(levels, defaults),
        metrics: metrics.filter(|it| it.mode.has_server()).cloned().collect(),
    }
}

fn tracing(levels: &[&Telemetry], defaults: &DefaultProviders) -> Tracing {
    let mut merged = Tracing {
        provider: defaults.tracing.first().cloned(),
        sampling: None,
        is_disabled: false,
        tags: Box::default(),
        istio_tags: true,
    };
    for stated in levels.iter().flat_map(|it| it.tracing.iter()).filter(|it| it.mode.has_server()) {
        if let Some(provider) = stated.providers.first() {
            merged.provider = Some(provider.clone());
        }
        merged.sampling = stated.sampling.or(merged.sampling);
        merged.is_disabled = stated.disabled.unwrap_or(merged.is_disabled);
        merged.istio_tags = stated.istio_tags.unwrap_or(merged.istio_tags);
        if !stated.tags.is_empty() {
            merged.tags = stated.tags.clone();
        }
    }
    merged
}

fn logs(levels: &[&Telemetry], defaults: &DefaultProviders) -> Option<Vec<Logging>> {
    let of = |provider: &Arc<str>| Logging { provider: provider.clone(), is_disabled: false, filter: None };
    let mut merged: Vec<Logging> = defaults.access_logging.iter().map(of).collect();
    let mut is_stated = !merged.is_empty();
    for level in levels {
        let stated: Vec<_> = level.access_logging.iter().filter(|it| it.mode.has_server()).collect();
        let named: Vec<&Arc<str>> = stated.iter().flat_map(|it| it.providers.iter()).collect();
        is_stated |= !stated.is_empty();
        // Who names providers means these and no others.
        if !named.is_empty() {
            merged.retain(|it| named.contains(&&it.provider));
            for provider in named {
                if !merged.iter().any(|it| it.provider == *provider) {
                    merged.push(of(provider));
                }
            }
        } else if merged.is_empty() && !stated.is_empty() {
            merged.push(of(&BUILT_IN_LOG.into()));
        }
        for entry in stated {
            let meant =
                |it: &&mut Logging| entry.providers.is_empty() || entry.providers.contains(&it.provider);
            for log in merged.iter_mut().filter(meant) {
                // One that is named again is wanted again, unless it says otherwise.
                log.is_disabled = entry.disabled.unwrap_or_default();
                log.filter = entry.filter.clone().or_else(|| log.filter.take());
            }
        }
    }
    is_stated.then_some(merged)
}

/// The one of a level that counts: the one that was there first; of several of one time the first by name.
pub fn oldest<'t>(all: impl Iterator<Item = &'t Arc<Telemetry>>) -> Option<&'t Telemetry> {
    all.min_by_key(|it| (it.created.unwrap_or(i64::MIN), &it.object)).map(|it| &**it)
}
