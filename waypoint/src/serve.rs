//! Serves one CONNECT: what it asks for, which protocol comes, and who speaks it.
//!
//! Every bound of the HTTP servers stands here. Knows neither routes nor endpoints.

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use common::hbone::io::TunnelIo;
use common::hbone::request::{Baggage, Connect};
use common::hbone::server::Incoming as Asked;
use common::lifecycle::seldom::Seldom;
use common::refusal::Refusal;
use common::snapshot::model::Workload;
use common::telemetry::labels::Reporter;
use futures_util::FutureExt as _;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::{Body, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::accept::Peer;
use crate::authz::live::Watched;
use crate::destination::{Destination, Protocol};
use crate::exchange::called::Called;
use crate::farewell::{silence_is_over, time_to_move};
use crate::gather::Gathered;
use crate::sniff::{self, Sniffed, watch};
use crate::strict::{StrictIo, Verdicts};
use crate::upstream::Cluster;
use crate::worker::Worker;
use crate::{exchange, record, tcp};

pub mod pulse;
pub mod withdrawn;

use self::pulse::{Pulse, Streams};
use self::withdrawn::Withdrawals;

/// Bytes of a request's head (Envoy's default of 60 KiB, rounded up).
pub const REQUEST_HEAD_BYTES: usize = 64 * 1024;
/// Header fields of a request's head (Envoy's default, and hyper's: told so in HTTP/1.1, it would clear as many places for
/// each request).
pub const REQUEST_FIELDS: usize = 100;
/// Time for a request's head to arrive whole once it has begun, in HTTP/1.1. A client that takes longer is answered 408.
pub const REQUEST_HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// Time for a client that has begun to speak to show what; then it is HTTP/1.1 where HTTP is declared, and TCP where
/// nothing is.
pub const SNIFF_DEADLINE: Duration = Duration::from_secs(2);
/// Time between two requests of an HTTP/1.1 connection (Envoy's default).
pub const IDLE_DEADLINE: Duration = Duration::from_secs(3600);
/// Silence of an HTTP/2 client after which it is asked for a sign of life. No client can give one in the middle of a
/// request's head (RFC 9113, section 6.10), so that this bounds the time for a head as well.
pub const PING_INTERVAL: Duration = Duration::from_secs(20);
/// Time for that sign of life.
pub const PING_DEADLINE: Duration = Duration::from_secs(20);
/// Requests that a client may have under way on one HTTP/2 connection.
pub const MAX_CONCURRENT_REQUESTS: u32 = 1024;
/// Bytes of one HTTP/2 request that wait for a slow endpoint.
pub const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// Bytes of all requests of one HTTP/2 connection that wait for slow endpoints. `h2` allows half as many for its own
/// bookkeeping on small frames, 256 for each, and ends the connection beyond it: enough for 8,000 messages that wait, each
/// of which came by itself.
pub const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Requests that were reset by the client before they could be looked at (rapid reset, CVE-2023-44487).
pub const PENDING_RESETS: usize = 20;
/// Requests that a client may make us reset by protocol errors (CVE-2025-8671, "MadeYouReset").
pub const ERROR_RESETS: usize = 128;

/// Who speaks to what: the same for every request of one tunnel stream.
pub struct Conversation {
    /// The worker that serves it.
    pub worker: Arc<Worker>,
    /// Who is at the other end of the tunnel.
    pub peer: Arc<Peer>,
    /// Whether the peer calls for itself; when not, nothing is known of who does.
    pub proved: bool,
    /// The workload that calls, as it was when the stream was opened.
    pub caller: Option<Arc<Workload>>,
    /// The client's own address.
    pub client: SocketAddr,
    /// Who the client says it is, handed on for telemetry.
    pub baggage: Option<Baggage>,
    /// What was called.
    pub destination: Destination,
    /// The address that was called; of a service called by name, its first.
    pub original: SocketAddr,
    /// The destination that a pod is when it was called itself, made when it is first asked for.
    pub pod: OnceLock<Option<Arc<Cluster>>>,
    /// Its requests, for as long as they are under way.
    pub live: Watched,
}

/// Serves one CONNECT to its end.
pub async fn serve(worker: Arc<Worker>, peer: Arc<Peer>, incoming: Asked) {
    let conversation = {
        let mesh = worker.shared.mesh();
        match Destination::find(&mesh, &worker.gateway, &incoming.request.authority) {
            Ok(destination) => {
                // Who carries the connection of somebody who proved nothing does not lend them its own name.
                let proved = !incoming.request.unauthenticated;
                let caller = peer.workload(&mesh).filter(|_| proved).cloned();
                let client = client(&peer, &incoming.request, &destination);
                let baggage = caller.as_deref().map(Baggage::of);
                let worker = worker.clone();
                let original = destination.address(&incoming.request.authority, peer.local);
                let pod = OnceLock::new();
                let Some(live) = worker.shared.live.enter() else {
                    return incoming.refuse(Refusal::LimitReached("MAX_CONVERSATIONS").status());
                };
                Arc::new(Conversation {
                    worker,
                    peer,
                    caller,
                    client,
                    baggage,
                    destination,
                    original,
                    pod,
                    proved,
                    live,
                })
            }
            Err(refusal) => {
                worker.access.refused_early(Reporter::Destination, (peer.address, peer.local), &refusal);
                return incoming.refuse(refusal.status());
            }
        }
    };
    // On an error the peer has withdrawn the request.
    let Ok(stream) = incoming.accept(None) else { return };
    let mut stream = TunnelIo::new(stream);
    let told = match conversation.destination.protocol() {
        // Whoever may have to wait for the server's first word is not waited for.
        Protocol::Tcp => Ok(Sniffed::Other),
        Protocol::Tls => Ok(Sniffed::Tls),
        Protocol::Http => match watch(&mut stream, SNIFF_DEADLINE).await {
            // It was to be HTTP, so let the parser say what is wrong with it.
            Ok(Sniffed::Other | Sniffed::Tls) => Ok(Sniffed::Http1),
            told => told,
        },
        Protocol::Undeclared => match watch(&mut stream, SNIFF_DEADLINE).await {
            // Where rules for requests are stated, nobody gets round them by not looking like one.
            Ok(Sniffed::Other | Sniffed::More) if Called::find(&conversation).has_http_rules() => {
                Ok(Sniffed::Http1)
            }
            Ok(Sniffed::Tls) if Called::find(&conversation).refuses_tls() => Ok(Sniffed::Http1),
            told => told,
        },
    };
    match told {
        Ok(Sniffed::Http2) => http2(conversation, stream).await,
        Ok(Sniffed::Http1) => http1(conversation, stream).await,
        Ok(Sniffed::Tls) => {
            let name = sniff::server_name(&mut stream).await;
            tcp::carry(&conversation, stream, name.as_deref()).await;
        }
        Ok(Sniffed::Other | Sniffed::More) => tcp::carry(&conversation, stream, None).await,
        // The client went away before it had said anything.
        Err(_) => {}
    }
}

/// The client, by the word of its node. That is believed of the caller's own address, whose port nobody else knows; and of
/// another address only where the called pod's own node takes plaintext here on its behalf: whoever else says that its caller
/// proved nothing could say of it what it likes.
fn client(peer: &Peer, request: &Connect, destination: &Destination) -> SocketAddr {
    let by_called_pod = match destination {
        Destination::Workload { workload, .. } => workload.addresses.contains(&peer.address.ip()),
        Destination::Service { .. } => false,
    };
    let told = request.forwarded.as_ref().map(|forwarded| forwarded.client);
    let believed = |told: &SocketAddr| {
        told.ip().to_canonical() == peer.address.ip() || request.unauthenticated && by_called_pod
    };
    told.filter(believed).unwrap_or(peer.address)
}

async fn http1(conversation: Arc<Conversation>, stream: TunnelIo) {
    let verdicts = Arc::<Verdicts>::default();
    carry_http1(conversation.clone(), stream, verdicts.clone()).await;
    if verdicts.is_head_late() {
        record::late_head(&conversation, REQUEST_HEAD_DEADLINE);
    }
}

async fn carry_http1(conversation: Arc<Conversation>, stream: TunnelIo, verdicts: Arc<Verdicts>) {
    let worker = conversation.worker.clone();
    let pulse = Arc::new(Pulse::of_connection(worker.stream_idle));
    let of_requests = pulse.clone();
    let serve = move |request| {
        let (conversation, pulse) = (conversation.clone(), of_requests.clone());
        async move {
            let mut reply = exchange::serve(&conversation, pulse, request).await;
            if conversation.worker.drain.is_draining() && reply.status() != StatusCode::SWITCHING_PROTOCOLS {
                reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            reply
        }
    };
    // A client that has said all it will still waits for its answer; one that is gone does not, and nobody reads to see it.
    let mut withdrawn = pin!(stream.withdrawn());
    let mut connection = pin!(http1_connection(stream, verdicts, serve));
    let mut end = pin!(Seldom::new(worker.end.cancelled()));
    // However it ended, its requests have told of themselves.
    tokio::select! {
        _ = pulse.bound(connection.as_mut()) => return,
        () = withdrawn.as_mut() => return,
        () = end.as_mut() => return,
        () = Seldom::new(silence_is_over(&worker.drain)) => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        _ = pulse.bound(connection) => {}
        () = withdrawn => {}
        () = end => {}
    }
}

/// The requests on `io`, one by one, and what `serve` answers them; `verdicts` hear of it.
fn http1_connection<T, F, R, B>(
    io: T,
    verdicts: Arc<Verdicts>,
    serve: F,
) -> http1::UpgradeableConnection<
    TokioIo<StrictIo<T>>,
    impl Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>,
>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Incoming>) -> R,
    R: Future<Output = Response<B>> + Send,
    B: Body + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let io = StrictIo::new(io, REQUEST_HEAD_DEADLINE, verdicts.clone());
    let service = service_fn(move |request| {
        let verdicts = verdicts.clone();
        serve(request).map(move |reply| {
            verdicts.answered(reply.status());
            Ok(reply)
        })
    });
    http1_server().serve_connection(TokioIo::new(io), service).with_upgrades()
}

fn http1_server() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .half_close(true)
        .max_buf_size(REQUEST_HEAD_BYTES)
        // Heads have their time from `StrictIo`, and connections without a request from their `Pulse`.
        .header_read_timeout(None)
        .auto_date_header(false);
    builder
}

fn http2_server(idle: Option<Duration>) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(Streams { idle });
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(MAX_CONCURRENT_REQUESTS)
        .max_header_list_size(REQUEST_HEAD_BYTES as u32)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(ERROR_RESETS)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_DEADLINE)
        .auto_date_header(false);
    builder
}

async fn http2(conversation: Arc<Conversation>, stream: TunnelIo) {
    let worker = conversation.worker.clone();
    let withdrawals = Arc::<Withdrawals>::default();
    let counting = withdrawals.clone();
    let service = service_fn(move |request| {
        let (conversation, begun) = (conversation.clone(), counting.begin());
        async move {
            let pulse = Pulse::of_stream();
            let reply = exchange::serve(&conversation, pulse.clone(), request).await;
            Ok::<_, Infallible>(reply.map(|body| begun.until_the_end_of(body, pulse)))
        }
    });
    let mut connection = pin!(
        http2_server(worker.stream_idle).serve_connection(TokioIo::new(Gathered::requests(stream)), service)
    );
    let mut end = pin!(Seldom::new(worker.end.cancelled()));
    let mut enough = pin!(Seldom::new(withdrawals.enough()));
    tokio::select! {
        _ = connection.as_mut() => return,
        () = end.as_mut() => return,
        () = enough.as_mut() => return tracing::debug!("a client withdraws whatever it asks for"),
        () = Seldom::new(time_to_move(&worker.drain)) => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        _ = connection => {}
        () = end => {}
        () = enough => {}
    }
}

#[cfg(test)]
mod tests;
