//! What a stream has received and its reader has not taken yet.
//!
//! The reader drains `h2` itself while it keeps up. When it does not, the connection's driver drains for it: `h2` would
//! keep 256 bytes of bookkeeping for every frame of one byte and end the connection over it, and what waits in `h2` takes
//! the connection's window from its neighbours. Knows nothing of what is read.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use h2::Reason;
use tokio::io::ReadBuf;

use super::Stream;
use super::queue::Queue;

/// A stream with what it has received. All that use one run on one thread, so its lock is never contended.
pub(super) struct Inbox(Mutex<Held>);

pub(super) struct Held {
    pub(super) stream: Stream,
    /// Drained ahead of the reader.
    queue: Queue,
    end: Option<End>,
    /// Who was told to wait, and may be registered with `h2`: draining for it must not take its place there.
    reader: Option<Waker>,
}

/// How receiving ended.
enum End {
    /// With END_STREAM.
    Whole,
    /// With an error, which is told once.
    Failed(Option<io::Error>),
}

impl Inbox {
    /// Of a stream whose connection will drain it when its reader does not.
    pub(super) fn open(mut stream: Stream) -> Arc<Self> {
        let (shared, id) = (stream.shared().clone(), stream.id());
        let queue = stream.take_ahead();
        let held = Held { stream, queue, end: None, reader: None };
        let inbox = Arc::new(Self(Mutex::new(held)));
        shared.add_inbox(id, &inbox);
        inbox
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Held> {
        // Every step leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes from `h2` what it has for this stream. Window is not given back for it before it is read.
    pub(super) fn drain(&self) {
        let mut held = self.lock();
        let reader = held.reader.clone();
        let mut cx = Context::from_waker(reader.as_ref().unwrap_or(Waker::noop()));
        while let Poll::Ready(Some(chunk)) = held.poll_received(&mut cx) {
            held.queue.push(chunk);
        }
        let bytes = held.queue.bytes;
        if !held.stream.hold(bytes) {
            held.give_up();
        }
    }
}

impl Held {
    /// The next chunk: what was drained first. `None` at the end.
    pub(super) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if let Some(chunk) = self.queue.pop() {
            let bytes = self.queue.bytes;
            // Less is held than before, which nothing can be exceeded by.
            self.stream.hold(bytes);
            return Poll::Ready(Ok(Some(chunk)));
        }
        match self.poll_received(cx) {
            Poll::Ready(Some(chunk)) => Poll::Ready(Ok(Some(chunk))),
            Poll::Ready(None) => Poll::Ready(self.ending()),
            Poll::Pending => {
                if !self.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
                    self.reader = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    /// Fills `buf`, first with what is left of `chunk`, as far as that is possible without waiting; with nothing at the end.
    pub(super) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        chunk: &mut Bytes,
        buf: &mut ReadBuf<'_>,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        let mut filled = 0;
        while filled < most {
            if chunk.is_empty() {
                // An error is told when there is nothing before it.
                if filled > 0 && matches!(self.end, Some(End::Failed(_))) && self.queue.is_empty() {
                    break;
                }
                match self.poll_chunk(cx) {
                    Poll::Ready(Ok(Some(next))) => *chunk = next,
                    Poll::Ready(Ok(None)) => break,
                    Poll::Ready(Err(error)) if filled > 0 => {
                        self.end = Some(End::Failed(Some(error)));
                        break;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending if filled > 0 => break,
                    Poll::Pending => return Poll::Pending,
                }
            }
            let taken = chunk.len().min(most - filled);
            buf.put_slice(&chunk[..taken]);
            chunk.advance(taken);
            filled += taken;
        }
        if filled > 0 {
            // Refused only once the stream is closed, when nobody needs the window any more.
            let _ = self.stream.recv.flow_control().release_capacity(filled);
        }
        Poll::Ready(Ok(filled))
    }

    /// The next frame with something in it; `None` once there will be none, and then [`Held::end`] says why.
    fn poll_received(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        while self.end.is_none() {
            match self.stream.recv.poll_data(cx) {
                Poll::Ready(Some(Ok(chunk))) if chunk.is_empty() => {}
                Poll::Ready(Some(Ok(chunk))) => return Poll::Ready(Some(chunk)),
                Poll::Ready(Some(Err(error))) => self.end = Some(End::Failed(Some(failed(error)))),
                Poll::Ready(None) => self.end = Some(End::Whole),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(None)
    }

    fn ending(&mut self) -> io::Result<Option<Bytes>> {
        match &mut self.end {
            Some(End::Failed(error)) => {
                Err(error.take().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()))
            }
            Some(End::Whole) | None => Ok(None),
        }
    }

    /// All slow readers of the worker hold as much as they may: this one is in the way.
    fn give_up(&mut self) {
        self.queue = Queue::merging();
        self.stream.hold(0);
        self.stream.send.send_reset(Reason::CANCEL);
        let why = io::Error::new(io::ErrorKind::ConnectionReset, "slow readers hold too much");
        self.end = Some(End::Failed(Some(why)));
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lock().stream.fmt(f)
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let held = self.lock();
        held.stream.shared().remove_inbox(held.stream.id());
    }
}

/// What `h2` says of a stream, in the words of I/O.
pub(super) fn failed(error: h2::Error) -> io::Error {
    if error.is_io() {
        return error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
    }
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}
