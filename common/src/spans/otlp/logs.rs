//! Lines of access logs as OpenTelemetry's protocol has them (`opentelemetry.proto.collector.logs.v1`).

use prost::Message;

use super::super::{Entry, Me};
use super::{AnyValue, KeyValue, Resource, Scope, entry, nanos, resource, scope};

/// The call that takes them.
pub const EXPORT: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_logs: Vec<ResourceLogs>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceLogs {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_logs: Vec<ScopeLogs>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeLogs {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    log_records: Vec<LogRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct LogRecord {
    #[prost(fixed64, tag = "1")]
    time_unix_nano: u64,
    #[prost(message, optional, tag = "5")]
    body: Option<AnyValue>,
    #[prost(message, repeated, tag = "6")]
    attributes: Vec<KeyValue>,
    #[prost(bytes = "vec", tag = "9")]
    trace_id: Vec<u8>,
}

/// The body of one export. `log_name` is said of all of it, as Envoy does (`logName`).
pub fn encode(me: &Me, log_name: &str, entries: Vec<Entry>) -> Vec<u8> {
    let mut attributes = resource(me);
    attributes.push(entry("log_name".to_owned(), log_name.to_owned()));
    attributes.push(entry("node_name".to_owned(), me.node.clone()));
    let resource_logs = vec![ResourceLogs {
        resource: Some(Resource { attributes }),
        scope_logs: vec![ScopeLogs {
            scope: Some(scope(me)),
            log_records: entries.into_iter().map(of).collect(),
        }],
    }];
    Request { resource_logs }.encode_to_vec()
}

fn of(it: Entry) -> LogRecord {
    LogRecord {
        time_unix_nano: nanos(it.at, std::time::Duration::ZERO),
        body: Some(AnyValue { string_value: it.body }),
        attributes: it.attributes.into_iter().map(|(key, value)| entry(key.to_string(), value)).collect(),
        trace_id: it.trace.map_or_else(Vec::new, |id| id.to_be_bytes().to_vec()),
    }
}
