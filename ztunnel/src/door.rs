//! One listener of one pod on one worker: what arrives at it is accepted until the last that the kernel promised it.
//!
//! Knows nothing of what is carried. The surprising thing: a listener must not simply close. The kernel resets what waits
//! in its queue, and also the connections whose handshake is under way, because their clients have had an answer; so it
//! goes on accepting for a while after new SYNs have been turned away from it, and closes when its queue is empty.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::lifecycle::backoff::AcceptBackoff;
use common::lifecycle::readiness::ReadyGuard;
use futures_util::FutureExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::pods::Pod;
use crate::worker::Worker;

/// How long a handshake that the kernel has answered may take to end, after new ones have been turned away: more than
/// the longest way round between two nodes of one cluster. Also how long a tunnel that was accepted meanwhile may be
/// used before its peer is told to make another.
pub const HANDSHAKE_GRACE: Duration = Duration::from_millis(500);

/// The door of a pod that one kind of connection comes in by.
pub struct Door<S> {
    worker: Arc<Worker>,
    pod: Arc<Pod>,
    serve: S,
    backoff: AcceptBackoff,
    starving: Option<ReadyGuard>,
}

impl<S, F> Door<S>
where
    S: Fn(Arc<Worker>, Arc<Pod>, TcpStream, SocketAddr) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    /// A door at which each connection is handed to `serve`.
    pub fn new(worker: Arc<Worker>, pod: Arc<Pod>, serve: S) -> Self {
        Self { worker, pod, serve, backoff: AcceptBackoff::default(), starving: None }
    }

    /// Accepts at `listener` until the pod closes or the process drains, and then what the kernel still has for it. A
    /// drain waits for the end of this.
    pub async fn tend(mut self, listener: std::net::TcpListener) {
        let _open = self.worker.drain.guard();
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                return tracing::error!(pod = &*self.pod.uid, %error, "a listener cannot be served");
            }
        };
        let (pod, drain) = (self.pod.clone(), self.worker.drain.clone());
        let closing = async {
            tokio::select! {
                () = pod.closing.cancelled() => {}
                _ = drain.draining() => {}
            }
        };
        self.accept_until(&listener, closing).await;
        let handshakes_over = async {
            tokio::select! {
                () = pod.gone.cancelled() => {}
                () = sleep(HANDSHAKE_GRACE) => {}
            }
        };
        self.accept_until(&listener, handshakes_over).await;
        if !pod.gone.is_cancelled() {
            self.empty(listener).await;
        }
        if let Some(starving) = self.starving.take() {
            starving.done();
        }
    }

    async fn accept_until(&mut self, listener: &TcpListener, until: impl Future<Output = ()>) {
        // Made once: a connection is not to pay for looking at it anew.
        let mut until = std::pin::pin!(until);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut until => return,
                accepted = listener.accept() => accepted,
            };
            self.take(accepted).await;
        }
    }

    /// Accepts until nothing waits any more. Asks the kernel itself, because the runtime may not have heard yet of what
    /// has just come.
    async fn empty(&mut self, listener: TcpListener) {
        let listener = match listener.into_std() {
            Ok(listener) => listener,
            Err(error) => {
                return tracing::error!(pod = &*self.pod.uid, %error, "a listener cannot be emptied");
            }
        };
        loop {
            let accepted = match listener.accept() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok((socket, client)) => adopt(socket).map(|socket| (socket, client)),
                Err(error) => Err(error),
            };
            // The worker's other connections go on, however many still wait here.
            tokio::task::yield_now().await;
            self.take(accepted).await;
        }
    }

    /// Makes a task of the connection, so that a panic in one ends that one; or waits as the failure demands.
    async fn take(&mut self, accepted: io::Result<(TcpStream, SocketAddr)>) {
        match accepted {
            Ok((socket, client)) => {
                if self.backoff.accepted()
                    && let Some(starving) = self.starving.take()
                {
                    starving.done();
                }
                let open = self.worker.drain.guard();
                let carried = (self.serve)(self.worker.clone(), self.pod.clone(), socket, client);
                // Not an async block, which would hold the future twice.
                tokio::spawn(carried.map(move |()| drop(open)));
            }
            Err(error) => {
                let pause = self.backoff.failed(&error, Instant::now());
                if let Some(times) = pause.log {
                    tracing::error!(pod = &*self.pod.uid, %error, times, "connections cannot be accepted");
                }
                if pause.starving && self.starving.is_none() {
                    let what = "file descriptors to accept connections with";
                    self.starving = Some(self.worker.readiness.await_task(what));
                }
                sleep(pause.wait).await;
            }
        }
    }
}

fn adopt(socket: std::net::TcpStream) -> io::Result<TcpStream> {
    socket.set_nonblocking(true)?;
    TcpStream::from_std(socket)
}
