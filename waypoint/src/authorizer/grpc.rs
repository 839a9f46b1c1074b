//! An authorizer over gRPC (`envoy.service.auth.v3.Authorization/Check`): it is shown the request, and says what becomes
//! of it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use bytes::{BufMut as _, Bytes, BytesMut};
use common::config::mesh::Authorizer;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, TE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use prost::Message as _;

use super::proto::{
    Address, AskedRequest, AttributeContext, CheckRequest, CheckResponse, Header, HeaderValueOption,
    HttpRequest, OkResponse, Peer, SocketAddress, Timestamp,
};
use super::{Asked, Change, Changes, Failure, How, Refused, Verdict, is_framing};

/// The call.
pub const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
/// What stands before a message of gRPC: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Who calls whom.
#[derive(Debug, Clone)]
pub struct Parties {
    /// The client's own address.
    pub client: SocketAddr,
    /// Its verified identity, as a SPIFFE id; empty where nothing is proved.
    pub principal: String,
    /// The address that was called.
    pub called: SocketAddr,
}

/// The headers of the call.
pub fn headers(timeout: Duration) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    // At most eight digits (gRPC over HTTP/2).
    let milliseconds = timeout.as_millis().min(99_999_999);
    if let Ok(value) = HeaderValue::try_from(format!("{milliseconds}m")) {
        headers.insert(GRPC_TIMEOUT, value);
    }
    headers
}

/// The message that is sent about a request, framed.
pub fn question(authorizer: &Authorizer, asked: &Asked<'_>, parties: &Parties, now: SystemTime) -> Bytes {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let time = Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
    };
    let source = Peer { address: Some(address(parties.client)), principal: parties.principal.clone() };
    let destination = Peer { address: Some(address(parties.called)), principal: String::new() };
    let request = AskedRequest { time: Some(time), http: Some(http(authorizer, asked)) };
    let attributes =
        AttributeContext { source: Some(source), destination: Some(destination), request: Some(request) };
    framed(&CheckRequest { attributes: Some(attributes) })
}

fn framed(message: &impl prost::Message) -> Bytes {
    let length = message.encoded_len();
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + length);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    framed.put_slice(&message.encode_to_vec());
    framed.freeze()
}

fn address(of: SocketAddr) -> Address {
    let (address, port_value) = (of.ip().to_canonical().to_string(), u32::from(of.port()));
    Address { socket_address: Some(SocketAddress { address, port_value }) }
}

/// Whether what is shown of a body is not all of it; nobody else says so.
const PARTIAL: &str = "x-envoy-auth-partial-body";

fn http(authorizer: &Authorizer, asked: &Asked<'_>) -> HttpRequest {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let mut headers = HashMap::from([
        (":method".to_owned(), asked.method.to_string()),
        (":path".to_owned(), asked.target.to_owned()),
        (":authority".to_owned(), asked.authority.to_owned()),
        (":scheme".to_owned(), "http".to_owned()),
    ]);
    for name in asked.headers.keys().filter(|name| **name != HOST && name.as_str() != PARTIAL) {
        let values: Vec<String> = asked.headers.get_all(name).iter().map(text).collect();
        headers.insert(name.as_str().to_owned(), values.join(","));
    }
    let length = asked.headers.get(CONTENT_LENGTH).and_then(|it| it.to_str().ok()?.parse().ok());
    let shown = asked.body.map(|it| it.bytes.clone()).unwrap_or_default();
    if let Some(seen) = asked.body {
        headers.insert(PARTIAL.to_owned(), seen.is_partial.to_string());
    }
    let as_bytes = authorizer.body.is_some_and(|it| it.pack_as_bytes);
    let (body, raw_body) = match as_bytes {
        true => (String::new(), shown),
        false => (String::from_utf8_lossy(&shown).into_owned(), Bytes::new()),
    };
    HttpRequest {
        id: asked.headers.get(REQUEST_ID).map(text).unwrap_or_default(),
        method: asked.method.to_string(),
        headers,
        path: asked.target.to_owned(),
        host: asked.authority.to_owned(),
        scheme: "http".to_owned(),
        size: length.unwrap_or(-1),
        protocol: if asked.version == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" }.to_owned(),
        body,
        raw_body,
    }
}

/// What the answer says.
///
/// # Errors
/// [`Failure`] when it is no answer, or changes what it may not.
pub fn verdict(
    status: StatusCode,
    headers: &HeaderMap,
    trailers: Option<&HeaderMap>,
    body: &[u8],
) -> Result<Verdict, Failure> {
    if status != StatusCode::OK {
        return Err(Failure::Status(status.as_u16()));
    }
    let outcome = trailers.and_then(|it| it.get(GRPC_STATUS)).or_else(|| headers.get(GRPC_STATUS));
    match outcome.map(|it| it.to_str().ok().and_then(|it| it.parse::<u16>().ok())) {
        Some(Some(0)) => {}
        Some(Some(code)) => return Err(Failure::Status(code)),
        Some(None) | None => return Err(Failure::Malformed("no outcome of gRPC")),
    }
    let (prefix, message) = body.split_at_checked(PREFIX_BYTES).ok_or(Failure::Malformed("no message"))?;
    let length = prefix[1..].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    if prefix[0] != 0 || message.len() != length {
        return Err(Failure::Malformed("not one plain message"));
    }
    let said = CheckResponse::decode(message).map_err(|_| Failure::Malformed("no CheckResponse"))?;
    // Nothing said is OK, as any message of protobuf: the code of a status that is there, and is not 0, refuses.
    if said.status.as_ref().is_none_or(|it| it.code == 0) {
        if said.denied.is_some() {
            return Err(Failure::Malformed("OK, and a refusal"));
        }
        return agreed(said.ok.unwrap_or_default()).map(Verdict::Agreed);
    }
    let denied = said.denied.unwrap_or_default();
    let code = denied.status.map_or(0, |it| it.code);
    let status = match u16::try_from(code) {
        Ok(0) => StatusCode::FORBIDDEN,
        Ok(code @ 200..=599) => StatusCode::from_u16(code).map_err(|_| Failure::Malformed("its status"))?,
        _ => return Err(Failure::Malformed("its status")),
    };
    let headers = changes(denied.headers, How::Add)?;
    Ok(Verdict::Refused(Refused { status, headers, body: denied.body.into() }))
}

fn agreed(ok: OkResponse) -> Result<Changes, Failure> {
    if !(ok.query_parameters_to_set.is_empty() && ok.query_parameters_to_remove.is_empty()) {
        return Err(Failure::Malformed("it changes the query"));
    }
    let mut removed = Vec::new();
    for name in ok.headers_to_remove {
        removed.push(changeable(&name)?);
    }
    // What is added to answers is added beside what is there, unless it says otherwise by its action.
    let answer = changes(ok.response_headers_to_add, How::Add)?;
    Ok(Changes { request: changes(ok.headers, How::Set)?, removed, answer })
}

/// `unsaid` is what becomes of a header where nothing is said of how.
fn changes(stated: Vec<HeaderValueOption>, unsaid: How) -> Result<Vec<Change>, Failure> {
    stated.into_iter().map(|it| change(it, unsaid)).collect()
}

fn change(stated: HeaderValueOption, unsaid: How) -> Result<Change, Failure> {
    let Some(Header { key, value, raw_value }) = stated.header else {
        return Err(Failure::Malformed("a header without a name"));
    };
    let value = if value.is_empty() { raw_value } else { value.into_bytes() };
    let value = HeaderValue::from_bytes(&value).map_err(|_| Failure::Malformed("the value of a header"))?;
    let how = match (stated.append, stated.append_action) {
        (Some(true), _) => How::Add,
        // The first action is what stands there when none is stated.
        (None, 0) => unsaid,
        (Some(false), _) | (None, 2) => How::Set,
        (None, 1) => How::IfAbsent,
        (None, 3) => How::IfPresent,
        (None, _) => return Err(Failure::Malformed("an unknown action")),
    };
    Ok(Change { name: changeable(&key)?, value, how })
}

fn changeable(name: &str) -> Result<HeaderName, Failure> {
    let name: HeaderName =
        name.to_ascii_lowercase().parse().map_err(|_| Failure::Malformed("the name of a header"))?;
    if is_framing(&name) { Err(Failure::Malformed("it changes how messages are framed")) } else { Ok(name) }
}
