//! Takes plaintext that arrived for a pod: the same judgement as a tunnel, with a caller that proved nothing.

use std::net::SocketAddr;
use std::sync::Arc;

use common::net::relay::relay;
use common::net::socket;
use common::refusal::Refusal;
use common::snapshot::Snapshot;
use common::telemetry::labels::Reporter;
use tokio::net::TcpStream;

use crate::flow::Flow;
use crate::inbound::{admit, deliver};
use crate::live::Protocol;
use crate::pods::Pod;
use crate::record::{Ends, Record};
use crate::worker::Worker;

/// Carries one plaintext connection to its end.
pub async fn serve(worker: Arc<Worker>, pod: Arc<Pod>, client: TcpStream, address: SocketAddr) {
    let Ok(original) = client.local_addr() else {
        return;
    };
    let flow = Flow::new(pod, address, original);
    let mesh = worker.mesh.current();
    let record = Record::open(&worker.edges, &worker.access, ends(&mesh, &flow));
    let entered = admit::admit_plaintext(&mesh, &flow).and_then(|admission| {
        let entry = deliver::entry(&flow, Protocol::Tcp, admission.clone());
        worker.live.enter(entry).map(|entered| (admission, entered))
    });
    let (admission, (_registration, killed)) = match entered {
        Ok(entered) => entered,
        Err(refusal) => return refuse(&worker, record, client, &refusal),
    };
    drop(mesh);
    match Box::pin(deliver::connect(&worker, &flow, &admission, &killed)).await {
        Ok(application) => {
            // The application is the near side, as it is for a tunnel.
            let outcome = relay(application, client, &record, &killed).await;
            record.close(&worker.access, &outcome);
        }
        Err(refusal) => refuse(&worker, record, client, &refusal),
    }
}

fn refuse(worker: &Worker, record: Record, client: TcpStream, refusal: &Refusal) {
    socket::reset(client);
    record.refuse(&worker.access, refusal);
}

fn ends(mesh: &Snapshot, flow: &Flow) -> Ends {
    Ends {
        reporter: Reporter::Destination,
        client: flow.client,
        server: flow.original,
        tunnelled_to: None,
        source: admit::caller(mesh, flow.client.ip(), None).cloned(),
        destination: mesh.workload(&flow.pod.uid).filter(|workload| flow.pod.is(workload)).cloned(),
        service: None,
        source_identity: None,
        destination_identity: None,
        since: flow.since,
    }
}
