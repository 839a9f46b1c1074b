//! Answers, whole or chunk by chunk.

use std::convert::Infallible;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;

/// The body of an answer.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

const TEXT: &str = "text/plain; charset=utf-8";

/// A short text.
pub fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    whole(status, TEXT, text.into())
}

/// The page of an operator's browser. The caller escapes what is not constant.
pub fn html(page: impl Into<Bytes>) -> Response<Body> {
    whole(StatusCode::OK, "text/html; charset=utf-8", page.into())
}

/// Says which method is right.
pub fn method_not_allowed(allowed: &'static str, usage: impl Into<Bytes>) -> Response<Body> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, usage);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

/// An answer that is made while it is read: the next chunk is asked for only when the last one was taken.
pub fn chunks(
    content_type: &'static str,
    chunks: impl Iterator<Item = Bytes> + Send + 'static,
) -> Response<Body> {
    let frames = futures_util::stream::iter(chunks.map(|chunk| Ok::<_, Infallible>(Frame::data(chunk))));
    with_headers(StatusCode::OK, content_type, StreamBody::new(frames).boxed_unsync())
}

fn whole(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Body> {
    with_headers(status, content_type, Full::new(body).boxed_unsync())
}

fn with_headers(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
