//! How a process that is to end takes leave of its callers, so that none of them loses a request.
//!
//! Knows no protocol. Whoever calls hears of the end on its own time: from the manifests, a GOAWAY or a
//! `connection: close`. The surprising thing: a connection made after the drain began is no mistake, and is treated no
//! worse than those before; its maker had not heard yet.

use std::time::Duration;

use common::lifecycle::drain::DrainWatch;
use tokio::time::{Instant, sleep, sleep_until};

/// How long a waypoint that is to end goes on accepting tunnels: about as long as it takes until every caller knows that
/// its pod is not to be called any more.
pub const LAST_CALLERS: Duration = Duration::from_secs(1);

/// How long a connection that was made after the drain began may be used before its client is told to make another.
pub const LAST_USE: Duration = Duration::from_millis(500);

/// How long an HTTP/1.1 connection stays open in a drain without a request that could be answered with
/// `connection: close`. To close it at once would lose the request that may be on its way.
pub const LAST_REQUEST: Duration = Duration::from_secs(2);

/// Ends when the listener is to be emptied and closed; at the drain's deadline at the latest.
pub async fn callers_know(drain: &DrainWatch) {
    let deadline = drain.draining().await;
    sleep_until(deadline.min(Instant::now() + LAST_CALLERS)).await;
}

/// Ends when the client of a connection that begins now is to be told to make another one.
pub async fn time_to_move(drain: &DrainWatch) {
    if drain.is_draining() {
        sleep(LAST_USE).await;
    }
    drain.draining().await;
}

/// Ends when an HTTP/1.1 connection that begins now is closed although no further request has come.
pub async fn silence_is_over(drain: &DrainWatch) {
    drain.draining().await;
    sleep(LAST_REQUEST).await;
}

#[cfg(test)]
mod tests {
    use common::lifecycle::drain;

    use super::*;

    async fn after(ends: impl Future<Output = ()>) -> Duration {
        let began = Instant::now();
        ends.await;
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_late_is_told_late() {
        let (trigger, watch) = drain::channel();
        let _open = watch.guard();
        let grace = Duration::from_secs(30);
        let draining = tokio::spawn(trigger.drain(grace));
        let (early, quiet) = (after(time_to_move(&watch)), after(silence_is_over(&watch)));
        let (early, quiet, listener) = tokio::join!(early, quiet, after(callers_know(&watch)));
        assert_eq!((early, quiet, listener), (Duration::ZERO, LAST_REQUEST, LAST_CALLERS));
        assert_eq!(after(time_to_move(&watch)).await, LAST_USE);
        draining.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_is_closed_before_a_short_drain_ends() {
        let (trigger, watch) = drain::channel();
        let _open = watch.guard();
        let draining = tokio::spawn(trigger.drain(Duration::from_millis(300)));
        assert_eq!(after(callers_know(&watch)).await, Duration::from_millis(300));
        assert!(draining.await.is_ok());
    }
}
