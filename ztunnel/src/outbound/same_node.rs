//! Carries a connection between two pods of this node from socket to socket, where the operator wants that.
//!
//! Judges nothing by itself: the certificates are judged by the verifier of the handshakes, the connection by what judges
//! tunnels, and both sides are entered, recorded and ended as with a tunnel between them. The surprising thing: whatever
//! is not plainly in order is tunnelled, so that the refusal is found where it always was, in the same words.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use common::certs::{CertStore, WorkloadCertificate};
use common::hbone::request::Connect;
use common::net::kill::{Ending, Killed};
use common::net::relay::{End, FarReset, Meter, Outcome, relay};
use common::refusal::Refusal;
use common::spiffe::Identity;
use common::tls::PeerRole;
use tokio::net::TcpStream;

use crate::flow::Flow;
use crate::inbound::deliver;
use crate::live::Registration;
use crate::outbound::route::{NextHop, leaves_from};
use crate::pods::Pod;
use crate::record::Record;
use crate::worker::Worker;

/// Pairs of certificates that a worker knows to accept each other.
pub const MAX_PROOFS: usize = 4096;

/// For how long they are believed to, without a look at dates and roots. A tunnel would be for as long as it is open.
pub const PROOF_LIFE: Duration = Duration::from_secs(60);

/// RST_STREAM as a relay sends it for a connection that was ended from outside (RFC 9113, section 7).
const CANCEL: u32 = 8;
/// RST_STREAM as it sends it for a TCP connection that failed (RFC 9113, section 8.5).
const CONNECT_ERROR: u32 = 10;

/// What a worker knows of the pods that it serves, and of their certificates.
#[derive(Debug, Default)]
pub struct SameNode {
    /// By uid; as many as the roster has.
    pods: Mutex<HashMap<Arc<str>, Arc<Pod>>>,
    proofs: Mutex<HashMap<(Identity, Identity), Proof>>,
}

/// Two certificates, the caller's and the called one's, of which either was accepted by the other's side.
#[derive(Debug)]
struct Proof {
    // Held weakly: a certificate that was replaced is not to live on here, and another in its place is another.
    certificates: (Weak<WorkloadCertificate>, Weak<WorkloadCertificate>),
    at: Instant,
}

/// A connection that needs no tunnel.
#[derive(Debug)]
pub struct Neighbour {
    /// As it arrives at the pod that is called.
    flow: Flow,
    /// Who calls, by certificate.
    caller: Identity,
}

/// Whether the connection that `hop` leads on needs no tunnel, where such are wanted.
pub fn find(worker: &Worker, flow: &Flow, hop: &NextHop) -> Option<Neighbour> {
    let known = worker.same_node.as_ref()?;
    // What a tunnel would bring to the next process is for the next process.
    if worker.drain.is_draining() {
        return None;
    }
    let inbound = neighbour(flow, hop, |uid| known.pod(uid))?;
    let caller = known.proved(&worker.certs, &flow.pod.identity, &inbound.pod.identity)?;
    Some(Neighbour { flow: inbound, caller })
}

/// The same connection as it would arrive at the pod at the end of `hop`, where that pod is `served` here: the very one
/// that was chosen, at the address that a tunnel would be made to, and from where a tunnel would come.
fn neighbour(flow: &Flow, hop: &NextHop, served: impl FnOnce(&str) -> Option<Arc<Pod>>) -> Option<Flow> {
    let NextHop::Tunnel { peer, authority, destination, .. } = hop else { return None };
    let pod = served(&destination.uid)?;
    let is_meant = pod.is(destination) && pod.identity == destination.identity;
    let is_there = peer.ip() == authority.ip() && pod.addresses.contains(&peer.ip());
    let is_leaving = pod.closing.is_cancelled() || pod.gone.is_cancelled();
    if !is_meant || !is_there || is_leaving {
        return None;
    }
    let client = SocketAddr::new(tunnel_address(flow, peer.ip())?, flow.client.port());
    Some(Flow::new(pod, client, *peer))
}

/// The address that the pod's tunnel to `peer` would come from, where the kernel is left no choice.
fn tunnel_address(flow: &Flow, peer: IpAddr) -> Option<IpAddr> {
    let (addresses, client) = (&flow.pod.addresses, flow.client.ip());
    if client.is_ipv4() == peer.is_ipv4() && !addresses.contains(&client) {
        return None;
    }
    let mut of_family = addresses.iter().filter(|ip| ip.is_ipv4() == peer.is_ipv4());
    let only = of_family.next().filter(|_| of_family.next().is_none());
    leaves_from(addresses, client, peer).or(only.copied())
}

impl SameNode {
    /// Notes a pod that the worker serves from now on.
    pub fn serve(&self, pod: &Arc<Pod>) {
        lock(&self.pods).insert(pod.uid.clone(), pod.clone());
    }

    /// Forgets the pods that are gone.
    pub fn forget(&self) {
        lock(&self.pods).retain(|_, pod| !pod.gone.is_cancelled());
    }

    fn pod(&self, uid: &str) -> Option<Arc<Pod>> {
        lock(&self.pods).get(uid).cloned()
    }

    /// Who the caller is, when both have a certificate now and each side would accept the other's in a handshake.
    fn proved(&self, certs: &CertStore, caller: &Identity, called: &Identity) -> Option<Identity> {
        let (ours, theirs) = (certs.try_get(caller)?, certs.try_get(called)?);
        let (pair, now) = ((caller.clone(), called.clone()), Instant::now());
        if lock(&self.proofs).get(&pair).is_some_and(|proof| proof.is_of(&ours, &theirs, now)) {
            return Some(pair.0);
        }
        if !accept_each_other(&ours, &theirs) {
            return None;
        }
        let mut proofs = lock(&self.proofs);
        if proofs.len() >= MAX_PROOFS {
            proofs.clear();
        }
        let certificates = (Arc::downgrade(&ours), Arc::downgrade(&theirs));
        proofs.insert(pair.clone(), Proof { certificates, at: now });
        Some(pair.0)
    }
}

/// Whether a handshake between these two would succeed, and prove either to be who it is.
fn accept_each_other(caller: &WorkloadCertificate, called: &WorkloadCertificate) -> bool {
    let accepted = called.judge(caller, PeerRole::Client).is_ok_and(|found| found == caller.identity);
    accepted && caller.judge(called, PeerRole::Server).is_ok_and(|found| found == called.identity)
}

impl Proof {
    fn is_of(
        &self,
        caller: &Arc<WorkloadCertificate>,
        called: &Arc<WorkloadCertificate>,
        now: Instant,
    ) -> bool {
        let is = |held: &Weak<_>, one: &Arc<_>| std::ptr::eq(held.as_ptr(), Arc::as_ptr(one));
        let (ours, theirs) = &self.certificates;
        is(ours, caller) && is(theirs, called) && now.duration_since(self.at) < PROOF_LIFE
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each use is one insertion, removal or look, so that a panic leaves it whole.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Carries `near` to the application of the pod that is called, and to its end. `record` and `killed` are the calling
/// pod's side.
///
/// No `async fn`, which would keep the emptied box, and what was in it twice, for as long as the connection lasts.
pub fn carry<'c>(
    worker: &'c Worker,
    arrived: Box<Arrived>,
    (record, killed): (&'c Record, &'c Killed),
    near: TcpStream,
) -> impl Future<Output = Outcome> + 'c {
    let Arrived { application, entered, record: theirs } = *arrived;
    async move {
        let both = Both { caller: killed, called: &entered.killed };
        let Outcome { sent, received, end } = relay(near, application, &Told([record, &theirs]), &both).await;
        let (end, at_called) = both.seen(end);
        theirs.close(&worker.access, &Outcome { sent: received, received: sent, end: at_called });
        Outcome { sent, received, end }
    }
}

/// A connection that has reached the application.
#[derive(Debug)]
pub struct Arrived {
    application: TcpStream,
    entered: Registration,
    record: Record,
}

/// What the called pod's node does with a CONNECT, of what the tunnel would have said in `request`, if it could be said.
///
/// # Errors
/// The refusal that the calling side meets.
pub async fn open(
    worker: &Worker,
    Neighbour { flow, caller }: Neighbour,
    request: Result<Connect, Refusal>,
    killed: &Killed,
) -> Result<Arrived, Refusal> {
    let (record, judged) = deliver::judged(worker, &worker.mesh.current(), &flow, &caller, &request?);
    let refuse = |record: Record, refusal: &Refusal| {
        record.refuse(&worker.access, refusal);
        Refusal::PeerRefused(refusal.status().as_u16())
    };
    let (admission, entered) = match judged {
        Ok(entered) => entered,
        Err(refusal) => return Err(refuse(record, &refusal)),
    };
    tokio::select! {
        biased;
        reason = killed.wait() => {
            refuse(record, &Refusal::ConnectFailed("the caller went away".into()));
            Err(reason)
        }
        connected = deliver::connect(worker, &flow, &admission, &entered.killed) => match connected {
            Ok(application) => Ok(Arrived { application, entered, record }),
            Err(refusal) => Err(refuse(record, &refusal)),
        }
    }
}

/// Counts for the calling pod and the called one. The far side of the relay is the near one of the called pod's record.
struct Told<'a>([&'a Record; 2]);

impl Meter for Told<'_> {
    fn sent(&self, bytes: u64) {
        self.0[0].sent(bytes);
        self.0[1].received(bytes);
    }

    fn received(&self, bytes: u64) {
        self.0[0].received(bytes);
        self.0[1].sent(bytes);
    }
}

/// The switches of both sides, of which either ends the connection.
struct Both<'a> {
    caller: &'a Killed,
    called: &'a Killed,
}

impl Ending for Both<'_> {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Refusal> {
        match (self.caller.poll(cx), self.called.poll(cx)) {
            (Poll::Ready(reason), _) | (_, Poll::Ready(reason)) => Poll::Ready(reason),
            _ => Poll::Pending,
        }
    }
}

impl Both<'_> {
    /// How the calling side and the called one would have seen this end, with a tunnel between them.
    fn seen(&self, end: End) -> (End, End) {
        match end {
            End::Closed => (End::Closed, End::Closed),
            End::NearReset(_) => (end, End::FarReset(FarReset::Stream(CONNECT_ERROR))),
            End::FarReset(FarReset::Tcp(kind)) => {
                (End::FarReset(FarReset::Stream(CONNECT_ERROR)), End::NearReset(kind))
            }
            End::FarReset(_) => (end.clone(), end),
            End::Killed(reason) => {
                let ended = |own: Option<&Refusal>| {
                    own.map_or_else(|| across(&reason), |reason| End::Killed(reason.clone()))
                };
                (ended(self.caller.reason()), ended(self.called.reason()))
            }
        }
    }
}

/// What the other side sees of one that was ended for `reason`.
fn across(reason: &Refusal) -> End {
    End::FarReset(match reason {
        // With a pod go its tunnels. That it is gone may be known first of the mesh.
        Refusal::PodGone | Refusal::UnknownWorkload => FarReset::TunnelLost,
        _ => FarReset::Stream(CANCEL),
    })
}

#[cfg(test)]
#[path = "same_node_tests.rs"]
mod tests;
