//! Lines of the access log in formats that an operator states.
//!
//! The formats are compiled; a line costs no parsing. As in the default format nothing that a client sends can end a line or
//! begin another field: values are escaped as the inside of a JSON string in both shapes.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::SystemTime;

use tracing::Level;

use super::access::{AccessLog, Address, TARGET};
use super::logging::with_line;
use super::request_line::{Blanks, RequestLine, escape};
use super::timestamp;
use crate::config::access_format::{Format, Operator, Piece};
use crate::config::expression::{Attribute, Facts as _, Value};

/// What a line looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// As Istio writes it where nothing is stated.
    Default,
    /// Text.
    Text(Format),
    /// A JSON object.
    Labels {
        /// Its keys, and what stands there.
        fields: Box<[(Arc<str>, Format)]>,
        /// Keys without a value are left out (`omitEmptyValues`).
        omits_empty: bool,
    },
}

impl AccessLog {
    /// Tells of a request in a stated shape. `failed` as in [`AccessLog::request`].
    pub fn shaped(&self, shape: &Shape, line: &RequestLine<'_>, failed: bool) {
        let wanted = match failed {
            false => tracing::enabled!(target: TARGET, Level::INFO),
            true => tracing::enabled!(target: TARGET, Level::ERROR),
        };
        match shape {
            Shape::Default => self.request(line, failed),
            Shape::Text(format) if wanted => with_line(&self.sink, |out| {
                text(format, line, plain, out);
                if out.last() != Some(&b'\n') {
                    out.push(b'\n');
                }
            }),
            Shape::Labels { fields, omits_empty } if wanted => {
                with_line(&self.sink, |out| labels(fields, *omits_empty, line, out));
            }
            _ => {}
        }
    }
}

/// What a format comes to for one request, as text.
pub fn rendered(format: &Format, line: &RequestLine<'_>) -> String {
    let mut out = Vec::new();
    text(format, line, plain, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// What stands in a text format itself is the operator's own, line ends among it.
fn plain(literal: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(literal.as_bytes());
}

fn text(format: &Format, line: &RequestLine<'_>, write: fn(&str, &mut Vec<u8>), out: &mut Vec<u8>) {
    for piece in format.pieces() {
        match piece {
            Piece::Literal(literal) => write(literal, out),
            Piece::Operator(operator, most) => match value(operator, line) {
                Some(value) => push(&value, *most, out),
                None => out.push(b'-'),
            },
        }
    }
}

fn push(value: &Value<'_>, most: Option<usize>, out: &mut Vec<u8>) {
    match value {
        Value::Text(text) => {
            let end = most.map_or(text.len(), |most| text.floor_char_boundary(most));
            escape(out, &text.as_bytes()[..end], Blanks::Kept);
        }
        Value::Bool(is_true) => out.extend_from_slice(if *is_true { b"true" } else { b"false" }),
        Value::Number(number) => {
            // Nothing fails to be written into memory.
            let _ = write!(Plain(out), "{number}");
        }
    }
}

struct Plain<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for Plain<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

fn labels(fields: &[(Arc<str>, Format)], omits_empty: bool, line: &RequestLine<'_>, out: &mut Vec<u8>) {
    let mut separator = b'{';
    for (key, format) in fields {
        let single = match format.pieces() {
            [Piece::Operator(operator, most)] => Some((value(operator, line), *most)),
            _ => None,
        };
        if omits_empty && matches!(single, Some((None, _))) {
            continue;
        }
        out.push(separator);
        separator = b',';
        out.push(b'"');
        escape(out, key.as_bytes(), Blanks::Kept);
        out.extend_from_slice(b"\":");
        match single {
            Some((None, _)) => out.extend_from_slice(b"null"),
            // A value of its own type, as in Envoy, where nothing stands beside it.
            Some((Some(value @ (Value::Number(_) | Value::Bool(_))), most)) => push(&value, most, out),
            Some((Some(value), most)) => {
                out.push(b'"');
                push(&value, most, out);
                out.push(b'"');
            }
            None => {
                out.push(b'"');
                text(format, line, |literal, out| escape(out, literal.as_bytes(), Blanks::Kept), out);
                out.push(b'"');
            }
        }
    }
    if separator == b'{' {
        out.push(b'{');
    }
    out.extend_from_slice(b"}\n");
}

fn value<'v>(operator: &'v Operator, line: &'v RequestLine<'v>) -> Option<Value<'v>> {
    let attribute = match operator {
        Operator::StartTime => return Some(told(line, timestamp::write_millis)),
        Operator::StartTimeAs(format) => {
            return Some(told(line, |out, at| timestamp::write_as(out, at, format)));
        }
        Operator::OriginalPath => {
            let path = line.http.as_ref()?.path;
            return Some(Value::Text(String::from_utf8_lossy(path)));
        }
        Operator::RequestHeader(name, other) => {
            let of = |name: &http::HeaderName| line.attribute(&Attribute::RequestHeader(name.clone()));
            return of(name).or_else(|| of(other.as_ref()?)).map(owned);
        }
        Operator::ResponseHeader(name, other) => {
            let of = |name: &http::HeaderName| match name.as_str() {
                "x-envoy-upstream-service-time" => {
                    line.service_time.map(|it| Value::Text(it.as_millis().to_string().into()))
                }
                _ => line.attribute(&Attribute::ResponseHeader(name.clone())),
            };
            return of(name).or_else(|| of(other.as_ref()?)).map(owned);
        }
        Operator::BytesReceived => return Some(number(line.bytes_received.into())),
        Operator::BytesSent => return Some(number(line.bytes_sent.into())),
        Operator::Duration => return Some(number(line.duration.as_millis())),
        Operator::ResponseCode => return Some(Value::Number(line.status.into())),
        Operator::UpstreamHost => return line.upstream_host.map(shown),
        Operator::UpstreamLocalAddress => return line.upstream_local.map(shown),
        Operator::DownstreamLocalAddress => return line.downstream_local.map(shown),
        Operator::DownstreamRemoteAddress => return line.downstream_remote.map(shown),
        Operator::TraceId => {
            return line.more?.trace_id().map(|id| Value::Text(format!("{id:032x}").into()));
        }
        Operator::Expression(expression) => return expression.evaluate(line),
        Operator::Known(text) => return Some(Value::text(text)),
        Operator::Method => Attribute::RequestMethod,
        Operator::Path => Attribute::RequestPath,
        Operator::Authority => Attribute::RequestHost,
        Operator::Protocol => Attribute::RequestProtocol,
        Operator::ResponseCodeDetails => Attribute::ResponseCodeDetails,
        Operator::ResponseFlags => Attribute::ResponseFlags,
        Operator::GrpcStatus => Attribute::ResponseGrpcStatus,
        Operator::ConnectionTerminationDetails => Attribute::ConnectionTerminationDetails,
        Operator::UpstreamTransportFailureReason => Attribute::UpstreamTransportFailureReason,
        Operator::UpstreamCluster => Attribute::ClusterName,
        Operator::DownstreamLocalAddressWithoutPort => Attribute::DestinationAddress,
        Operator::DownstreamLocalPort => Attribute::DestinationPort,
        Operator::DownstreamRemoteAddressWithoutPort => Attribute::SourceAddress,
        Operator::DownstreamPeerUriSan => Attribute::ConnectionPeerSan,
        Operator::RequestedServerName => Attribute::ConnectionServerName,
        Operator::RouteName => Attribute::RouteName,
    };
    line.attribute(&attribute).map(owned)
}

/// Free of the attribute that it was asked by.
fn owned(value: Value<'_>) -> Value<'static> {
    match value {
        Value::Text(text) => Value::Text(text.into_owned().into()),
        Value::Number(number) => Value::Number(number),
        Value::Bool(is_true) => Value::Bool(is_true),
    }
}

fn number(number: u128) -> Value<'static> {
    Value::Number(i64::try_from(number).unwrap_or(i64::MAX))
}

fn shown(address: std::net::SocketAddr) -> Value<'static> {
    Value::Text(Address(address).to_string().into())
}

/// When the request began, as `write` writes it.
fn told(line: &RequestLine<'_>, write: impl FnOnce(&mut Vec<u8>, SystemTime)) -> Value<'static> {
    let began = SystemTime::now().checked_sub(line.duration).unwrap_or(SystemTime::UNIX_EPOCH);
    let mut out = Vec::with_capacity(32);
    write(&mut out, began);
    Value::Text(String::from_utf8_lossy(&out).into_owned().into())
}

#[cfg(test)]
#[path = "formatted_tests.rs"]
mod tests;
