//! One export: a request to a collector on a connection that is kept for the next.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue, TE, USER_AGENT};
use http::{Method, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use super::reach::{Dial, Wanted, Way};
use crate::config::mesh::ProviderService;

/// Bytes of a collector's answer that are read.
pub(super) const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// What stands before a message of gRPC: whether it is compressed, and its length.
const GRPC_FRAME_BYTES: usize = 5;
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
        let mut body = BytesMut::with_capacity(message.len() + GRPC_FRAME_BYTES);
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

    fn wanted(&self) -> Wanted<'_> {
        let has_headers = !self.headers.is_empty();
        Wanted { service: &self.service, version: self.version, has_headers }
    }

    fn is_grpc(&self) -> bool {
        self.version == Version::HTTP_2
    }

    fn http(&self, agent: &'static str) -> Result<http::Request<Full<Bytes>>, String> {
        let authority = format!("{}:{}", self.service.host, self.service.port);
        let mut request = http::Request::new(Full::new(self.body.clone()));
        let uri = match self.is_grpc() {
            true => format!("http://{authority}{}", self.path),
            false => self.path.to_string(),
        };
        *request.uri_mut() = uri.parse::<Uri>().map_err(|_| format!("{uri:?} is no path"))?;
        *request.method_mut() = Method::POST;
        *request.version_mut() = self.version;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.kind));
        headers.insert(USER_AGENT, HeaderValue::from_static(agent));
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
    agent: &'static str,
    sender: Option<Sender>,
}

impl Link {
    /// None yet. `agent` is what stands in `user-agent`.
    pub(super) fn new(dial: Arc<dyn Dial>, agent: &'static str) -> Self {
        Self { dial, agent, sender: None }
    }

    /// Forgets a connection of which nobody knows any more how far it is.
    pub(super) fn close(&mut self) {
        self.sender = None;
    }

    /// Sends one export and reads the answer's message, of gRPC without its frame. A kept connection that turns out to be
    /// gone is replaced once.
    ///
    /// # Errors
    /// In words, why it did not arrive.
    pub(super) async fn send(&mut self, request: Request) -> Result<Bytes, String> {
        let mut http = request.http(self.agent)?;
        let mut kept = self.sender.take().filter(Sender::is_ready);
        loop {
            let is_kept = kept.is_some();
            let mut sender = match kept.take() {
                Some(sender) => sender,
                None => {
                    let way = self.dial.connect(request.wanted()).await?;
                    Sender::begin(way, request.version).await.map_err(|error| error.to_string())?
                }
            };
            match sender.send(http).await {
                Ok(response) => {
                    let answer = read(response, request.is_grpc()).await?;
                    self.sender = Some(sender);
                    return Ok(answer);
                }
                Err(mut error) => match error.take_message() {
                    Some(again) if is_kept => http = again,
                    Some(_) => return Err("the connection was closed at once".to_owned()),
                    None if is_kept => http = request.http(self.agent)?,
                    None => return Err(error.into_error().to_string()),
                },
            }
        }
    }
}

type Body = Full<Bytes>;

/// HTTP on a connection to a collector.
enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

impl Sender {
    /// Begins HTTP of `version`. Ends with the connection, or when it is dropped.
    async fn begin(way: Way, version: Version) -> Result<Self, hyper::Error> {
        let io = TokioIo::new(way.io);
        if version == Version::HTTP_2 {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .initial_stream_window_size(MAX_ANSWER_BYTES as u32)
                .initial_connection_window_size(MAX_ANSWER_BYTES as u32);
            if let Some(keepalive) = way.keepalive {
                builder.keep_alive_interval(keepalive.interval).keep_alive_timeout(keepalive.timeout);
            }
            let (sender, connection) = builder.handshake(io).await?;
            // Its exports have heard of whatever ended it.
            tokio::spawn(async move { drop(connection.await) });
            return Ok(Self::Http2(sender));
        }
        let (sender, connection) = http1::Builder::new().max_buf_size(MAX_ANSWER_BYTES).handshake(io).await?;
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self::Http1(sender))
    }

    fn is_ready(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_ready(),
            Self::Http2(sender) => sender.is_ready(),
        }
    }

    async fn send(
        &mut self,
        request: http::Request<Body>,
    ) -> Result<Response<Incoming>, TrySendError<http::Request<Body>>> {
        match self {
            Self::Http1(sender) => sender.try_send_request(request).await,
            Self::Http2(sender) => sender.try_send_request(request).await,
        }
    }
}

/// What the collector says of it, if it took it.
async fn read(response: http::Response<hyper::body::Incoming>, is_grpc: bool) -> Result<Bytes, String> {
    let (head, body) = response.into_parts();
    if !head.status.is_success() || is_grpc && head.status != StatusCode::OK {
        return Err(format!("status {}", head.status));
    }
    let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
    let body = body.map_err(|error| format!("the answer: {error}"))?;
    if !is_grpc {
        return Ok(body.to_bytes());
    }
    let of =
        |name: &HeaderName| body.trailers().and_then(|it| it.get(name)).or_else(|| head.headers.get(name));
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    match of(&GRPC_STATUS).map(HeaderValue::as_bytes) {
        // One message, not compressed, because nothing else was asked for.
        Some(b"0") => {
            let frame = body.to_bytes();
            Ok(frame.slice(GRPC_FRAME_BYTES.min(frame.len())..))
        }
        Some(status) => {
            let message = of(&GRPC_MESSAGE).map(text).unwrap_or_default();
            Err(format!("gRPC status {}: {message}", String::from_utf8_lossy(status)))
        }
        None => Err("an answer without a gRPC status".to_owned()),
    }
}
