//! A byte stream that only strict HTTP/1.1 is read from, and no head that takes for ever.
//!
//! Whether the protocol has changed it does not see from the bytes it writes, which may be of an earlier answer: who
//! answers the requests says so, in their order.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{Strict, Verdicts};

/// What takes the place of a fault: no part of a request has room for a NUL.
const FAULT: &[u8] = b"\0";
/// The same in a head, with its end: the parser looks at a head that came in pieces only once that is there.
const FAULT_IN_HEAD: &[u8] = b"\0\r\n\r\n";

/// What a client hears whose head does not come in time, in Envoy's words.
const LATE: &[u8] = b"HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain\r\ncontent-length: 22\r\n\
    connection: close\r\n\r\nrequest header timeout";

/// Reads of `io` only what [`Strict`] lets through.
#[derive(Debug)]
pub struct StrictIo<T> {
    io: T,
    strict: Strict,
    /// Read and held back until a change of protocol is decided.
    held: Vec<u8>,
    verdicts: Arc<Verdicts>,
    /// Once something was refused: what is left to be said of it. Nothing is read behind that.
    fault: Option<&'static [u8]>,
    /// Time for a head, from when more of it is first waited for to its last byte.
    head_time: Duration,
    /// The head that is being waited for, and until when.
    waiting: Option<(u64, Pin<Box<Sleep>>)>,
    /// Whether all that was written has left.
    is_flushed: bool,
}

impl<T> StrictIo<T> {
    /// Reads `io`, whose next byte begins a request. A head that has begun must be whole within `head_time`. How requests
    /// are answered is told to `verdicts`.
    pub fn new(io: T, head_time: Duration, verdicts: Arc<Verdicts>) -> Self {
        let (strict, held) = (Strict::default(), Vec::new());
        Self { io, strict, held, verdicts, fault: None, head_time, waiting: None, is_flushed: true }
    }

    /// Takes back what may not pass of what `buf` was filled with from `before` on.
    fn filter(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        match self.strict.feed(&buf.filled()[before..]) {
            Ok(passed) => {
                let mut rest = buf.filled()[before + passed..].to_vec();
                rest.append(&mut self.held);
                self.held = rest;
                buf.set_filled(before + passed);
            }
            Err((passed, why)) => {
                tracing::debug!(%why, "a request is refused for its syntax");
                buf.set_filled(before + passed);
                self.refuse(buf);
            }
        }
    }

    fn refuse(&mut self, buf: &mut ReadBuf<'_>) {
        self.fault = Some(if self.strict.is_in_head() { FAULT_IN_HEAD } else { FAULT });
        self.waiting = None;
        self.tell(buf);
    }

    fn tell(&mut self, buf: &mut ReadBuf<'_>) {
        let Some(fault) = &mut self.fault else { return };
        let (now, later) = fault.split_at(fault.len().min(buf.remaining()));
        buf.put_slice(now);
        *fault = later;
    }

    /// Whether the head that has begun was waited for before.
    fn is_waiting(&self) -> bool {
        let head = self.strict.open_head();
        head.is_some() && self.waiting.as_ref().map(|(of, _)| *of) == head
    }

    /// Ready once a head that has begun is overdue: nothing more of it was there to be read. Between requests a client may take its time.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(head) = self.strict.open_head() else {
            self.waiting = None;
            return Poll::Pending;
        };
        let (of, timer) = self.waiting.get_or_insert_with(|| {
            // Boxed once for a head that does not come at once, which few do.
            (head, Box::pin(sleep_until(Instant::now() + self.head_time)))
        });
        if *of != head {
            *of = head;
            timer.as_mut().reset(Instant::now() + self.head_time);
        }
        timer.as_mut().poll(cx)
    }
}

impl<T: AsyncWrite + Unpin> StrictIo<T> {
    /// Ends the connection because a head is overdue. The parser, which knows no such end, is told nothing but that there
    /// is no more to read; only where it has not written out what it said before, the refusal is left to it.
    fn give_up(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) {
        if !self.is_flushed {
            return self.refuse(buf);
        }
        self.verdicts.head_is_late();
        self.fault = Some(&[]);
        self.waiting = None;
        // A client that does not take this at once is not waited for.
        let io = &mut self.io;
        if let Poll::Ready(Ok(_)) = Pin::new(&mut *io).poll_write(cx, LATE)
            && let Poll::Ready(Ok(())) = Pin::new(&mut *io).poll_flush(cx)
        {
            let _ = Pin::new(io).poll_shutdown(cx);
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for StrictIo<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.fault.is_some() {
            this.tell(buf);
            return Poll::Ready(Ok(()));
        }
        if let Some(head) = this.strict.undecided() {
            let changed = ready!(this.verdicts.poll(cx, head));
            this.strict.decide(changed);
        }
        let before = buf.filled().len();
        if this.held.is_empty() {
            let read = Pin::new(&mut this.io).poll_read(cx, buf)?;
            if read.is_pending() {
                ready!(this.poll_overdue(cx));
                tracing::debug!("a request's head did not come in time");
                this.give_up(cx, buf);
                return Poll::Ready(Ok(()));
            }
        } else {
            let taken = this.held.len().min(buf.remaining());
            buf.put_slice(&this.held[..taken]);
            this.held.drain(..taken);
        }
        this.filter(buf, before);
        // Bytes that keep coming do not put it off. Nor do they begin it: the parser may look for the next ones only when
        // it has answered what came before.
        let is_waited_for = this.is_waiting() && buf.filled().len() > before;
        if this.fault.is_none() && is_waited_for && this.poll_overdue(cx).is_ready() {
            tracing::debug!("a request's head comes too slowly");
            buf.set_filled(before);
            this.give_up(cx, buf);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for StrictIo<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.is_flushed = false;
        Pin::new(&mut this.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.is_flushed = false;
        Pin::new(&mut this.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.io).poll_flush(cx)?;
        this.is_flushed = flushed.is_ready();
        flushed.map(Ok)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
