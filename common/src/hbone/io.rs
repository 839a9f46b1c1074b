//! A tunnel stream as a byte stream, for code that speaks a protocol inside the tunnel.
//!
//! Knows nothing of that protocol. Window is given back only for bytes that were taken, and asked for only while there is
//! something to write; what is written at once leaves in one frame. The surprising thing: shutting down sends
//! END_STREAM, and dropping it before both directions have ended is a reset.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Stream;
use crate::net::buffer::CHUNK_BYTES;

/// Reads and writes what a tunnel stream carries.
#[derive(Debug)]
pub struct TunnelIo {
    stream: Stream,
    /// Received and not taken yet.
    chunk: Bytes,
    received_end: bool,
    sent_end: bool,
}

impl TunnelIo {
    /// Reads and writes `stream`.
    pub fn new(stream: Stream) -> Self {
        Self { stream, chunk: Bytes::new(), received_end: false, sent_end: false }
    }

    /// Waits for what comes next without taking it; empty at the end.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&mut Bytes>> {
        while self.chunk.is_empty() && !self.received_end {
            match ready!(self.stream.recv.poll_data(cx)) {
                Some(Ok(chunk)) => self.chunk = chunk,
                Some(Err(error)) => return Poll::Ready(Err(failed(error))),
                None => self.received_end = true,
            }
        }
        Poll::Ready(Ok(&mut self.chunk))
    }

    /// What was received and not read yet.
    pub fn ahead(&self) -> &[u8] {
        &self.chunk
    }

    /// Waits for more to be [`ahead`](Self::ahead), without reading it. False at the end.
    ///
    /// # Errors
    /// When the stream was reset or its connection failed.
    pub async fn look_ahead(&mut self) -> io::Result<bool> {
        poll_fn(|cx| {
            if self.received_end {
                return Poll::Ready(Ok(false));
            }
            let before = std::mem::take(&mut self.chunk);
            let received = self.poll_chunk(cx).map_ok(|_| ());
            if !before.is_empty() {
                let mut both = BytesMut::with_capacity(before.len() + self.chunk.len());
                both.extend_from_slice(&before);
                both.extend_from_slice(&self.chunk);
                self.chunk = both.freeze();
            }
            ready!(received)?;
            Poll::Ready(Ok(!self.received_end))
        })
        .await
    }

    /// Bytes that may be sent now, at least one.
    fn poll_window(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        if self.sent_end {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let send = &mut self.stream.send;
        send.reserve_capacity(wanted.min(CHUNK_BYTES));
        loop {
            let window = send.capacity();
            if window > 0 {
                // A reset may have come before: `h2` would take the data and drop it.
                return match send.poll_reset(cx) {
                    Poll::Ready(reset) => Poll::Ready(Err(was_reset(reset))),
                    Poll::Pending => Poll::Ready(Ok(window.min(wanted))),
                };
            }
            match ready!(send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(failed(error))),
                None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            }
        }
    }

    fn send(&mut self, data: Bytes, end: bool) -> io::Result<()> {
        self.stream.send.send_data(data, end).map_err(failed)?;
        // An idle stream that kept a reservation would take the connection's window from its neighbours.
        self.stream.send.reserve_capacity(0);
        Ok(())
    }
}

fn failed(error: h2::Error) -> io::Error {
    if error.is_io() {
        return error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
    }
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

fn was_reset(reset: Result<h2::Reason, h2::Error>) -> io::Error {
    match reset {
        Ok(reason) => io::Error::new(io::ErrorKind::ConnectionReset, h2::Error::from(reason)),
        Err(error) => failed(error),
    }
}

impl AsyncRead for TunnelIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let chunk = ready!(this.poll_chunk(cx))?;
        let taken = chunk.len().min(buf.remaining());
        buf.put_slice(&chunk[..taken]);
        chunk.advance(taken);
        if taken > 0 {
            // Refused only once the stream is closed, when nobody needs the window any more.
            let _ = this.stream.recv.flow_control().release_capacity(taken);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let this = self.get_mut();
        let window = ready!(this.poll_window(cx, buf.len()))?;
        this.send(Bytes::copy_from_slice(&buf[..window]), false)?;
        Poll::Ready(Ok(window))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wanted = bufs.iter().map(|buf| buf.len()).sum();
        if wanted == 0 {
            return Poll::Ready(Ok(0));
        }
        let this = self.get_mut();
        let window = ready!(this.poll_window(cx, wanted))?;
        let mut data = BytesMut::with_capacity(window);
        for buf in bufs {
            let left = window - data.len();
            data.extend_from_slice(&buf[..buf.len().min(left)]);
        }
        this.send(data.freeze(), false)?;
        Poll::Ready(Ok(window))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.sent_end {
            this.sent_end = true;
            this.send(Bytes::new(), true)?;
        }
        Poll::Ready(Ok(()))
    }
}
