//! Takes a request, or a connection, to an endpoint.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::balance::{self, Caller, Choice, Wanted};
use common::refusal::Refusal;
use common::snapshot::model::{Endpoint, Locality, Workload};
use http::{Request, Response, Version};
use hyper::body::Incoming;

use super::connection::{Place, SendError, Transport};
use super::pool::{PoolKey, Pooled};
use crate::destination::Destination;
use crate::payload::Payload;
use crate::serve::Conversation;

/// Time for a connection to an endpoint to be made.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// An endpoint that was chosen.
pub struct Chosen {
    /// Where it is.
    pub address: SocketAddr,
    /// The pod there.
    pub workload: Option<Arc<Workload>>,
}

/// Chooses an endpoint of what was called.
///
/// # Errors
/// [`Refusal`] when there is none.
pub fn choose(conversation: &Conversation) -> Result<Chosen, Refusal> {
    let (service, port) = match &conversation.destination {
        Destination::Workload { workload, port } => {
            let address = workload.addresses.first().ok_or(Refusal::PodGone)?;
            return Ok(Chosen {
                address: SocketAddr::new(*address, *port),
                workload: Some(workload.clone()),
            });
        }
        Destination::Service { service, port } => (service, *port),
    };
    let mesh = conversation.worker.mesh.peek();
    let locality = Locality::default();
    let caller = Caller { node: "", locality: &locality, cluster: "" };
    let wanted = Wanted { port, original: conversation.peer.local.ip() };
    let chosen =
        balance::choose(service, mesh.endpoints(service), caller, wanted, |_: &Endpoint| 0, &mut rand::rng());
    let Choice { endpoint, port } =
        chosen.map_err(|_| Refusal::NoHealthyUpstream(service.hostname.clone()))?;
    Ok(Chosen { address: SocketAddr::new(endpoint.address, port), workload: endpoint.workload.clone() })
}

/// A byte stream to an endpoint of what was called.
///
/// # Errors
/// [`Refusal`] when there is none, or it cannot be reached.
pub async fn tcp(conversation: &Conversation) -> Result<Transport, Refusal> {
    let chosen = choose(conversation)?;
    conversation.worker.connector.connect(&place(conversation, &chosen), CONNECT_DEADLINE).await
}

fn place(conversation: &Conversation, chosen: &Chosen) -> Place {
    Place {
        address: chosen.address,
        workload: chosen.workload.clone(),
        client: conversation.client,
        host: conversation.destination.service().map(|service| service.hostname.clone()),
        baggage: conversation.baggage.clone(),
    }
}

/// Sends a request to an endpoint and waits for the head of its answer.
///
/// # Errors
/// [`Refusal`] when it cannot be reached or breaks off.
pub async fn send(
    conversation: &Conversation,
    chosen: &Chosen,
    version: Version,
    mut request: Request<Payload>,
) -> Result<(Response<Incoming>, PoolKey, Pooled), Refusal> {
    let worker = &conversation.worker;
    let key = PoolKey {
        cluster: 0,
        address: chosen.address,
        incarnation: chosen.workload.as_ref().map_or_else(|| "".into(), |it| it.incarnation.clone()),
        version,
        client: conversation.client.ip(),
    };
    loop {
        let mut pooled = match worker.connections.take(&key) {
            Some(pooled) => pooled,
            None => {
                let transport =
                    worker.connector.connect(&place(conversation, chosen), CONNECT_DEADLINE).await?;
                let sender = transport.begin(version, ()).await?;
                Pooled { sender, taken: 1, most: None, idle: Some(Duration::from_secs(3600)) }
            }
        };
        match pooled.sender.send(request).await {
            Ok(response) => return Ok((response, key, pooled)),
            // A connection that had waited was gone; one that is made now is not.
            Err(SendError::Unsent(back)) if pooled.taken > 1 => request = *back,
            Err(SendError::Unsent(_)) => {
                return Err(Refusal::ConnectFailed("the connection closed at once".into()));
            }
            Err(SendError::Broken(error)) => return Err(Refusal::ConnectFailed(error.to_string().into())),
        }
    }
}
