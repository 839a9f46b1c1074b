//! Handshakes over an in-memory pipe, both ends ours unless the case is a hostile or plain peer.

mod certificates;
mod origin;
mod protocol;

use std::sync::Arc;

use rustls::ServerConfig;
use tokio::io::DuplexStream;

use super::testing::{Leaf, StoppedClock, TestCa, workload};
use super::{
    ACCEPT_DEADLINE, Accepted, CONNECT_DEADLINE, Client, ClientStream, Credentials, accept, connect,
};
use crate::refusal::Refusal;
use crate::spiffe::Identity;

const PIPE_BYTES: usize = 64 * 1024;

/// What each end of one handshake came to.
struct Outcome {
    server: Result<Accepted<DuplexStream>, Refusal>,
    client: Result<ClientStream<DuplexStream>, Refusal>,
}

async fn shake_hands(server: Arc<ServerConfig>, client: &Client, expected: &Identity) -> Outcome {
    let (near, far) = tokio::io::duplex(PIPE_BYTES);
    let (server, client) =
        tokio::join!(accept(far, server, ACCEPT_DEADLINE), connect(near, client, expected, CONNECT_DEADLINE));
    Outcome { server, client }
}

/// The words of a handshake that failed.
fn reason<T>(result: &Result<T, Refusal>) -> String {
    match result {
        Ok(_) => panic!("the handshake succeeded"),
        Err(refusal @ Refusal::TlsFailed(_)) => refusal.to_string(),
        Err(other) => panic!("another refusal: {other}"),
    }
}

/// A mesh of one root with two workloads in it.
struct Mesh {
    ca: TestCa,
    clock: Arc<StoppedClock>,
}

impl Mesh {
    fn new() -> Self {
        Self { ca: TestCa::new("mesh"), clock: StoppedClock::at_noon() }
    }

    fn workload(&self, service_account: &str) -> Credentials {
        self.ca.credentials(&Leaf::of(&workload(service_account)), &self.clock)
    }

    fn server(&self) -> Arc<ServerConfig> {
        self.workload("web").server().unwrap()
    }

    fn client(&self) -> Client {
        self.workload("api").client().unwrap()
    }
}
