//! What is told of one request: gathered while it is served, written when it is over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use common::snapshot::model::Workload;
use http::{HeaderMap, Request, StatusCode};

use crate::flags::{Flag, Flags};
use crate::payload::{BodyError, Observer};
use crate::serve::Conversation;

/// One request, as logs and metrics tell of it.
pub struct Record {
    _conversation: Arc<Conversation>,
    began: Instant,
    flags: Flags,
}

impl Record {
    /// Begins with what the client sent.
    pub fn begin<B>(conversation: &Arc<Conversation>, _request: &Request<B>) -> Self {
        Self { _conversation: conversation.clone(), began: Instant::now(), flags: Flags::default() }
    }

    /// When the request began.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Something was done to it.
    pub fn flag(&mut self, flag: Flag) {
        self.flags.set(flag);
    }

    /// Why it was answered as it was (Envoy `%RESPONSE_CODE_DETAILS%`).
    pub fn details(&mut self, _details: &'static str) {}

    /// The route it took.
    pub fn route(&mut self, _name: &Arc<str>) {}

    /// Where it was sent; of several attempts the last counts.
    pub fn upstream(&mut self, _cluster: &Arc<str>, _address: SocketAddr, _workload: Option<&Arc<Workload>>) {
    }

    /// The head of the answer, as the client gets it.
    pub fn head(&mut self, _status: StatusCode, _headers: &HeaderMap) {}
}

impl Observer for Record {
    fn sent(&mut self, _bytes: u64) {}

    fn trailers(&mut self, _trailers: &HeaderMap) {}

    fn ended(&mut self, _how: Result<(), &BodyError>) {}
}
