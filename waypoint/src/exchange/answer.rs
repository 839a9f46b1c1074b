//! Answers that a waypoint gives itself, in the words of Envoy's local replies. Pure.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// An answer that is made here.
pub(super) type Made = Response<Bytes>;

/// An answer with a line of text. A gRPC client gets it as a status of its own, in the head (gRPC over HTTP/2,
/// "Trailers-Only").
pub(super) fn made(status: StatusCode, text: &'static str, is_grpc: bool) -> Made {
    if is_grpc {
        return grpc(grpc_status(status), text);
    }
    let mut response = Response::new(Bytes::from_static(text.as_bytes()));
    *response.status_mut() = status;
    if !text.is_empty() {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    response
}

/// A gRPC status, in the head.
pub(super) fn grpc(status: u32, message: &'static str) -> Made {
    let mut response = Response::new(Bytes::new());
    let headers: &mut HeaderMap = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from(status));
    if !message.is_empty() {
        headers.insert(GRPC_MESSAGE, HeaderValue::from_static(message));
    }
    response
}

/// The gRPC status that stands for an HTTP status (gRPC's "HTTP to gRPC Status Code Mapping").
fn grpc_status(status: StatusCode) -> u32 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}
