//! Opens the way from what was admitted to the application in the pod.

use std::sync::Arc;

use common::hbone::request::{Authority, Baggage, Connect};
use common::hbone::server::Incoming;
use common::net::kill::Killed;
use common::refusal::Refusal;
use common::snapshot::Snapshot;
use common::spiffe::Identity;
use common::telemetry::labels::Reporter;
use tokio::net::TcpStream;

use crate::carry::{Far, Opened, carry};
use crate::dial::dial;
use crate::flow::Flow;
use crate::inbound::admit::{self, Admission};
use crate::live::{Direction, Entry, Protocol, Registration};
use crate::outbound::route::keeps_source;
use crate::record::{Ends, Near, Record};
use crate::worker::Worker;

/// Serves one CONNECT: judged, answered, carried to its end.
pub fn serve(
    worker: Arc<Worker>,
    flow: Arc<Flow>,
    peer: Identity,
    incoming: Incoming,
) -> impl Future<Output = ()> {
    carry(worker.clone(), Box::pin(open(worker, flow, peer, incoming)))
}

/// Judges and answers. One that is refused is recorded and answered here.
async fn open(
    worker: Arc<Worker>,
    flow: Arc<Flow>,
    peer: Identity,
    mut incoming: Incoming,
) -> Option<Opened> {
    let flow = Flow { since: std::time::Instant::now(), ..(*flow).clone() };
    let mesh = worker.mesh.current();
    let (record, entered) = judged(&worker, &mesh, &flow, &peer, &incoming.request);
    let (admission, entered) = match entered {
        Ok(entered) => entered,
        Err(refusal) => {
            incoming.refuse(refusal.status());
            record.refuse(&worker.access, &refusal);
            return None;
        }
    };
    let connected = tokio::select! {
        biased;
        refusal = incoming.withdrawn() => Err(refusal),
        connected = connect(&worker, &flow, &admission, &entered.killed) => connected,
    };
    let application = match connected {
        Ok(application) => application,
        Err(refusal) => {
            incoming.refuse(refusal.status());
            record.refuse(&worker.access, &refusal);
            return None;
        }
    };
    let baggage = mesh.workload(&flow.pod.uid).map(|workload| Baggage::of(workload));
    match incoming.accept(baggage.as_ref()) {
        Ok(stream) => Some(Opened { near: application, far: Far::Tunnel(stream), record, entered }),
        Err(refusal) => {
            common::net::socket::reset(application);
            record.refuse(&worker.access, &refusal);
            None
        }
    }
}

/// A connection that was let in: to where, and its place in the registry.
pub type Entered = (Admission, Registration);

/// Judges what `peer` asks for, and enters what is let in. Its record is opened either way.
pub fn judged(
    worker: &Worker,
    mesh: &Snapshot,
    flow: &Flow,
    peer: &Identity,
    request: &Connect,
) -> (Record, Result<Entered, Refusal>) {
    let judged = admit::admit_tunnel(mesh, flow, peer, &request.authority);
    let record = Record::open(&worker.edges, &worker.access, ends(mesh, flow, peer, request, &judged))
        .within(&worker.spans, mesh, request.traceparent);
    let entered = judged.and_then(|admission| {
        let entry = entry(flow, Protocol::Hbone, admission.clone());
        worker.live.enter(entry).map(|entered| (admission, entered))
    });
    (record, entered)
}

/// Connects to the application as the client, unless the connection is ended meanwhile.
///
/// # Errors
/// The [`Refusal`] to answer with.
pub async fn connect(
    worker: &Worker,
    flow: &Flow,
    admission: &Admission,
    killed: &Killed,
) -> Result<TcpStream, Refusal> {
    let client = admission.client.ip();
    let source = (worker.keeps_source && keeps_source(client, admission.target.ip())).then_some(client);
    tokio::select! {
        biased;
        reason = killed.wait() => Err(reason),
        dialled = dial(&flow.pod, source, admission.target) => dialled.map_err(|error| error.refusal(admission.target)),
    }
}

/// The registry entry of an admitted connection.
pub fn entry(flow: &Flow, protocol: Protocol, admission: Admission) -> Entry {
    Entry {
        pod: flow.pod.clone(),
        direction: Direction::Inbound,
        protocol,
        source: flow.client,
        original: admission.target,
        server: admission.target,
        admission: Some(admission),
    }
}

fn ends(
    mesh: &Snapshot,
    flow: &Flow,
    peer: &Identity,
    request: &Connect,
    judged: &Result<Admission, Refusal>,
) -> Ends {
    let destination = mesh.workload(&flow.pod.uid).filter(|workload| flow.pod.is(workload)).cloned();
    let source = admit::caller(mesh, flow.client.ip(), Some(peer)).cloned();
    // The service is a claim of the caller: believed only when this pod is one of its endpoints.
    let claimed = request.forwarded.as_ref().and_then(|forwarded| forwarded.host.as_deref());
    let service = claimed.and_then(|host| admit::claimed_service(mesh, host, &flow.pod)).cloned();
    let target = match (judged, &request.authority) {
        (Ok(admission), _) => admission.target,
        (Err(_), Authority::Address(asked)) => *asked,
        (Err(_), Authority::Hostname { .. }) => flow.original,
    };
    Ends {
        reporter: Reporter::Destination,
        near: Near::Server,
        client: flow.client,
        server: flow.original,
        tunnelled_to: Some(target),
        source,
        destination,
        service,
        source_identity: Some(peer.clone()),
        destination_identity: Some(flow.pod.identity.clone()),
        since: flow.since,
    }
}
