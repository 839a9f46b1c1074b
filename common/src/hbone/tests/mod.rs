//! Both ends of HBONE in one process: applications on loopback TCP, the connection between the proxies in memory.

mod carry;
mod floods;
mod hostile;
mod hostile_server;
mod pooling;
mod tunnel_io;

use std::sync::Arc;

use tokio::io::{DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::client::{self, Tunnel};
use super::drive::Budget;
use super::request::{Authority, Connect};
use super::server::{self, Arrival, Incoming};
use super::{Stream, limits, relay};
use crate::net::kill::{Kill, kill_switch};
use crate::net::relay::Outcome;

fn budget() -> Arc<Budget> {
    Budget::new(limits::HELD_BYTES_PER_WORKER)
}

fn to_somewhere() -> Connect {
    Connect::to(Authority::parse("10.0.0.7:8080").unwrap())
}

/// Two connected sockets.
async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (connected, accepted) =
        tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let pair = (connected.unwrap(), accepted.unwrap().0);
    crate::net::socket::tune(&pair.0).unwrap();
    crate::net::socket::tune(&pair.1).unwrap();
    pair
}

/// A tunnel between two proxies.
struct Wire {
    tunnel: Arc<Tunnel>,
    incoming: mpsc::Receiver<Box<Incoming>>,
    server: JoinHandle<Option<String>>,
}

impl Wire {
    async fn new(budget: &Arc<Budget>) -> Self {
        let (near, far) = duplex(256 * 1024);
        let (tunnel, driver) = client::handshake(near, budget, limits::IDLE_RELEASE).await.unwrap();
        tokio::spawn(driver);
        let (incoming, server) = serve(far, budget);
        Self { tunnel, incoming, server }
    }

    /// A stream, from both ends.
    async fn stream(&mut self) -> (Stream, Stream) {
        let request = to_somewhere();
        let opening = self.tunnel.lease().unwrap().open(&request);
        let accepting = async {
            let incoming = self.incoming.recv().await.unwrap();
            incoming.accept(None).unwrap()
        };
        let (near, far) = tokio::join!(opening, accepting);
        (near.unwrap(), far)
    }

    /// A client application, a server application, and the two relays between them.
    async fn carried(&mut self) -> Carried {
        let (near_stream, far_stream) = self.stream().await;
        let (client, client_side) = sockets().await;
        let (server, server_side) = sockets().await;
        let (kill, outbound) = spawn_relay(client_side, near_stream);
        let (_, inbound) = spawn_relay(server_side, far_stream);
        Carried { client, server, outbound, inbound, kill }
    }
}

struct Carried {
    client: TcpStream,
    server: TcpStream,
    outbound: JoinHandle<Outcome>,
    inbound: JoinHandle<Outcome>,
    kill: Kill,
}

fn spawn_relay(socket: TcpStream, stream: Stream) -> (Kill, JoinHandle<Outcome>) {
    let (kill, killed) = kill_switch();
    let task = tokio::spawn(async move { relay::relay(socket, stream, &(), &killed).await });
    (kill, task)
}

/// Accepts HTTP/2 on `io` and hands out the CONNECTs; ends with why the connection did, `None` when gracefully.
fn serve(
    io: DuplexStream,
    budget: &Arc<Budget>,
) -> (mpsc::Receiver<Box<Incoming>>, JoinHandle<Option<String>>) {
    let (sender, incoming) = mpsc::channel(1024);
    let budget = Arc::clone(budget);
    let task = tokio::spawn(async move {
        let mut server = match server::accept(io, &budget).await {
            Ok(server) => server,
            Err(refusal) => return Some(refusal.to_string()),
        };
        while let Some(arrival) = server.next().await {
            match arrival {
                Ok(Arrival::Connect(incoming)) => sender.try_send(incoming).unwrap(),
                Ok(Arrival::Invalid(_)) => {}
                Err(why) => return Some(why),
            }
        }
        None
    });
    (incoming, task)
}
