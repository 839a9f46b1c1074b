//! The accepting side of HBONE: one connection and the CONNECTs that arrive on it.
//!
//! Knows neither policy nor applications: it reads requests, answers what is no CONNECT with 400, and yields the rest.
//! The task that calls [`Server::next`] drives the connection, so it must keep calling while streams are open.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{Request, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep, timeout};

use super::ahead::Unanswered;
use super::drive::{Budget, Keepalive, Shared, Tick, Wire};
use super::request::{Baggage, Connect, InvalidRequest, encode_response};
use super::{Stream, limits};
use crate::refusal::Refusal;

/// A connection from a peer.
pub struct Server<T: AsyncRead + AsyncWrite + Unpin> {
    connection: Connection<Wire<T>, Bytes>,
    keepalive: Keepalive,
    /// Until the client's SETTINGS have arrived, the time at which waiting for them ends.
    settings_due: Option<Pin<Box<Sleep>>>,
    window: u32,
    shared: Arc<Shared>,
}

/// A CONNECT that waits for an answer. Dropped without one, its stream is reset with CANCEL.
pub struct Incoming {
    /// What it asks for.
    pub request: Connect,
    stream: Arc<Unanswered>,
    shared: Arc<Shared>,
}

/// What arrives on a connection.
#[derive(Debug)]
pub enum Arrival {
    /// A CONNECT, to be judged and answered.
    Connect(Box<Incoming>),
    /// Something else, answered with 400 already.
    Invalid(InvalidRequest),
}

/// Takes HTTP/2 on a TLS connection whose peer is verified.
///
/// # Errors
/// [`Refusal::Http2Failed`] when the client's preface is wrong or takes longer than [`limits::PREFACE_DEADLINE`].
pub async fn accept<T>(io: T, budget: &Arc<Budget>) -> Result<Server<T>, Refusal>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let shared = Shared::new(Arc::clone(budget));
    let wire = Wire::expecting_settings(io, Arc::clone(&shared));
    let settings_due = Box::pin(sleep(limits::PREFACE_DEADLINE));
    let mut connection = timeout(limits::PREFACE_DEADLINE, builder().handshake::<_, Bytes>(wire))
        .await
        .map_err(|_| Refusal::Http2Failed("no preface in time".into()))?
        .map_err(|error| Refusal::Http2Failed(error.to_string().into()))?;
    let keepalive = Keepalive::new(connection.ping_pong());
    let window = limits::CONNECTION_WINDOW_BYTES;
    Ok(Server { connection, keepalive, settings_due: Some(settings_due), window, shared })
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(limits::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
        .max_frame_size(limits::MAX_FRAME_BYTES)
        .max_send_buffer_size(limits::STREAM_SEND_BUFFER_BYTES)
        .max_header_list_size(limits::REQUEST_HEADERS_BYTES)
        .max_concurrent_streams(limits::MAX_CONCURRENT_STREAMS)
        .max_concurrent_reset_streams(limits::REMEMBERED_RESETS)
        .max_pending_accept_reset_streams(limits::PENDING_RESETS)
        .max_local_error_reset_streams(Some(limits::ERROR_RESETS))
        .data_frame_budget(limits::SMALL_FRAME_BUDGET_BYTES);
    builder
}

impl<T: AsyncRead + AsyncWrite + Unpin> Server<T> {
    /// The next arrival; `None` once the connection has closed. May be dropped and called again at any time.
    ///
    /// # Errors
    /// Why the connection ended, when it did not end gracefully. The server is then to be dropped, which fails the
    /// streams that are still open.
    pub async fn next(&mut self) -> Option<Result<Arrival, String>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Sends GOAWAY: open streams go on, new ones are refused, and the connection closes after the last one.
    pub fn drain(&mut self) {
        self.connection.graceful_shutdown();
    }

    /// Ends the connection and all its streams with `reason`, once [`Server::next`] is called.
    pub fn abort(&mut self, reason: Reason) {
        self.connection.abrupt_shutdown(reason);
    }

    /// Whether streams are open.
    pub fn has_streams(&self) -> bool {
        self.connection.has_streams()
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Arrival, String>>> {
        self.shared.begin_turn(cx);
        if let Some(window) = self.shared.window(self.window) {
            self.connection.set_target_window_size(window);
            self.window = window;
        }
        if let Poll::Ready(why) = self.poll_keepalive(cx) {
            return Poll::Ready(Some(Err(why)));
        }
        let accepted = self.connection.poll_accept(cx);
        self.shared.end_turn();
        let arrival = match accepted {
            Poll::Ready(Some(Ok((request, respond)))) => self.arrival(request, respond),
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error.to_string()))),
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => return self.poll_settings_due(cx).map(|why| Some(Err(why))),
        };
        Poll::Ready(Some(Ok(arrival)))
    }

    fn arrival(&self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Arrival {
        let (parts, recv) = request.into_parts();
        match Connect::decode(&parts) {
            Ok(request) => {
                let shared = Arc::clone(&self.shared);
                let stream = Unanswered::new(respond, recv, Arc::clone(&shared));
                Arrival::Connect(Box::new(Incoming { request, stream, shared }))
            }
            Err(invalid) => {
                // On an error the peer has withdrawn the request, and nobody waits for the answer.
                let _ = respond.send_response(encode_response(StatusCode::BAD_REQUEST, None), true);
                Arrival::Invalid(invalid)
            }
        }
    }

    /// Ready when the client's SETTINGS are overdue: `h2` itself would wait for them for ever.
    fn poll_settings_due(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        let Some(due) = &mut self.settings_due else { return Poll::Pending };
        if self.shared.saw_settings() {
            self.settings_due = None;
            return Poll::Pending;
        }
        due.as_mut().poll(cx).map(|()| "no SETTINGS in time".into())
    }

    fn poll_keepalive(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        let interval = limits::KEEPALIVE_INTERVAL;
        while let Poll::Ready(tick) = self.keepalive.poll(cx, &self.shared, interval) {
            if tick == Tick::Dead {
                return Poll::Ready("no sign of life".into());
            }
            self.shared.begin_interval();
        }
        if self.shared.withdrawn.load(Relaxed) > limits::WITHDRAWN_PER_INTERVAL || self.shared.is_flooded() {
            self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        }
        Poll::Pending
    }
}

impl Incoming {
    /// Answers 200 and opens the stream. `baggage` describes the answering workload.
    ///
    /// # Errors
    /// [`Refusal::Http2Failed`] when the peer has withdrawn the request, [`Refusal::LimitReached`] when it has sent more
    /// ahead of the answer than the worker can hold.
    pub fn accept(self, baggage: Option<&Baggage>) -> Result<Stream, Refusal> {
        let is_given_up = self.stream.is_given_up();
        let opened = self.stream.accept(encode_response(StatusCode::OK, baggage));
        opened.inspect_err(|_| self.count_withdrawn(is_given_up))
    }

    /// Answers with an error status ([`Refusal::status`]) and ends the stream.
    pub fn refuse(self, status: StatusCode) {
        if !self.stream.refuse(encode_response(status, None)) {
            self.count_withdrawn(self.stream.is_given_up());
        }
    }

    /// Waits until the peer withdraws the request, its connection ends, or it has sent more ahead of the answer than the
    /// worker can hold, and says which; for use beside the work that leads to an answer. Then the request is to be refused
    /// or dropped.
    pub async fn withdrawn(&mut self) -> Refusal {
        poll_fn(|cx| self.stream.poll_reset(cx)).await
    }

    /// Counts a request whose answer nobody waits for, unless it was this end that gave it up.
    fn count_withdrawn(&self, is_given_up: bool) {
        if !is_given_up {
            self.shared.withdrawn.fetch_add(1, Relaxed);
        }
    }
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming").field("request", &self.request).finish()
    }
}
