//! Carries a stream that is not HTTP to an endpoint, byte by byte.

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::hbone::io::TunnelIo;
use common::refusal::Refusal;
use tokio::io::copy_bidirectional;
use tokio::time::sleep;

use crate::authz::standing::Standing;
use crate::exchange::called::Called;
use crate::record::Carried;
use crate::routes::ConnectionFacts;
use crate::serve::Conversation;
use crate::stages::split;
use crate::upstream::dispatch::{Failed, Upstream};
use crate::upstream::transport::Transport;
use crate::upstream::{Cluster, PickFacts};

/// Carries `client` to an endpoint and to its end. `server_name` is what its TLS names, if it is TLS.
pub async fn carry(conversation: &Arc<Conversation>, client: TunnelIo, server_name: Option<&str>) {
    let worker = &conversation.worker;
    let mut record = Carried::begin(conversation);
    let Some(standing) = Standing::connection(conversation, server_name) else {
        return record.refuse(Refusal::LimitReached("MAX_CHUNKS"));
    };
    if let Err(denial) = standing.admit(None) {
        return record.refuse(denial.into());
    }
    let carried = async {
        let cluster = cluster(conversation, server_name)?;
        let policy = cluster.policy();
        let facts = PickFacts::connection(conversation.client, conversation.original);
        let picked = worker
            .pickers()
            .pick(&cluster, &facts, Instant::now(), &mut rand::rng())
            .map_err(|_| no_endpoint(conversation))?;
        let upstream =
            Upstream { conversation, cluster: &cluster, policy: &policy, picked: &picked, is_own: false };
        record.upstream(cluster.name(), picked.address, picked.workload.as_ref(), &cluster.service());
        let (far, _held) = upstream.open().await.map_err(refusal)?;
        let mut client = record.metered(client);
        // However it ended, both sides have been told by the end of the other.
        let carrying = async {
            let _ = match far {
                Transport::Tunnel(mut far) => copy_bidirectional(&mut client, &mut far).await,
                Transport::Tcp(mut far) => copy_bidirectional(&mut client, &mut far).await,
                Transport::TunnelTls(mut far) => copy_bidirectional(&mut client, &mut far).await,
                Transport::TcpTls(mut far) => copy_bidirectional(&mut client, &mut far).await,
                Transport::Proxied(mut far) => copy_bidirectional(&mut client, &mut far).await,
            };
        };
        tokio::select! {
            () = carrying => {}
            () = silence(&record, policy.tcp_idle_timeout) => {}
            () = at_most(policy.max_connection_duration) => {}
        }
        Ok(())
    };
    let refused: Result<(), Refusal> = tokio::select! {
        ended = standing.unless_revoked(carried) => ended.unwrap_or_else(|denial| Err(denial.into())),
        () = worker.end.cancelled() => Ok(()),
    };
    if let Err(refusal) = refused {
        record.refuse(refusal);
    }
}

/// Ends when nothing has been carried for as long as `idle`, or up to twice that.
async fn silence(record: &Carried, idle: Option<Duration>) {
    let Some(idle) = idle else { return std::future::pending().await };
    let mut carried = None;
    while carried != Some(record.bytes()) {
        carried = Some(record.bytes());
        sleep(idle).await;
    }
}

/// Ends after `most`.
async fn at_most(most: Option<Duration>) {
    match most {
        Some(most) => sleep(most).await,
        None => std::future::pending().await,
    }
}

/// The destination of the route that the connection falls under, or what was called.
fn cluster(conversation: &Arc<Conversation>, server_name: Option<&str>) -> Result<Arc<Cluster>, Refusal> {
    let called = Called::find(conversation);
    let facts = ConnectionFacts {
        server_name,
        destination: conversation.original.ip(),
        port: conversation.destination.port(),
        source: conversation.caller.as_deref(),
    };
    let target = match called.connections().and_then(|routes| routes.find(&facts)) {
        // A route that leads to nobody refuses; it does not leave the connection to the service.
        Some(rule) => Some(
            split::choose_for_connection(&rule.route, &mut rand::rng())
                .ok_or_else(|| no_endpoint(conversation))?,
        ),
        None => None,
    };
    called.cluster(target).map_err(|_| no_endpoint(conversation))
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
        Failed::Protocol => Refusal::ConnectFailed("another protocol".into()),
    }
}
