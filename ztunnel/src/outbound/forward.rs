//! Opens the way from a pod to the next hop that was chosen for its connection.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::hbone::Stream;
use common::hbone::pool::Key;
use common::hbone::request::{Authority, Baggage, Connect, Forwarded, Traceparent};
use common::net::kill::Killed;
use common::net::socket;
use common::refusal::Refusal;
use common::snapshot::Snapshot;
use common::snapshot::model::{Service, Workload};
use common::telemetry::labels::Reporter;
use common::tls;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::carry::{Far, Opened};
use crate::dial::dial;
use crate::flow::Flow;
use crate::inbound::admit::{self, Admission};
use crate::live::{Direction, Entry, Protocol, Registration};
use crate::outbound::route::{self, Bound, NextHop, WaypointWanted, leaves_from};
use crate::outbound::same_node;
use crate::record::{Ends, Near, Record};
use crate::worker::Worker;

/// Leads `near` to `hop`. One that is refused is recorded and reset here.
pub async fn open(
    worker: &Worker,
    mesh: Arc<Snapshot>,
    flow: Flow,
    hop: NextHop,
    near: TcpStream,
) -> Option<Opened> {
    let ends = ends(&mesh, &flow, &hop);
    let mut record = Record::open(&worker.edges, &worker.access, ends);
    match reach(worker, mesh, &flow, hop, &mut record).await {
        Ok((far, entered)) => Some(Opened { near, far, record, entered }),
        Err(refusal) => {
            record.refuse(&worker.access, &refusal);
            // A reset tells the application at once; a FIN would look like an answer.
            socket::reset(near);
            None
        }
    }
}

async fn reach(
    worker: &Worker,
    mesh: Arc<Snapshot>,
    flow: &Flow,
    hop: NextHop,
    record: &mut Record,
) -> Result<(Far, Registration), Refusal> {
    let protocol = match hop {
        NextHop::Tunnel { .. } | NextHop::Waypoint { .. } => Protocol::Hbone,
        NextHop::Plain { .. } | NextHop::Local { .. } => Protocol::Tcp,
    };
    let entry = Entry {
        pod: flow.pod.clone(),
        direction: Direction::Outbound,
        protocol,
        source: flow.client,
        original: flow.original,
        server: hop.server(),
        admission: own_admission(flow, &hop),
    };
    let entered = worker.live.enter(entry)?;
    let killed = &entered.killed;
    // Judged after it was entered, so that a policy change finds it if this look came too early.
    if let Some(admission) = own_admission(flow, &hop) {
        admit::judge(&mesh, &flow.pod, &admission)?;
    }
    let neighbour = same_node::find(worker, flow, &hop);
    let mut tunnel = match hop {
        NextHop::Tunnel { peer, authority, destination, service } => {
            TunnelTo { peer, authority, destination, service, waypoint: None, unauthenticated: false }
        }
        NextHop::Waypoint { peer, authority, waypoint: destination, service, bound } => {
            TunnelTo { peer, authority, destination, service, waypoint: Some(bound), unauthenticated: false }
        }
        NextHop::Plain { target, .. } | NextHop::Local { target, .. } => {
            let from = leaves_from(&flow.pod.addresses, flow.client.ip(), target.ip());
            let connecting = async { dial(&flow.pod, from, target).await.map_err(|e| e.refusal(target)) };
            drop(mesh);
            let far = or_killed(killed, connecting).await?;
            return Ok((Far::Tcp(far), entered));
        }
    };
    if let Some(neighbour) = neighbour {
        entered.led_to(tunnel.peer);
        let request = request(&mesh, flow, &tunnel);
        drop((mesh, tunnel));
        let arrived = same_node::open(worker, neighbour, request, killed).await?;
        return Ok((Far::Neighbour(Box::new(arrived)), entered));
    }
    let opened = or_killed(killed, open_tunnel(worker, &mesh, flow, &mut tunnel)).await;
    record.led_to(tunnel.peer, &tunnel.destination);
    let stream = opened?;
    entered.led_to(tunnel.peer);
    Ok((Far::Tunnel(stream), entered))
}

/// What has to be admitted when a pod calls itself: nobody else judges that connection.
fn own_admission(flow: &Flow, hop: &NextHop) -> Option<Admission> {
    let NextHop::Local { target, .. } = hop else { return None };
    let client = SocketAddr::new(target.ip(), flow.client.port());
    let identity = Some(flow.pod.identity.clone());
    Some(Admission { target: *target, client, identity, by_way_of: None })
}

/// The work's result, or the reason the connection was ended meanwhile.
pub async fn or_killed<T>(
    killed: &Killed,
    work: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    tokio::select! {
        reason = killed.wait() => Err(reason),
        done = work => done,
    }
}

/// A tunnel to open for a pod.
#[derive(Debug, Clone)]
pub struct TunnelTo {
    /// The peer's HBONE address.
    pub peer: SocketAddr,
    /// What it is asked for.
    pub authority: SocketAddr,
    /// Whose identity the peer must prove.
    pub destination: Arc<Workload>,
    /// The service that was called.
    pub service: Option<Arc<Service>>,
    /// The waypoint whose pod the peer is; `None` where the peer is the destination itself.
    pub waypoint: Option<Bound>,
    /// It is for a client that proved nothing, and not for the pod.
    pub unauthenticated: bool,
}

/// Further pods of a waypoint that are tried when the one that was chosen cannot be reached.
pub const MORE_WAYPOINT_PODS: usize = 2;

/// How long a pod of a waypoint is waited for before another is asked instead, where there is one: its node may be gone,
/// which no packet tells.
pub const WAYPOINT_PATIENCE: Duration = Duration::from_secs(3);

/// Opens a tunnel as the flow's pod. Where it is to a pod of a waypoint that cannot be reached, another one is tried, and
/// `to` says in the end which it was: no payload is sent before a peer has answered, so that none is sent twice.
///
/// # Errors
/// Why there is none: for the last pod that was tried.
pub async fn open_tunnel(
    worker: &Worker,
    mesh: &Snapshot,
    flow: &Flow,
    to: &mut TunnelTo,
) -> Result<Stream, Refusal> {
    if to.waypoint.is_none() {
        return open_one(worker, mesh, flow, to.clone()).await;
    }
    let (mut tried, mut unanswered) = (Vec::new(), None);
    loop {
        let one = to.clone();
        let bound = to.waypoint.clone().filter(|_| tried.len() < MORE_WAYPOINT_PODS);
        let mut next = || {
            tried.push(one.destination.uid.clone());
            let wanted = WaypointWanted { bound: bound.as_ref()?, called: one.authority.ip(), tried: &tried };
            another_pod(worker, mesh, flow, wanted)
        };
        if worker.silent.is(one.peer, Instant::now())
            && let Some(other) = next()
        {
            (to.peer, to.destination) = other;
            continue;
        }
        let mut opening = Box::pin(open_one(worker, mesh, flow, one.clone()));
        let refusal = match timeout(WAYPOINT_PATIENCE, opening.as_mut()).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(refusal)) if !concerns_the_peer_alone(&refusal) => return Err(refusal),
            Ok(Err(refusal)) => Some(refusal),
            Err(_) => None,
        };
        if refusal.is_none() {
            worker.silent.note(one.peer, Instant::now());
        }
        match (next(), refusal, unanswered.take()) {
            (Some(other), refusal, before) => {
                let why = refusal.as_ref().map_or_else(|| "no answer".into(), ToString::to_string);
                tracing::debug!(failed = %one.peer, why, next = %other.0, "another pod of the waypoint is tried");
                unanswered = before.or_else(|| refusal.is_none().then_some((one, opening)));
                (to.peer, to.destination) = other;
            }
            // Who alone can answer is waited for.
            (None, None, _) => return opening.await,
            (None, Some(_), Some((first, opening))) => {
                *to = first;
                return opening.await;
            }
            (None, Some(refusal), None) => return Err(refusal),
        }
    }
}

/// A pod of a waypoint by what is known now: pods come and go, and seconds may have passed since the flow began.
fn another_pod(
    worker: &Worker,
    mesh: &Snapshot,
    flow: &Flow,
    wanted: WaypointWanted<'_>,
) -> Option<(SocketAddr, Arc<Workload>)> {
    let (caller, now) = (route::source(mesh, flow)?, worker.mesh.current());
    let load = |server| worker.live.load(server);
    route::waypoint_pod(&now, wanted, caller, load, &mut rand::rng()).ok()
}

/// Whether another peer may be reached where this one was not. Neither its word, nor what this side lacks, is asked for
/// again.
fn concerns_the_peer_alone(refusal: &Refusal) -> bool {
    use Refusal::*;
    matches!(refusal, ConnectFailed(_) | TunnelUnreachable(_) | TlsFailed(_) | Http2Failed(_))
}

async fn open_one(worker: &Worker, mesh: &Snapshot, flow: &Flow, to: TunnelTo) -> Result<Stream, Refusal> {
    let certificate = worker.certs.get(&flow.pod.identity).await?;
    let from = leaves_from(&flow.pod.addresses, flow.client.ip(), to.peer.ip());
    let key = Arc::new(Key {
        source_uid: flow.pod.uid.clone(),
        source_incarnation: flow.pod.incarnation.clone(),
        source: flow.pod.identity.clone(),
        destination: to.destination.identity.clone(),
        address: to.peer,
        // As many keys as the pod has addresses, whatever addresses its sockets make up.
        source_ip: from.unwrap_or(if to.peer.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        }),
    });
    let request = request(mesh, flow, &to)?;
    let expected = &to.destination.identity;
    let dialled = || async {
        let tcp = dial(&flow.pod, from, to.peer).await.map_err(|error| error.tunnel_refusal(to.peer))?;
        tls::connect(tcp, &certificate.client, expected, tls::CONNECT_DEADLINE).await
    };
    worker.pool.open(&key, &request, dialled).await
}

fn request(mesh: &Snapshot, flow: &Flow, to: &TunnelTo) -> Result<Connect, Refusal> {
    let authority = Authority::address(to.authority)
        .map_err(|error| Refusal::DestinationMismatch(format!("{}: {error}", to.authority).into()))?;
    let host = to.service.as_ref().map(|service| service.hostname.clone());
    // The pod's own baggage is not that of a client it carries on.
    let source = route::source(mesh, flow).filter(|_| !to.unauthenticated);
    Ok(Connect {
        authority,
        forwarded: Some(Forwarded { client: flow.client, host }),
        baggage: source.map(|source| Baggage::of(source)),
        unauthenticated: to.unauthenticated,
        traceparent: Some(Traceparent::new(rand::random(), rand::random())),
    })
}

fn ends(mesh: &Snapshot, flow: &Flow, hop: &NextHop) -> Ends {
    let (server, tunnelled_to, destination, service) = match hop {
        NextHop::Tunnel { peer, authority, destination, service }
        | NextHop::Waypoint { peer, authority, waypoint: destination, service, .. } => {
            (*peer, Some(*authority), Some(destination.clone()), service.clone())
        }
        NextHop::Local { target, destination, service } => {
            (*target, None, Some(destination.clone()), service.clone())
        }
        NextHop::Plain { target, destination, service } => {
            (*target, None, destination.clone(), service.clone())
        }
    };
    let identities = match (hop, &destination) {
        // The handshake proves both before a byte is carried.
        (NextHop::Tunnel { .. } | NextHop::Waypoint { .. }, Some(destination)) => {
            (Some(flow.pod.identity.clone()), Some(destination.identity.clone()))
        }
        _ => (None, None),
    };
    Ends {
        reporter: Reporter::Source,
        near: Near::Client,
        client: flow.client,
        server,
        tunnelled_to,
        source: route::source(mesh, flow).cloned(),
        destination,
        service,
        source_identity: identities.0,
        destination_identity: identities.1,
        since: flow.since,
    }
}
