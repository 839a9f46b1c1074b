//! The HBONE server on plain TCP at an address of this machine, for conformance tools that speak no mutual TLS:
//!
//! `cargo run -p ebb-scenarios --example plain_hbone -- 127.0.0.1:9000`, then `h2spec -h 127.0.0.1 -p 9000`.

use anyhow::{Context, ensure};
use common::hbone::server::{self, Arrival};
use common::hbone::{Budget, limits};
use tokio::net::{TcpListener, TcpStream};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let address: std::net::SocketAddr = std::env::args().nth(1).context("where to listen")?.parse()?;
    ensure!(address.ip().is_loopback(), "this server asks nobody who they are: loopback only");
    let listener = TcpListener::bind(address).await?;
    let budget = Budget::new(limits::HELD_BYTES_PER_WORKER);
    loop {
        let (socket, _) = listener.accept().await?;
        let budget = budget.clone();
        tokio::spawn(async move {
            if let Err(why) = serve(socket, &budget).await {
                eprintln!("{why}");
            }
        });
    }
}

/// Takes every CONNECT and keeps its stream open.
async fn serve(socket: TcpStream, budget: &std::sync::Arc<Budget>) -> Result<(), String> {
    socket.set_nodelay(true).map_err(|error| error.to_string())?;
    let mut server = server::accept(socket, budget).await.map_err(|refusal| refusal.to_string())?;
    let mut streams = Vec::new();
    while let Some(arrival) = server.next().await {
        if let Arrival::Connect(incoming) = arrival? {
            streams.extend(incoming.accept(None));
        }
    }
    Ok(())
}
