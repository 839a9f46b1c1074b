//! A byte stream that only strict HTTP/1.1 is read from, and no head that takes for ever.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Strict;

/// Where the status of an answer stands: `HTTP/1.1 101`.
const STATUS: std::ops::Range<usize> = 9..12;

/// What takes the place of a fault: no part of a request has room for a NUL.
const FAULT: &[u8] = b"\0";
/// The same in a head, with its end: the parser looks at a head that came in pieces only once that is there.
const FAULT_IN_HEAD: &[u8] = b"\0\r\n\r\n";

/// Reads of `io` only what [`Strict`] lets through.
#[derive(Debug)]
pub struct StrictIo<T> {
    io: T,
    strict: Strict,
    /// Read and held back until a change of protocol is decided.
    held: Vec<u8>,
    /// The beginning of the answer that decides it.
    answer: Vec<u8>,
    reader: Option<Waker>,
    /// Once something was refused: what is left to be said of it. Nothing is read behind that.
    fault: Option<&'static [u8]>,
    /// Time for a head, from its first byte to its last.
    head_time: Duration,
    /// The head that is being waited for, and until when.
    waiting: Option<(u64, Pin<Box<Sleep>>)>,
}

impl<T> StrictIo<T> {
    /// Reads `io`, whose next byte begins a request. A head that has begun must be whole within `head_time`.
    pub fn new(io: T, head_time: Duration) -> Self {
        let (held, answer) = (Vec::new(), Vec::new());
        let strict = Strict::default();
        Self { io, strict, held, answer, reader: None, fault: None, head_time, waiting: None }
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

    /// Ready once a head that has begun is overdue. Between requests a client may take its time.
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

    /// Looks for the status of the answer to a request for another protocol.
    fn observe(&mut self, written: &[u8]) {
        if !self.strict.is_undecided() {
            return;
        }
        let missing = STATUS.end - self.answer.len();
        self.answer.extend_from_slice(&written[..missing.min(written.len())]);
        if self.answer.len() < STATUS.end {
            return;
        }
        let digits = self.answer[STATUS].iter().map(|digit| u16::from(digit.wrapping_sub(b'0')));
        let status = digits.fold(0, |sum: u16, digit| sum.wrapping_mul(10).wrapping_add(digit));
        self.answer.clear();
        // An interim answer decides nothing.
        if status == 101 || status >= 200 {
            self.strict.answered(status);
            if let Some(reader) = self.reader.take() {
                reader.wake();
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for StrictIo<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.fault.is_some() {
            this.tell(buf);
            return Poll::Ready(Ok(()));
        }
        if this.strict.is_undecided() {
            this.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let before = buf.filled().len();
        if this.held.is_empty() {
            let read = Pin::new(&mut this.io).poll_read(cx, buf)?;
            if read.is_pending() {
                ready!(this.poll_overdue(cx));
                tracing::debug!("a request's head did not come in time");
                this.refuse(buf);
                return Poll::Ready(Ok(()));
            }
        } else {
            let taken = this.held.len().min(buf.remaining());
            buf.put_slice(&this.held[..taken]);
            this.held.drain(..taken);
        }
        this.filter(buf, before);
        // Bytes that keep coming do not put it off.
        if this.fault.is_none() && buf.filled().len() > before && this.poll_overdue(cx).is_ready() {
            tracing::debug!("a request's head comes too slowly");
            buf.set_filled(before);
            this.refuse(buf);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for StrictIo<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.io).poll_write(cx, bytes))?;
        this.observe(&bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.io).poll_write_vectored(cx, slices))?;
        let mut left = written;
        for slice in slices {
            let part = &slice[..left.min(slice.len())];
            this.observe(part);
            left -= part.len();
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
