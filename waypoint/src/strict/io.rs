//! A byte stream that only strict HTTP/1.1 is read from.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Strict;

/// Where the status of an answer stands: `HTTP/1.1 101`.
const STATUS: std::ops::Range<usize> = 9..12;

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
    refused: bool,
}

impl<T> StrictIo<T> {
    /// Reads `io`, whose next byte begins a request.
    pub fn new(io: T) -> Self {
        let (held, answer) = (Vec::new(), Vec::new());
        Self { io, strict: Strict::default(), held, answer, reader: None, refused: false }
    }

    /// Takes back what may not pass of what `buf` was filled with from `before` on. A NUL takes the place of a fault: no
    /// part of a request has room for one.
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
                buf.put_slice(b"\0");
                self.refused = true;
            }
        }
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
        if this.refused {
            return Poll::Ready(Ok(()));
        }
        if this.strict.is_undecided() {
            this.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let before = buf.filled().len();
        if this.held.is_empty() {
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        } else {
            let taken = this.held.len().min(buf.remaining());
            buf.put_slice(&this.held[..taken]);
            this.held.drain(..taken);
        }
        this.filter(buf, before);
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
