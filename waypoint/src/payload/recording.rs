//! A request's body that is remembered while it is sent, for another attempt and for mirrors.
//!
//! What is longer than may be kept is streamed on and forgotten. The surprising thing: only the last attempt reads, and
//! whoever reads it drives the client's body for all.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use super::{BodyError, Payload, Piece};

/// Bytes of a request body kept for retries (Envoy keeps 1 MiB), [`PIECE_OVERHEAD_BYTES`] for each piece included.
pub const RETRY_BUFFER_BYTES: usize = 1024 * 1024;
/// What keeping a piece costs besides its bytes: a body in pieces of one byte takes no more memory than any other.
const PIECE_OVERHEAD_BYTES: usize = 128;
/// Bytes that all requests of the process keep for retries together; beyond, a request is streamed on and not retried.
pub const RETRY_BUFFERS_BYTES: usize = 64 * 1024 * 1024;
/// What is kept now.
static RECORDED: AtomicUsize = AtomicUsize::new(0);
/// Chunks of a request body that wait for one mirror; a mirror that is slower is given up.
pub const MIRROR_BACKLOG_CHUNKS: usize = 32;

/// A request body that can be sent more than once, while it is short enough.
#[derive(Clone)]
pub struct Recording {
    shared: Arc<Mutex<Recorded>>,
    hint: SizeHint,
}

struct Recorded {
    source: UnsyncBoxBody<Bytes, BodyError>,
    /// What was read, as long as all of it was kept.
    kept: Vec<Piece>,
    bytes: usize,
    /// Too long to be kept, or broken off by the client: what was read is gone.
    lost: bool,
    /// Which attempt reads it now; earlier ones are over.
    attempt: u32,
    waker: Option<Waker>,
    mirrors: Vec<mpsc::Sender<Piece>>,
}

/// One reading of a [`Recording`] from its beginning.
pub struct Attempt {
    recording: Recording,
    number: u32,
    next: usize,
}

impl Recording {
    /// Records what is read of `source`.
    pub fn new<B>(source: B) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        let hint = source.size_hint();
        let recorded = Recorded {
            source: source.map_err(Into::into).boxed_unsync(),
            kept: Vec::new(),
            bytes: 0,
            lost: false,
            attempt: 0,
            waker: None,
            mirrors: Vec::new(),
        };
        Self { shared: Arc::new(Mutex::new(recorded)), hint }
    }

    /// A reading from the beginning, or nothing when the beginning is gone. An earlier reading ends in an error.
    pub fn attempt(&self) -> Option<Payload> {
        let mut recorded = self.lock();
        if recorded.lost {
            return None;
        }
        recorded.attempt += 1;
        if let Some(waker) = recorded.waker.take() {
            waker.wake();
        }
        let number = recorded.attempt;
        drop(recorded);
        Some(Payload::Attempt(Attempt { recording: self.clone(), number, next: 0 }))
    }

    /// Nothing is kept any more: there will be no other attempt.
    pub fn stop(&self) {
        self.lock().lose();
    }

    /// A copy of everything that will be read, for a mirror; to be asked for before the first attempt reads.
    pub fn mirror(&self) -> Payload {
        let (sender, receiver) = mpsc::channel(MIRROR_BACKLOG_CHUNKS);
        self.lock().mirrors.push(sender);
        Payload::Mirror(receiver)
    }

    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempt {
    pub(super) fn size_hint(&self) -> SizeHint {
        self.recording.hint
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut recorded = self.recording.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if recorded.attempt != self.number {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        if let Some(piece) = recorded.kept.get(self.next) {
            self.next += 1;
            return Poll::Ready(piece.clone().frame().map(Ok));
        }
        match Pin::new(&mut recorded.source).poll_frame(cx) {
            Poll::Pending => {
                recorded.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Poll::Ready(Some(Err(error))) => {
                // Read once more it would seem to have ended well.
                recorded.lose();
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(Some(Ok(frame))) => {
                let Some(piece) = Piece::of(frame) else { return Poll::Ready(None) };
                recorded.keep(piece.clone());
                self.next += 1;
                Poll::Ready(piece.frame().map(Ok))
            }
            Poll::Ready(None) => {
                recorded.keep(Piece::End);
                self.next += 1;
                Poll::Ready(None)
            }
        }
    }
}

impl Recorded {
    /// What was read is given up, and with it every further attempt.
    fn lose(&mut self) {
        self.lost = true;
        RECORDED.fetch_sub(std::mem::take(&mut self.bytes), Ordering::Relaxed);
        self.kept = Vec::new();
    }

    fn keep(&mut self, piece: Piece) {
        // One that is full or gone is given up: its receiver sees the channel close early.
        self.mirrors.retain(|mirror| mirror.try_send(piece.clone()).is_ok());
        if self.lost {
            return;
        }
        let more = PIECE_OVERHEAD_BYTES + if let Piece::Data(data) = &piece { data.len() } else { 0 };
        self.bytes += more;
        let of_all = RECORDED.fetch_add(more, Ordering::Relaxed) + more;
        if self.bytes > RETRY_BUFFER_BYTES || of_all > RETRY_BUFFERS_BYTES {
            self.lose();
        } else {
            self.kept.push(piece);
        }
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.lose();
    }
}

#[cfg(test)]
mod tests;
