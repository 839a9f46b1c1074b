//! Requests of one HTTP/2 connection that their client withdraws as soon as it has made them.
//!
//! `h2` bounds those that were withdrawn before they were looked at; the others would cost an endpoint each, as many as a
//! client can send (rapid reset, CVE-2023-44487). Knows no requests, only when they began.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::pulse::Pulse;

/// A request that is withdrawn within this time was not meant to be answered (Envoy's default).
pub const WITHDRAWN_EARLY: Duration = Duration::from_secs(1);
/// Such requests of one connection, where they are more than half of all; then it is ended (Envoy's default).
pub const MAX_WITHDRAWN: u64 = 500;

/// The requests of one connection.
#[derive(Debug, Default)]
pub(super) struct Withdrawals {
    made: AtomicU64,
    withdrawn: AtomicU64,
    enough: CancellationToken,
}

impl Withdrawals {
    /// Takes note of a request.
    pub(super) fn begin(self: &Arc<Self>) -> Begun {
        self.made.fetch_add(1, Relaxed);
        Begun { of: Some(self.clone()), at: Instant::now() }
    }

    /// Waits until there were too many.
    pub(super) async fn enough(&self) {
        self.enough.cancelled().await;
    }
}

/// A request whose answer is not over. Dropped, it was withdrawn.
#[derive(Debug)]
pub(super) struct Begun {
    of: Option<Arc<Withdrawals>>,
    at: Instant,
}

impl Begun {
    /// The request lasts as long as its answer's body.
    pub(super) fn until_the_end_of<B: Body>(self, body: B, pulse: Arc<Pulse>) -> Answering<B> {
        if body.is_end_stream() {
            self.answered();
            return Answering { body, pulse, begun: None };
        }
        Answering { body, pulse, begun: Some(self) }
    }

    fn answered(mut self) {
        self.of = None;
    }
}

/// The body of an answer.
pub(super) struct Answering<B> {
    body: B,
    pulse: Arc<Pulse>,
    begun: Option<Begun>,
}

impl<B> Drop for Answering<B> {
    /// What is ended from here is not withdrawn.
    fn drop(&mut self) {
        if self.pulse.over().is_some() {
            self.begun.take().into_iter().for_each(Begun::answered);
        }
    }
}

impl<B: Body + Unpin> Body for Answering<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        // An error is the endpoint's, and who asks first whether it is over never polls for the end.
        if !matches!(frame, Some(Ok(_))) || this.body.is_end_stream() {
            this.begun.take().into_iter().for_each(Begun::answered);
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

impl Drop for Begun {
    fn drop(&mut self) {
        let Some(of) = &self.of else { return };
        if self.at.elapsed() < WITHDRAWN_EARLY {
            let withdrawn = of.withdrawn.fetch_add(1, Relaxed) + 1;
            if withdrawn > MAX_WITHDRAWN && withdrawn * 2 > of.made.load(Relaxed) {
                of.enough.cancel();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::{BodyExt as _, Full};

    use super::*;

    fn pulse() -> Arc<Pulse> {
        Arc::new(Pulse::of_request(None))
    }

    #[tokio::test]
    async fn an_answer_that_is_read_to_its_end_is_no_withdrawal() {
        let all = Arc::<Withdrawals>::default();
        let whole = all.begin().until_the_end_of(Full::new(Bytes::from_static(b"answer")), pulse());
        assert_eq!(whole.collect().await.unwrap().to_bytes(), "answer");
        drop(all.begin().until_the_end_of(Full::new(Bytes::new()), pulse()));
        assert_eq!(all.withdrawn.load(Relaxed), 0);
        drop(all.begin().until_the_end_of(Full::new(Bytes::from_static(b"never read")), pulse()));
        assert_eq!(all.withdrawn.load(Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn only_early_withdrawals_that_are_the_rule_are_too_many() {
        let withdraw = |all: &Arc<Withdrawals>, count: u64| (0..count).for_each(|_| drop(all.begin()));
        let hostile = Arc::<Withdrawals>::default();
        withdraw(&hostile, MAX_WITHDRAWN);
        assert!(!hostile.enough.is_cancelled());
        withdraw(&hostile, 1);
        hostile.enough().await;

        let honest = Arc::<Withdrawals>::default();
        (0..2 * MAX_WITHDRAWN).for_each(|_| honest.begin().answered());
        withdraw(&honest, 2 * MAX_WITHDRAWN);
        assert!(!honest.enough.is_cancelled(), "half were answered");

        let patient = Arc::<Withdrawals>::default();
        let all: Vec<_> = (0..2 * MAX_WITHDRAWN).map(|_| patient.begin()).collect();
        tokio::time::sleep(WITHDRAWN_EARLY).await;
        drop(all);
        assert!(!patient.enough.is_cancelled(), "they waited for an answer");
    }
}
