//! The composition root: reads settings, chooses implementations, starts the long-lived tasks and ends them in order.
//!
//! Threads: `main` carries the control runtime (admin servers, certificates, outlier sweeps), `worker-N` the traffic, and
//! the configuration source its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use arc_swap::ArcSwap;
use common::admin::config_dump::DumpSection;
use common::admin::dump;
use common::admin::{AdminHandler, HttpServer, ReadinessHandler, StatsHandler};
use common::certs::CertStore;
use common::config::{GatewayRoute, ObjectName};
use common::hbone::pool::Pool;
use common::hbone::{Budget, limits};
use common::lifecycle::drain::{self, Drained};
use common::lifecycle::readiness::Readiness;
use common::lifecycle::shutdown::{Shutdown, StopRequest};
use common::lifecycle::threads::{join, raise_file_limit, spawn_runtime};
use common::snapshot::publish::Reader;
use common::source;
use common::spans::Me;
use common::spans::export::Exporters;
use common::spiffe::Identity;
use common::telemetry::logging::{self, Logging};
use common::telemetry::metrics::Metrics;
use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::authn::fetch::Fetcher;
use crate::authn::remote::Keys;
use crate::exchange::{Checks, MAX_CHECKS_IN_FLIGHT, MAX_MIRRORS_IN_FLIGHT};
use crate::record::Ledger;
use crate::routes::{ServiceRoutes, View};
use crate::settings::Settings;
use crate::spans::reach::Reach;
use crate::telemetry::Outputs;
use crate::telemetry::logs::Files;
use crate::upstream::origins::Origins;
use crate::upstream::transport::{Connector, Myself};
use crate::upstream::{Clusters, Vantage};
use crate::worker::{Followed, Shared, Worker, listen};

/// The version in logs, metrics and dumps.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Bytes that slow readers may hold of the tunnels that spans go through.
const CONTROL_HELD_BYTES: usize = 8 * 1024 * 1024;

/// How long tunnels without streams are kept.
const TUNNEL_RELEASE: Duration = limits::IDLE_RELEASE;

/// How often endpoints whose ejection is over are looked for.
const OUTLIER_SWEEP: Duration = Duration::from_secs(1);

/// How often its own certificate is asked for until it is there.
const CERTIFICATE_RETRY: Duration = Duration::from_millis(200);

/// Runs the proxy until it is asked to stop.
///
/// # Errors
/// When it cannot start: the sentence names what is missing.
pub fn run(settings: Settings) -> anyhow::Result<()> {
    let logging = logging::init(&settings.log.filter, settings.log.format).context("--log")?;
    raise_file_limit();
    let control = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the control runtime")?;
    control.block_on(serve(settings, logging))
}

async fn serve(settings: Settings, logging: Logging) -> anyhow::Result<()> {
    let given = &settings.waypoint;
    tracing::info!(version = VERSION, gateway = %given.gateway, pod = given.pod_name, "waypoint starts");
    let mut shutdown = Shutdown::listen().context("listen for signals")?;
    let readiness = Readiness::default();
    let certs = CertStore::open(&settings.certificates, &settings.node)?;
    let identity = identity(&settings);
    want(&certs, &identity, &readiness)?;
    let (running, mesh) = source::start(&settings.node, None, &readiness)?;
    let uid = format!("{}//Pod/{}/{}", settings.node.cluster_id, given.pod_namespace, given.pod_name);
    let (myself, origins) = (Arc::new(Myself { identity, uid: uid.into() }), Arc::new(Origins::default()));
    let connector = |budget: Arc<Budget>| Connector {
        myself: myself.clone(),
        certs: certs.clone(),
        tunnels: Pool::new(TUNNEL_RELEASE, budget),
        origins: origins.clone(),
    };
    let shared = shared(&settings, &mesh, &readiness, (&logging, connector(Budget::new(CONTROL_HELD_BYTES))));
    let metrics = metrics(&shared, &logging)?;
    metrics.expire_after(settings.servers.metrics_idle_expiry);
    tokio::spawn(metrics.upkeep());

    let ((trigger, watch), end) = (drain::channel(), CancellationToken::new());
    let mut threads = Vec::new();
    for index in 0..settings.runtime.worker_threads() {
        let listener = listen(given.listen)?;
        let budget = Budget::new(limits::HELD_BYTES_PER_WORKER);
        let worker = Arc::new(Worker {
            shared: shared.clone(),
            turns: Default::default(),
            tokens: Default::default(),
            mirrors: Arc::new(Semaphore::new(MAX_MIRRORS_IN_FLIGHT)),
            checks: Checks::new(MAX_CHECKS_IN_FLIGHT),
            gateway: given.gateway.clone(),
            stream_idle: given.stream_idle(),
            certs: certs.clone(),
            connector: connector(budget.clone()),
            connections: Default::default(),
            budget,
            handshakes: Default::default(),
            tunnels: Default::default(),
            access: logging.access.clone(),
            ledger: Arc::new(Ledger::new(logging.access.clone(), &metrics)),
            drain: watch.clone(),
            end: end.clone(),
        });
        threads.push(spawn_runtime(&format!("worker-{index}"), move || worker.run(listener))?);
    }

    let shown = (sections(&mesh, &certs, &shared), shutdown.request());
    servers(&settings, &logging, &metrics, &readiness, shown)?;
    tokio::spawn(say_when_ready(readiness.clone()));

    let reason = shutdown.wait().await;
    let _draining = readiness.await_task("the end: draining");
    let grace = settings.runtime.drain_deadline();
    tracing::info!(%reason, grace_seconds = grace.as_secs(), "draining");
    match trigger.drain(grace).await {
        Drained::Finished => tracing::info!("every connection has ended"),
        Drained::DeadlinePassed { left } => tracing::warn!(left, "connections are cut at the deadline"),
    }
    end.cancel();
    drop(running);
    threads.into_iter().for_each(join);
    shared.outputs.exporters.flush().await;
    Ok(())
}

/// Says once that requests are taken.
async fn say_when_ready(readiness: Readiness) {
    readiness.ready().await;
    tracing::info!("ready");
    // Most of the program was for that.
    if let Err(error) = ebb_resident::let_go_of_clean_pages() {
        tracing::debug!(%error, "pages of the program stay resident");
    }
}

fn identity(settings: &Settings) -> Identity {
    let given = &settings.waypoint;
    Identity::new(
        settings.node.trust_domain.as_str(),
        given.pod_namespace.as_str(),
        given.service_account.as_str(),
    )
}

/// What is counted, those of the destinations among it.
fn metrics(shared: &Arc<Shared>, logging: &Logging) -> anyhow::Result<Arc<Metrics>> {
    let mut metrics = Metrics::install("waypoint", VERSION)?;
    metrics.collect_log(logging.sink.clone());
    let clusters = shared.clusters.clone();
    metrics.collect(Box::new(move || clusters.families()));
    let told = shared.clone();
    metrics.collect(Box::new(move || told.outputs.exporters.families()));
    Ok(Arc::new(metrics))
}

/// What all workers share, kept in step with the mesh. Readiness waits for the first routes.
fn shared(
    settings: &Settings,
    mesh: &Reader,
    readiness: &Readiness,
    (logging, connector): (&Logging, Connector),
) -> Arc<Shared> {
    let given = &settings.waypoint;
    let pod = ObjectName::new(given.pod_namespace.as_str(), given.pod_name.as_str());
    let vantage = Vantage::new(&settings.node.mesh(), pod);
    let clusters = Clusters::new(vantage, Instant::now());
    let cluster_domain = settings.node.cluster_domain.as_str().into();
    let view = View { waypoint: given.gateway.clone(), cluster_domain };
    let routes = Followed::nothing(view, &clusters);
    let domain = settings.node.cluster_domain.clone();
    let reach = Reach::new(mesh.clone(), clusters.clone(), connector, domain);
    let outputs = outputs(settings, logging, reach);
    let shared = Arc::new(Shared {
        clusters,
        routes: ArcSwap::from_pointee(routes),
        limited: Default::default(),
        live: Default::default(),
        keys: Keys::new(Fetcher::default(), Handle::current()),
        outputs,
    });
    let (following, mut mesh) = (shared.clone(), mesh.clone());
    let first = readiness.await_task("routes of the first manifests");
    tokio::spawn(async move {
        following.follow(&mesh.changed().await);
        first.done();
        let mut sweeps = tokio::time::interval(OUTLIER_SWEEP);
        loop {
            tokio::select! {
                snapshot = mesh.changed() => following.follow(&snapshot),
                _ = sweeps.tick() => following.clusters.sweep(Instant::now()),
            }
        }
    });
    shared
}

/// Where requests are told of.
fn outputs(settings: &Settings, logging: &Logging, reach: Reach) -> Outputs {
    let (given, node) = (&settings.waypoint, &settings.node);
    let (namespace, domain) = (&given.pod_namespace, &node.cluster_domain);
    let address = given.listen.ip();
    let me = Me {
        program: "ebb-waypoint",
        service: format!("{}.{}", given.gateway.name, given.gateway.namespace),
        node: format!("waypoint~{address}~{}.{namespace}~{namespace}.svc.{domain}", given.pod_name),
        mesh: node.trust_domain.clone(),
        canonical_service: given.gateway.name.to_string(),
        namespace: namespace.clone(),
        cluster: node.cluster_id.clone(),
    };
    let exporters = Exporters::new(Arc::new(me), Arc::new(reach), Handle::current());
    Outputs { own: logging.access.clone(), files: Files::default(), exporters }
}

/// Asks for its own certificate; readiness waits until it is there.
fn want(certs: &CertStore, identity: &Identity, readiness: &Readiness) -> anyhow::Result<()> {
    certs.want(identity).map_err(|refusal| anyhow::anyhow!("{refusal}"))?;
    let certified = readiness.await_task(format!("a certificate for {identity}"));
    let (waiting, wanted) = (certs.clone(), identity.clone());
    tokio::spawn(async move {
        // What is missing is told by readiness meanwhile.
        while waiting.get(&wanted).await.is_err() {
            tokio::time::sleep(CERTIFICATE_RETRY).await;
        }
        certified.done();
    });
    Ok(())
}

/// Starts the servers for operators and probes.
fn servers(
    settings: &Settings,
    logging: &Logging,
    metrics: &Arc<Metrics>,
    readiness: &Readiness,
    (sections, stop): (Vec<DumpSection>, StopRequest),
) -> anyhow::Result<()> {
    let admin = AdminHandler::new(sections, logging.control.clone(), stop);
    tokio::spawn(admin.bind(settings.servers.admin)?.serve(std::future::pending()));
    let stats = HttpServer::bind("stats", settings.servers.stats, StatsHandler::new(metrics.clone()))?;
    tokio::spawn(stats.serve(std::future::pending()));
    let probes = ReadinessHandler::new(readiness.clone());
    let probes = HttpServer::bind("readiness", settings.servers.readiness, probes)?;
    tokio::spawn(probes.serve(std::future::pending()));
    Ok(())
}

/// The sections of `/config_dump`.
fn sections(mesh: &Reader, certs: &CertStore, shared: &Arc<Shared>) -> Vec<DumpSection> {
    let (certs, clusters, routes) = (certs.clone(), shared.clusters.clone(), shared.clone());
    let secured = shared.clusters.clone();
    let (reader, authentication, telemetry) = (mesh.clone(), shared.clone(), shared.clone());
    vec![
        DumpSection::list("clusters", move || clusters.dump()),
        DumpSection::value("backendTls", move || json!({ "problems": secured.problems() })),
        DumpSection::value("routes", move || {
            let followed = routes.followed();
            let shown = |table: &Arc<ServiceRoutes>| {
                let names: Vec<_> = table.applied.iter().map(|it| it.object.to_string()).collect();
                let key = |it: &Arc<GatewayRoute>| format!("{} {}", it.kind.kind(), it.object);
                json!({
                    "service": table.service.to_string(),
                    "virtualServices": names,
                    "routes": table.attached.iter().map(key).collect::<Vec<_>>(),
                    "problems": table.problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
                })
            };
            json!(followed.tables().iter().map(shown).collect::<Vec<_>>())
        }),
        DumpSection::value("authentication", move || authentication.followed().authentication().dump()),
        DumpSection::value("telemetry", move || telemetry.followed().telemetry().dump()),
        DumpSection::value("certificates", move || json!(certs.dump())),
        DumpSection::value("rejected", move || {
            let mesh = reader.current();
            let all: Vec<String> = mesh.rejected().iter().map(ToString::to_string).collect();
            json!(all)
        }),
        DumpSection::value("version", || dump::version_json(VERSION, "")),
    ]
}
