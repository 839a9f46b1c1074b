//! One traffic thread: a current-thread runtime that owns its listeners, tunnels and pool.
//!
//! A connection and both its halves stay on the worker that accepted it, so that nothing on the hot path is woken
//! across threads. Workers share only what is read: snapshots, certificates, metric handles.

use std::sync::Arc;

use common::certs::CertStore;
use common::hbone::Budget;
use common::hbone::pool::Pool;
use common::lifecycle::drain::DrainWatch;
use common::lifecycle::readiness::Readiness;
use common::refusal::Refusal;
use common::settings::PlaintextBehindWaypoint;
use common::snapshot::publish::Reader;
use common::telemetry::access::AccessLog;
use common::telemetry::tcp::EdgeCache;
use common::tls::HandshakeLimiter;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::door::Door;
use crate::inbound;
use crate::live::Live;
use crate::netns::listen::PodListeners;
use crate::outbound;
use crate::outbound::same_node::SameNode;
use crate::outbound::silent::Silent;
use crate::pods::Pod;
use crate::spans::Spans;
use common::hbone::tunnels::TunnelLimiter;

/// How many pods may wait to be taken over by one worker.
pub const MAX_QUEUED_COMMANDS: usize = 256;

/// What every connection of a worker uses.
pub struct Worker {
    /// The mesh.
    pub mesh: Reader,
    /// Certificates by identity.
    pub certs: CertStore,
    /// Tunnels by source pod and destination.
    pub pool: Pool,
    /// Bounds what slow readers hold.
    pub budget: Arc<Budget>,
    /// Open connections.
    pub live: Arc<Live>,
    /// Pods of waypoints that gave no answer of late.
    pub silent: Silent,
    /// Metric handles by edge.
    pub edges: EdgeCache,
    /// Where connections are told of.
    pub access: AccessLog,
    /// Which connections are told of in traces.
    pub spans: Arc<Spans>,
    /// Bounds TLS handshakes in flight.
    pub handshakes: HandshakeLimiter,
    /// Bounds tunnel connections by peer.
    pub tunnels: TunnelLimiter,
    /// Tells when to stop accepting, and counts what is open.
    pub drain: DrainWatch,
    /// Tells when to end what is still open.
    pub end: CancellationToken,
    /// Whether applications are to see the client's own address (Istio `ENABLE_ORIG_SRC`).
    pub keeps_source: bool,
    /// What becomes of plaintext for ports that are reached through a waypoint only.
    pub plaintext_behind_waypoint: PlaintextBehindWaypoint,
    /// What is known of pods that connections need no tunnel to; `None` where all are tunnelled.
    pub same_node: Option<SameNode>,
    /// Where it is said that file descriptors have run out.
    pub readiness: Readiness,
}

/// Tells a worker to serve one more pod; it stops by itself when the pod is gone.
#[derive(Debug)]
pub struct Serve {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Its sockets.
    pub listeners: PodListeners,
}

impl Worker {
    /// Serves pods until `end` fires.
    pub async fn run(self: Arc<Self>, mut commands: mpsc::Receiver<Serve>) {
        let mut tasks = JoinSet::new();
        let policy = tokio::spawn(self.clone().follow_policy());
        // The doors close by themselves when a drain begins: new connections then wait in the kernel for the next
        // process. What is open goes on until `end` fires.
        loop {
            tokio::select! {
                biased;
                () = self.end.cancelled() => break,
                Some(serve) = commands.recv() => self.serve(serve, &mut tasks),
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            }
        }
        policy.abort();
        self.live.end_where(|_| Some(Refusal::Draining));
        tasks.shutdown().await;
    }

    fn serve(self: &Arc<Self>, serve: Serve, tasks: &mut JoinSet<()>) {
        let Serve { pod, listeners } = serve;
        let (worker, uid) = (self.clone(), pod.clone());
        self.same_node.iter().for_each(|it| it.serve(&pod));
        let door = Door::new(self.clone(), pod.clone(), outbound::accept::serve);
        tasks.spawn(door.tend(listeners.outbound));
        let door = Door::new(self.clone(), pod.clone(), inbound::passthrough::serve);
        tasks.spawn(door.tend(listeners.plaintext));
        let door = Door::new(self.clone(), pod, inbound::accept::serve);
        tasks.spawn(door.tend(listeners.hbone));
        tasks.spawn(async move { worker.forget(&uid).await });
    }

    /// Ends what is open for a pod once it is gone.
    async fn forget(&self, pod: &Arc<Pod>) {
        pod.gone.cancelled().await;
        self.same_node.iter().for_each(SameNode::forget);
        self.pool.close(&pod.uid);
        self.live.end_where(|entry| Arc::ptr_eq(&entry.pod, pod).then_some(Refusal::PodGone));
    }

    /// Ends the connections that a new policy no longer allows, or that a waypoint has come between.
    async fn follow_policy(self: Arc<Self>) {
        let mut mesh = self.mesh.clone();
        let mut judged = 0;
        loop {
            let current = mesh.current();
            if current.policy_generation() != judged {
                judged = current.policy_generation();
                let ended = self.live.judge_again(&current);
                if ended > 0 {
                    tracing::info!(ended, "connections ended that policy, or a waypoint, no longer allows");
                }
            }
            mesh.changed().await;
        }
    }
}
