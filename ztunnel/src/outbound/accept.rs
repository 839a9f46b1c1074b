//! Takes a captured connection of a pod and makes it a flow.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;

use crate::carry::{Opened, carry};
use crate::flow::Flow;
use crate::outbound::{forward, route};
use crate::pods::Pod;
use crate::record;
use crate::worker::Worker;

/// Carries one captured connection to its end.
pub fn serve(
    worker: Arc<Worker>,
    pod: Arc<Pod>,
    socket: TcpStream,
    client: SocketAddr,
) -> impl Future<Output = ()> {
    carry(worker.clone(), Box::pin(open(worker, pod, socket, client)))
}

async fn open(worker: Arc<Worker>, pod: Arc<Pod>, socket: TcpStream, client: SocketAddr) -> Option<Opened> {
    // Fails where the application closed before the connection was taken up.
    let original = socket.local_addr().ok()?;
    let flow = Flow::new(pod, client, original);
    let mesh = worker.mesh.current();
    let routed = route::route(&mesh, &flow, |server| worker.live.load(server), &mut rand::rng());
    match routed {
        Ok(hop) => forward::open(&worker, mesh, flow, hop, socket).await,
        Err(refusal) => {
            record::refuse_outbound(&worker, &mesh, &flow, &refusal, socket);
            None
        }
    }
}
