//! A request's body as it arrives.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use crate::record::Counted;
use crate::serve::pulse::Pulse;

/// A body whose pieces are counted, and tell that the request moves.
#[derive(Debug)]
pub struct Moving<B> {
    body: Counted<B>,
    pulse: Arc<Pulse>,
}

impl<B> Moving<B> {
    /// What arrives of `body` tells `pulse`.
    pub fn new(body: Counted<B>, pulse: Arc<Pulse>) -> Self {
        Self { body, pulse }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Moving<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.pulse.moves();
        if frame.is_none() || self.body.is_end_stream() {
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
