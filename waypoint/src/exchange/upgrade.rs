//! Another protocol on an HTTP/1.1 connection (WebSocket and its like): asked for, agreed, and carried byte by byte.

use std::sync::Arc;

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::upgrade::{self, OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use super::head;
use crate::worker::Worker;

/// A client's wish for another protocol.
pub(super) struct Asked {
    protocol: HeaderValue,
    client: OnUpgrade,
}

impl Asked {
    /// Takes the wish of a request, if it has one.
    pub(super) fn take(request: &mut Request<Incoming>) -> Option<Self> {
        let protocol = head::upgrade(request.version(), request.headers())?;
        Some(Self { protocol, client: upgrade::on(request) })
    }

    /// Says it again to the endpoint.
    pub(super) fn restate(&self, headers: &mut HeaderMap) {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, self.protocol.clone());
    }

    /// The endpoint agreed: from here on it is bytes.
    pub(super) fn carry(self, worker: Arc<Worker>, response: &mut Response<Incoming>) {
        let endpoint = upgrade::on(response);
        let open = worker.drain.guard();
        tokio::spawn(async move {
            let carried = async {
                // Either fails when its connection ends before the protocol has changed; nothing is left to carry then.
                let (Ok(client), Ok(endpoint)) = tokio::join!(self.client, endpoint) else { return };
                let (mut client, mut endpoint) = (TokioIo::new(client), TokioIo::new(endpoint));
                // However it ends, both sides are told by the end of the other.
                let _ = copy_bidirectional(&mut client, &mut endpoint).await;
            };
            tokio::select! {
                () = carried => {}
                () = worker.end.cancelled() => {}
            }
            drop(open);
        });
    }
}
