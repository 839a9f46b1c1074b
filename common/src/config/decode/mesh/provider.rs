//! One of `extensionProviders`, field by field.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use super::super::istio::scalar::{Entries, MAX_WHOLE, Whole, positive, whole};
use super::super::istio::{List, Reader, Texts};
use super::super::policy::list;
use super::super::text::Text;
use super::super::{Fault, check};
use crate::config::mesh::{
    Authorizer, FileLog, HttpAuthorizer, LogFormat, MAX_EXPORT_TIMEOUT, MAX_SHOWN_BYTES, OpenTelemetry,
    OtelLog, OtlpGrpc, OtlpHttp, Provider, ProviderKind, ProviderService, ShownBody, Zipkin,
};
use crate::config::note::Caveat;
use crate::snapshot::model::StringMatch;

/// Istio's default of an authorizer's `timeout`.
const CHECK_TIMEOUT: Duration = Duration::from_secs(600);
/// Istio's default of `statusOnError`.
const FORBIDDEN: u16 = 403;
/// Where Zipkin takes spans, if nothing else is stated.
const ZIPKIN_PATH: &str = "/api/v2/spans";
/// Istio's default of `logName`.
const OTEL_LOG: &str = "otel_envoy_accesslog";
/// Kinds of Istio's that nobody here acts on.
const NOT_IMPLEMENTED: [&str; 8] =
    ["datadog", "envoyHttpAls", "envoyTcpAls", "lightstep", "opencensus", "sds", "skywalking", "stackdriver"];

/// `name`, and the one field that says what it is.
#[derive(Debug, Default)]
pub(super) struct ProviderManifest<'a> {
    name: Option<Text<'a>>,
    kinds: Vec<KindManifest<'a>>,
}

#[derive(Debug)]
enum KindManifest<'a> {
    Http(Box<AuthorizerManifest<'a>>),
    Grpc(Box<AuthorizerManifest<'a>>),
    Zipkin(Box<ZipkinManifest<'a>>),
    OpenTelemetry(Box<OpenTelemetryManifest<'a>>),
    FileLog(Box<FileLogManifest<'a>>),
    OtelLog(Box<OtelLogManifest<'a>>),
    Prometheus,
    NotImplemented(&'static str),
}

impl<'de: 'a, 'a> Deserialize<'de> for ProviderManifest<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = ProviderManifest<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a provider: a name, and a field that says what it is")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut found = ProviderManifest::default();
                while let Some(key) = map.next_key::<Text<'de>>()? {
                    let kind = match &*key {
                        "name" => {
                            found.name = map.next_value()?;
                            continue;
                        }
                        "envoyExtAuthzHttp" => KindManifest::Http(map.next_value()?),
                        "envoyExtAuthzGrpc" => KindManifest::Grpc(map.next_value()?),
                        "zipkin" => KindManifest::Zipkin(map.next_value()?),
                        "opentelemetry" => KindManifest::OpenTelemetry(map.next_value()?),
                        "envoyFileAccessLog" => KindManifest::FileLog(map.next_value()?),
                        "envoyOtelAls" => KindManifest::OtelLog(map.next_value()?),
                        "prometheus" => {
                            map.next_value::<IgnoredAny>()?;
                            KindManifest::Prometheus
                        }
                        other => {
                            let Some(known) = NOT_IMPLEMENTED.into_iter().find(|it| *it == other) else {
                                return Err(A::Error::unknown_field(other, &[]));
                            };
                            map.next_value::<IgnoredAny>()?;
                            KindManifest::NotImplemented(known)
                        }
                    };
                    found.kinds.push(kind);
                }
                Ok(found)
            }
        }
        deserializer.deserialize_map(Visit)
    }
}

/// The fields of both protocols; those of HTTP alone are refused of gRPC.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct AuthorizerManifest<'a> {
    service: Option<Text<'a>>,
    port: Option<Whole>,
    timeout: Option<Text<'a>>,
    fail_open: Option<bool>,
    status_on_error: Option<Text<'a>>,
    clear_route_cache: Option<bool>,
    include_request_body_in_check: Option<BodyManifest>,
    path_prefix: Option<Text<'a>>,
    include_request_headers_in_check: Texts<'a>,
    include_headers_in_check: Texts<'a>,
    include_additional_headers_in_check: Option<Entries<'a, Text<'a>>>,
    headers_to_upstream_on_allow: Texts<'a>,
    headers_to_downstream_on_deny: Texts<'a>,
    headers_to_downstream_on_allow: Texts<'a>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BodyManifest {
    max_request_bytes: Option<Whole>,
    allow_partial_message: Option<bool>,
    pack_as_bytes: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct ZipkinManifest<'a> {
    service: Option<Text<'a>>,
    port: Option<Whole>,
    max_tag_length: Option<Whole>,
    #[serde(rename = "enable64bitTraceId")]
    short_trace_ids: Option<bool>,
    path: Option<Text<'a>>,
    trace_context_option: Option<Text<'a>>,
    timeout: Option<IgnoredAny>,
    headers: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct OpenTelemetryManifest<'a> {
    service: Option<Text<'a>>,
    port: Option<Whole>,
    max_tag_length: Option<Whole>,
    http: Option<HttpManifest<'a>>,
    grpc: Option<GrpcManifest<'a>>,
    resource_detectors: Option<IgnoredAny>,
    dynatrace_sampler: Option<IgnoredAny>,
    service_attribute_enrichment: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct HttpManifest<'a> {
    path: Option<Text<'a>>,
    timeout: Option<Text<'a>>,
    headers: List<HeaderManifest<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct GrpcManifest<'a> {
    timeout: Option<Text<'a>>,
    initial_metadata: List<HeaderManifest<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct HeaderManifest<'a> {
    name: Option<Text<'a>>,
    value: Option<Text<'a>>,
    env_name: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct FileLogManifest<'a> {
    path: Option<Text<'a>>,
    log_format: Option<FormatManifest<'a>>,
    omit_empty_values: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct OtelLogManifest<'a> {
    service: Option<Text<'a>>,
    port: Option<Whole>,
    log_name: Option<Text<'a>>,
    log_format: Option<FormatManifest<'a>>,
    filter_state_objects_to_log: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "'de: 'a"))]
struct FormatManifest<'a> {
    text: Option<Text<'a>>,
    labels: Option<Entries<'a, serde_json::Value>>,
}

/// Reads one provider.
pub(super) fn read(
    reader: &mut Reader<'_>,
    stated: ProviderManifest<'_>,
    field: &str,
) -> Result<Provider, Fault> {
    let name = match stated.name.as_deref() {
        None | Some("") => return Err(Fault::new(format!("{field}.name"), "not stated")),
        Some(name) => reader.share(name),
    };
    let mut kinds = stated.kinds.into_iter();
    let kind = match (kinds.next(), kinds.next()) {
        (Some(kind), None) => kind,
        (None, _) => return Err(Fault::new(field, "nothing says what it is")),
        (Some(_), Some(_)) => return Err(Fault::new(field, "more than one field says what it is")),
    };
    let kind = match kind {
        KindManifest::Http(it) => {
            ProviderKind::HttpAuthorizer(http_authorizer(reader, *it, &format!("{field}.envoyExtAuthzHttp"))?)
        }
        KindManifest::Grpc(it) => {
            ProviderKind::GrpcAuthorizer(grpc_authorizer(reader, *it, &format!("{field}.envoyExtAuthzGrpc"))?)
        }
        KindManifest::Zipkin(it) => ProviderKind::Zipkin(zipkin(reader, *it, &format!("{field}.zipkin"))?),
        KindManifest::OpenTelemetry(it) => {
            ProviderKind::OpenTelemetry(open_telemetry(reader, *it, &format!("{field}.opentelemetry"))?)
        }
        KindManifest::FileLog(it) => {
            ProviderKind::FileLog(file_log(reader, *it, &format!("{field}.envoyFileAccessLog"))?)
        }
        KindManifest::OtelLog(it) => {
            ProviderKind::OtelLog(otel_log(reader, *it, &format!("{field}.envoyOtelAls"))?)
        }
        KindManifest::Prometheus => ProviderKind::Prometheus,
        KindManifest::NotImplemented(kind) => {
            reader.note(format!("{field}.{kind}"), Caveat::ProviderNotImplemented);
            ProviderKind::NotImplemented(kind)
        }
    };
    Ok(Provider { name, kind })
}

/// `service`, `[<namespace>/]<host>`, and `port`.
fn service(
    reader: &mut Reader<'_>,
    (stated, port): (Option<&Text<'_>>, Option<Whole>),
    field: &str,
) -> Result<ProviderService, Fault> {
    let at = format!("{field}.service");
    let text = stated.map(|it| &**it).unwrap_or_default();
    if text.is_empty() {
        return Err(Fault::new(at, "not stated"));
    }
    let (namespace, host) = match text.split_once('/') {
        Some((namespace, host)) => (Some(reader.label(namespace, &at)?), host),
        None => (None, text),
    };
    if !check::is_dns_name(host) {
        return Err(Fault::new(at, format!("{host:?} is no name of a service")));
    }
    let at = format!("{field}.port");
    let port = whole(port, 1..=u32::from(u16::MAX), &at)?.and_then(|it| u16::try_from(it).ok());
    let port = port.ok_or_else(|| Fault::new(at, "not stated"))?;
    Ok(ProviderService { namespace, host: reader.share(host), port })
}

fn http_authorizer(
    reader: &mut Reader<'_>,
    mut stated: AuthorizerManifest<'_>,
    field: &str,
) -> Result<HttpAuthorizer, Fault> {
    let at = |name: &str| format!("{field}.{name}");
    let path_prefix = path(reader, stated.path_prefix.take().as_ref(), "", &at("pathPrefix"))?;
    let shown = match (stated.include_request_headers_in_check.take(), stated.include_headers_in_check.take())
    {
        (Some(shown), None) => headers(reader, Some(shown), &at("includeRequestHeadersInCheck"))?,
        (None, shown) => headers(reader, shown, &at("includeHeadersInCheck"))?,
        (Some(_), Some(_)) => {
            let reason = "stated together with includeRequestHeadersInCheck; only one may be";
            return Err(Fault::new(at("includeHeadersInCheck"), reason));
        }
    };
    let field_of_added = at("includeAdditionalHeadersInCheck");
    let mut added_headers = Vec::new();
    for (name, value) in stated.include_additional_headers_in_check.take().unwrap_or_default().0 {
        let at = format!("{field_of_added}.{}", &*name);
        if value.contains('%') {
            reader.note(&*at, Caveat::FormatterNotExpanded);
        }
        added_headers.push((header_name(&name, &at)?, header_value(&value, &at)?));
    }
    let on_deny = stated.headers_to_downstream_on_deny.take().filter(|it| !it.is_empty());
    let on_deny =
        on_deny.map(|it| headers(reader, Some(it), &at("headersToDownstreamOnDeny"))).transpose()?;
    let on_allow = stated.headers_to_downstream_on_allow.take();
    let upstream = stated.headers_to_upstream_on_allow.take();
    Ok(HttpAuthorizer {
        path_prefix,
        shown_headers: shown,
        added_headers: added_headers.into(),
        upstream_on_allow: headers(reader, upstream, &at("headersToUpstreamOnAllow"))?,
        downstream_on_deny: on_deny,
        downstream_on_allow: headers(reader, on_allow, &at("headersToDownstreamOnAllow"))?,
        common: authorizer(reader, &stated, field)?,
    })
}

fn grpc_authorizer(
    reader: &mut Reader<'_>,
    stated: AuthorizerManifest<'_>,
    field: &str,
) -> Result<Authorizer, Fault> {
    let of_http = [
        ("pathPrefix", stated.path_prefix.is_some()),
        ("includeRequestHeadersInCheck", stated.include_request_headers_in_check.is_some()),
        ("includeHeadersInCheck", stated.include_headers_in_check.is_some()),
        ("includeAdditionalHeadersInCheck", stated.include_additional_headers_in_check.is_some()),
        ("headersToUpstreamOnAllow", stated.headers_to_upstream_on_allow.is_some()),
        ("headersToDownstreamOnDeny", stated.headers_to_downstream_on_deny.is_some()),
        ("headersToDownstreamOnAllow", stated.headers_to_downstream_on_allow.is_some()),
    ];
    match of_http.into_iter().find(|(_, is_stated)| *is_stated) {
        Some((name, _)) => Err(Fault::new(format!("{field}.{name}"), "a field of envoyExtAuthzHttp")),
        None => authorizer(reader, &stated, field),
    }
}

fn authorizer(
    reader: &mut Reader<'_>,
    stated: &AuthorizerManifest<'_>,
    field: &str,
) -> Result<Authorizer, Fault> {
    let at = format!("{field}.statusOnError");
    let status = stated.status_on_error.as_deref().filter(|it| !it.is_empty());
    let status_on_error = match status.map(str::parse::<u16>) {
        None => FORBIDDEN,
        Some(Ok(status @ 200..=599)) => status,
        Some(_) => return Err(Fault::new(at, "no status of HTTP from \"200\" to \"599\"")),
    };
    let body = stated.include_request_body_in_check.as_ref();
    let body = body.map(|it| shown_body(it, &format!("{field}.includeRequestBodyInCheck"))).transpose()?;
    Ok(Authorizer {
        service: service(reader, (stated.service.as_ref(), stated.port), field)?,
        timeout: positive(stated.timeout.as_ref(), &format!("{field}.timeout"))?.unwrap_or(CHECK_TIMEOUT),
        fail_open: stated.fail_open.unwrap_or_default(),
        status_on_error,
        clear_route_cache: stated.clear_route_cache.unwrap_or_default(),
        body,
    })
}

fn shown_body(stated: &BodyManifest, field: &str) -> Result<ShownBody, Fault> {
    let at = format!("{field}.maxRequestBytes");
    let max_bytes = whole(stated.max_request_bytes, 1..=MAX_SHOWN_BYTES, &at)?;
    Ok(ShownBody {
        max_bytes: max_bytes.ok_or_else(|| Fault::new(at, "not stated"))?,
        allow_partial: stated.allow_partial_message.unwrap_or_default(),
        pack_as_bytes: stated.pack_as_bytes.unwrap_or_default(),
    })
}

/// Names of headers: as they are, `x*`, `*x` or `*`; in lower case, as headers are.
fn headers(reader: &mut Reader<'_>, stated: Texts<'_>, field: &str) -> Result<Box<[StringMatch]>, Fault> {
    list(stated, field, |text, field| {
        let lower = text.to_ascii_lowercase();
        let part = lower.strip_prefix('*').or_else(|| lower.strip_suffix('*')).unwrap_or(&lower);
        let is_any = lower == "*";
        if !is_any && part.parse::<HeaderName>().is_err() || part.contains('*') {
            return Err(Fault::new(field, format!("{:?} is no name of a header, x*, *x or *", &*text)));
        }
        let part = reader.share(part);
        Ok(match (lower.starts_with('*'), lower.ends_with('*')) {
            _ if is_any => StringMatch::Presence,
            (true, _) => StringMatch::Suffix(part),
            (false, true) => StringMatch::Prefix(part),
            (false, false) => StringMatch::Exact(part),
        })
    })
}

fn header_name(text: &str, field: &str) -> Result<HeaderName, Fault> {
    text.parse().map_err(|_| Fault::new(field, format!("{text:?} is no name of a header")))
}

fn header_value(text: &str, field: &str) -> Result<HeaderValue, Fault> {
    HeaderValue::from_str(text).map_err(|_| Fault::new(field, "not what a header may hold"))
}

/// A path that stands before a path.
fn path(
    reader: &mut Reader<'_>,
    stated: Option<&Text<'_>>,
    default: &str,
    field: &str,
) -> Result<Arc<str>, Fault> {
    let text = stated.map(|it| &**it).filter(|it| !it.is_empty()).unwrap_or(default);
    let fits = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#');
    if !text.is_empty() && !text.starts_with('/') || !text.bytes().all(fits) {
        return Err(Fault::new(
            field,
            format!("{text:?} is no path: it starts with / and has no ? and no #"),
        ));
    }
    Ok(reader.share(text))
}

fn zipkin(reader: &mut Reader<'_>, stated: ZipkinManifest<'_>, field: &str) -> Result<Zipkin, Fault> {
    let at = |name: &str| format!("{field}.{name}");
    for (name, is_stated) in [("timeout", stated.timeout.is_some()), ("headers", stated.headers.is_some())] {
        if is_stated {
            reader.note(at(name), Caveat::NotImplemented);
        }
    }
    let with_w3c = match stated.trace_context_option.as_deref() {
        None | Some("" | "USE_B3") => false,
        Some("USE_B3_WITH_W3C_PROPAGATION") => true,
        Some(other) => {
            let reason = format!("{other:?} is neither USE_B3 nor USE_B3_WITH_W3C_PROPAGATION");
            return Err(Fault::new(at("traceContextOption"), reason));
        }
    };
    Ok(Zipkin {
        service: service(reader, (stated.service.as_ref(), stated.port), field)?,
        max_tag_length: whole(stated.max_tag_length, 0..=MAX_WHOLE, &at("maxTagLength"))?,
        short_trace_ids: stated.short_trace_ids.unwrap_or_default(),
        path: path(reader, stated.path.as_ref(), ZIPKIN_PATH, &at("path"))?,
        with_w3c,
    })
}

fn open_telemetry(
    reader: &mut Reader<'_>,
    stated: OpenTelemetryManifest<'_>,
    field: &str,
) -> Result<OpenTelemetry, Fault> {
    let at = |name: &str| format!("{field}.{name}");
    for (name, is_stated) in [
        ("resourceDetectors", stated.resource_detectors.is_some()),
        ("dynatraceSampler", stated.dynatrace_sampler.is_some()),
        ("serviceAttributeEnrichment", stated.service_attribute_enrichment.is_some()),
    ] {
        if is_stated {
            reader.note(at(name), Caveat::NotImplemented);
        }
    }
    if stated.http.is_some() && stated.grpc.is_some() {
        return Err(Fault::new(at("grpc"), "stated together with http; only one may be"));
    }
    let http = match stated.http {
        Some(http) => Some(OtlpHttp {
            path: path(reader, http.path.as_ref(), "/", &at("http.path"))?,
            timeout: export_timeout(reader, http.timeout.as_ref(), &at("http.timeout"))?,
            headers: fixed_headers(reader, http.headers, &at("http.headers"))?,
        }),
        None => None,
    };
    let grpc = match stated.grpc {
        Some(grpc) => OtlpGrpc {
            timeout: export_timeout(reader, grpc.timeout.as_ref(), &at("grpc.timeout"))?,
            metadata: fixed_headers(reader, grpc.initial_metadata, &at("grpc.initialMetadata"))?,
        },
        None => OtlpGrpc::default(),
    };
    Ok(OpenTelemetry {
        service: service(reader, (stated.service.as_ref(), stated.port), field)?,
        max_tag_length: whole(stated.max_tag_length, 0..=MAX_WHOLE, &at("maxTagLength"))?,
        http,
        grpc,
    })
}

/// The time for one export, which what comes after it waits for.
fn export_timeout(
    reader: &mut Reader<'_>,
    stated: Option<&Text<'_>>,
    field: &str,
) -> Result<Option<Duration>, Fault> {
    let stated = positive(stated, field)?;
    if stated.is_some_and(|it| it > MAX_EXPORT_TIMEOUT) {
        reader.note(field, Caveat::ExportTimeoutCut);
    }
    Ok(stated.map(|it| it.min(MAX_EXPORT_TIMEOUT)))
}

/// Headers with their values. A value from the environment would be that of Istio's proxy, and is named.
fn fixed_headers(
    reader: &mut Reader<'_>,
    stated: List<HeaderManifest<'_>>,
    field: &str,
) -> Result<Box<[(HeaderName, HeaderValue)]>, Fault> {
    let all = list(stated, field, |it, field| {
        let at = format!("{field}.name");
        let name = header_name(it.name.as_deref().unwrap_or_default(), &at)?;
        match (it.value, it.env_name) {
            (Some(value), None) => Ok(Some((name, header_value(&value, &format!("{field}.value"))?))),
            (None, Some(_)) => {
                reader.note(format!("{field}.envName"), Caveat::NotImplemented);
                Ok(None)
            }
            (None, None) => Err(Fault::new(format!("{field}.value"), "not stated")),
            (Some(_), Some(_)) => {
                Err(Fault::new(format!("{field}.envName"), "stated together with value; only one may be"))
            }
        }
    })?;
    Ok(all.into_iter().flatten().collect())
}

fn file_log(reader: &mut Reader<'_>, stated: FileLogManifest<'_>, field: &str) -> Result<FileLog, Fault> {
    let path = match reader.filled(stated.path.as_ref()) {
        Some(path) => path,
        None => return Err(Fault::new(format!("{field}.path"), "not stated")),
    };
    let (text, labels) = format(reader, stated.log_format, &format!("{field}.logFormat"))?;
    let format = match (text, labels) {
        (Some(_), Some(_)) => {
            return Err(Fault::new(format!("{field}.logFormat"), "both text and labels; only one may be"));
        }
        (Some(text), None) => Some(LogFormat::Text(text)),
        (None, labels) => labels.map(LogFormat::Labels),
    };
    Ok(FileLog { path, format, omit_empty: stated.omit_empty_values.unwrap_or_default() })
}

fn otel_log(reader: &mut Reader<'_>, stated: OtelLogManifest<'_>, field: &str) -> Result<OtelLog, Fault> {
    if stated.filter_state_objects_to_log.is_some() {
        reader.note(format!("{field}.filterStateObjectsToLog"), Caveat::NotImplemented);
    }
    let (text, labels) = format(reader, stated.log_format, &format!("{field}.logFormat"))?;
    Ok(OtelLog {
        service: service(reader, (stated.service.as_ref(), stated.port), field)?,
        log_name: reader.filled(stated.log_name.as_ref()).unwrap_or_else(|| OTEL_LOG.into()),
        text,
        labels: labels.unwrap_or_default(),
    })
}

type Labels = Box<[(Arc<str>, Arc<str>)]>;

/// `logFormat`. What is inside another label, or no string, is named: access logs here have one level.
fn format(
    reader: &mut Reader<'_>,
    stated: Option<FormatManifest<'_>>,
    field: &str,
) -> Result<(Option<Arc<str>>, Option<Labels>), Fault> {
    let Some(stated) = stated else { return Ok((None, None)) };
    let text = reader.filled(stated.text.as_ref());
    let labels = stated.labels.map(|entries| {
        let mut labels = Vec::new();
        for (key, value) in entries.0 {
            match value {
                serde_json::Value::String(value) => labels.push((reader.share(&key), reader.share(&value))),
                _ => reader.note(format!("{field}.labels.{}", &*key), Caveat::NotImplemented),
            }
        }
        labels.into()
    });
    Ok((text, labels))
}
