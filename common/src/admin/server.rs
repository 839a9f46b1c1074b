//! A small HTTP/1 server with every bound set: connections, connections of one peer, header bytes, and time.
//!
//! Knows no routes. At its bound of connections it closes the newest, so that neither the listener's queue nor memory
//! grows; the bound for one peer keeps a pod that opens connections from locking out the kubelet's probes.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::Response;
use http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::response::Body;
use crate::lifecycle::backoff::AcceptBackoff;

/// Connections at a time to one server.
pub const MAX_CONNECTIONS: usize = 256;
/// Connections at a time from one address.
pub const MAX_CONNECTIONS_PER_PEER: usize = 16;
/// Bytes of a request line with its headers.
pub const MAX_HEADER_BYTES: usize = 16 * 1024;
/// Number of headers.
pub const MAX_HEADERS: usize = 64;
/// From the start of a request, or the end of the last one, to the end of its headers.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Life of a connection, the reading of its answers included.
pub const CONNECTION_LIFETIME: Duration = Duration::from_secs(60);
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Answers requests. Request bodies are never read.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request; must not block.
    fn handle(&self, request: &Parts) -> Response<Body>;
}

/// A server that is bound and not yet serving.
pub struct HttpServer<H> {
    name: &'static str,
    listener: TcpListener,
    address: SocketAddr,
    handler: Arc<H>,
}

impl<H: Handler> HttpServer<H> {
    /// Binds `address`; `name` is for logs. The unspecified IPv6 address takes IPv4 as well, and on a machine without
    /// IPv6 stands for the unspecified IPv4 address.
    ///
    /// # Errors
    /// When the address cannot be bound; the text names it.
    pub fn bind(name: &'static str, address: SocketAddr, handler: H) -> io::Result<Self> {
        let listener = listen(address).or_else(|error| {
            let no_ipv6 = error.raw_os_error() == Some(nix::errno::Errno::EAFNOSUPPORT as i32);
            if no_ipv6 && address.ip() == IpAddr::from([0u16; 8]) {
                listen(SocketAddr::from(([0, 0, 0, 0], address.port())))
            } else {
                Err(error)
            }
        });
        let listener = listener.and_then(TcpListener::from_std).map_err(|error| {
            io::Error::new(error.kind(), format!("the {name} server cannot listen on {address}: {error}"))
        })?;
        let address = listener.local_addr()?;
        Ok(Self { name, listener, address, handler: Arc::new(handler) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is over, then ends all connections.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let mut connections = JoinSet::new();
        let mut backoff = AcceptBackoff::default();
        let peers = Peers::default();
        loop {
            let accepted = tokio::select! {
                () = &mut stop => return,
                Some(_) = connections.join_next() => continue,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    backoff.accepted();
                    // Closing the newest connection is all that is done for one that is too many.
                    let Some(seat) = peers.seat(peer.ip().to_canonical(), connections.len()) else {
                        continue;
                    };
                    connections.spawn(answer(self.name, stream, self.handler.clone(), seat));
                }
                Err(error) => {
                    let pause = backoff.failed(&error, Instant::now());
                    if let Some(times) = pause.log {
                        warn!(server = self.name, %error, times, "accept failed");
                    }
                    tokio::time::sleep(pause.wait).await;
                }
            }
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

async fn answer<H: Handler>(name: &'static str, stream: TcpStream, handler: Arc<H>, _seat: Seat) {
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let handler = handler.clone();
        async move { Ok::<_, Infallible>(handler.handle(&request.into_parts().0)) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_LIFETIME, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(server = name, %error, "connection broke"),
        Err(_) => debug!(server = name, "connection reached its lifetime"),
    }
}

/// How many connections each peer has.
#[derive(Debug, Clone, Default)]
struct Peers {
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One connection's place; given back when dropped.
#[derive(Debug)]
struct Seat {
    peers: Peers,
    peer: IpAddr,
}

impl Peers {
    /// A place for a connection of `peer`, when there is one.
    fn seat(&self, peer: IpAddr, connections: usize) -> Option<Seat> {
        if connections >= MAX_CONNECTIONS {
            return None;
        }
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(peer).or_default();
        if *count >= MAX_CONNECTIONS_PER_PEER {
            return None;
        }
        *count += 1;
        Some(Seat { peers: self.clone(), peer })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.peers.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
