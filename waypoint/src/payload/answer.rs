//! The body of an answer on its way to the client.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::Either;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::{BodyError, Payload};
use crate::serve::pulse::{Over, Pulse};

/// Hears how the body of an answer went. Dropped without a word when the client went away first.
pub trait Observer: Send + 'static {
    /// Ready when the body is to end before its end.
    fn poll_revoked(&mut self, _cx: &mut Context<'_>) -> Poll<BodyError> {
        Poll::Pending
    }
    /// A piece of data was handed on.
    fn sent(&mut self, data: &[u8]);
    /// Trailers were handed on.
    fn trailers(&mut self, trailers: &HeaderMap);
    /// The body is over: well, or broken off.
    fn ended(&mut self, how: Result<(), &BodyError>);
}

/// The body of an answer, observed to its end and cut off when its [`Pulse`] is over: here if the client still reads, and
/// otherwise by being dropped.
pub struct Answer<O: Observer, B = Incoming> {
    body: Either<Payload, B>,
    observer: Option<O>,
    pulse: Option<Arc<Pulse>>,
}

impl<O, B> Answer<O, B>
where
    O: Observer + Unpin,
    B: Body<Data = Bytes> + Unpin,
    BodyError: From<B::Error>,
{
    /// An answer that was made here.
    pub fn made(bytes: Bytes, pulse: Arc<Pulse>, observer: O) -> Self {
        let body = if bytes.is_empty() { Payload::Empty } else { Payload::Whole(Some(bytes)) };
        Self { body: Either::Left(body), observer: Some(observer), pulse: Some(pulse) }.begun()
    }

    /// The answer that changes the protocol: what comes behind it is none of its body, and observed elsewhere.
    pub fn switched() -> Self {
        Self { body: Either::Left(Payload::Empty), observer: None, pulse: None }
    }

    /// The same answer, of which the client gets only how long it is: its body is dropped and never asked for.
    #[must_use]
    pub fn unread(mut self) -> Self {
        self.end(Ok(()));
        self
    }

    /// An answer that comes from upstream.
    pub fn from_upstream(body: B, pulse: Arc<Pulse>, observer: O) -> Self {
        Self { body: Either::Right(body), observer: Some(observer), pulse: Some(pulse) }.begun()
    }

    /// Nobody polls a body that is empty from the beginning.
    fn begun(mut self) -> Self {
        if self.is_end_stream() {
            self.end(Ok(()));
        }
        self
    }

    fn handed_on(&mut self, frame: &Frame<Bytes>) {
        if let Some(pulse) = &self.pulse {
            pulse.moves();
        }
        if let Some(observer) = &mut self.observer {
            if let Some(data) = frame.data_ref() {
                observer.sent(data);
            } else if let Some(trailers) = frame.trailers_ref() {
                observer.trailers(trailers);
            }
        }
        // Who asks first whether it is over never polls for the end.
        if self.is_end_stream() {
            self.end(Ok(()));
        }
    }
}

impl<O: Observer, B> Answer<O, B> {
    fn end(&mut self, how: Result<(), &BodyError>) {
        if let Some(mut observer) = self.observer.take() {
            observer.ended(how);
        }
        if let Some(pulse) = &self.pulse {
            pulse.answered();
        }
    }

    /// Why it is cut off, if it is.
    fn cut(&self) -> Option<BodyError> {
        Some(match self.pulse.as_ref()?.over()? {
            Over::Idle => BodyError::StoodStill,
            Over::Late => BodyError::TimedOut,
        })
    }
}

impl<O, B> Body for Answer<O, B>
where
    O: Observer + Unpin,
    B: Body<Data = Bytes> + Unpin,
    BodyError: From<B::Error>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(why) = this.cut() {
            this.end(Err(&why));
            return Poll::Ready(Some(Err(why)));
        }
        if let Some(observer) = &mut this.observer
            && let Poll::Ready(why) = observer.poll_revoked(cx)
        {
            this.end(Err(&why));
            return Poll::Ready(Some(Err(why)));
        }
        let frame = match &mut this.body {
            Either::Left(body) => Pin::new(body).poll_frame(cx),
            Either::Right(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::from),
        };
        let frame = ready!(frame);
        match &frame {
            None => this.end(Ok(())),
            Some(Err(error)) => this.end(Err(error)),
            Some(Ok(frame)) => this.handed_on(frame),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            Either::Left(body) => body.is_end_stream(),
            Either::Right(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Either::Left(body) => body.size_hint(),
            Either::Right(body) => body.size_hint(),
        }
    }
}

impl<O: Observer, B> Drop for Answer<O, B> {
    /// A client that does not read keeps it from being asked again.
    fn drop(&mut self) {
        if self.observer.is_none() {
            return;
        }
        match self.cut() {
            Some(why) => self.end(Err(&why)),
            // Nothing more of it will be handed on, whyever.
            None => self.pulse.iter().for_each(|pulse| pulse.answered()),
        }
    }
}
