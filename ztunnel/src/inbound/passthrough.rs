//! Takes plaintext that arrived for a pod: the same judgement as a tunnel, with a caller that proved nothing.
//!
//! The surprising thing: where the operator wants it so, what had to come through a waypoint is taken there from here, and
//! arrives a second time.

use std::net::SocketAddr;
use std::sync::Arc;

use common::net::socket;
use common::refusal::Refusal;
use common::snapshot::Snapshot;
use common::telemetry::labels::Reporter;
use tokio::net::TcpStream;

use crate::carry::{Far, Opened, carry};
use crate::flow::Flow;
use crate::inbound::admit::{self, Admission};
use crate::inbound::deliver;
use crate::live::{Entry, Protocol};
use crate::outbound::forward::{self, TunnelTo};
use crate::outbound::route::{Bound, WaypointWanted, waypoint_pod};
use crate::pods::Pod;
use crate::record::{Ends, Near, Record};
use crate::worker::Worker;

/// Carries one plaintext connection to its end.
pub fn serve(
    worker: Arc<Worker>,
    pod: Arc<Pod>,
    client: TcpStream,
    address: SocketAddr,
) -> impl Future<Output = ()> {
    carry(worker.clone(), Box::pin(open(worker, pod, client, address)))
}

async fn open(worker: Arc<Worker>, pod: Arc<Pod>, client: TcpStream, address: SocketAddr) -> Option<Opened> {
    // Fails where the client is gone already.
    let original = client.local_addr().ok()?;
    let flow = Flow::new(pod, address, original);
    let mesh = worker.mesh.current();
    let judged = admit::admit_plaintext(&mesh, &flow, worker.plaintext_behind_waypoint)
        .and_then(|admission| way(&worker, &mesh, &flow, admission));
    let mut record = Record::open(&worker.edges, &worker.access, ends(&mesh, &flow, &judged));
    let entered = judged.and_then(|way| worker.live.enter(way.entry(&flow)).map(|entered| (way, entered)));
    let (way, entered) = match entered {
        Ok(entered) => entered,
        Err(refusal) => return refuse(&worker, record, client, &refusal),
    };
    let killed = &entered.killed;
    match way {
        Way::Straight(admission) => {
            drop(mesh);
            match deliver::connect(&worker, &flow, &admission, killed).await {
                // The application is the near side, as it is for a tunnel.
                Ok(application) => Some(Opened { near: application, far: Far::Tcp(client), record, entered }),
                Err(refusal) => refuse(&worker, record, client, &refusal),
            }
        }
        Way::Waypoint(_, mut tunnel) => {
            let opening = forward::open_tunnel(&worker, &mesh, &flow, &mut tunnel);
            let opened = forward::or_killed(killed, opening).await;
            record.led_to(tunnel.peer, &tunnel.destination);
            match opened {
                Ok(stream) => {
                    entered.led_to(tunnel.peer);
                    Some(Opened { near: client, far: Far::Tunnel(stream), record, entered })
                }
                Err(refusal) => refuse(&worker, record, client, &refusal),
            }
        }
    }
}

/// Where an admitted connection goes.
enum Way {
    /// To the application.
    Straight(Admission),
    /// To the waypoint that it had to come through, as the pod itself and marked as nobody's: what comes back from there
    /// is a connection of its own.
    Waypoint(Admission, TunnelTo),
}

impl Way {
    fn entry(&self, flow: &Flow) -> Entry {
        match self {
            Self::Straight(admission) => deliver::entry(flow, Protocol::Tcp, admission.clone()),
            Self::Waypoint(admission, tunnel) => {
                let entry = deliver::entry(flow, Protocol::Tcp, admission.clone());
                Entry { server: tunnel.peer, ..entry }
            }
        }
    }
}

fn way(worker: &Worker, mesh: &Snapshot, flow: &Flow, admission: Admission) -> Result<Way, Refusal> {
    let Some(gateway) = &admission.by_way_of else { return Ok(Way::Straight(admission)) };
    let own = mesh.workload(&flow.pod.uid).ok_or(Refusal::UnknownWorkload)?;
    let bound = Bound { gateway: gateway.clone(), namespace: own.namespace().clone() };
    let wanted = WaypointWanted { bound: &bound, called: admission.target.ip(), tried: &[] };
    let (load, rng) = (|server| worker.live.load(server), &mut rand::rng());
    let (peer, destination) = waypoint_pod(mesh, wanted, own, load, rng)?;
    let authority = admission.target;
    let waypoint = Some(bound);
    let tunnel = TunnelTo { peer, authority, destination, service: None, waypoint, unauthenticated: true };
    Ok(Way::Waypoint(admission, tunnel))
}

fn refuse(worker: &Worker, record: Record, client: TcpStream, refusal: &Refusal) -> Option<Opened> {
    socket::reset(client);
    record.refuse(&worker.access, refusal);
    None
}

/// What is taken to a waypoint is counted as the waypoint's: as this pod's it is counted when it comes back.
fn ends(mesh: &Snapshot, flow: &Flow, judged: &Result<Way, Refusal>) -> Ends {
    let tunnel = match judged {
        Ok(Way::Waypoint(_, tunnel)) => Some(tunnel),
        Ok(Way::Straight(_)) | Err(_) => None,
    };
    let own = mesh.workload(&flow.pod.uid).filter(|workload| flow.pod.is(workload));
    Ends {
        reporter: Reporter::Destination,
        near: if tunnel.is_some() { Near::Client } else { Near::Server },
        client: flow.client,
        server: tunnel.map_or(flow.original, |it| it.peer),
        tunnelled_to: tunnel.map(|it| it.authority),
        source: admit::caller(mesh, flow.client.ip(), None).cloned(),
        destination: tunnel.map(|it| &it.destination).or(own).cloned(),
        service: None,
        source_identity: None,
        destination_identity: None,
        since: flow.since,
    }
}
