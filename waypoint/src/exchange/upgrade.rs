//! Another protocol on an HTTP/1.1 connection (WebSocket and its like): asked for, agreed, and carried byte by byte.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::upgrade::{self, OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf, copy_bidirectional};
use tokio::runtime::Handle;

use super::head;
use super::observed::Observed;
use crate::payload::BodyError;
use crate::serve::pulse::Pulse;
use crate::worker::Worker;

/// A client's wish for another protocol.
pub(crate) struct Asked {
    protocol: HeaderValue,
    client: Waiting,
}

/// The client's connection, as it will be when HTTP is over on it.
struct Waiting(Option<OnUpgrade>);

impl Drop for Waiting {
    /// The client's wish was not met, and its connection goes on. In the end `hyper` hands it over all the same, without
    /// having ended it: then the last answer would be lost in a reset.
    fn drop(&mut self) {
        if let (Some(client), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(async move {
                if let Ok(client) = client.await {
                    // A client that is gone needs no end.
                    let _ = TokioIo::new(client).shutdown().await;
                }
            });
        }
    }
}

/// Says in the headers of a request that another protocol is wished for.
pub(crate) fn restate(protocol: &HeaderValue, headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol.clone());
}

impl Asked {
    /// Takes the wish of a request, if it has one.
    pub(super) fn take(request: &mut Request<Incoming>) -> Option<Self> {
        if !request.headers().contains_key(UPGRADE) {
            return None;
        }
        let client = Waiting(Some(upgrade::on(&mut *request)));
        let protocol = head::upgrade(request.version(), request.headers())?;
        Some(Self { protocol, client })
    }

    /// Says it again to the endpoint.
    pub(super) fn restate(&self, headers: &mut HeaderMap) {
        restate(&self.protocol, headers);
    }

    /// The endpoint agreed.
    pub(super) fn agreed(mut self, response: &mut Response<Incoming>) -> Option<Agreed> {
        let client = self.client.0.take()?;
        Some(Agreed { client, endpoint: upgrade::on(response) })
    }
}

/// Another protocol that both sides agreed on.
pub(super) struct Agreed {
    client: OnUpgrade,
    endpoint: OnUpgrade,
}

impl Agreed {
    /// From here on it is bytes. The request lasts as long as they do, unless none come for too long: it takes its places,
    /// and is told of at the end.
    pub(super) fn carry(self, worker: Arc<Worker>, observed: Observed) {
        let open = worker.drain.guard();
        tokio::spawn(async move {
            let pulse = Pulse::of_request(worker.stream_idle);
            let mut metered = Metered { client: None, pulse: &pulse, received: 0, sent: 0 };
            let carried = async {
                // Either fails when its connection ends before the protocol has changed; nothing is left to carry then.
                let (Ok(client), Ok(endpoint)) = tokio::join!(self.client, self.endpoint) else { return };
                let mut endpoint = TokioIo::new(endpoint);
                metered.client = Some(TokioIo::new(client));
                // However it ends, both sides are told by the end of the other.
                let _ = copy_bidirectional(&mut metered, &mut endpoint).await;
            };
            let cut = {
                let carried = pin!(carried);
                tokio::select! {
                    carried = pulse.bound(carried) => carried.is_none().then_some(BodyError::StoodStill),
                    () = worker.end.cancelled() => None,
                    why = observed.revoked() => Some(why),
                }
            };
            observed.carried(metered.received, metered.sent, cut.as_ref().map_or(Ok(()), Err));
            drop(open);
        });
    }
}

/// The client's side, with what was read of it and written to it.
struct Metered<'p> {
    client: Option<TokioIo<upgrade::Upgraded>>,
    pulse: &'p Pulse,
    received: u64,
    sent: u64,
}

impl Metered<'_> {
    fn client(&mut self) -> io::Result<Pin<&mut TokioIo<upgrade::Upgraded>>> {
        self.client.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl AsyncRead for Metered<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(self.client()?.poll_read(cx, buf))?;
        self.pulse.moves();
        self.received += (buf.filled().len() - before) as u64;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(self.client()?.poll_write(cx, bytes))?;
        self.pulse.moves();
        self.sent += written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.client()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.client()?.poll_shutdown(cx)
    }
}
