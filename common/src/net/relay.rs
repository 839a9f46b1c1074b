//! Carries bytes between two TCP connections, both ways, in one task.
//!
//! Knows neither who the ends are nor whether they may talk. What it keeps: order, half-close each way, and the kind
//! of ending: a RST on one side is a RST on the other, never a FIN. It reads from a socket only when it can hand on
//! what it reads, so a slow reader slows its writer and nobody's memory grows.

use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;

use super::buffer::ReadThrough;
use super::kill::Killed;
use super::{buffer, socket};
use crate::refusal::Refusal;

/// Bytes a direction reads at once before it has proved to flow in bulk; also the most a stalled one soon holds.
const FIRST_READ_BYTES: usize = 16 * 1024;

/// Bytes one direction moves before the worker's other connections get their turn.
pub const TURN_BYTES: usize = 1024 * 1024;

/// How a relayed connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Both sides finished with FIN, and every byte was handed over.
    Closed,
    /// The accepted connection was reset or failed; the far side was reset too.
    NearReset(io::ErrorKind),
    /// The far side was reset or failed (for a tunnel: RST_STREAM); the accepted connection was reset too.
    FarReset(FarReset),
    /// Ended from outside; both sides were reset.
    Killed(Refusal),
}

/// Why the far side of a relay failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FarReset {
    /// The TCP connection failed.
    Tcp(io::ErrorKind),
    /// RST_STREAM with this HTTP/2 error code (RFC 9113, section 7).
    Stream(u32),
    /// The tunnel's connection is gone, and with it all its streams.
    TunnelLost,
}

/// What a relay did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Bytes taken from the accepted (near) side and handed to the far side.
    pub sent: u64,
    /// Bytes taken from the far side and handed to the accepted (near) side.
    pub received: u64,
    /// How it ended.
    pub end: End,
}

/// The byte counters of a relay, moved on while it is open. Resolved once per connection.
#[derive(Clone)]
pub struct Meters {
    /// Bytes from the accepted side.
    pub sent: metrics::Counter,
    /// Bytes to the accepted side.
    pub received: metrics::Counter,
}

impl Meters {
    /// Counters that count nothing.
    pub fn none() -> Self {
        Self { sent: metrics::Counter::noop(), received: metrics::Counter::noop() }
    }
}

impl std::fmt::Debug for Meters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meters")
    }
}

/// Carries bytes between `near` (the accepted connection) and `far` until both finished, one failed, or `killed`.
pub async fn relay(mut near: TcpStream, mut far: TcpStream, meters: &Meters, killed: &Killed) -> Outcome {
    let (mut up, mut down) = (Pipe::new(), Pipe::new());
    let end = {
        let (mut from_near, to_near) = near.split();
        let (mut from_far, to_far) = far.split();
        let (to_near, to_far) = (to_near.as_ref(), to_far.as_ref());
        let mut near_failed = pin!(failure(to_near));
        let mut far_failed = pin!(failure(to_far));
        std::future::poll_fn(|cx| {
            if let Poll::Ready(reason) = killed.poll(cx) {
                return Poll::Ready(End::Killed(reason));
            }
            let (before_up, before_down) = (up.moved, down.moved);
            let moved = (up.poll(cx, &mut from_near, to_far), down.poll(cx, &mut from_far, to_near));
            count(&meters.sent, up.moved - before_up);
            count(&meters.received, down.moved - before_down);
            match moved {
                (Poll::Ready(Err(failed)), _) => return Poll::Ready(failed.end(true)),
                (_, Poll::Ready(Err(failed))) => return Poll::Ready(failed.end(false)),
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(End::Closed),
                _ => {}
            }
            if !up.is_reading()
                && let Poll::Ready(kind) = near_failed.as_mut().poll(cx)
            {
                return Poll::Ready(End::NearReset(kind));
            }
            if !down.is_reading()
                && let Poll::Ready(kind) = far_failed.as_mut().poll(cx)
            {
                return Poll::Ready(End::FarReset(FarReset::Tcp(kind)));
            }
            Poll::Pending
        })
        .await
    };
    if end != End::Closed {
        socket::reset(near);
        socket::reset(far);
    }
    Outcome { sent: up.moved, received: down.moved, end }
}

pub(crate) fn count(counter: &metrics::Counter, bytes: u64) {
    if bytes > 0 {
        counter.increment(bytes);
    }
}

/// Ready once the socket failed. A relay that is not reading from a socket, because it waits for room elsewhere or
/// has read FIN already, hears of a RST only from here.
pub(crate) async fn failure(socket: &TcpStream) -> io::ErrorKind {
    match socket.ready(Interest::ERROR).await {
        Ok(_) => {}
        Err(error) => return error.kind(),
    }
    match socket.take_error() {
        Ok(Some(error)) | Err(error) => error.kind(),
        // Something else took the error and will report it; to report it twice would name the wrong cause.
        Ok(None) => std::future::pending().await,
    }
}

/// Which socket of a pipe failed.
enum Failed {
    Reading(io::ErrorKind),
    Writing(io::ErrorKind),
}

impl Failed {
    fn end(self, reads_near: bool) -> End {
        match (self, reads_near) {
            (Self::Reading(kind), true) | (Self::Writing(kind), false) => End::NearReset(kind),
            (Self::Reading(kind), false) | (Self::Writing(kind), true) => End::FarReset(FarReset::Tcp(kind)),
        }
    }
}

/// One direction.
struct Pipe {
    /// Bytes the next read asks for: grows while the writer takes all of it, falls back when it does not.
    read_bytes: usize,
    /// Read and not yet written: only ever the rest of one read that the writer could not take.
    rest: Bytes,
    finished_reading: bool,
    finished: bool,
    moved: u64,
}

impl Pipe {
    fn new() -> Self {
        Self {
            read_bytes: FIRST_READ_BYTES,
            rest: Bytes::new(),
            finished_reading: false,
            finished: false,
            moved: 0,
        }
    }

    fn is_reading(&self) -> bool {
        self.rest.is_empty() && !self.finished_reading
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut ReadHalf<'_>,
        to: &TcpStream,
    ) -> Poll<Result<(), Failed>> {
        let mut turn = 0;
        while !self.finished {
            ready!(self.poll_write_rest(cx, to))?;
            if self.finished_reading {
                socket::finish_writing(to).map_err(|e| Failed::Writing(e.kind()))?;
                self.finished = true;
                break;
            }
            if turn >= TURN_BYTES {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let read =
                buffer::poll_read_through(cx, from, self.read_bytes, |bytes| match to.try_write(bytes) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
                    written => written,
                });
            let ReadThrough { read, rest } = ready!(read).map_err(|e| Failed::Reading(e.kind()))?;
            self.finished_reading = read == 0;
            self.rest = rest.map_err(|e| Failed::Writing(e.kind()))?;
            self.moved += (read - self.rest.len()) as u64;
            self.read_bytes = match (self.rest.is_empty(), read == self.read_bytes) {
                (false, _) => FIRST_READ_BYTES,
                (true, true) => (self.read_bytes * 4).min(buffer::SCRATCH_BYTES),
                (true, false) => self.read_bytes,
            };
            turn += read;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_rest(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<Result<(), Failed>> {
        while !self.rest.is_empty() {
            ready!(to.poll_write_ready(cx)).map_err(|e| Failed::Writing(e.kind()))?;
            match to.try_write(&self.rest) {
                Ok(written) => {
                    self.rest.advance(written);
                    self.moved += written as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(Failed::Writing(error.kind()))),
            }
        }
        // The rest of a large read would otherwise keep its allocation while the connection idles.
        self.rest = Bytes::new();
        Poll::Ready(Ok(()))
    }
}
