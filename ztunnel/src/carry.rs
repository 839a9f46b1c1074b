//! Carries a connection that was let in and has reached its next hop to its end.
//!
//! Knows nothing of how it was judged. The surprising thing: everything here is about how little a connection holds that
//! has been open for weeks, which is why getting there is a future of its own, gone when it is done.

use std::pin::Pin;
use std::sync::Arc;

use common::hbone::{self, Stream};
use common::net::relay::relay;
use tokio::net::TcpStream;

use crate::live::Registration;
use crate::outbound::same_node;
use crate::record::Record;
use crate::worker::Worker;

/// A connection that has reached its next hop.
#[derive(Debug)]
pub struct Opened {
    /// The side of this node's application: the caller, or the one that is called. It is what the record's
    /// [`Near`](crate::record::Near) speaks of.
    pub near: TcpStream,
    /// The other side.
    pub far: Far,
    /// What is told of it.
    pub record: Record,
    /// Its place in the registry.
    pub entered: Registration,
}

/// What a connection is carried on.
#[derive(Debug)]
pub enum Far {
    /// A stream of a tunnel.
    Tunnel(Stream),
    /// A plain connection.
    Tcp(TcpStream),
    /// The application of a pod of this node.
    Neighbour(Box<same_node::Arrived>),
}

/// Carries what `opening` leads to, if to anything, to its end.
pub async fn carry(worker: Arc<Worker>, opening: Pin<Box<impl Future<Output = Option<Opened>>>>) {
    let Some(Opened { near, far, record, entered }) = opening.await else { return };
    let killed = &entered.killed;
    let outcome = match far {
        Far::Tunnel(stream) => hbone::relay::relay(near, stream, &record, killed).await,
        // Larger than that of tunnels, in which every connection would have room for it.
        Far::Tcp(far) => Box::pin(relay(near, far, &record, killed)).await,
        Far::Neighbour(arrived) => {
            Box::pin(same_node::carry(&worker, arrived, (&record, killed), near)).await
        }
    };
    record.close(&worker.access, &outcome);
}
