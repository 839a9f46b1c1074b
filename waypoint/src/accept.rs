//! Takes a tunnel connection and yields the CONNECTs on it.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use common::hbone;
use common::hbone::server::{Arrival, Server};
use common::lifecycle::seldom::Seldom;
use common::refusal::Refusal;
use common::snapshot::Snapshot;
use common::snapshot::model::Workload;
use common::spiffe::Identity;
use common::telemetry::labels::Reporter;
use common::tls::{self, ServerStream};
use futures_util::FutureExt as _;
use tokio::net::TcpStream;

use crate::farewell::time_to_move;
use crate::serve;
use crate::worker::Worker;

/// Who is at the other end of a tunnel connection.
#[derive(Debug)]
pub struct Peer {
    /// The identity its certificate proved.
    pub identity: Identity,
    /// Where it connects from: the calling pod's address.
    pub address: SocketAddr,
    /// The address it connected to.
    pub local: SocketAddr,
}

impl Peer {
    /// The workload that calls, when the mesh knows one at that address with that identity.
    pub fn workload<'a>(&self, mesh: &'a Snapshot) -> Option<&'a Arc<Workload>> {
        mesh.workload_at(self.address.ip()).filter(|workload| workload.identity == self.identity)
    }
}

/// Serves one tunnel connection to its end.
pub async fn serve(worker: Arc<Worker>, socket: TcpStream, client: SocketAddr) {
    let Ok(local) = socket.local_addr() else {
        return;
    };
    let (client, local) = (canonical(client), canonical(local));
    let accepted = handshake(&worker, client, socket).await;
    let admitted = accepted.and_then(|(server, identity)| {
        let held = worker.tunnels.admit(&identity)?;
        Ok((server, identity, held))
    });
    match admitted {
        Ok((server, identity, _held)) => {
            run(&worker, Arc::new(Peer { identity, address: client, local }), server).await;
        }
        Err(refusal) => worker.access.refused_early(Reporter::Destination, (client, local), &refusal),
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Every step has a deadline, and a place among the handshakes of its source address until it is through.
async fn handshake(
    worker: &Worker,
    client: SocketAddr,
    socket: TcpStream,
) -> Result<(Server<ServerStream<TcpStream>>, Identity), Refusal> {
    let certificate = worker.certs.get(&worker.connector.myself.identity).await?;
    let _permit = worker.handshakes.admit(client.ip())?;
    let accepted = tls::accept(socket, certificate.server.clone(), tls::ACCEPT_DEADLINE).await?;
    let server = hbone::server::accept(accepted.stream, &worker.budget).await?;
    Ok((server, accepted.peer))
}

/// The loop both drives the connection and takes what arrives; it ends when the connection does.
async fn run(worker: &Arc<Worker>, peer: Arc<Peer>, mut server: Server<ServerStream<TcpStream>>) {
    let mut draining = false;
    let mut end = pin!(Seldom::new(worker.end.cancelled()));
    let mut drain = pin!(Seldom::new(time_to_move(&worker.drain)));
    loop {
        tokio::select! {
            biased;
            () = &mut end => return,
            () = &mut drain, if !draining => {
                draining = true;
                server.drain();
            }
            arrival = server.next() => match arrival {
                Some(Ok(Arrival::Connect(incoming))) => {
                    let open = worker.drain.guard();
                    let served = serve::serve(worker.clone(), peer.clone(), *incoming);
                    tokio::spawn(served.map(move |()| drop(open)));
                }
                Some(Ok(Arrival::Invalid(invalid))) => {
                    let refusal = Refusal::DestinationMismatch(invalid.to_string().into());
                    let ends = (peer.address, peer.local);
                    worker.access.refused_early(Reporter::Destination, ends, &refusal);
                }
                Some(Err(why)) => {
                    tracing::debug!(peer = %peer.identity, client = %peer.address, why, "tunnel connection ended");
                    return;
                }
                None => return,
            },
        }
    }
}
