//! What is told of one connection that is carried byte by byte.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use common::refusal::Refusal;
use common::snapshot::model::{Service, Workload};
use common::telemetry::request_line::RequestLine;
use common::telemetry::requests::RequestEnds;
use common::telemetry::tcp::{Edge, envoy_flag};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Details, Parties, SentTo};
use crate::flags::{Flag, Flags};
use crate::serve::Conversation;

/// How many bytes a connection carries before its counters hear of them, which all workers share.
const BYTES_TOLD_AT_ONCE: u64 = 256 * 1024;

/// One connection through the waypoint. Told of when it is dropped.
pub struct Carried {
    pub(super) parties: Parties,
    began: Instant,
    pub(super) sent_to: SentTo,
    /// What counts it: one edge, unless an operator wants some metrics otherwise. None before it is counted.
    edges: Vec<Arc<Edge>>,
    refusal: Option<Refusal>,
    request: Bytes,
    response: Bytes,
}

/// Bytes in one direction.
#[derive(Debug, Default)]
struct Bytes {
    all: AtomicU64,
    untold: AtomicU64,
}

impl Bytes {
    fn add(&self, bytes: u64, tell: impl FnOnce(u64)) {
        self.all.fetch_add(bytes, Ordering::Relaxed);
        if self.untold.fetch_add(bytes, Ordering::Relaxed) + bytes >= BYTES_TOLD_AT_ONCE {
            tell(self.untold.swap(0, Ordering::Relaxed));
        }
    }

    fn rest(&self) -> u64 {
        self.untold.swap(0, Ordering::Relaxed)
    }
}

impl Carried {
    /// A connection was accepted.
    pub fn begin(conversation: &Conversation) -> Self {
        Self::of(Parties::of(conversation))
    }

    pub(super) fn of(parties: Parties) -> Self {
        Self {
            parties,
            began: Instant::now(),
            sent_to: SentTo::default(),
            edges: Vec::new(),
            refusal: None,
            request: Bytes::default(),
            response: Bytes::default(),
        }
    }

    /// Where it is carried to. Counts as open from here on.
    pub fn upstream(
        &mut self,
        cluster: &Arc<str>,
        address: SocketAddr,
        workload: Option<&Arc<Workload>>,
        service: &Arc<Service>,
    ) {
        self.sent_to = SentTo {
            cluster: Some(cluster.clone()),
            address: Some(address),
            workload: workload.cloned(),
            service: Some(service.clone()),
        };
        self.count();
    }

    /// It was refused, or could not be carried.
    pub fn refuse(&mut self, refusal: Refusal) {
        self.refusal = Some(refusal);
    }

    /// Bytes carried so far, both ways.
    pub fn bytes(&self) -> u64 {
        self.request.all.load(Ordering::Relaxed) + self.response.all.load(Ordering::Relaxed)
    }

    /// The client's stream, counted as it is carried.
    pub fn metered<T>(&self, client: T) -> Metered<'_, T> {
        Metered { client, carried: self }
    }

    /// Counts it as open, if it is not yet.
    fn count(&mut self) {
        if !self.edges.is_empty() {
            return;
        }
        let ends = RequestEnds {
            source: self.parties.caller.as_ref(),
            source_identity: self.parties.identity(),
            destination: self.sent_to.workload.as_ref().or(self.parties.workload.as_ref()),
            service: self.sent_to.service.as_ref().or(self.parties.service.as_ref()),
        };
        let connections = &self.parties.ledger.connections;
        let edges = match &self.parties.telemetry.counted_connections {
            None => {
                let edge = connections.edge(&ends.labels());
                edge.show_all();
                vec![edge]
            }
            Some(counted) => counted.edges(connections, &ends.labels(), &self.line()),
        };
        edges.iter().for_each(|edge| edge.opened());
        self.edges = edges;
    }

    /// What is known of it so far.
    fn line(&self) -> RequestLine<'_> {
        RequestLine {
            flags: self.refusal.as_ref().map_or_else(Flags::default, flags_of),
            bytes_received: self.request.all.load(Ordering::Relaxed),
            bytes_sent: self.response.all.load(Ordering::Relaxed),
            duration: self.began.elapsed(),
            upstream_host: self.sent_to.address,
            upstream_cluster: self.sent_to.cluster.as_deref(),
            downstream_local: Some(self.parties.called),
            downstream_remote: Some(self.parties.client),
            more: Some(self),
            ..RequestLine::default()
        }
    }

    fn request_bytes(&self, bytes: u64) {
        self.request.add(bytes, |bytes| self.edges.iter().for_each(|edge| edge.request_bytes(bytes)));
    }

    fn response_bytes(&self, bytes: u64) {
        self.response.add(bytes, |bytes| self.edges.iter().for_each(|edge| edge.response_bytes(bytes)));
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.count();
        let (request, response) = (self.request.rest(), self.response.rest());
        for edge in &self.edges {
            edge.request_bytes(request);
            edge.response_bytes(response);
            edge.closed_at_waypoint(self.refusal.as_ref());
        }
        let why = self.refusal.as_ref().map(ToString::to_string);
        let denied = self.refusal.as_ref().and_then(denied).map(|it| it.to_string());
        let mut line = self.line();
        if denied.is_some() {
            line.termination_details = denied.as_deref();
        } else {
            line.transport_failure = why.as_deref();
        }
        self.parties.telemetry.log(&self.parties.ledger.access, &line, self.refusal.is_some());
    }
}

/// What Envoy tells of a connection that a policy denied.
fn denied(refusal: &Refusal) -> Option<Details> {
    match refusal {
        Refusal::DeniedByPolicy(policy) | Refusal::PolicyUnknown(policy) => {
            Some(Details::Denied(Some(policy.clone())))
        }
        Refusal::NoAllowPolicyMatched(_) => Some(Details::Denied(None)),
        _ => None,
    }
}

/// Envoy has no flag for a connection that a policy denied; its line says so in the termination details.
fn flags_of(refusal: &Refusal) -> Flags {
    match envoy_flag(refusal) {
        "UH" => Flag::NoHealthyUpstream.into(),
        "UO" => Flag::Overflow.into(),
        "UF" => Flag::UpstreamConnectFailure.into(),
        _ => Flags::default(),
    }
}

/// A client's stream: what is read from it are bytes of the request, what is written to it of the response.
pub struct Metered<'a, T> {
    client: T,
    carried: &'a Carried,
}

impl<T: AsyncRead + Unpin> AsyncRead for Metered<'_, T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.client).poll_read(cx, buffer))?;
        self.carried.request_bytes((buffer.filled().len() - before) as u64);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Metered<'_, T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.client).poll_write(cx, bytes))?;
        self.carried.response_bytes(written as u64);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.client).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.client).poll_shutdown(cx)
    }
}
