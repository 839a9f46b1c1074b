//! One tunnel stream: the two `h2` halves, the place it takes on its connection, and what it holds.

use std::sync::Arc;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};

use super::client::Lease;
use super::drive::Shared;
use super::queue::Queue;
use super::request::Baggage;

/// An open tunnel stream. Dropped before both directions ended, it is reset with CANCEL.
pub struct Stream {
    pub(super) send: SendStream<Bytes>,
    pub(super) recv: RecvStream,
    shared: Arc<Shared>,
    held: usize,
    /// What came ahead of the answer and was not read yet; hardly ever there.
    ahead: Option<Box<Queue>>,
    /// Boxed: it is there for a short while at the beginning, and a stream lives long.
    peer: Option<Box<Baggage>>,
    /// The place on a pooled connection, given back when the stream is dropped.
    _lease: Option<Lease>,
}

impl Stream {
    pub(super) fn new(
        send: SendStream<Bytes>,
        recv: RecvStream,
        shared: Arc<Shared>,
        lease: Option<Lease>,
        peer: Option<Baggage>,
    ) -> Self {
        Self { send, recv, shared, held: 0, ahead: None, peer: peer.map(Box::new), _lease: lease }
    }

    /// A stream of which `ahead` has been received already.
    pub(super) fn after(mut self, ahead: Queue) -> Self {
        if !ahead.is_empty() {
            self.hold(ahead.bytes);
            self.ahead = Some(Box::new(ahead));
        }
        self
    }

    /// Takes what was received before anybody read the stream, to be read first.
    pub(super) fn take_ahead(&mut self) -> Queue {
        self.ahead.take().map_or_else(Queue::merging, |ahead| *ahead)
    }

    /// Takes what the answering side said about its workload, on streams that this side opened.
    pub fn take_peer(&mut self) -> Option<Baggage> {
        self.peer.take().map(|peer| *peer)
    }

    /// Ends the stream with RST_STREAM.
    pub fn reset(mut self, reason: Reason) {
        self.send.send_reset(reason);
    }

    /// What it shares with its connection.
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Its number on its connection.
    pub(super) fn id(&self) -> u32 {
        self.recv.stream_id().into()
    }

    /// Records how much of what was received waits for the application. False when the worker's budget is exceeded.
    pub(super) fn hold(&mut self, bytes: usize) -> bool {
        let within = self.shared.hold(self.held, bytes);
        self.held = bytes;
        within
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.hold(0);
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("id", &self.recv.stream_id()).field("held", &self.held).finish()
    }
}
