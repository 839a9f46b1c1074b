//! Bodies: of requests, which may have to be sent again, and of answers, which are observed to their end.
//!
//! Nothing is buffered whole but what a retry may need, and of that at most [`RETRY_BUFFER_BYTES`]: a request that is
//! longer is streamed on and not retried.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Either};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

use crate::record::Counted;

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

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The other side broke it off.
    #[error(transparent)]
    Peer(#[from] hyper::Error),
    /// The request's time is up.
    #[error("the request's time is up")]
    TimedOut,
    /// A mirror did not keep up.
    #[error("the mirror is too slow")]
    Abandoned,
    /// Somebody else reads it by now.
    #[error("the request is sent again elsewhere")]
    Superseded,
}

/// A body that is sent upstream.
pub enum Payload {
    /// None.
    Empty,
    /// Known whole.
    Whole(Option<Bytes>),
    /// Read from the client once.
    Once(Counted<Incoming>),
    /// Read from the client, and remembered for another attempt.
    Attempt(Attempt),
    /// A copy for a mirror.
    Mirror(mpsc::Receiver<Piece>),
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Whole(_) => "Whole",
            Self::Once(_) => "Once",
            Self::Attempt(_) => "Attempt",
            Self::Mirror(_) => "Mirror",
        })
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Once(incoming) => Pin::new(incoming).poll_frame(cx).map_err(BodyError::from),
            Self::Attempt(attempt) => attempt.poll(cx),
            Self::Mirror(pieces) => match ready!(pieces.poll_recv(cx)) {
                Some(Piece::Data(bytes)) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Some(Piece::Trailers(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Some(Piece::End) => Poll::Ready(None),
                None => Poll::Ready(Some(Err(BodyError::Abandoned))),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Whole(bytes) => bytes.is_none(),
            Self::Once(incoming) => incoming.is_end_stream(),
            Self::Attempt(_) | Self::Mirror(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Once(incoming) => incoming.size_hint(),
            Self::Attempt(attempt) => attempt.recording.hint,
            Self::Mirror(_) => SizeHint::default(),
        }
    }
}

/// A piece of a recorded body.
#[derive(Debug, Clone)]
pub enum Piece {
    /// Data.
    Data(Bytes),
    /// Trailers, which end it.
    Trailers(HeaderMap),
    /// The end.
    End,
}

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
    /// The client has sent all of it.
    ended: bool,
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
            ended: false,
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

    /// Whether the client has sent all of it.
    pub fn has_ended(&self) -> bool {
        self.lock().ended
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
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
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
                recorded.ended = true;
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

impl Piece {
    fn of(frame: Frame<Bytes>) -> Option<Self> {
        match frame.into_data() {
            Ok(data) => Some(Self::Data(data)),
            Err(frame) => frame.into_trailers().ok().map(Self::Trailers),
        }
    }

    fn frame(self) -> Option<Frame<Bytes>> {
        match self {
            Self::Data(data) => Some(Frame::data(data)),
            Self::Trailers(trailers) => Some(Frame::trailers(trailers)),
            Self::End => None,
        }
    }
}

/// Hears how the body of an answer went. Dropped without a word when the client went away first.
pub trait Observer: Send + 'static {
    /// A piece of data was handed on.
    fn sent(&mut self, data: &[u8]);
    /// Trailers were handed on.
    fn trailers(&mut self, trailers: &HeaderMap);
    /// The body is over: well, or broken off.
    fn ended(&mut self, how: Result<(), &BodyError>);
}

/// The body of an answer, observed to its end and cut off when the request's time is up.
pub struct Answer<O> {
    body: Either<Payload, Incoming>,
    observer: Option<O>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<O: Observer> Answer<O> {
    /// An answer that was made here.
    pub fn made(bytes: Bytes, observer: O) -> Self {
        let body = if bytes.is_empty() { Payload::Empty } else { Payload::Whole(Some(bytes)) };
        Self { body: Either::Left(body), observer: Some(observer), deadline: None }.begun()
    }

    /// The answer that changes the protocol: what comes behind it is none of its body, and observed elsewhere.
    pub fn switched() -> Self {
        Self { body: Either::Left(Payload::Empty), observer: None, deadline: None }
    }

    /// An answer that comes from upstream, within what is `left` of the request's time.
    pub fn from_upstream(body: Incoming, left: Option<Duration>, observer: O) -> Self {
        let deadline = left.map(|left| Box::pin(tokio::time::sleep_until(Instant::now() + left)));
        Self { body: Either::Right(body), observer: Some(observer), deadline }.begun()
    }

    /// Nobody polls a body that is empty from the beginning.
    fn begun(mut self) -> Self {
        if self.body.is_end_stream() {
            self.end(Ok(()));
        }
        self
    }

    fn end(&mut self, how: Result<(), &BodyError>) {
        if let Some(mut observer) = self.observer.take() {
            observer.ended(how);
        }
    }
}

impl<O: Observer + Unpin> Body for Answer<O> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = match &mut this.body {
            Either::Left(body) => Pin::new(body).poll_frame(cx),
            Either::Right(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::from),
        };
        match frame {
            Poll::Pending => {
                let Some(deadline) = &mut this.deadline else { return Poll::Pending };
                ready!(deadline.as_mut().poll(cx));
                this.end(Err(&BodyError::TimedOut));
                Poll::Ready(Some(Err(BodyError::TimedOut)))
            }
            Poll::Ready(None) => {
                this.end(Ok(()));
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                this.end(Err(&error));
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(observer) = &mut this.observer {
                    if let Some(data) = frame.data_ref() {
                        observer.sent(data);
                    } else if let Some(trailers) = frame.trailers_ref() {
                        observer.trailers(trailers);
                    }
                }
                // Who asks first whether it is over never polls for the end.
                if this.body.is_end_stream() {
                    this.end(Ok(()));
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
