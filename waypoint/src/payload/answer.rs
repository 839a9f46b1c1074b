//! The body of an answer on its way to the client.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::Either;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};

use super::{BodyError, Payload};

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
