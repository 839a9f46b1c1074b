//! The RateLimit, our own kind: strict throughout.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::request::{self, MatchManifest};
use crate::config::Resource;
use crate::config::decode::Fault;
use crate::config::decode::check;
use crate::config::decode::istio::scalar::{Whole, positive, whole};
use crate::config::decode::istio::{List, Reader};
use crate::config::decode::manifest::{Manifest, Metadata, NameRule};
use crate::config::decode::policy::list;
use crate::config::decode::text::Text;
use crate::config::gateway::GATEWAY_GROUP;
use crate::config::names::Names;
use crate::config::rate_limit::{
    Limit, LimitKey, LimitTarget, LimitedKind, MAX_LIMITS, MAX_PER, MAX_REQUESTS, RateLimit,
};

/// Most entries of `by`.
const MAX_KEYS: usize = 4;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
pub(crate) struct RateLimitManifest<'a> {
    #[serde(rename = "apiVersion")]
    _api_version: Option<IgnoredAny>,
    #[serde(rename = "kind")]
    _kind: Option<IgnoredAny>,
    #[serde(rename = "status")]
    _status: Option<IgnoredAny>,
    #[serde(default)]
    metadata: Metadata<'a>,
    spec: Option<LimitSpec<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct LimitSpec<'a> {
    target_refs: List<TargetManifest<'a>>,
    limits: List<LimitManifest<'a>>,
    response_headers: Option<Text<'a>>,
    dry_run: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct TargetManifest<'a> {
    group: Option<Text<'a>>,
    kind: Option<Text<'a>>,
    name: Option<Text<'a>>,
    section_name: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct LimitManifest<'a> {
    name: Option<Text<'a>>,
    matches: List<MatchManifest<'a>>,
    requests: Option<Whole>,
    per: Option<Text<'a>>,
    burst: Option<Whole>,
    by: List<KeyManifest<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct KeyManifest<'a> {
    r#type: Option<Text<'a>>,
    name: Option<Text<'a>>,
}

impl Manifest for RateLimitManifest<'_> {
    fn read(mut self, names: &mut Names) -> Result<Resource, Fault> {
        let object = self.metadata.named(NameRule::Name, names)?.object;
        let spec = self.spec.ok_or_else(|| Fault::new("spec", "not stated"))?;
        let mut reader = Reader::new(object.namespace.clone(), names);
        let targets = list(spec.target_refs, "spec.targetRefs", |it, field| target(&mut reader, &it, field))?;
        if spec.limits.as_ref().is_some_and(|it| it.len() > MAX_LIMITS) {
            return Err(Fault::new("spec.limits", format!("more than {MAX_LIMITS} limits")));
        }
        let limits = list(spec.limits, "spec.limits", |it, field| limit(&mut reader, it, field))?;
        for (field, is_empty) in [("spec.targetRefs", targets.is_empty()), ("spec.limits", limits.is_empty())]
        {
            if is_empty {
                return Err(Fault::new(field, "not stated"));
            }
        }
        let tells = match spec.response_headers.as_deref() {
            None | Some("Include") => true,
            Some("Omit") => false,
            Some(other) => {
                let reason = format!("{other:?} is neither Include nor Omit");
                return Err(Fault::new("spec.responseHeaders", reason));
            }
        };
        let dry_run = spec.dry_run.unwrap_or_default();
        Ok(Resource::RateLimit(Arc::new(RateLimit { object, targets, limits, tells, dry_run })))
    }
}

fn target(reader: &mut Reader<'_>, stated: &TargetManifest<'_>, field: &str) -> Result<LimitTarget, Fault> {
    let kind = match (stated.group.as_deref().unwrap_or_default(), stated.kind.as_deref().unwrap_or_default())
    {
        ("" | "core", "Service") => LimitedKind::Service,
        ("networking.istio.io", "ServiceEntry") => LimitedKind::Entry,
        (GATEWAY_GROUP, "Gateway") => LimitedKind::Gateway,
        (GATEWAY_GROUP, "HTTPRoute") => LimitedKind::Route,
        (group, kind) => {
            let reason = format!(
                "{group:?} {kind:?} is none of Service, ServiceEntry, Gateway and HTTPRoute, each with its group"
            );
            return Err(Fault::new(field, reason));
        }
    };
    let name = stated.name.as_deref().unwrap_or_default();
    if !check::is_dns_name(name) {
        return Err(Fault::new(format!("{field}.name"), format!("{name:?} is not a valid name")));
    }
    let section = reader.filled(stated.section_name.as_ref());
    if kind == LimitedKind::Gateway && section.is_some() {
        let reason = "a waypoint has one listener; name a Service and its port instead";
        return Err(Fault::new(format!("{field}.sectionName"), reason));
    }
    Ok(LimitTarget { kind, name: reader.share(name), section })
}

fn limit(reader: &mut Reader<'_>, stated: LimitManifest<'_>, field: &str) -> Result<Limit, Fault> {
    let at = |name: &str| format!("{field}.{name}");
    let matches = match stated.matches.filter(|it| !it.is_empty()) {
        Some(matches) => request::matches(reader, Some(matches), &at("matches"))?.0,
        None => Box::default(),
    };
    let count = |stated: Option<Whole>, name: &str| {
        whole(stated, 1..=MAX_REQUESTS, &at(name)).map(|it| it.and_then(NonZeroU32::new))
    };
    let requests = count(stated.requests, "requests")?;
    let requests = requests.ok_or_else(|| Fault::new(at("requests"), "not stated"))?;
    let per = positive(stated.per.as_ref(), &at("per"))?.unwrap_or(Duration::from_secs(1));
    if per > MAX_PER {
        return Err(Fault::new(at("per"), "more than a day"));
    }
    if stated.by.as_ref().is_some_and(|it| it.len() > MAX_KEYS) {
        return Err(Fault::new(at("by"), format!("more than {MAX_KEYS} entries")));
    }
    Ok(Limit {
        name: reader.filled(stated.name.as_ref()).unwrap_or_default(),
        matches,
        requests,
        per,
        burst: count(stated.burst, "burst")?.unwrap_or(requests),
        by: list(stated.by, &at("by"), |it, field| key(&it, field))?,
    })
}

fn key(stated: &KeyManifest<'_>, field: &str) -> Result<LimitKey, Fault> {
    let kind = stated.r#type.as_deref().unwrap_or_default();
    let key = match kind {
        "SourcePrincipal" => LimitKey::Principal,
        "SourceNamespace" => LimitKey::Namespace,
        "SourceAddress" => LimitKey::Address,
        "Header" => {
            let name = stated.name.as_deref().unwrap_or_default();
            let header = name.parse::<HeaderName>();
            let at = format!("{field}.name");
            LimitKey::Header(header.map_err(|_| Fault::new(at, format!("{name:?} is no name of a header")))?)
        }
        other => {
            let reason =
                format!("{other:?} is none of SourcePrincipal, SourceNamespace, SourceAddress and Header");
            return Err(Fault::new(format!("{field}.type"), reason));
        }
    };
    if stated.name.is_some() && kind != "Header" {
        return Err(Fault::new(format!("{field}.name"), format!("{kind} has no name")));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::decode::{Decoded, yaml};

    fn read(spec: &str) -> Decoded {
        let text = format!(
            "apiVersion: gateway.ebb.dev/v1alpha1\nkind: RateLimit\nmetadata: {{name: fair, namespace: shop}}\nspec: {spec}\n"
        );
        yaml::decode(&"a.yaml".into(), text.as_bytes(), &mut Names::default())
    }

    fn with(limit: &str) -> Decoded {
        read(&format!("{{targetRefs: [{{kind: Service, name: web}}], limits: [{limit}]}}"))
    }

    #[test]
    fn a_rate_limit_is_read_whole() {
        let decoded = read(
            "{dryRun: true, responseHeaders: Omit, targetRefs: [{kind: Service, name: web, sectionName: http}, {group: \
             gateway.networking.k8s.io, kind: HTTPRoute, name: r}], limits: [{name: each, matches: [{path: {value: /api}}], \
             requests: 10, per: 1m, burst: 20, by: [{type: SourcePrincipal}, {type: Header, name: X-Tenant}]}, {requests: 5}]}",
        );
        assert!(decoded.rejected.is_empty(), "{:?}", decoded.rejected);
        let Resource::RateLimit(it) = &decoded.stated[0].resource else { panic!() };
        assert!(it.dry_run && !it.tells);
        let kinds: Vec<_> = it.targets.iter().map(|it| (it.kind, it.section.as_deref())).collect();
        assert_eq!(kinds, [(LimitedKind::Service, Some("http")), (LimitedKind::Route, None)]);
        let [first, second] = &it.limits[..] else { panic!() };
        assert_eq!((first.requests.get(), first.burst.get(), first.per.as_secs()), (10, 20, 60));
        assert_eq!(
            first.by[..],
            [LimitKey::Principal, LimitKey::Header(HeaderName::from_static("x-tenant"))]
        );
        assert_eq!((first.matches.len(), second.matches.len()), (1, 0));
        assert_eq!((second.burst.get(), second.per.as_secs(), second.by.len()), (5, 1, 0));
    }

    #[test]
    fn what_is_wrong_with_a_rate_limit_is_told_by_its_field() {
        for (limit, field) in [
            ("{}", "spec.limits[0].requests"),
            ("{requests: 0}", "spec.limits[0].requests"),
            ("{requests: 1000001}", "spec.limits[0].requests"),
            ("{requests: 1, burst: 0}", "spec.limits[0].burst"),
            ("{requests: 1, per: 0s}", "spec.limits[0].per"),
            ("{requests: 1, per: 25h}", "spec.limits[0].per"),
            ("{requests: 1, by: [{type: Source}]}", "spec.limits[0].by[0].type"),
            ("{requests: 1, by: [{type: Header}]}", "spec.limits[0].by[0].name"),
            ("{requests: 1, by: [{type: SourceAddress, name: x}]}", "spec.limits[0].by[0].name"),
            ("{requests: 1, matches: [{method: FETCH}]}", "spec.limits[0].matches[0].method"),
            ("{requests: 1, request: 2}", "spec.limits[0].request"),
        ] {
            let decoded = with(limit);
            assert_eq!(decoded.rejected.len(), 1, "{limit}");
            assert_eq!(&*decoded.rejected[0].field, field, "{limit}: {}", decoded.rejected[0]);
            assert!(!decoded.rejected[0].guards_access);
        }
        for spec in [
            "{limits: [{requests: 1}]}",
            "{targetRefs: [{kind: Service, name: a}]}",
            "{targetRefs: [{kind: Pod, name: a}], limits: [{requests: 1}]}",
            "{targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: a, sectionName: b}], limits: [{requests: 1}]}",
            "{targetRefs: [{kind: Service, name: a}], limits: [{requests: 1}], responseHeaders: No}",
        ] {
            assert_eq!(read(spec).rejected.len(), 1, "{spec}");
        }
    }
}
