//! A request's body as it arrives, for as long as somebody wants it.
//!
//! Nobody waits for the rest of a body whose answer is over: its client could keep both connections for ever. The
//! surprising thing: that end comes from the answer, while the body is with whoever sends it on.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use hyper::body::{Body, Frame, SizeHint};

use super::BodyError;
use crate::record::Counted;
use crate::serve::pulse::Pulse;

/// A body whose pieces are counted, and tell that the request moves.
#[derive(Debug)]
pub struct Moving<B> {
    body: Counted<B>,
    pulse: Arc<Pulse>,
    upload: Arc<Arriving>,
}

/// How far a body has arrived, and whether it is still wanted.
#[derive(Debug, Default)]
struct Arriving {
    is_whole: AtomicBool,
    /// Whoever asked last had to wait for the client.
    is_owed: AtomicBool,
    is_unwanted: AtomicBool,
    reader: AtomicWaker,
}

/// Held while the body of a request is wanted. Dropped, it ends a body that has not arrived.
#[derive(Debug)]
pub struct Upload(Option<Arc<Arriving>>);

impl<B> Moving<B> {
    /// What arrives of `body` tells `pulse`, for as long as the [`Upload`] is held.
    pub fn new(body: Counted<B>, pulse: Arc<Pulse>) -> (Self, Upload) {
        let upload = Arc::<Arriving>::default();
        (Self { body, pulse, upload: upload.clone() }, Upload(Some(upload)))
    }
}

impl Upload {
    /// Of a request without a body.
    pub fn none() -> Self {
        Self(None)
    }

    /// The same, for whom it concerns from now on.
    pub fn take(&mut self) -> Self {
        std::mem::replace(self, Self::none())
    }

    /// Whether all of it has arrived.
    pub fn is_whole(&self) -> bool {
        self.0.as_ref().is_none_or(|upload| upload.is_whole.load(Ordering::Acquire))
    }

    /// Whether somebody waits for the client to send more of it. When nobody has asked since the last piece, it is the
    /// endpoint that takes no more.
    pub fn is_owed(&self) -> bool {
        self.0.as_ref().is_some_and(|upload| upload.is_owed.load(Ordering::Acquire))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(upload) = &self.0
            && !upload.is_whole.load(Ordering::Acquire)
        {
            upload.is_unwanted.store(true, Ordering::Release);
            upload.reader.wake();
        }
    }
}

impl<B> Moving<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    fn poll_wanted(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.upload.is_unwanted.load(Ordering::Acquire) {
            return Poll::Ready(Some(Err(BodyError::Unwanted)));
        }
        Pin::new(&mut self.body).poll_frame(cx).map_err(Into::into)
    }
}

impl<B> Body for Moving<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut polled = self.poll_wanted(cx);
        self.upload.is_owed.store(polled.is_pending(), Ordering::Release);
        if polled.is_pending() {
            // An answer that ended in between finds this reader, or is seen by it.
            self.upload.reader.register(cx.waker());
            if self.upload.is_unwanted.load(Ordering::Acquire) {
                polled = Poll::Ready(Some(Err(BodyError::Unwanted)));
            }
        }
        let Poll::Ready(frame) = polled else { return Poll::Pending };
        self.pulse.moves();
        if frame.is_none() || self.body.is_end_stream() {
            self.upload.is_whole.store(true, Ordering::Release);
            self.pulse.arrived();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::task::noop_waker_ref;

    use super::*;
    use crate::record::Received;

    /// A body of one piece, behind which the client owes another.
    struct Half(Option<Bytes>);

    impl Body for Half {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            self.0.take().map_or(Poll::Pending, |piece| Poll::Ready(Some(Ok(Frame::data(piece)))))
        }
    }

    #[test]
    fn the_client_owes_what_somebody_waits_for_and_nothing_else() {
        let cx = &mut Context::from_waker(noop_waker_ref());
        let body = Counted::new(Half(Some(Bytes::from_static(b"half"))), Received::new(false));
        let (mut body, upload) = Moving::new(body, Arc::new(Pulse::of_request(None)));
        assert!(!upload.is_owed(), "nobody has asked");
        assert!(matches!(Pin::new(&mut body).poll_frame(cx), Poll::Ready(Some(Ok(_)))));
        assert!(!upload.is_owed(), "the endpoint has not asked for more");
        assert!(Pin::new(&mut body).poll_frame(cx).is_pending());
        assert!(upload.is_owed() && !upload.is_whole());
        drop(upload);
        let end = Pin::new(&mut body).poll_frame(cx);
        assert!(matches!(end, Poll::Ready(Some(Err(BodyError::Unwanted)))), "{end:?}");
    }
}
