//! Bodies: of requests, which may have to be sent again, and of answers, which are observed to their end.
//!
//! Nothing is buffered whole but what a retry may need, and of that at most [`RETRY_BUFFER_BYTES`]: a request that is
//! longer is streamed on and not retried.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

mod answer;
mod inbound;
mod moving;
mod recording;

pub use self::answer::{Answer, Observer};
pub use self::inbound::{Hidden, Inbound, SHOWN_BODIES_BYTES};
pub use self::moving::{Moving, Upload};
pub use self::recording::{
    Attempt, MIRROR_BACKLOG_CHUNKS, RETRY_BUFFER_BYTES, RETRY_BUFFERS_BYTES, Recording,
};

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The other side broke it off.
    #[error(transparent)]
    Peer(#[from] hyper::Error),
    /// The request's time is up.
    #[error("the request's time is up")]
    TimedOut,
    /// Nothing moved for too long.
    #[error("the request stands still")]
    StoodStill,
    /// A mirror did not keep up.
    #[error("the mirror is too slow")]
    Abandoned,
    /// Somebody else reads it by now.
    #[error("the request is sent again elsewhere")]
    Superseded,
    /// The request was answered before all of it had arrived.
    #[error("the request is answered already")]
    Unwanted,
    /// A policy that came meanwhile denies it; its name, or nothing when none of those that allow matched.
    #[error("policy no longer allows it")]
    Denied(Option<Arc<str>>),
}

/// A body that is sent upstream.
pub enum Payload {
    /// None.
    Empty,
    /// Known whole.
    Whole(Option<Bytes>),
    /// Read from the client once.
    Once(Moving<Inbound>),
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
            Self::Once(incoming) => Pin::new(incoming).poll_frame(cx),
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
            Self::Attempt(attempt) => attempt.size_hint(),
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
