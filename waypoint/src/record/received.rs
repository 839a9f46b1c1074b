//! Counts what a client sends, where it is read: in the task of the connection to the endpoint.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::messages::Messages;

/// Counts the body of one request; a record reads the counts when it is over. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Received {
    counts: Arc<Counts>,
}

#[derive(Debug)]
struct Counts {
    bytes: AtomicU64,
    messages: AtomicU64,
    /// Only of a gRPC call.
    stream: Option<Mutex<Messages>>,
}

impl Received {
    pub(crate) fn new(is_grpc: bool) -> Self {
        let stream = is_grpc.then(Mutex::default);
        Self { counts: Arc::new(Counts { bytes: AtomicU64::new(0), messages: AtomicU64::new(0), stream }) }
    }

    /// A piece was read, for the first time if it is sent more than once.
    pub fn read(&self, data: &[u8]) {
        self.counts.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        if let Some(stream) = &self.counts.stream {
            // One task reads a body; the lock is never waited for.
            let begun = stream.lock().unwrap_or_else(PoisonError::into_inner).read(data);
            self.counts.messages.fetch_add(begun, Ordering::Relaxed);
        }
    }

    /// Bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.counts.bytes.load(Ordering::Relaxed)
    }

    /// Messages of gRPC begun so far.
    pub fn messages(&self) -> u64 {
        self.counts.messages.load(Ordering::Relaxed)
    }
}

/// A body that is counted as it is read.
#[derive(Debug)]
pub struct Counted<B> {
    body: B,
    received: Received,
}

impl<B> Counted<B> {
    /// Counts `body` for the record that `received` is from.
    pub fn new(body: B, received: Received) -> Self {
        Self { body, received }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.received.read(data);
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
