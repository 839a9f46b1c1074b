//! One export: a request to a collector on a connection that is kept for the next.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use common::config::mesh::ProviderService;
use http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue, TE, USER_AGENT};
use http::{Method, StatusCode, Uri, Version};
use http_body_util::{BodyExt as _, Limited};

use super::reach::Dial;
use crate::payload::Payload;
use crate::upstream::connection::{SendError, Sender};

/// Bytes of a collector's answer that are read.
pub(super) const MAX_ANSWER_BYTES: usize = 64 * 1024;

const AGENT: HeaderValue = HeaderValue::from_static(concat!("ebb-waypoint/", env!("CARGO_PKG_VERSION")));
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// What is sent.
pub(super) struct Request {
    service: ProviderService,
    path: Arc<str>,
    kind: &'static str,
    headers: Box<[(HeaderName, HeaderValue)]>,
    version: Version,
    body: Bytes,
}

impl Request {
    /// JSON over HTTP/1.1.
    pub(super) fn json(service: &ProviderService, path: Arc<str>, body: Vec<u8>) -> Self {
        let (service, body) = (service.clone(), body.into());
        Self {
            service,
            path,
            kind: "application/json",
            headers: Box::default(),
            version: Version::HTTP_11,
            body,
        }
    }

    /// Protobuf over HTTP/1.1.
    pub(super) fn protobuf(
        service: &ProviderService,
        path: Arc<str>,
        headers: &[(HeaderName, HeaderValue)],
        body: Vec<u8>,
    ) -> Self {
        let kind = "application/x-protobuf";
        let (service, body, headers) = (service.clone(), body.into(), headers.into());
        Self { service, path, kind, headers, version: Version::HTTP_11, body }
    }

    /// A call of gRPC with one message, not compressed.
    pub(super) fn grpc(
        service: &ProviderService,
        path: Arc<str>,
        headers: &[(HeaderName, HeaderValue)],
        message: &[u8],
    ) -> Self {
        let mut body = BytesMut::with_capacity(message.len() + 5);
        body.put_u8(0);
        // A batch is bounded far below what 32 bits can say.
        body.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
        body.put_slice(message);
        let (service, headers) = (service.clone(), headers.into());
        Self {
            service,
            path,
            kind: "application/grpc",
            headers,
            version: Version::HTTP_2,
            body: body.freeze(),
        }
    }

    fn is_grpc(&self) -> bool {
        self.version == Version::HTTP_2
    }

    fn http(&self) -> Result<http::Request<Payload>, String> {
        let authority = format!("{}:{}", self.service.host, self.service.port);
        let mut request = http::Request::new(Payload::Whole(Some(self.body.clone())));
        let uri = match self.is_grpc() {
            true => format!("http://{authority}{}", self.path),
            false => self.path.to_string(),
        };
        *request.uri_mut() = uri.parse::<Uri>().map_err(|_| format!("{uri:?} is no path"))?;
        *request.method_mut() = Method::POST;
        *request.version_mut() = self.version;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.kind));
        headers.insert(USER_AGENT, AGENT);
        if self.is_grpc() {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        } else if let Ok(host) = HeaderValue::try_from(authority) {
            headers.insert(HOST, host);
        }
        for (name, value) in &self.headers {
            headers.insert(name.clone(), value.clone());
        }
        Ok(request)
    }
}

/// The way to one collector.
pub(super) struct Link {
    dial: Arc<dyn Dial>,
    sender: Option<Sender>,
}

impl Link {
    pub(super) fn new(dial: Arc<dyn Dial>) -> Self {
        Self { dial, sender: None }
    }

    /// Forgets a connection of which nobody knows any more how far it is.
    pub(super) fn close(&mut self) {
        self.sender = None;
    }

    /// Sends one export and reads the answer. A kept connection that turns out to be gone is replaced once.
    ///
    /// # Errors
    /// In words, why it did not arrive.
    pub(super) async fn send(&mut self, request: Request) -> Result<(), String> {
        let mut http = request.http()?;
        let mut kept = self.sender.take().filter(|it| it.is_ready());
        loop {
            let is_kept = kept.is_some();
            let mut sender = match kept.take() {
                Some(sender) => sender,
                None => self.dial.connect(&request.service, request.version).await?,
            };
            match sender.send(http).await {
                Ok(response) => {
                    read(response, request.is_grpc()).await?;
                    self.sender = Some(sender);
                    return Ok(());
                }
                Err(SendError::Unsent(again)) if is_kept => http = *again,
                Err(SendError::Unsent(_)) => return Err("the connection was closed at once".to_owned()),
                Err(SendError::Broken(_)) if is_kept => http = request.http()?,
                Err(SendError::Broken(error)) => return Err(error.to_string()),
            }
        }
    }
}

/// Whether the collector took it.
async fn read(response: http::Response<hyper::body::Incoming>, is_grpc: bool) -> Result<(), String> {
    let (head, body) = response.into_parts();
    if !head.status.is_success() || is_grpc && head.status != StatusCode::OK {
        return Err(format!("status {}", head.status));
    }
    let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
    let body = body.map_err(|error| format!("the answer: {error}"))?;
    if !is_grpc {
        return Ok(());
    }
    let of =
        |name: &HeaderName| body.trailers().and_then(|it| it.get(name)).or_else(|| head.headers.get(name));
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    match of(&GRPC_STATUS).map(HeaderValue::as_bytes) {
        Some(b"0") => Ok(()),
        Some(status) => {
            let message = of(&GRPC_MESSAGE).map(text).unwrap_or_default();
            Err(format!("gRPC status {}: {message}", String::from_utf8_lossy(status)))
        }
        None => Err("an answer without a gRPC status".to_owned()),
    }
}
