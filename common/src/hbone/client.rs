//! The opening side of HBONE: one tunnel connection and the streams opened on it.
//!
//! Knows neither pools nor destinations. A [`Tunnel`] is a handle; its [`Driver`] must run for anything to move, on
//! the thread of the streams.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::client::{Builder, Connection, SendRequest};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};

use super::drive::{Budget, Keepalive, Shared, Tick, Wire};
use super::request::{Connect, response_baggage};
use super::{Stream, limits};
use crate::refusal::Refusal;

/// A connection to a peer, on which streams are opened.
#[derive(Debug)]
pub struct Tunnel {
    /// Taken out when the tunnel retires: `h2` closes the connection once this and all streams are gone.
    sender: Mutex<Option<SendRequest<Bytes>>>,
    streams: AtomicUsize,
    idle_since: Mutex<Instant>,
    pub(super) shared: Arc<Shared>,
}

/// A place for one stream on a tunnel, counted from the moment it is taken until the stream is dropped.
#[derive(Debug)]
pub struct Lease(Arc<Tunnel>);

/// Why a stream could not be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenError {
    /// The connection is gone or going, and the peer has seen no payload: another connection may be tried.
    Gone(String),
    /// The peer or a bound said no.
    Refused(Refusal),
}

/// Begins HTTP/2 on a TLS connection whose peer is verified. The driver must be spawned; the tunnel is usable at
/// once, without waiting for the peer's SETTINGS.
///
/// # Errors
/// [`Refusal::Http2Failed`] when the preface cannot be written within [`limits::PREFACE_DEADLINE`].
pub async fn handshake<T>(
    io: T,
    budget: &Arc<Budget>,
    idle_release: Duration,
) -> Result<(Arc<Tunnel>, Driver<T>), Refusal>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let shared = Shared::new(Arc::clone(budget));
    let wire = Wire::new(io, Arc::clone(&shared));
    let handshake = builder().handshake::<_, Bytes>(wire);
    let (sender, mut connection) = timeout(limits::PREFACE_DEADLINE, handshake)
        .await
        .map_err(|_| Refusal::Http2Failed("the preface was not taken".into()))?
        .map_err(|error| Refusal::Http2Failed(error.to_string().into()))?;
    let tunnel = Arc::new(Tunnel {
        sender: Mutex::new(Some(sender)),
        streams: AtomicUsize::new(0),
        idle_since: Mutex::new(Instant::now()),
        shared,
    });
    let keepalive = Keepalive::new(connection.ping_pong());
    let window = limits::CONNECTION_WINDOW_BYTES;
    let driver = Driver { tunnel: Arc::clone(&tunnel), connection, keepalive, window, idle_release };
    Ok((tunnel, driver))
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(limits::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
        .max_frame_size(limits::MAX_FRAME_BYTES)
        .max_send_buffer_size(limits::STREAM_SEND_BUFFER_BYTES)
        .max_header_list_size(limits::RESPONSE_HEADERS_BYTES)
        .max_concurrent_reset_streams(limits::REMEMBERED_RESETS)
        .max_local_error_reset_streams(Some(limits::ERROR_RESETS))
        .initial_max_send_streams(limits::STREAMS_PER_CONNECTION)
        .data_frame_budget(limits::SMALL_FRAME_BUDGET_BYTES)
        .enable_push(false);
    builder
}

impl Tunnel {
    /// Takes a place for one stream; `None` when the tunnel is full, retired or gone.
    pub fn lease(self: &Arc<Self>) -> Option<Lease> {
        let sender = self.lock();
        let sender = sender.as_ref()?;
        let places = limits::STREAMS_PER_CONNECTION.min(sender.current_max_send_streams());
        if self.is_ended() || self.streams.load(Relaxed) >= places {
            return None;
        }
        self.streams.fetch_add(1, Relaxed);
        Some(Lease(Arc::clone(self)))
    }

    /// Streams open or being opened.
    pub fn streams(&self) -> usize {
        self.streams.load(Relaxed)
    }

    /// Lets no further stream be opened; the connection closes with GOAWAY when the last one has ended.
    pub fn retire(&self) {
        self.lock().take();
    }

    /// Ends the connection now; its streams fail.
    pub fn abort(&self) {
        self.retire();
        self.shared.abort();
    }

    /// Whether the connection has ended.
    pub fn is_ended(&self) -> bool {
        self.shared.ended.load(Relaxed)
    }

    /// Time without streams; zero while there are some.
    pub fn idle(&self) -> Duration {
        if self.streams() > 0 {
            return Duration::ZERO;
        }
        self.idle_since.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<SendRequest<Bytes>>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.0.streams.fetch_sub(1, Relaxed) == 1 {
            *self.0.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
    }
}

impl Lease {
    /// The tunnel the place is on.
    pub fn tunnel(&self) -> &Arc<Tunnel> {
        &self.0
    }

    /// Sends CONNECT and waits for the answer, at most [`limits::ANSWER_DEADLINE`]. Dropped meanwhile, the request is
    /// withdrawn with RST_STREAM(CANCEL).
    ///
    /// # Errors
    /// [`OpenError`]: whether another connection may be tried, or the refusal.
    pub async fn open(self, request: &Connect) -> Result<Stream, OpenError> {
        match timeout(limits::ANSWER_DEADLINE, self.connect(request)).await {
            Ok(opened) => opened,
            Err(_) => Err(refused("no answer to CONNECT within 20 s".into())),
        }
    }

    async fn connect(self, request: &Connect) -> Result<Stream, OpenError> {
        let encoded = request.encode().map_err(|error| refused(error.to_string()))?;
        let sender = self.0.lock().clone().ok_or_else(|| OpenError::Gone("retired".into()))?;
        let mut sender = sender.ready().await.map_err(classify)?;
        let (answer, send) = sender.send_request(encoded, false).map_err(classify)?;
        let (head, recv) = answer.await.map_err(classify)?.into_parts();
        if head.status != StatusCode::OK {
            return Err(OpenError::Refused(Refusal::PeerRefused(head.status.as_u16())));
        }
        let peer = response_baggage(&head.headers);
        let shared = Arc::clone(&self.0.shared);
        Ok(Stream::new(send, recv, shared, Some(self), peer))
    }
}

fn refused(why: String) -> OpenError {
    OpenError::Refused(Refusal::Http2Failed(why.into()))
}

/// A failed connection, GOAWAY and REFUSED_STREAM leave the request without effect on payload; a reset of the stream
/// itself is the peer's answer.
fn classify(error: h2::Error) -> OpenError {
    let refused_stream = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    if error.is_reset() && !refused_stream {
        return refused(error.to_string());
    }
    OpenError::Gone(error.to_string())
}

/// Moves a tunnel's connection. Ends when the connection does.
pub struct Driver<T: AsyncRead + AsyncWrite + Unpin> {
    tunnel: Arc<Tunnel>,
    connection: Connection<Wire<T>, Bytes>,
    keepalive: Keepalive,
    window: u32,
    idle_release: Duration,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Driver<T> {
    fn poll_keepalive(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        let idle_left = self.idle_release.saturating_sub(self.tunnel.idle());
        while let Poll::Ready(tick) = self.keepalive.poll(cx, &self.tunnel.shared, idle_left) {
            if tick == Tick::Dead {
                return Poll::Ready("no sign of life".into());
            }
            self.tunnel.shared.begin_interval();
            if self.tunnel.idle() >= self.idle_release {
                self.tunnel.retire();
            }
        }
        Poll::Pending
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Driver<T> {
    /// Why the connection ended; `Ok` after a graceful close.
    type Output = Result<(), String>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let shared = Arc::clone(&this.tunnel.shared);
        shared.begin_turn(cx);
        if shared.is_aborted() {
            return Poll::Ready(Err("aborted".into()));
        }
        if shared.is_flooded() {
            return Poll::Ready(Err("the peer floods us with frames that carry nothing".into()));
        }
        if let Some(window) = shared.window(this.window) {
            this.connection.set_target_window_size(window);
            this.window = window;
        }
        if let Poll::Ready(why) = this.poll_keepalive(cx) {
            return Poll::Ready(Err(why));
        }
        let moved = Pin::new(&mut this.connection).poll(cx).map_err(|error| error.to_string());
        shared.end_turn();
        moved
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Drop for Driver<T> {
    fn drop(&mut self) {
        // Also when the task is dropped unfinished, so that nobody is handed a connection that no longer moves.
        self.tunnel.shared.ended.store(true, Relaxed);
        self.tunnel.retire();
    }
}
