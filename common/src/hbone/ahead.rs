//! A CONNECT that waits for its answer, and what its sender sends ahead of it.
//!
//! Nobody reads that before the answer, and an honest peer sends nothing. Left in `h2` it would be counted by no budget, so
//! the connection's driver drains it as it does for slow readers. Knows nothing of what is asked for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::Response;

use super::Stream;
use super::drive::Shared;
use super::queue::Queue;
use crate::refusal::Refusal;

/// More came than the worker can hold.
const TOO_MUCH: Refusal = Refusal::LimitReached("HELD_BYTES_PER_WORKER");

/// The stream of a CONNECT until its answer. All that use one run on one thread, so its lock is never contended.
pub(super) struct Unanswered(Mutex<Waiting>);

struct Waiting {
    respond: SendResponse<Bytes>,
    /// Gone once the stream was answered, or reset because of what came on it.
    recv: Option<RecvStream>,
    queue: Queue,
    /// Who waits to hear that the request is withdrawn.
    waiter: Option<Waker>,
    shared: Arc<Shared>,
}

impl Unanswered {
    /// Has the connection count what comes on the stream, until it is answered or dropped.
    pub(super) fn new(respond: SendResponse<Bytes>, recv: RecvStream, shared: Arc<Shared>) -> Arc<Self> {
        let stream = recv.stream_id().into();
        let (recv, queue) = (Some(recv), Queue::merging());
        let waiting = Waiting { respond, recv, queue, waiter: None, shared: Arc::clone(&shared) };
        let unanswered = Arc::new(Self(Mutex::new(waiting)));
        shared.add_unanswered(stream, &unanswered);
        unanswered
    }

    /// Takes from `h2` what has come. Where the worker holds too much already, the stream is reset.
    pub(super) fn drain(&self) {
        let mut waiting = self.lock();
        let before = waiting.queue.bytes;
        let mut cx = Context::from_waker(Waker::noop());
        // How receiving ended is told again to whoever reads the stream after the answer.
        while let Some(recv) = &mut waiting.recv
            && let Poll::Ready(Some(Ok(chunk))) = recv.poll_data(&mut cx)
        {
            waiting.queue.push(chunk);
        }
        let now = waiting.queue.bytes;
        if waiting.shared.hold_ahead(before, now) {
            return;
        }
        waiting.let_go();
        waiting.recv = None;
        waiting.respond.send_reset(Reason::CANCEL);
        if let Some(waiter) = waiting.waiter.take() {
            waiter.wake();
        }
    }

    /// Opens the stream with `answer`. What came ahead of it is read first.
    ///
    /// # Errors
    /// [`Refusal::LimitReached`] when too much came; [`Refusal::Http2Failed`] when the peer has withdrawn the request.
    pub(super) fn accept(&self, answer: Response<()>) -> Result<Stream, Refusal> {
        let mut waiting = self.lock();
        let recv = waiting.recv.take().ok_or(TOO_MUCH)?;
        let ahead = waiting.let_go();
        match waiting.respond.send_response(answer, false) {
            Ok(send) => {
                let shared = Arc::clone(&waiting.shared);
                Ok(Stream::new(send, recv, shared, None, None).after(ahead))
            }
            Err(error) => Err(Refusal::Http2Failed(error.to_string().into())),
        }
    }

    /// Ends the stream with `answer`. False when the peer has withdrawn the request.
    pub(super) fn refuse(&self, answer: Response<()>) -> bool {
        self.lock().respond.send_response(answer, true).is_ok()
    }

    /// Ready with why, once the stream is reset by whichever end, or its connection has ended.
    pub(super) fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<Refusal> {
        let mut waiting = self.lock();
        waiting.waiter = Some(cx.waker().clone());
        // Either way, with a reason or with the connection's error, nobody waits for the answer.
        ready!(waiting.respond.poll_reset(cx).map(drop));
        Poll::Ready(match waiting.recv {
            Some(_) => Refusal::ConnectFailed("the caller went away".into()),
            None => TOO_MUCH,
        })
    }

    /// Whether it was reset because of what came on it.
    pub(super) fn is_given_up(&self) -> bool {
        self.lock().recv.is_none()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Every step leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// What was counted, which is counted no more.
    fn let_go(&mut self) -> Queue {
        let queue = std::mem::replace(&mut self.queue, Queue::merging());
        self.shared.hold_ahead(queue.bytes, 0);
        queue
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        let mut waiting = self.lock();
        waiting.let_go();
        let stream = waiting.respond.stream_id().into();
        waiting.shared.remove_unanswered(stream);
    }
}
