//! Spans as OpenTelemetry's protocol has them (`opentelemetry.proto.collector.trace.v1`), of which the few messages and
//! fields that Ebb's proxies fill stand here.

pub mod logs;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message;

use super::{Me, Side, Span};

/// The call that takes them.
pub const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<OtlpSpan>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct OtlpSpan {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(string, tag = "1")]
    string_value: String,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(int32, tag = "3")]
    code: i32,
}

const KIND_SERVER: i32 = 2;
const KIND_CLIENT: i32 = 3;
const STATUS_ERROR: i32 = 2;
/// The trace is recorded (W3C Trace Context, section 3.2.2.5).
const SAMPLED: u32 = 1;

/// Who tells.
fn resource(me: &Me) -> Vec<KeyValue> {
    let attributes = [
        ("service.name", me.service.as_str()),
        ("service.namespace", &me.namespace),
        ("k8s.cluster.name", &me.cluster),
        ("telemetry.sdk.name", me.program),
        ("telemetry.sdk.language", "rust"),
        ("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
    ];
    attributes.map(|(key, value)| entry(key.to_owned(), value.to_owned())).into()
}

fn scope(me: &Me) -> Scope {
    Scope { name: me.program.to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() }
}

/// The body of one export.
pub fn encode(me: &Me, spans: Vec<Span>) -> Vec<u8> {
    let spans = spans.into_iter().map(of).collect();
    let resource_spans = vec![ResourceSpans {
        resource: Some(Resource { attributes: resource(me) }),
        scope_spans: vec![ScopeSpans { scope: Some(scope(me)), spans }],
    }];
    Request { resource_spans }.encode_to_vec()
}

/// The answer to an export, of spans and of logs alike (`ExportTraceServiceResponse`, `ExportLogsServiceResponse`).
#[derive(Clone, PartialEq, Message)]
struct Answer {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    /// `rejected_spans`, `rejected_log_records`.
    #[prost(int64, tag = "1")]
    rejected: i64,
    #[prost(string, tag = "2")]
    error_message: String,
}

/// How many of an export a collector did not take, and why, as its answer says; `None` where it took all.
pub fn rejected(answer: &[u8]) -> Option<(u64, String)> {
    // An answer that cannot be read is no refusal: those of HTTP may be JSON.
    let partial = Answer::decode(answer).ok()?.partial_success?;
    let rejected = u64::try_from(partial.rejected).ok().filter(|it| *it > 0)?;
    Some((rejected, partial.error_message))
}

fn entry(key: String, value: String) -> KeyValue {
    KeyValue { key, value: Some(AnyValue { string_value: value }) }
}

fn of(span: Span) -> OtlpSpan {
    let status = span.is_error.then(|| Status { message: String::new(), code: STATUS_ERROR });
    OtlpSpan {
        trace_id: span.trace.to_be_bytes().to_vec(),
        span_id: span.id.to_be_bytes().to_vec(),
        parent_span_id: span.parent.map_or_else(Vec::new, |parent| parent.to_be_bytes().to_vec()),
        name: span.name,
        kind: match span.side {
            Side::Server => KIND_SERVER,
            Side::Client => KIND_CLIENT,
        },
        start_time_unix_nano: nanos(span.began, Duration::ZERO),
        end_time_unix_nano: nanos(span.began, span.took),
        attributes: span.tags.into_iter().map(|(key, value)| entry(key.into_owned(), value)).collect(),
        status,
        flags: SAMPLED,
    }
}

fn nanos(at: SystemTime, later: Duration) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default() + later;
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_says_how_many_it_did_not_take() {
        let answer = |rejected, error_message: &str| {
            let partial = PartialSuccess { rejected, error_message: error_message.to_owned() };
            Answer { partial_success: Some(partial) }.encode_to_vec()
        };
        // Field 1 of length 2, in which field 1 is the number 3 (opentelemetry.proto.collector.trace.v1).
        assert_eq!(rejected(&[0x0a, 0x02, 0x08, 0x03]), Some((3, String::new())));
        assert_eq!(rejected(&answer(2, "too old")), Some((2, "too old".to_owned())));
        for took_all in [&[][..], &answer(0, "a warning"), &answer(-1, ""), b"{\"partialSuccess\":{}}"] {
            assert_eq!(rejected(took_all), None, "{took_all:?}");
        }
    }
}
