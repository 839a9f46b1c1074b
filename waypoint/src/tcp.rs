//! Carries a stream that is not HTTP to an endpoint, byte by byte.

use std::sync::Arc;
use std::time::Instant;

use common::config::ObjectName;
use common::hbone::io::TunnelIo;
use common::refusal::Refusal;
use common::telemetry::labels::Reporter;
use tokio::io::copy_bidirectional;

use crate::destination::Destination;
use crate::serve::Conversation;
use crate::upstream::connection::Transport;
use crate::upstream::dispatch::{Failed, Upstream};
use crate::upstream::{Cluster, ClusterKey, PickFacts};

/// Carries `client` to an endpoint and to its end.
pub async fn carry(conversation: &Arc<Conversation>, mut client: TunnelIo) {
    let worker = &conversation.worker;
    let carried = async {
        let cluster = cluster(conversation)?;
        let policy = cluster.policy();
        let facts = PickFacts::connection(conversation.client, conversation.original);
        let picked = worker
            .pickers()
            .pick(&cluster, &facts, Instant::now(), &mut rand::rng())
            .map_err(|_| no_endpoint(conversation))?;
        let upstream = Upstream { conversation, cluster: &cluster, policy: &policy, picked: &picked };
        let (far, _held) = upstream.open().await.map_err(refusal)?;
        // However it ended, both sides have been told by the end of the other.
        let _ = match far {
            Transport::Tunnel(mut far) => copy_bidirectional(&mut client, &mut far).await,
            Transport::Tcp(mut far) => copy_bidirectional(&mut client, &mut far).await,
        };
        Ok(())
    };
    let refused: Result<(), Refusal> = tokio::select! {
        ended = carried => ended,
        () = worker.end.cancelled() => Ok(()),
    };
    if let Err(refusal) = refused {
        let ends = (conversation.client, conversation.peer.local);
        worker.access.refused_early(Reporter::Destination, ends, &refusal);
    }
}

fn cluster(conversation: &Conversation) -> Result<Arc<Cluster>, Refusal> {
    let Destination::Service { service, port } = &conversation.destination else {
        return Err(no_endpoint(conversation));
    };
    let service = ObjectName::new(service.namespace.clone(), service.name.clone());
    let key = ClusterKey { service, port: *port, subset: None };
    conversation.worker.shared.clusters.get(&key).ok_or_else(|| no_endpoint(conversation))
}

fn no_endpoint(conversation: &Conversation) -> Refusal {
    let service = conversation.destination.service();
    Refusal::NoHealthyUpstream(service.map_or_else(|| "a pod".into(), |service| service.hostname.clone()))
}

fn refusal(failed: Failed) -> Refusal {
    match failed {
        Failed::Connect(refusal) => refusal,
        Failed::Overflow(_) => Refusal::LimitReached("maxConnections"),
        Failed::Reset(error) => Refusal::ConnectFailed(error.to_string().into()),
    }
}
