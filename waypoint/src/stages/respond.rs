//! Answers that are made here: `directResponse`, and every refusal or failure that no service answers.
//!
//! To a gRPC client they take gRPC's form: status 200 and the outcome in headers that are trailers at the same time,
//! as a gRPC library knows no other. What each HTTP status is in gRPC is gRPC's own table.

use bytes::Bytes;
use common::config::routing::http::DirectResponse;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// Most bytes of a body that are told to a gRPC client.
pub const MAX_MESSAGE_BYTES: usize = 1024;

/// gRPC's `UNAVAILABLE`.
const GRPC_UNAVAILABLE: u8 = 14;

/// gRPC's outcome of a call, as a number.
pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// gRPC's words about it.
pub(super) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// An answer, whole. Its length and date are for whoever sends it.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers; boxed, because answers travel as errors of what made none.
    pub headers: Box<HeaderMap>,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// An answer without headers and body.
    pub(super) fn bare(status: StatusCode) -> Self {
        Self { status, headers: Box::default(), body: Bytes::new() }
    }
}

/// An answer in plain text, or in gRPC's form.
pub fn answer(status: StatusCode, body: impl Into<Bytes>, is_grpc: bool) -> Answer {
    let body = body.into();
    if is_grpc {
        return grpc_answer(grpc_status(status), &body);
    }
    let mut answer = Answer { body, ..Answer::bare(status) };
    if !answer.body.is_empty() {
        answer.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    answer
}

/// `directResponse`. Changes to response headers that the route states are made to it too.
pub fn direct(stated: &DirectResponse, is_grpc: bool) -> Answer {
    answer(stated.status, stated.body.clone(), is_grpc)
}

/// Nobody can be led to: no backend, or one that is missing (Gateway API: 500, and `UNAVAILABLE` to gRPC clients).
pub fn unroutable(is_grpc: bool) -> Answer {
    match is_grpc {
        true => grpc_answer(GRPC_UNAVAILABLE, b""),
        false => Answer::bare(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// An answer in gRPC's form, with its outcome and words about it.
pub(super) fn grpc_answer(status: u8, message: &[u8]) -> Answer {
    let mut answer = Answer::bare(StatusCode::OK);
    answer.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    answer.headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(status)));
    if let Some(message) = encoded(message) {
        answer.headers.insert(GRPC_MESSAGE, message);
    }
    answer
}

/// The outcome that an HTTP status stands for where a gRPC server is expected.
fn grpc_status(status: StatusCode) -> u8 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// Words in the encoding of `grpc-message`: what is not printable ASCII, and `%`, as `%` and two hex digits.
fn encoded(message: &[u8]) -> Option<HeaderValue> {
    let mut made = String::new();
    for byte in message.iter().take(MAX_MESSAGE_BYTES) {
        match byte {
            b'%' => made.push_str("%25"),
            b' '..=b'~' => made.push(char::from(*byte)),
            byte => made.push_str(&format!("%{byte:02X}")),
        }
    }
    HeaderValue::try_from(made).ok().filter(|it| !it.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_direct_response_says_what_is_stated() {
        let stated = DirectResponse { status: StatusCode::IM_A_TEAPOT, body: "short and stout".into() };
        let plain = direct(&stated, false);
        assert_eq!((plain.status, &*plain.body), (StatusCode::IM_A_TEAPOT, &b"short and stout"[..]));
        assert_eq!(plain.headers[CONTENT_TYPE], "text/plain");
        let empty = direct(&DirectResponse { status: StatusCode::OK, body: Bytes::new() }, false);
        assert_eq!((empty.headers.len(), empty.body.len()), (0, 0));
    }

    #[test]
    fn a_grpc_client_is_answered_in_its_own_form() {
        for (status, expected) in [
            (400, "13"),
            (401, "16"),
            (403, "7"),
            (404, "12"),
            (429, "14"),
            (503, "14"),
            (504, "14"),
            (418, "2"),
        ] {
            let told = answer(StatusCode::from_u16(status).unwrap(), "50 % done\né", true);
            assert_eq!(told.status, StatusCode::OK);
            assert_eq!(told.headers[GRPC_STATUS], expected, "{status}");
            assert_eq!(told.headers[GRPC_MESSAGE], "50 %25 done%0A%C3%A9");
            assert_eq!(told.headers[CONTENT_TYPE], "application/grpc");
            assert!(told.body.is_empty(), "the headers are the trailers");
        }
        assert!(!answer(StatusCode::OK, "", true).headers.contains_key(GRPC_MESSAGE));
        let long = answer(StatusCode::OK, "x".repeat(5000), true);
        assert_eq!(long.headers[GRPC_MESSAGE].len(), MAX_MESSAGE_BYTES);
    }
}
