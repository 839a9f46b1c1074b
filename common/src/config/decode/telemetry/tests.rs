use std::sync::Arc;

use crate::config::decode::{Decoded, yaml};
use crate::config::names::Names;
use crate::config::telemetry::{Metric, Mode, TagOverride, TagSource, Telemetry};
use crate::config::{Kind, Resource};

fn manifest(spec: &str) -> String {
    format!(
        "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata:\n  name: t\n  namespace: shop\nspec: {spec}\n"
    )
}

fn read(text: &str) -> Decoded {
    yaml::decode(&"a.yaml".into(), text.as_bytes(), &mut Names::default())
}

fn good(spec: &str) -> Arc<Telemetry> {
    let decoded = read(&manifest(spec));
    assert!(decoded.rejected.is_empty(), "{:#?}\n{spec}", decoded.rejected);
    match &decoded.stated[..] {
        [one] => match &one.resource {
            Resource::Telemetry(it) => it.clone(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn noted(stated: &Telemetry) -> Vec<(&str, &'static str)> {
    stated.notes.iter().map(|it| (&*it.field, it.caveat.label())).collect()
}

#[test]
fn every_field_of_tracing_is_read() {
    let stated = good(
        "{targetRefs: [{kind: Service, group: '', name: web}, {kind: Gateway, group: gateway.networking.k8s.io, name: w}], \
         tracing: [{match: {mode: SERVER}, providers: [{name: otel}], randomSamplingPercentage: 12.5, \
         disableSpanReporting: false, enableIstioTags: true, customTags: {a: {literal: {value: '1'}}, b: {environment: \
         {name: POD, defaultValue: none}}, c: {header: {name: X-User}}, d: {formatter: {value: '%REQ(x-a)%'}}}}]}",
    );
    assert_eq!(stated.targets.len(), 2);
    let tracing = &stated.tracing[0];
    assert_eq!((tracing.mode, &*tracing.providers), (Mode::Server, &["otel".into()][..]));
    assert_eq!(tracing.sampling.map(|it| it.per_million()), Some(125_000));
    assert_eq!((tracing.disabled, tracing.istio_tags), (Some(false), Some(true)));
    let [a, b, c, d] = &*tracing.tags else { panic!("{:?}", tracing.tags) };
    assert_eq!(a.value, TagSource::Literal("1".into()));
    assert_eq!(b.value, TagSource::Environment("POD".into(), Some("none".into())));
    assert_eq!(c.value, TagSource::Header("x-user".parse().unwrap(), None));
    assert!(matches!(d.value, TagSource::Formatter(_)));
    assert!(noted(&stated).is_empty(), "{:?}", stated.notes);
}

#[test]
fn every_field_of_metrics_and_logs_is_read() {
    let stated = good(
        "{metrics: [{providers: [{name: prometheus}], overrides: [{match: {metric: REQUEST_COUNT, mode: SERVER}, \
         tagOverrides: {host: {value: request.host}, source_app: {operation: REMOVE}}}, {match: {customMetric: \
         istio_request_bytes}, disabled: true}, {match: {metric: ALL_METRICS}}]}], accessLogging: [{providers: [{name: \
         file}], disabled: true}, {filter: {expression: 'response.code >= 400'}, match: {mode: CLIENT_AND_SERVER}}]}",
    );
    let [count, bytes, all] = &*stated.metrics[0].overrides else { panic!("{:?}", stated.metrics) };
    assert_eq!((count.metric, count.mode), (Some(Metric::RequestCount), Mode::Server));
    let [(host, upsert), (app, remove)] = &*count.tags else { panic!("{:?}", count.tags) };
    assert_eq!((&**host, &**app, remove), ("host", "source_app", &TagOverride::Remove));
    assert!(matches!(upsert, TagOverride::Upsert(it) if &**it.text() == "request.host"));
    assert_eq!((bytes.metric, bytes.disabled), (Some(Metric::RequestSize), Some(true)));
    assert_eq!(all.metric, None);
    let [off, filtered] = &*stated.access_logging else { panic!("{:?}", stated.access_logging) };
    assert_eq!((off.disabled, &*off.providers), (Some(true), &["file".into()][..]));
    assert!(filtered.filter.is_some() && stated.is_wide());
    assert!(noted(&stated).is_empty(), "{:?}", stated.notes);
    for bare in ["{}", "{tracing: [{}]}", "{metrics: [{}]}", "{accessLogging: [{}]}"] {
        good(bare);
    }
}

#[test]
fn what_is_not_done_is_noted_and_never_dropped() {
    let stated = good(
        "{selector: {matchLabels: {app: web}}, tracing: [{match: {mode: CLIENT}, providers: [{name: a}, {name: b}], \
         useRequestIdForTraceSampling: true}], metrics: [{reportingInterval: 5s, overrides: [{match: {customMetric: mine}}]}]}",
    );
    let expected = [
        ("spec.selector", "needs-targets"),
        ("spec.tracing[0].match.mode", "client-mode-ignored"),
        ("spec.tracing[0].providers", "first-provider-only"),
        ("spec.tracing[0].useRequestIdForTraceSampling", "sampled-by-trace"),
        ("spec.metrics[0].reportingInterval", "reporting-interval-ignored"),
        ("spec.metrics[0].overrides[0].match.customMetric", "metric-unknown"),
    ];
    assert_eq!(noted(&stated), expected);
    assert!(!stated.is_wide());
}

#[test]
fn a_mistake_is_named_with_its_field() {
    for (spec, field, reason) in [
        ("{tracing: [{providers: [{}]}]}", "spec.tracing[0].providers[0].name", "not stated"),
        ("{tracing: [{match: {mode: BOTH}}]}", "spec.tracing[0].match.mode", "none of"),
        ("{tracing: [{randomSamplingPercentage: 101}]}", "spec.tracing[0].randomSamplingPercentage", "101"),
        ("{tracing: [{customTags: {a: {}}}]}", "spec.tracing[0].customTags[\"a\"]", "exactly one of"),
        (
            "{tracing: [{customTags: {a: {header: {name: 'a b'}}}}]}",
            "spec.tracing[0].customTags[\"a\"].header.name",
            "no name of a header",
        ),
        (
            "{tracing: [{customTags: {a: {formatter: {value: '%NOT%'}}}}]}",
            "spec.tracing[0].customTags[\"a\"].formatter.value",
            "%NOT% is not known",
        ),
        (
            "{metrics: [{overrides: [{match: {metric: REQUESTS}}]}]}",
            "spec.metrics[0].overrides[0].match.metric",
            "no standard metric",
        ),
        (
            "{metrics: [{overrides: [{tagOverrides: {a: {operation: DROP}}}]}]}",
            "spec.metrics[0].overrides[0].tagOverrides[\"a\"].operation",
            "neither UPSERT nor REMOVE",
        ),
        (
            "{metrics: [{overrides: [{tagOverrides: {a: {value: request.time}}}]}]}",
            "spec.metrics[0].overrides[0].tagOverrides[\"a\"].value",
            "the attribute request.time",
        ),
        (
            "{metrics: [{overrides: [{tagOverrides: {a-b: {value: '1'}}}]}]}",
            "spec.metrics[0].overrides[0].tagOverrides[\"a-b\"]",
            "no name of a label",
        ),
        (
            "{accessLogging: [{filter: {expression: 'response.code.foo(1)'}}]}",
            "spec.accessLogging[0].filter.expression",
            "foo takes a string",
        ),
        ("{targetRefs: [{kind: Pod, name: a}]}", "spec.targetRefs[0].kind", "nothing a policy"),
        ("{acessLogging: []}", "spec.acessLogging", "unknown field"),
    ] {
        let decoded = read(&manifest(spec));
        let [rejected] = &decoded.rejected[..] else { panic!("accepted: {spec}") };
        assert_eq!(&*rejected.field, field, "{rejected}");
        assert!(rejected.reason.contains(reason), "{rejected}");
        assert_eq!(rejected.subject.kind, Some(Kind::Telemetry));
        assert!(!rejected.guards_access, "{rejected}");
    }
    let other = manifest("{}").replace("istio.io/v1", "istio.oi/v1");
    assert!(read(&other).rejected[0].reason.contains("expected telemetry.istio.io/v1"));
}
