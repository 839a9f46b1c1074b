//! HTTP on a byte stream to an endpoint. Knows neither where the stream leads nor what protects it.

use common::config::destination::pool::Http2Keepalive;
use common::refusal::Refusal;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::gather::Gathered;
use crate::payload::Payload;

/// Bytes of an answer's head (Envoy's default of 60 KiB, rounded up).
pub const ANSWER_HEAD_BYTES: usize = 64 * 1024;
/// Header fields of an answer's head (Envoy's default, and hyper's: told so in HTTP/1.1, it would clear as many places for
/// each answer).
pub const ANSWER_FIELDS: usize = 100;
/// Bytes of one HTTP/2 stream of an endpoint that wait for a slow client.
pub const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// Bytes of all streams of one HTTP/2 connection that wait for slow clients.
pub const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// What is called on a connection.
#[derive(Debug)]
pub enum Sender {
    /// HTTP/1.1, one request at a time.
    Http1(http1::SendRequest<Payload>),
    /// HTTP/2.
    Http2(http2::SendRequest<Payload>),
}

/// Why no answer came.
#[derive(Debug)]
pub enum SendError {
    /// The connection was gone before the request was sent; here it is again.
    Unsent(Box<Request<Payload>>),
    /// It broke off after that.
    Broken(hyper::Error),
}

/// Begins HTTP of `version` on `io`. `held` lives as long as the connection.
///
/// # Errors
/// [`Refusal::Http2Failed`] when the preface cannot be written.
pub(crate) async fn begin<T>(
    io: T,
    version: Version,
    keepalive: Option<Http2Keepalive>,
    held: impl Send + 'static,
) -> Result<Sender, Refusal>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: hyper::Error| Refusal::Http2Failed(error.to_string().into());
    if version == Version::HTTP_2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(ANSWER_HEAD_BYTES as u32);
        if let Some(keepalive) = keepalive {
            builder.keep_alive_interval(keepalive.interval).keep_alive_timeout(keepalive.timeout);
        }
        let io = TokioIo::new(Gathered::answers(io));
        let (sender, connection) = builder.handshake(io).await.map_err(failed)?;
        tokio::spawn(async move {
            // Its requests have heard of whatever ended it.
            let _ = connection.await;
            drop(held);
        });
        return Ok(Sender::Http2(sender));
    }
    let mut builder = http1::Builder::new();
    builder.max_buf_size(ANSWER_HEAD_BYTES);
    let (sender, connection) = builder.handshake(TokioIo::new(io)).await.map_err(failed)?;
    tokio::spawn(async move {
        let _ = connection.with_upgrades().await;
        drop(held);
    });
    Ok(Sender::Http1(sender))
}

impl Sender {
    /// Whether a request can be sent now.
    pub fn is_ready(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_ready(),
            Self::Http2(sender) => sender.is_ready(),
        }
    }

    /// Whether the connection is over.
    pub fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }

    /// Whether it takes one request at a time.
    pub fn is_exclusive(&self) -> bool {
        matches!(self, Self::Http1(_))
    }

    /// Another handle on the same connection, where it takes several requests at a time.
    pub fn shared(&self) -> Option<Self> {
        match self {
            Self::Http1(_) => None,
            Self::Http2(sender) => Some(Self::Http2(sender.clone())),
        }
    }

    /// Sends a request and waits for the head of the answer.
    ///
    /// # Errors
    /// [`SendError`]: whether the request was sent.
    pub async fn send(&mut self, request: Request<Payload>) -> Result<Response<Incoming>, SendError> {
        match self {
            Self::Http1(sender) => sender.try_send_request(request).await.map_err(SendError::of),
            Self::Http2(sender) => sender.try_send_request(request).await.map_err(SendError::of),
        }
    }
}

impl SendError {
    fn of(mut error: TrySendError<Request<Payload>>) -> Self {
        match error.take_message() {
            Some(request) => Self::Unsent(Box::new(request)),
            None => Self::Broken(error.into_error()),
        }
    }
}
