use std::sync::Arc;
use std::time::Duration;

use crate::config::decode::{Decoded, yaml};
use crate::config::mesh::{LogEncoding, LogFormat, MeshConfig, ProviderKind};
use crate::config::names::Names;
use crate::config::{Kind, Resource};
use crate::snapshot::model::StringMatch;

/// The ConfigMap that holds a MeshConfig.
fn config_map(mesh: &str) -> String {
    let mesh: String = mesh.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: istio\n  namespace: istio-system\ndata:\n  mesh: |-\n{mesh}  meshNetworks: 'networks: {{}}'\n"
    )
}

fn read(text: &str) -> Decoded {
    yaml::decode(&"a.yaml".into(), text.as_bytes(), &mut Names::default())
}

fn good(mesh: &str) -> Arc<MeshConfig> {
    let decoded = read(&config_map(mesh));
    assert!(decoded.rejected.is_empty(), "{:#?}\n{mesh}", decoded.rejected);
    match &decoded.stated[..] {
        [one] => match &one.resource {
            Resource::MeshConfig(it) => it.config.clone(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// Why it is refused, and on which line of the file.
fn bad(mesh: &str) -> (String, u32) {
    let decoded = read(&config_map(mesh));
    assert_eq!((decoded.stated.len(), decoded.rejected.len()), (0, 1), "{decoded:#?}\n{mesh}");
    let rejected = &decoded.rejected[0];
    assert!(!rejected.guards_access && rejected.subject.kind == Some(Kind::MeshConfig), "{rejected}");
    (format!("{}: {}", rejected.field, rejected.reason), rejected.origin.line)
}

fn notes(config: &MeshConfig) -> Vec<(&str, &str)> {
    config.notes.iter().map(|it| (&*it.field, it.caveat.label())).collect()
}

#[test]
fn an_authorizer_over_http_is_read_whole() {
    let config = good(
        "extensionProviders:
- name: ext-http
  envoyExtAuthzHttp:
    service: \"foo/ext-authz.foo.svc.cluster.local\"
    port: 8000",
    );
    let ProviderKind::HttpAuthorizer(it) = &config.provider("ext-http").unwrap().kind else { panic!() };
    assert_eq!(it.common.service.namespace.as_deref(), Some("foo"));
    assert_eq!((&*it.common.service.host, it.common.service.port), ("ext-authz.foo.svc.cluster.local", 8000));
    assert_eq!((it.common.timeout, it.common.status_on_error), (Duration::from_secs(600), 403));
    assert!(!it.common.fail_open && it.common.body.is_none() && it.downstream_on_deny.is_none());

    let config = good(
        "extensionProviders:
- name: ext-http
  envoyExtAuthzHttp:
    service: ext-authz.foo.svc.cluster.local
    port: 8000
    timeout: 0.5s
    failOpen: true
    statusOnError: \"503\"
    pathPrefix: /check
    clearRouteCache: true
    includeRequestHeadersInCheck: [X-Mine, 'x-b3-*', '*-id']
    includeAdditionalHeadersInCheck: {x-from: ebb}
    includeRequestBodyInCheck: {maxRequestBytes: 4096, allowPartialMessage: true, packAsBytes: true}
    headersToUpstreamOnAllow: [x-user]
    headersToDownstreamOnDeny: [content-type, set-cookie]
    headersToDownstreamOnAllow: [set-cookie]",
    );
    let ProviderKind::HttpAuthorizer(it) = &config.provider("ext-http").unwrap().kind else { panic!() };
    let shown = [
        StringMatch::Exact("x-mine".into()),
        StringMatch::Prefix("x-b3-".into()),
        StringMatch::Suffix("-id".into()),
    ];
    assert_eq!(&it.shown_headers[..], &shown);
    assert_eq!((it.common.timeout, it.common.status_on_error), (Duration::from_millis(500), 503));
    assert!(it.common.fail_open && it.common.clear_route_cache);
    let body = it.common.body.unwrap();
    assert_eq!((body.max_bytes, body.allow_partial, body.pack_as_bytes), (4096, true, true));
    assert_eq!((&*it.path_prefix, it.added_headers[0].0.as_str()), ("/check", "x-from"));
    assert_eq!(it.downstream_on_deny.as_ref().map(|it| it.len()), Some(2));
    assert_eq!((it.upstream_on_allow.len(), it.downstream_on_allow.len()), (1, 1));
    assert_eq!(notes(&config), []);
}

#[test]
fn every_other_kind_of_provider_is_read_or_named() {
    let config = good(
        "accessLogFile: /dev/stdout
accessLogEncoding: JSON
accessLogFormat: '[%START_TIME%]'
enableTracing: true
defaultProviders: {tracing: [otel], metrics: [prom], accessLogging: [gone]}
defaultConfig:
  discoveryAddress: istiod.istio-system.svc:15012
  tracing: {sampling: 12.5, zipkin: {address: a}}
trustDomain: cluster.local
extensionProviders:
- name: grpc
  envoyExtAuthzGrpc: {service: a.b.svc.cluster.local, port: 9000, failOpen: true}
- name: zip
  zipkin: {service: zipkin.istio-system.svc.cluster.local, port: 9411, maxTagLength: 56, headers: []}
- name: otel
  opentelemetry:
    service: o.b.svc.cluster.local
    port: 4318
    http: {path: /v1/traces, timeout: 3s, headers: [{name: x-a, value: b}, {name: x-b, envName: E}]}
    resourceDetectors: {environment: {}}
- name: file
  envoyFileAccessLog: {path: /dev/stdout, logFormat: {labels: {status: '%RESPONSE_CODE%', deep: {a: b}}}}
- name: als
  envoyOtelAls: {service: o.b.svc.cluster.local, port: 4317, logFormat: {text: '%X%'}}
- name: prom
  prometheus: {}
- name: sky
  skywalking: {service: s.b.svc.cluster.local, port: 1}",
    );
    let fields: Vec<_> = config.providers.iter().map(|it| (&*it.name, it.kind.field())).collect();
    let expected = [
        ("grpc", "envoyExtAuthzGrpc"),
        ("zip", "zipkin"),
        ("otel", "opentelemetry"),
        ("file", "envoyFileAccessLog"),
        ("als", "envoyOtelAls"),
        ("prom", "prometheus"),
        ("sky", "skywalking"),
    ];
    assert_eq!(fields, expected);
    let ProviderKind::OpenTelemetry(otel) = &config.provider("otel").unwrap().kind else { panic!() };
    let http = otel.http.as_ref().unwrap();
    assert_eq!(
        (&*http.path, http.timeout, http.headers.len()),
        ("/v1/traces", Some(Duration::from_secs(3)), 1)
    );
    let ProviderKind::FileLog(file) = &config.provider("file").unwrap().kind else { panic!() };
    assert_eq!(file.format, Some(LogFormat::Labels([("status".into(), "%RESPONSE_CODE%".into())].into())));
    assert_eq!(config.access_log_encoding, LogEncoding::Json);
    assert_eq!(config.access_log_file.as_deref(), Some("/dev/stdout"));
    assert_eq!(config.tracing_sampling.map(|it| it.per_million()), Some(125_000));
    assert!(config.enable_tracing);
    assert_eq!(
        notes(&config),
        [
            ("mesh.trustDomain", "not-implemented"),
            ("mesh.extensionProviders[1].zipkin.headers", "not-implemented"),
            ("mesh.extensionProviders[2].opentelemetry.resourceDetectors", "not-implemented"),
            ("mesh.extensionProviders[2].opentelemetry.http.headers[1].envName", "not-implemented"),
            ("mesh.extensionProviders[3].envoyFileAccessLog.logFormat.labels.deep", "not-implemented"),
            ("mesh.extensionProviders[6].skywalking", "provider-not-implemented"),
            ("mesh.defaultProviders.accessLogging[0]", "provider-missing"),
            ("mesh.defaultConfig.discoveryAddress", "not-implemented"),
            ("mesh.defaultConfig.tracing.zipkin", "not-implemented"),
        ]
    );
}

#[test]
fn an_export_lasts_no_longer_than_a_minute_whatever_is_stated() {
    for (stated, taken, noted) in [("60s", 60, None), ("1h", 60, Some("export-timeout-cut"))] {
        for (of, field) in [("http: {path: /, ", "http.timeout"), ("grpc: {", "grpc.timeout")] {
            let config = good(&format!(
                "extensionProviders:\n- name: otel\n  opentelemetry: {{service: o.b.svc.cluster.local, port: 1, {of}timeout: {stated}}}}}\n"
            ));
            let ProviderKind::OpenTelemetry(otel) = &config.provider("otel").unwrap().kind else { panic!() };
            let timeout = otel.http.as_ref().map_or(otel.grpc.timeout, |it| it.timeout);
            assert_eq!(timeout, Some(Duration::from_secs(taken)));
            let field = format!("mesh.extensionProviders[0].opentelemetry.{field}");
            assert_eq!(notes(&config), Vec::from_iter(noted.map(|it| (&*field, it))));
        }
    }
}

/// Of an authorizer with one more field: what is told of it.
fn with(field: &str) -> (String, u32) {
    bad(&format!(
        "enableTracing: false\nextensionProviders:\n- name: a\n  envoyExtAuthzHttp:\n    service: a.b\n    port: 80\n    {field}\n"
    ))
}

#[test]
fn what_is_wrong_with_an_authorizer_is_told_with_its_field_and_line() {
    for (stated, field, why, line) in [
        ("timeOut: 1s", "", "unknown field", 14),
        ("timeout: 1", "", "", 14),
        ("statusOnError: \"99\"", ".statusOnError", "no status", 10),
        ("pathPrefix: check", ".pathPrefix", "/", 10),
        ("pathPrefix: /a?b", ".pathPrefix", "?", 10),
        ("includeRequestBodyInCheck: {}", ".includeRequestBodyInCheck.maxRequestBytes", "not stated", 10),
        (
            "includeRequestBodyInCheck: {maxRequestBytes: 99999999}",
            ".includeRequestBodyInCheck.maxRequestBytes",
            "within",
            10,
        ),
        ("headersToUpstreamOnAllow: ['a*b']", ".headersToUpstreamOnAllow[0]", "no name", 10),
    ] {
        let (told, at) = with(stated);
        let place = if field.is_empty() { "" } else { "mesh.extensionProviders[0].envoyExtAuthzHttp" };
        assert!(told.contains(&format!("{place}{field}")) && told.contains(why), "{told}\n{stated}");
        assert_eq!(at, line, "{told}\n{stated}");
    }
}

#[test]
fn what_is_wrong_with_a_provider_is_told_with_its_field_and_line() {
    for (providers, field, why, line) in [
        ("- name: a", "[0]", "nothing", 9),
        ("- prometheus: {}", "[0].name", "not stated", 9),
        ("- {name: a, prometheus: {}}\n- {name: a, prometheus: {}}", "[1].name", "another", 10),
        ("- {name: a, prometheus: {}, datadog: {}}", "[0]", "more than one", 9),
        ("- {name: a, promeheus: {}}", "", "promeheus", 9),
        (
            "- {name: a, envoyExtAuthzGrpc: {service: a.b, port: 1, pathPrefix: /}}",
            "[0].envoyExtAuthzGrpc.pathPrefix",
            "envoyExtAuthzHttp",
            9,
        ),
        ("- {name: a, zipkin: {service: A_b, port: 1}}", "[0].zipkin.service", "no name", 9),
        ("- {name: a, zipkin: {service: a.b}}", "[0].zipkin.port", "not stated", 9),
    ] {
        let (told, at) = bad(&format!("extensionProviders:\n{providers}\n"));
        let place = if field.is_empty() { "mesh" } else { "mesh.extensionProviders" };
        assert!(told.starts_with(&format!("{place}{field}")) && told.contains(why), "{told}\n{providers}");
        assert_eq!(at, line, "{told}\n{providers}");
    }
    assert!(bad("accessLogEncoding: XML").0.contains("JSON"));
    assert!(bad("a: [").0.starts_with("mesh: "));
}

#[test]
fn a_config_map_of_another_name_is_none_of_ours() {
    for (name, mesh) in
        [("istio-sidecar-injector", "a: ["), ("kube-root-ca.crt", "trustDomain: a"), ("mesh", "{}")]
    {
        let decoded = read(&config_map(mesh).replace("name: istio\n", &format!("name: {name}\n")));
        assert_eq!(
            (decoded.stated.len(), decoded.rejected.len(), decoded.skipped.len()),
            (0, 0, 1),
            "{decoded:?}"
        );
    }
    let without = read("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n");
    assert!(without.rejected[0].reason.contains("not stated"), "{:?}", without.rejected);
    assert_eq!(*good(""), MeshConfig::default());
}
