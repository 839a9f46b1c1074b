//! A tunnel stream as a byte stream, for code that speaks a protocol inside the tunnel.
//!
//! Knows nothing of that protocol. Window is given back only for bytes that were taken, and asked for only while there is
//! something to write; what is written at once leaves in one frame, and many small frames are read at once. The surprising
//! thing: shutting down sends END_STREAM, and dropping it before both directions have ended is a reset.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Stream;
use super::inbox::{Held, Inbox, failed};
use crate::net::buffer::CHUNK_BYTES;

/// Bytes that are read before others get their turn. A protocol inside the tunnel may make much of little: of frames of one
/// byte this many take 1.7 MiB of what `h2` keeps for small frames, and whoever they are for reads them in between.
pub const TURN_BYTES: usize = 64 * 1024;

/// Reads and writes what a tunnel stream carries.
#[derive(Debug)]
pub struct TunnelIo {
    inbox: Arc<Inbox>,
    /// Taken out of the inbox and not read yet.
    chunk: Bytes,
    /// Bytes read without waiting.
    turn: usize,
    received_end: bool,
    sent_end: bool,
}

impl TunnelIo {
    /// Reads and writes `stream`.
    pub fn new(stream: Stream) -> Self {
        let inbox = Inbox::open(stream);
        Self { inbox, chunk: Bytes::new(), turn: 0, received_end: false, sent_end: false }
    }

    /// What was received and not read yet.
    pub fn ahead(&self) -> &[u8] {
        &self.chunk
    }

    /// Ends when the other side resets the stream, or its connection fails; after the stream itself is gone, never. To be
    /// awaited by the task that writes: of two tasks only the last to ask would hear of it.
    pub fn withdrawn(&self) -> impl Future<Output = ()> + use<> {
        let inbox = Arc::downgrade(&self.inbox);
        poll_fn(move |cx| match inbox.upgrade() {
            Some(inbox) => inbox.lock().stream.send.poll_reset(cx).map(drop),
            None => Poll::Pending,
        })
    }

    /// Waits for more to be [`ahead`](Self::ahead), without reading it. False at the end.
    ///
    /// # Errors
    /// When the stream was reset or its connection failed.
    pub async fn look_ahead(&mut self) -> io::Result<bool> {
        if self.received_end {
            return Ok(false);
        }
        let Some(more) = poll_fn(|cx| self.inbox.lock().poll_chunk(cx)).await? else {
            self.received_end = true;
            return Ok(false);
        };
        self.chunk = if self.chunk.is_empty() {
            more
        } else {
            let mut both = BytesMut::with_capacity(self.chunk.len() + more.len());
            both.extend_from_slice(&self.chunk);
            both.extend_from_slice(&more);
            both.freeze()
        };
        Ok(true)
    }
}

impl Held {
    /// Bytes that may be sent now, at least one.
    fn poll_window(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
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

fn was_reset(reset: Result<h2::Reason, h2::Error>) -> io::Error {
    match reset {
        Ok(reason) => io::Error::new(io::ErrorKind::ConnectionReset, h2::Error::from(reason)),
        Err(error) => failed(error),
    }
}

impl AsyncRead for TunnelIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.turn >= TURN_BYTES {
            this.turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let most = buf.remaining().min(TURN_BYTES - this.turn);
        let read = this.inbox.lock().poll_fill(cx, &mut this.chunk, buf, most);
        this.turn = if let Poll::Ready(Ok(read)) = read { this.turn + read } else { 0 };
        read.map_ok(|_| ())
    }
}

impl AsyncWrite for TunnelIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
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
        if self.sent_end {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let mut held = self.inbox.lock();
        let window = ready!(held.poll_window(cx, wanted))?;
        let mut data = BytesMut::with_capacity(window);
        for buf in bufs {
            let left = window - data.len();
            data.extend_from_slice(&buf[..buf.len().min(left)]);
        }
        held.send(data.freeze(), false)?;
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
            this.inbox.lock().send(Bytes::new(), true)?;
        }
        Poll::Ready(Ok(()))
    }
}
