//! Spans as Zipkin takes them: JSON of its version 2.

use std::time::UNIX_EPOCH;

use serde_json::{Map, Value, json};

use super::{Me, Side, Span};

/// The body of one export. `short` are trace ids of 64 bits (`enable64bitTraceId`).
pub fn encode(me: &Me, spans: Vec<Span>, short: bool) -> Vec<u8> {
    let all: Vec<Value> = spans.into_iter().map(|span| of(me, span, short)).collect();
    // Strings and numbers cannot fail to be written.
    serde_json::to_vec(&all).unwrap_or_default()
}

fn of(me: &Me, span: Span, short: bool) -> Value {
    let began = span.began.duration_since(UNIX_EPOCH).unwrap_or_default();
    let trace = match short || span.trace >> 64 == 0 {
        true => format!("{:016x}", span.trace as u64),
        false => format!("{:032x}", span.trace),
    };
    let mut tags: Map<String, Value> =
        span.tags.into_iter().map(|(name, value)| (name.into_owned(), value.into())).collect();
    if span.is_error {
        tags.insert("error".to_owned(), "true".into());
    }
    let mut whole = json!({
        "traceId": trace,
        "id": format!("{:016x}", span.id),
        "kind": match span.side { Side::Server => "SERVER", Side::Client => "CLIENT" },
        "name": span.name,
        "timestamp": u64::try_from(began.as_micros()).unwrap_or(u64::MAX),
        // Zero would be no duration at all.
        "duration": u64::try_from(span.took.as_micros()).unwrap_or(u64::MAX).max(1),
        "localEndpoint": { "serviceName": me.service },
        "tags": tags,
    });
    if let Some(parent) = span.parent {
        whole["parentId"] = format!("{parent:016x}").into();
    }
    whole
}
