//! The switch that ends one open connection from outside: policy revoked, pod gone, drain deadline.
//!
//! Knows nothing of who decides. Cheaper than a cancellation token: a relay looks at it on every wake, and looking
//! is one atomic load and one waker comparison.

use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

use crate::refusal::Refusal;

#[derive(Debug, Default)]
struct Switch {
    reason: OnceLock<Refusal>,
    waker: AtomicWaker,
}

/// The side that may end the connection; kept by whoever re-judges open connections. May be used from any thread.
#[derive(Debug, Clone)]
pub struct Kill(Arc<Switch>);

/// The side that is ended; kept by the one task that serves the connection.
#[derive(Debug)]
pub struct Killed(Arc<Switch>);

/// Makes the two sides of a switch.
pub fn kill_switch() -> (Kill, Killed) {
    let switch = Arc::new(Switch::default());
    (Kill(Arc::clone(&switch)), Killed(switch))
}

impl Kill {
    /// Ends the connection for `reason`. The first reason stays; later ones are ignored.
    pub fn kill(&self, reason: Refusal) {
        // A second reason does not matter: the connection is ending already.
        let _ = self.0.reason.set(reason);
        self.0.waker.wake();
    }

    /// Whether the connection has been told to end.
    pub fn is_killed(&self) -> bool {
        self.0.reason.get().is_some()
    }
}

/// What a relay asks whether it is to end: one switch, or several.
pub trait Ending {
    /// Ready with the reason once it is. One task at a time may wait.
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Refusal>;
}

impl Ending for Killed {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Refusal> {
        Self::poll(self, cx)
    }
}

impl Killed {
    /// A switch that nobody can throw.
    pub fn never() -> Self {
        kill_switch().1
    }

    /// Ready with the reason once the switch was thrown. One task at a time may wait on it.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<Refusal> {
        if let Some(reason) = self.0.reason.get() {
            return Poll::Ready(reason.clone());
        }
        self.0.waker.register(cx.waker());
        // Thrown between the look and the registration: the waker would not hear of it.
        match self.0.reason.get() {
            Some(reason) => Poll::Ready(reason.clone()),
            None => Poll::Pending,
        }
    }

    /// Why it was thrown, if it was.
    pub fn reason(&self) -> Option<&Refusal> {
        self.0.reason.get()
    }

    /// Waits for the switch to be thrown.
    pub async fn wait(&self) -> Refusal {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }
}
