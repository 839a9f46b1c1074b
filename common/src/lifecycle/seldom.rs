//! A future that is polled when it was woken, and not whenever its task is.
//!
//! What ends a connection from outside (a drain, the end of a pod or of the process) is waited for beside the connection, whose
//! task is polled with every message. Each look at such an end would take locks that all threads share; here it costs a look at
//! a flag of its own.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;
use pin_project_lite::pin_project;

pin_project! {
    /// Ends as the future in it does, which is polled once at first, and then only when it was woken.
    #[derive(Debug)]
    #[must_use = "a future does nothing until it is polled"]
    pub struct Seldom<F> {
        #[pin]
        future: F,
        bell: Arc<Bell>,
        waker: Waker,
    }
}

/// What the future in it wakes.
#[derive(Debug)]
struct Bell {
    has_rung: AtomicBool,
    task: AtomicWaker,
}

impl<F> Seldom<F> {
    /// Of a future that hardly ever has something to do.
    pub fn new(future: F) -> Self {
        let bell = Arc::new(Bell { has_rung: AtomicBool::new(true), task: AtomicWaker::new() });
        let waker = bell.clone().into();
        Self { future, bell, waker }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Not a store: of two that ring at once, both are heard.
        self.has_rung.swap(true, Ordering::AcqRel);
        self.task.wake();
    }
}

impl<F: Future> Future for Seldom<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        // Before the look: who rings in between finds this task.
        this.bell.task.register(cx.waker());
        match this.bell.has_rung.swap(false, Ordering::Acquire) {
            true => this.future.poll(&mut Context::from_waker(this.waker)),
            false => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use futures_util::task::noop_waker_ref;
    use tokio::sync::Notify;
    use tokio::time::timeout;

    use super::*;

    #[test]
    fn it_is_polled_when_it_was_woken_and_not_before() {
        let (polls, told) = (AtomicUsize::new(0), Notify::new());
        let mut told_once = pin!(told.notified());
        let mut seldom = pin!(Seldom::new(poll_fn(|cx| {
            polls.fetch_add(1, Ordering::Relaxed);
            told_once.as_mut().poll(cx)
        })));
        let cx = &mut Context::from_waker(noop_waker_ref());
        for _ in 0..10 {
            assert!(seldom.as_mut().poll(cx).is_pending());
        }
        assert_eq!(polls.load(Ordering::Relaxed), 1);
        told.notify_waiters();
        assert!(seldom.as_mut().poll(cx).is_ready());
        assert_eq!(polls.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn its_task_is_woken_wherever_it_has_moved_to() {
        let told = Arc::new(Notify::new());
        let waits = told.clone();
        let mut seldom = Box::pin(Seldom::new(async move { waits.notified().await }));
        assert!(seldom.as_mut().poll(&mut Context::from_waker(noop_waker_ref())).is_pending());
        let moved = tokio::spawn(seldom);
        tokio::task::yield_now().await;
        std::thread::spawn(move || told.notify_waiters()).join().unwrap();
        timeout(Duration::from_secs(10), moved).await.expect("it hears of it").unwrap();
    }
}
