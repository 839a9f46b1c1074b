//! What the operator gets to see of one connection: its series in the metrics and its line in the access log.
//!
//! A record is opened once a connection's ends are known and closed with how it went. Labels are resolved at opening;
//! after that the counters are all that is touched.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use common::hbone::request::Traceparent;
use common::net::relay::{End, FarReset, Meter, Outcome};
use common::net::socket;
use common::refusal::Refusal;
use common::snapshot::Snapshot;
use common::snapshot::model::{Service, Workload};
use common::spiffe::Identity;
use common::telemetry::access::{self, AccessLog};
use common::telemetry::labels::{EdgeLabels, Reporter, Security};
use common::telemetry::tcp::{Edge, EdgeCache};
use tokio::net::TcpStream;

use crate::flow::Flow;
use crate::spans::Spans;
use crate::spans::joined::{self, Joined};
use crate::worker::Worker;

/// Whose socket the near side of a connection's relay is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Near {
    /// The client's.
    Client,
    /// The application's that serves it.
    Server,
}

/// The ends of a connection, as far as they are known.
#[derive(Debug, Clone)]
pub struct Ends {
    /// Which side of the connection this proxy is.
    pub reporter: Reporter,
    /// The near side of its relay.
    pub near: Near,
    /// The connecting side's address.
    pub client: SocketAddr,
    /// Where the connection goes on the network.
    pub server: SocketAddr,
    /// What a tunnel is asked for, when there is one.
    pub tunnelled_to: Option<SocketAddr>,
    /// The workload that connects.
    pub source: Option<Arc<Workload>>,
    /// The workload that is connected to.
    pub destination: Option<Arc<Workload>>,
    /// The service that was called.
    pub service: Option<Arc<Service>>,
    /// Who connects, proved by mutual TLS.
    pub source_identity: Option<Identity>,
    /// Who is connected to, proved by mutual TLS.
    pub destination_identity: Option<Identity>,
    /// When it was accepted.
    pub since: Instant,
}

/// An opened connection.
#[derive(Debug)]
pub struct Record {
    ends: Ends,
    edge: Arc<Edge>,
    /// The trace that it is told of in; hardly ever any.
    joined: Option<Box<Joined>>,
}

impl Ends {
    fn labels(&self) -> EdgeLabels<'_> {
        let security = match (&self.source_identity, self.reporter) {
            (Some(_), _) => Security::MutualTls,
            (None, Reporter::Destination | Reporter::Waypoint) => Security::None,
            (None, Reporter::Source) => Security::Unknown,
        };
        EdgeLabels {
            reporter: self.reporter,
            source: self.source.as_deref(),
            destination: self.destination.as_deref(),
            service: self.service.as_deref(),
            source_identity: self.source_identity.as_ref(),
            destination_identity: self.destination_identity.as_ref(),
            security,
        }
    }

    fn show<T>(&self, with: impl FnOnce(&access::Connection<'_>) -> T) -> T {
        let tunnelled_to = self.tunnelled_to.as_ref().map(|target| target as &dyn Display);
        with(&access::Connection {
            reporter: self.reporter,
            source: self.client,
            source_workload: self.source.as_deref(),
            source_identity: self.source_identity.as_ref(),
            destination: self.server,
            tunnelled_to,
            service: self.service.as_deref(),
            destination_workload: self.destination.as_deref(),
            destination_identity: self.destination_identity.as_ref(),
        })
    }
}

impl Record {
    /// Opens the record of a connection.
    pub fn open(edges: &EdgeCache, log: &AccessLog, ends: Ends) -> Self {
        let edge = edges.edge(&ends.labels());
        edge.opened();
        ends.show(|connection| log.opened(connection));
        Self { ends, edge, joined: None }
    }

    /// Has a connection that arrived through a tunnel told of in the trace that the tunnel's other end states, where that
    /// is believed and told of.
    #[must_use]
    pub fn within(mut self, spans: &Spans, mesh: &Snapshot, stated: Option<Traceparent>) -> Self {
        self.joined = Joined::new(spans, mesh, &self.ends, stated);
        self
    }

    /// Notes which pod of its destination a connection is led to in the end. It stays counted where it was at first:
    /// the pods of one destination are one to the metrics, as long as they are of one Deployment.
    pub fn led_to(&mut self, server: SocketAddr, destination: &Arc<Workload>) {
        self.ends.server = server;
        self.ends.destination = Some(destination.clone());
    }

    /// Closes the record of a connection that was carried.
    pub fn close(self, log: &AccessLog, outcome: &Outcome) {
        let (request_bytes, response_bytes) = match self.ends.near {
            Near::Client => (outcome.sent, outcome.received),
            Near::Server => (outcome.received, outcome.sent),
        };
        let broken = refusal_of(&outcome.end);
        self.end(log, request_bytes, response_bytes, broken.as_ref());
    }

    /// Closes the record of a connection that was refused.
    pub fn refuse(self, log: &AccessLog, refusal: &Refusal) {
        self.end(log, 0, 0, Some(refusal));
    }

    fn end(self, log: &AccessLog, request_bytes: u64, response_bytes: u64, refusal: Option<&Refusal>) {
        self.edge.closed(refusal);
        let outcome = access::Outcome {
            request_bytes,
            response_bytes,
            duration: self.ends.since.elapsed(),
            error: refusal.map(|refusal| refusal as &dyn Display),
        };
        self.ends.show(|connection| log.completed(connection, &outcome));
        if let Some(joined) = self.joined {
            let took = outcome.duration;
            joined.tell(&self.ends, &joined::Outcome { request_bytes, response_bytes, took, refusal });
        }
    }
}

/// What comes from the client is requests, from whichever side of the relay.
impl Meter for Record {
    fn sent(&self, bytes: u64) {
        match self.ends.near {
            Near::Client => self.edge.request_bytes(bytes),
            Near::Server => self.edge.response_bytes(bytes),
        }
    }

    fn received(&self, bytes: u64) {
        match self.ends.near {
            Near::Client => self.edge.response_bytes(bytes),
            Near::Server => self.edge.request_bytes(bytes),
        }
    }
}

/// The refusal that a carried connection's end amounts to; `None` for an end the applications chose.
fn refusal_of(end: &End) -> Option<Refusal> {
    match end {
        // A reset by an application is its way to end a connection, not a fault of the mesh.
        End::Closed | End::NearReset(_) | End::FarReset(FarReset::Tcp(_) | FarReset::Stream(_)) => None,
        End::FarReset(FarReset::TunnelLost) => Some(Refusal::ConnectFailed("the tunnel was lost".into())),
        End::Killed(refusal) => Some(refusal.clone()),
    }
}

/// Records a connection that was refused before a next hop was known, and ends it with a reset.
pub fn refuse_outbound(worker: &Worker, mesh: &Snapshot, flow: &Flow, refusal: &Refusal, socket: TcpStream) {
    let source = mesh.workload(&flow.pod.uid).cloned();
    let service = mesh.service_at(flow.original.ip()).cloned();
    let destination = mesh.workload_at(flow.original.ip()).cloned();
    let ends = Ends {
        reporter: Reporter::Source,
        near: Near::Client,
        client: flow.client,
        server: flow.original,
        tunnelled_to: None,
        source,
        destination,
        service,
        source_identity: None,
        destination_identity: None,
        since: flow.since,
    };
    Record::open(&worker.edges, &worker.access, ends).refuse(&worker.access, refusal);
    socket::reset(socket);
}
