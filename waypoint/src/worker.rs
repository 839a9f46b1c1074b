//! One traffic thread: a current-thread runtime with a listener, tunnels and connections of its own.
//!
//! A tunnel connection and everything on it stay on the worker that accepted it. Workers share what is read (snapshots,
//! routes, certificates, metric handles) and the counts that limits hold for the whole process.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use arc_swap::ArcSwap;
use common::certs::CertStore;
use common::config::ObjectName;
use common::hbone::Budget;
use common::hbone::tunnels::TunnelLimiter;
use common::lifecycle::backoff::AcceptBackoff;
use common::lifecycle::drain::DrainWatch;
use common::net::socket;
use common::snapshot::Snapshot;
use common::telemetry::access::AccessLog;
use common::tls::HandshakeLimiter;
use futures_util::FutureExt as _;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::accept;
use crate::authn;
use crate::authn::remote::Keyring;
use crate::authz::Policies;
use crate::authz::live::Registry;
use crate::exchange::Checks;
use crate::farewell::callers_know;
use crate::limits::Limits;
use crate::record::Ledger;
use crate::routes::{Tables, View};
use crate::telemetry;
use crate::upstream::pool::{Connections, SWEEP_INTERVAL};
use crate::upstream::transport::Connector;
use crate::upstream::{Clusters, Destinations, Pickers};

/// Connections that wait to be accepted.
const ACCEPT_BACKLOG: i32 = 1024;

/// What all workers share.
pub struct Shared {
    /// Destinations, with what is known of their endpoints.
    pub clusters: Clusters,
    /// The routes of the services it stands for, and the snapshot they are of.
    pub routes: ArcSwap<Followed>,
    /// Connections, that wait for the next request, to destinations that allow only so many.
    pub limited: Connections,
    /// What is under way and judged again when policies change.
    pub live: Arc<Registry>,
    /// Keys of the issuers whose tokens are taken.
    pub keys: authn::remote::Keys,
    /// Where requests are told of, as operators state it.
    pub outputs: telemetry::Outputs,
}

/// Routes, the destinations they name, and the snapshot that both are of: what a request goes by from its beginning to
/// its end, so that it sees a change whole or not at all.
pub struct Followed {
    mesh: Arc<Snapshot>,
    tables: Arc<Tables>,
    destinations: Destinations,
    policies: Arc<Policies>,
    authentication: Arc<authn::tables::Tables>,
    telemetry: Arc<telemetry::tables::Tables>,
    /// `None` where there are none, so that requests see that at once.
    limits: Option<Arc<Limits>>,
    gateway: ObjectName,
}

impl Followed {
    /// No routes, of a waypoint that stands for a Gateway.
    pub fn nothing(view: View, clusters: &Clusters) -> Self {
        let mesh = Arc::<Snapshot>::default();
        let policies = Arc::new(Policies::none(view.waypoint.clone()));
        let authentication = Arc::new(authn::tables::Tables::new(view.waypoint.clone()));
        let telemetry = Arc::new(telemetry::tables::Tables::new(view.waypoint.clone()));
        let gateway = view.waypoint.clone();
        let tables = Arc::new(Tables::new(view, &mesh));
        let destinations = clusters.now();
        Self { tables, destinations, mesh, policies, authentication, telemetry, limits: None, gateway }
    }

    /// The same of a later snapshot, which `clusters` have taken over; what is told of requests stays.
    #[must_use]
    pub fn next(&self, mesh: &Arc<Snapshot>, clusters: &Clusters, keys: &dyn Keyring) -> Self {
        let mut policies = Policies::clone(&self.policies);
        let have_changed = policies.update(&self.mesh, mesh);
        Self {
            tables: Arc::new(self.tables.update(&self.mesh, mesh)),
            destinations: clusters.now(),
            policies: if have_changed { Arc::new(policies) } else { self.policies.clone() },
            authentication: self.authentication.update(mesh, keys),
            telemetry: self.telemetry.clone(),
            limits: self.later_limits(mesh),
            gateway: self.gateway.clone(),
            mesh: mesh.clone(),
        }
    }

    /// The routes.
    pub fn tables(&self) -> &Arc<Tables> {
        &self.tables
    }

    /// The Gateway that the waypoint stands for.
    pub fn gateway(&self) -> &ObjectName {
        &self.gateway
    }

    /// The snapshot they are of.
    pub fn mesh(&self) -> &Arc<Snapshot> {
        &self.mesh
    }

    /// The AuthorizationPolicies of that snapshot.
    pub fn policies(&self) -> &Arc<Policies> {
        &self.policies
    }

    /// The destinations they name.
    pub fn destinations(&self) -> &Destinations {
        &self.destinations
    }

    /// What is told of requests.
    pub fn telemetry(&self) -> &Arc<telemetry::tables::Tables> {
        &self.telemetry
    }

    /// How many requests are let through; `None` where that is not limited.
    pub fn limits(&self) -> Option<&Arc<Limits>> {
        self.limits.as_ref()
    }

    /// The limits of a later snapshot.
    fn later_limits(&self, mesh: &Snapshot) -> Option<Arc<Limits>> {
        let mut limits = match &self.limits {
            Some(limits) => Limits::clone(limits),
            None => Limits::none(self.gateway.clone()),
        };
        match limits.update(&self.mesh, mesh) {
            true => Some(Arc::new(limits)).filter(|it| !it.is_empty()),
            false => self.limits.clone(),
        }
    }

    /// Whose tokens are taken.
    pub fn authentication(&self) -> &Arc<authn::tables::Tables> {
        &self.authentication
    }
}

impl Shared {
    /// Takes over a new snapshot: destinations and the routes that lead to them.
    pub fn follow(&self, mesh: &Arc<Snapshot>) {
        self.clusters.update(mesh, Instant::now());
        let before = self.routes.load();
        let now = Followed {
            telemetry: before.telemetry.update(mesh, &self.outputs),
            ..before.next(mesh, &self.clusters, &self.keys)
        };
        let have_changed = !Arc::ptr_eq(&before.policies, &now.policies);
        self.routes.store(Arc::new(now));
        if have_changed {
            self.live.changed();
        }
    }

    /// The routes in force, and what goes with them.
    pub fn followed(&self) -> Arc<Followed> {
        self.routes.load_full()
    }

    /// The mesh that the routes in force are of: what is bound to this waypoint is looked up nowhere else, so that
    /// nothing is served whose routes are not known yet.
    pub fn mesh(&self) -> Arc<Snapshot> {
        self.routes.load().mesh.clone()
    }
}

/// What every connection of a worker uses.
pub struct Worker {
    /// What it shares with the others.
    pub shared: Arc<Shared>,
    /// Whose turn it is in each cluster.
    pub turns: Mutex<Pickers>,
    /// Tokens that it has verified. Stays on its thread, like the turns.
    pub tokens: Mutex<authn::verified::Cache>,
    /// Places for copies of requests.
    pub mirrors: Arc<Semaphore>,
    /// Places for checks by authorizers.
    pub checks: Checks,
    /// The Gateway this waypoint stands for.
    pub gateway: ObjectName,
    /// How long a request may stand still; `None` is for ever.
    pub stream_idle: Option<Duration>,
    /// Certificates; only its own identity is wanted.
    pub certs: CertStore,
    /// Makes connections to endpoints.
    pub connector: Connector,
    /// Connections that wait for the next request.
    pub connections: Connections,
    /// Bounds what slow readers hold.
    pub budget: Arc<Budget>,
    /// Bounds TLS handshakes in flight.
    pub handshakes: HandshakeLimiter,
    /// Bounds tunnel connections by peer.
    pub tunnels: TunnelLimiter,
    /// Where connections are told of.
    pub access: AccessLog,
    /// Where requests and carried connections are told of, and counted.
    pub ledger: Arc<Ledger>,
    /// Tells when to stop accepting, and counts what is open.
    pub drain: DrainWatch,
    /// Tells when to end what is still open.
    pub end: CancellationToken,
}

/// A listener that shares its address with those of the other workers.
///
/// # Errors
/// When the address cannot be had.
pub fn listen(address: SocketAddr) -> anyhow::Result<std::net::TcpListener> {
    let bind = || -> std::io::Result<std::net::TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket::tune(&socket)?;
        socket.bind(&address.into())?;
        socket.listen(ACCEPT_BACKLOG)?;
        Ok(socket.into())
    };
    bind().with_context(|| format!("--listen-addr {address}"))
}

impl Worker {
    /// Whose turn it is in each cluster. Stays on its thread, so that its lock is never contended.
    pub fn pickers(&self) -> MutexGuard<'_, Pickers> {
        // What is whose turn is whole between any two picks.
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts until a drain begins and callers have heard of it, and serves what was accepted until `end` fires.
    pub async fn run(self: Arc<Self>, listener: std::net::TcpListener) {
        match TcpListener::from_std(listener) {
            Ok(listener) => self.tend(listener).await,
            Err(error) => tracing::error!(%error, "the listener cannot be served"),
        }
        self.end.cancelled().await;
    }

    async fn tend(self: &Arc<Self>, listener: TcpListener) {
        // A drain waits for what may still come.
        let _open = self.drain.guard();
        let mut backoff = AcceptBackoff::default();
        let mut sweeps = interval(SWEEP_INTERVAL);
        let mut closing = std::pin::pin!(callers_know(&self.drain));
        loop {
            tokio::select! {
                biased;
                () = &mut closing => return self.empty(listener).await,
                _ = sweeps.tick() => {
                    let now = tokio::time::Instant::now();
                    self.connections.sweep(now);
                    self.shared.limited.sweep(now);
                }
                accepted = listener.accept() => match accepted {
                    Ok((socket, client)) => {
                        backoff.accepted();
                        self.serve(socket, client);
                    }
                    Err(error) => {
                        let pause = backoff.failed(&error, Instant::now());
                        if let Some(times) = pause.log {
                            tracing::error!(%error, times, "connections cannot be accepted");
                        }
                        sleep(pause.wait).await;
                    }
                },
            }
        }
    }

    /// Takes what the kernel has accepted already: it would reset that when the listener closes.
    async fn empty(self: &Arc<Self>, listener: TcpListener) {
        let listener = match listener.into_std() {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "the listener cannot be emptied"),
        };
        // Asks the kernel itself, because the runtime may not have heard yet of what has just come.
        while let Ok((socket, client)) = listener.accept() {
            let adopted = socket.set_nonblocking(true).and_then(|()| TcpStream::from_std(socket));
            if let Ok(socket) = adopted {
                self.serve(socket, client);
            }
            tokio::task::yield_now().await;
        }
    }

    /// Makes a task of the connection, so that a panic in one ends that one.
    fn serve(self: &Arc<Self>, socket: TcpStream, client: SocketAddr) {
        let open = self.drain.guard();
        tokio::spawn(accept::serve(self.clone(), socket, client).map(move |()| drop(open)));
    }
}
