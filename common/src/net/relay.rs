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
use super::kill::Ending;
use super::pace::Pace;
use super::splice::{self, Filled, Pipe};
use super::{buffer, socket};
use crate::refusal::Refusal;

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

/// Told of a relay's bytes while it is open: resolved once per connection, so that counting looks nothing up.
pub trait Meter {
    /// Bytes that were taken from the accepted side and handed on.
    fn sent(&self, bytes: u64);
    /// Bytes that were handed to the accepted side.
    fn received(&self, bytes: u64);
}

/// Counts nothing.
impl Meter for () {
    fn sent(&self, _bytes: u64) {}
    fn received(&self, _bytes: u64) {}
}

/// Carries bytes between `near` (the accepted connection) and `far` until both finished, one failed, or `killed`.
pub async fn relay(near: TcpStream, far: TcpStream, meter: &impl Meter, killed: &impl Ending) -> Outcome {
    carry((near, far), meter, killed, Pace::new()).await
}

/// As [`relay`], both directions beginning at `pace`.
async fn carry(
    (mut near, mut far): (TcpStream, TcpStream),
    meter: &impl Meter,
    killed: &impl Ending,
    pace: Pace,
) -> Outcome {
    let (mut up, mut down) = (Half::new(pace.clone()), Half::new(pace));
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
            let before = up.moved;
            let sent = up.poll(cx, &mut from_near, to_far);
            count(up.moved - before, |bytes| meter.sent(bytes));
            if let Poll::Ready(Err(failed)) = sent {
                // At once: a socket tells of its failure once, and the other direction would take it for a FIN.
                return Poll::Ready(failed.end(true));
            }
            let before = down.moved;
            let received = down.poll(cx, &mut from_far, to_near);
            count(down.moved - before, |bytes| meter.received(bytes));
            match (sent, received) {
                (_, Poll::Ready(Err(failed))) => return Poll::Ready(failed.end(false)),
                (Poll::Ready(_), Poll::Ready(_)) => return Poll::Ready(End::Closed),
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

pub(crate) fn count(bytes: u64, add: impl FnOnce(u64)) {
    if bytes > 0 {
        add(bytes);
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

/// Which socket of a direction failed.
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
struct Half {
    pace: Pace,
    /// Read and not yet written: only ever the rest of one read that the writer could not take.
    rest: Bytes,
    /// The same of what was spliced: there is a pipe only while something is in it.
    pipe: Option<Pipe>,
    finished_reading: bool,
    finished: bool,
    moved: u64,
}

impl Half {
    fn new(pace: Pace) -> Self {
        Self { pace, rest: Bytes::new(), pipe: None, finished_reading: false, finished: false, moved: 0 }
    }

    fn is_reading(&self) -> bool {
        self.rest.is_empty() && self.pipe.is_none() && !self.finished_reading
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut ReadHalf<'_>,
        to: &TcpStream,
    ) -> Poll<Result<(), Failed>> {
        let mut turn = 0;
        while !self.finished {
            ready!(self.poll_drain(cx, to))?;
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
            let read = match ready!(self.poll_splice(cx, from.as_ref()))? {
                Some(spliced) => spliced,
                None => ready!(self.poll_copy(cx, from, to))?,
            };
            self.finished_reading = read == 0;
            turn += read;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once and writes as much of it as `to` takes. Returns what was read; 0 means FIN.
    fn poll_copy(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut ReadHalf<'_>,
        to: &TcpStream,
    ) -> Poll<Result<usize, Failed>> {
        let consume = |bytes: &[u8]| match to.try_write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            written => written,
        };
        let read = buffer::poll_read_through(cx, from, self.pace.read_bytes(), consume);
        let ReadThrough { read, rest } = ready!(read).map_err(|e| Failed::Reading(e.kind()))?;
        self.rest = rest.map_err(|e| Failed::Writing(e.kind()))?;
        self.moved += (read - self.rest.len()) as u64;
        self.pace.copied(read, self.rest.is_empty());
        Poll::Ready(Ok(read))
    }

    /// Takes what there is to read into a pipe. `None` where it is to be copied instead.
    fn poll_splice(&mut self, cx: &mut Context<'_>, from: &TcpStream) -> Poll<Result<Option<usize>, Failed>> {
        if !self.pace.is_bulk() {
            return Poll::Ready(Ok(None));
        }
        let Some(mut pipe) = Pipe::lend() else { return Poll::Ready(Ok(None)) };
        // Pending, the pipe goes back: one that waits for something to read holds none.
        match ready!(pipe.poll_fill(cx, from)) {
            Ok(Filled::Bytes(read)) => {
                self.pace.spliced(read);
                self.pipe = Some(pipe);
                Poll::Ready(Ok(Some(read)))
            }
            Ok(Filled::Fin) => Poll::Ready(Ok(Some(0))),
            // Read, it is passed over. What follows may be spliced again, once it has proved to be much.
            Ok(Filled::NotBySplice) => {
                self.pace.cannot_splice_now();
                Poll::Ready(Ok(None))
            }
            Err(error) if splice::is_unsupported(&error) => {
                self.pace.cannot_splice();
                Poll::Ready(Ok(None))
            }
            Err(error) => Poll::Ready(Err(Failed::Reading(error.kind()))),
        }
    }

    /// Hands on what is in the pipe.
    fn poll_drain(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<Result<(), Failed>> {
        while let Some(mut pipe) = self.pipe.take() {
            match pipe.poll_drain(cx, to) {
                Poll::Pending => {
                    self.pipe = Some(pipe);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(written)) => {
                    self.moved += written as u64;
                    self.pipe = (!pipe.is_empty()).then_some(pipe);
                }
                Poll::Ready(Err(error)) if splice::is_unsupported(&error) => {
                    self.pace.cannot_splice();
                    self.rest = pipe.into_bytes().map_err(|e| Failed::Reading(e.kind()))?;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Failed::Writing(error.kind()))),
            }
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

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
