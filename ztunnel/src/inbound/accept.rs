//! Takes a tunnel connection that arrived for a pod and yields the CONNECTs on it.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use common::hbone;
use common::hbone::server::{Arrival, Server};
use common::lifecycle::seldom::Seldom;
use common::refusal::Refusal;
use common::spiffe::Identity;
use common::telemetry::labels::Reporter;
use common::tls::{self, ServerStream};
use futures_util::FutureExt as _;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::door::HANDSHAKE_GRACE;
use crate::flow::Flow;
use crate::inbound::deliver;
use crate::pods::Pod;
use crate::worker::Worker;

/// Serves one tunnel connection to its end.
pub async fn serve(worker: Arc<Worker>, pod: Arc<Pod>, socket: TcpStream, client: SocketAddr) {
    let Ok(original) = socket.local_addr() else {
        return;
    };
    let flow = Flow::new(pod, client, original);
    match handshake(&worker, &flow, socket).await {
        Ok((server, peer)) => {
            let flow = Arc::new(flow);
            match worker.tunnels.admit(&peer) {
                Ok(_held) => run(&worker, &flow, &peer, server).await,
                Err(refusal) => early(&worker, &flow, &refusal),
            }
        }
        Err(refusal) => early(&worker, &flow, &refusal),
    }
}

fn early(worker: &Worker, flow: &Flow, refusal: &Refusal) {
    worker.access.refused_early(Reporter::Destination, (flow.client, flow.original), refusal);
}

/// Every step has a deadline, and a place among the handshakes of its source address until it is through.
async fn handshake(
    worker: &Worker,
    flow: &Flow,
    socket: TcpStream,
) -> Result<(Server<ServerStream<TcpStream>>, Identity), Refusal> {
    // The certificate first: waiting for it must not take a place from other pods' handshakes.
    let certificate = worker.certs.get(&flow.pod.identity).await?;
    let _permit = worker.handshakes.admit(flow.client.ip())?;
    let accepted = tls::accept(socket, certificate.server.clone(), tls::ACCEPT_DEADLINE).await?;
    let server = hbone::server::accept(accepted.stream, &worker.budget).await?;
    Ok((server, accepted.peer))
}

/// The loop both drives the connection and takes what arrives; it ends when the connection does.
async fn run(
    worker: &Arc<Worker>,
    flow: &Arc<Flow>,
    peer: &Identity,
    mut server: Server<ServerStream<TcpStream>>,
) {
    let mut draining = false;
    let mut gone = pin!(Seldom::new(flow.pod.gone.cancelled()));
    let mut drain = pin!(Seldom::new(time_to_drain(worker)));
    loop {
        tokio::select! {
            biased;
            // Dropping the server ends its streams: the pod is gone and nobody can answer any more.
            () = &mut gone => return,
            () = &mut drain, if !draining => {
                draining = true;
                server.drain();
            }
            arrival = server.next() => match arrival {
                Some(Ok(Arrival::Connect(incoming))) => {
                    let open = worker.drain.guard();
                    let served = deliver::serve(worker.clone(), flow.clone(), peer.clone(), *incoming);
                    // A drain waits also for what is still being written to the application of a connection that is
                    // over. Not an async block, which would hold the future twice.
                    tokio::spawn(served.map(move |()| drop(open)));
                }
                Some(Ok(Arrival::Invalid(invalid))) => {
                    early(worker, flow, &Refusal::DestinationMismatch(invalid.to_string().into()));
                }
                Some(Err(why)) => {
                    tracing::debug!(peer = %peer, client = %flow.client, why, "tunnel connection ended");
                    return;
                }
                None => return,
            },
        }
    }
}

/// Ends when the peer is to be told to make another connection.
async fn time_to_drain(worker: &Worker) {
    if worker.drain.is_draining() {
        // Accepted while the door was closing. The peer may have made this one in place of another that was drained, and
        // holds a request for it.
        sleep(HANDSHAKE_GRACE).await;
    }
    worker.drain.draining().await;
}
