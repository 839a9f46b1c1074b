//! One request: its walk through the stages, to an endpoint and back.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version, header};
use hyper::body::{Body as _, Incoming};

use crate::flags::Flag;
use crate::payload::{Answer, Payload};
use crate::record::Record;
use crate::serve::Conversation;
use crate::upstream::dispatch;

/// Serves one request.
pub async fn serve(conversation: Arc<Conversation>, request: Request<Incoming>) -> Response<Answer<Record>> {
    let mut record = Record::begin(&conversation, &request);
    let version = if request.version() == Version::HTTP_2 { Version::HTTP_2 } else { Version::HTTP_11 };
    let (parts, body) = request.into_parts();
    let body = if body.is_end_stream() { Payload::Empty } else { Payload::Once(body) };
    let chosen = match dispatch::choose(&conversation) {
        Ok(chosen) => chosen,
        Err(_) => return unavailable(record, Flag::NoHealthyUpstream, "no healthy upstream"),
    };
    let request = Request::from_parts(parts, body);
    match dispatch::send(&conversation, &chosen, version, request).await {
        Ok((response, key, pooled)) => {
            let (parts, body) = response.into_parts();
            conversation.worker.connections.keep(&key, pooled);
            record.head(parts.status, &parts.headers);
            Response::from_parts(parts, Answer::from_upstream(body, None, record))
        }
        Err(_) => unavailable(record, Flag::UpstreamConnectFailure, "upstream connect error"),
    }
}

fn unavailable(mut record: Record, flag: Flag, text: &'static str) -> Response<Answer<Record>> {
    record.flag(flag);
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let plain = http::HeaderValue::from_static("text/plain");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    record.head(response.status(), response.headers());
    response.map(|()| Answer::made(Bytes::from_static(text.as_bytes()), record))
}
