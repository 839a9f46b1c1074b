//! Carries bytes between an accepted TCP connection and a tunnel stream, both ways, in one task.
//!
//! Keeps what [`crate::net::relay`] keeps: order, half-close (FIN is END_STREAM), and the kind of ending (RST is
//! RST_STREAM). Backpressure is exact: the socket is read only into window the peer has granted, and window is given
//! back only for bytes the application's socket has taken.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::pin;
use std::task::{Context, Poll, ready};

use h2::Reason;
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;

use super::Stream;
use super::limits;
use super::queue::Queue;
use crate::net::buffer::{self, CHUNK_BYTES};
use crate::net::kill::Killed;
use crate::net::relay::{End, FarReset, Meter, Outcome, TURN_BYTES, count, failure};
use crate::net::socket;
use crate::refusal::Refusal;

/// Bytes taken from a stream before they are written to a socket that keeps up: as many as are still in the cache.
const WRITE_BATCH_BYTES: usize = 64 * 1024;
/// Chunks handed to one vectored write.
const WRITE_SLICES: usize = 16;

/// Carries bytes between `near` and `stream` until both directions finished, one failed, or `killed`.
pub async fn relay(mut near: TcpStream, stream: Stream, meter: &impl Meter, killed: &Killed) -> Outcome {
    let mut tunnel = Tunnelled::new(stream);
    let end = {
        let (mut from_near, to_near) = near.split();
        let to_near = to_near.as_ref();
        let mut near_failed = pin!(failure(to_near));
        poll_fn(|cx| {
            if let Poll::Ready(reason) = killed.poll(cx) {
                return Poll::Ready(End::Killed(reason));
            }
            let (before_sent, before_received) = (tunnel.sent, tunnel.received);
            let moved = tunnel.poll(cx, &mut from_near, to_near);
            count(tunnel.sent - before_sent, |bytes| meter.sent(bytes));
            count(tunnel.received - before_received, |bytes| meter.received(bytes));
            if let Poll::Ready(end) = moved {
                return Poll::Ready(end);
            }
            if !tunnel.is_reading_socket()
                && let Poll::Ready(kind) = near_failed.as_mut().poll(cx)
            {
                return Poll::Ready(End::NearReset(kind));
            }
            Poll::Pending
        })
        .await
    };
    let Tunnelled { mut stream, sent, received, .. } = tunnel;
    match &end {
        End::Closed => {}
        // RFC 9113, section 8.5: a failed TCP connection is a stream error of type CONNECT_ERROR.
        End::NearReset(_) => stream.send.send_reset(Reason::CONNECT_ERROR),
        End::FarReset(_) | End::Killed(_) => stream.send.send_reset(Reason::CANCEL),
    }
    if end != End::Closed {
        socket::reset(near);
    }
    Outcome { sent, received, end }
}

struct Tunnelled {
    stream: Stream,
    sent: u64,
    received: u64,
    /// The socket is readable or idle: nothing but the socket holds up the sending direction.
    waits_for_window: bool,
    sent_end: bool,
    /// Received from the stream, not yet taken by the socket.
    queue: Queue,
    received_end: bool,
    finished_writing: bool,
}

impl Tunnelled {
    fn new(mut stream: Stream) -> Self {
        let mut queue = stream.take_ahead();
        queue.blocked = false;
        Self {
            stream,
            sent: 0,
            received: 0,
            waits_for_window: false,
            sent_end: false,
            queue,
            received_end: false,
            finished_writing: false,
        }
    }

    /// Whether a RST of the application would be noticed by reading.
    fn is_reading_socket(&self) -> bool {
        !self.sent_end && !self.waits_for_window
    }

    fn poll(&mut self, cx: &mut Context<'_>, from: &mut ReadHalf<'_>, to: &TcpStream) -> Poll<End> {
        let sent = self.poll_send(cx, from);
        let received = self.poll_receive(cx, to);
        match (sent, received) {
            (Poll::Ready(Err(end)), _) | (_, Poll::Ready(Err(end))) => return Poll::Ready(end),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(End::Closed),
            _ => {}
        }
        if !self.stream.hold(self.queue.bytes) {
            return Poll::Ready(End::Killed(Refusal::LimitReached("HELD_BYTES_PER_WORKER")));
        }
        // After END_STREAM no more data comes that would tell of a reset.
        if self.received_end
            && let Poll::Ready(reset) = self.stream.send.poll_reset(cx)
        {
            return self.reset_after_end(reset);
        }
        Poll::Pending
    }

    /// A peer that has sent everything and wants no more says so with NO_ERROR (RFC 9113, section 8.1). The application
    /// gets all of it first, however slowly it reads.
    fn reset_after_end(&mut self, reset: Result<Reason, h2::Error>) -> Poll<End> {
        Poll::Ready(match reset {
            Ok(Reason::NO_ERROR) if self.finished_writing => End::Closed,
            Ok(Reason::NO_ERROR) => {
                self.sent_end = true;
                return Poll::Pending;
            }
            Ok(reason) => End::FarReset(FarReset::Stream(reason.into())),
            Err(error) => far_reset(&error),
        })
    }

    /// Socket to stream.
    fn poll_send(&mut self, cx: &mut Context<'_>, near: &mut ReadHalf<'_>) -> Poll<Result<(), End>> {
        let mut turn = 0;
        while !self.sent_end {
            if turn >= TURN_BYTES {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.waits_for_window = false;
            // Window is asked for only with something to send: an idle stream that kept a reservation would take
            // the connection's window from its neighbours.
            ready!(near.as_ref().poll_read_ready(cx)).map_err(near_reset)?;
            self.waits_for_window = true;
            let window = match ready!(self.poll_window(cx)) {
                Ok(window) => window,
                Err(end) if wants_no_more(&end) => {
                    self.sent_end = true;
                    break;
                }
                Err(end) => return Poll::Ready(Err(end)),
            };
            self.waits_for_window = false;
            match buffer::poll_read_chunk(cx, near, window) {
                Poll::Ready(Ok(chunk)) => {
                    turn += chunk.len();
                    self.sent += chunk.len() as u64;
                    self.sent_end = chunk.is_empty();
                    self.stream.send.send_data(chunk, self.sent_end).map_err(|error| far_reset(&error))?;
                    self.stream.send.reserve_capacity(0);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(near_reset(error))),
                Poll::Pending => {
                    self.stream.send.reserve_capacity(0);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ready with the bytes that may be sent now.
    fn poll_window(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, End>> {
        let send = &mut self.stream.send;
        send.reserve_capacity(CHUNK_BYTES);
        loop {
            // A reset may have come since the window did: `h2` would refuse the data without saying why.
            match send.poll_reset(cx) {
                Poll::Ready(Ok(reason)) => {
                    return Poll::Ready(Err(End::FarReset(FarReset::Stream(reason.into()))));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(far_reset(&error))),
                Poll::Pending => {}
            }
            let window = send.capacity();
            if window > 0 {
                return Poll::Ready(Ok(window));
            }
            match ready!(send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(far_reset(&error))),
                None => return Poll::Ready(Err(End::FarReset(FarReset::TunnelLost))),
            }
        }
    }

    /// Stream to socket.
    fn poll_receive(&mut self, cx: &mut Context<'_>, near: &TcpStream) -> Poll<Result<(), End>> {
        let mut turn = 0;
        while !self.finished_writing {
            let limit = if self.queue.blocked { usize::MAX } else { WRITE_BATCH_BYTES };
            self.drain(cx, limit)?;
            if self.queue.is_empty() {
                if !self.received_end {
                    return Poll::Pending;
                }
                socket::finish_writing(near).map_err(near_reset)?;
                self.finished_writing = true;
                break;
            }
            if turn >= TURN_BYTES {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.queue.blocked = true;
            ready!(near.poll_write_ready(cx)).map_err(near_reset)?;
            match self.queue.write(near) {
                Ok(written) => {
                    turn += written;
                    self.received += written as u64;
                    self.queue.blocked = false;
                    // An error means that the stream is gone, which the next read from it reports.
                    let _ = self.stream.recv.flow_control().release_capacity(written);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(near_reset(error))),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes what `h2` has for this stream, until `limit` bytes wait.
    fn drain(&mut self, cx: &mut Context<'_>, limit: usize) -> Result<(), End> {
        while !self.received_end && self.queue.bytes < limit {
            match self.stream.recv.poll_data(cx) {
                Poll::Ready(Some(Ok(chunk))) => self.queue.push(chunk),
                Poll::Ready(Some(Err(error))) => return Err(far_reset(&error)),
                Poll::Ready(None) => self.received_end = true,
                Poll::Pending => break,
            }
        }
        Ok(())
    }
}

/// Whether the peer ended a stream because it wants no more of it; whether it has said all it had, receiving tells.
fn wants_no_more(end: &End) -> bool {
    matches!(end, End::FarReset(FarReset::Stream(reason)) if *reason == u32::from(Reason::NO_ERROR))
}

#[expect(clippy::needless_pass_by_value, reason = "used as a function for map_err")]
fn near_reset(error: io::Error) -> End {
    End::NearReset(error.kind())
}

fn far_reset(error: &h2::Error) -> End {
    End::FarReset(match error.reason() {
        Some(reason) if error.is_reset() => FarReset::Stream(reason.into()),
        _ => FarReset::TunnelLost,
    })
}

impl Queue {
    fn write(&mut self, near: &TcpStream) -> io::Result<usize> {
        self.seal();
        let written = match (self.chunks.len(), self.chunks.front()) {
            (1, Some(only)) => near.try_write(only)?,
            _ => {
                let mut slices = [IoSlice::new(&[]); WRITE_SLICES];
                let mut filled = 0;
                for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
                    *slice = IoSlice::new(chunk);
                    filled += 1;
                }
                near.try_write_vectored(&slices[..filled])?
            }
        };
        self.advance(written);
        Ok(written)
    }
}

const _: () = assert!(limits::MAX_FRAME_BYTES as usize == CHUNK_BYTES);
