//! The composition root: reads settings, chooses implementations, starts the long-lived tasks and ends them in order.
//!
//! Threads: `main` carries the control runtime (admin servers, certificates), `worker-N` the traffic, `pods` the
//! kernel's side, and the configuration source its own.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use common::admin::config_dump::DumpSection;
use common::admin::{AdminHandler, HttpServer, ReadinessHandler, StatsHandler};
use common::certs::CertStore;
use common::hbone::pool::Pool;
use common::hbone::{Budget, limits};
use common::lifecycle::drain::{self, Drained};
use common::lifecycle::readiness::Readiness;
use common::lifecycle::shutdown::{Shutdown, StopRequest};
use common::lifecycle::threads::{join, raise_file_limit, spawn_runtime};
use common::settings::{SameNodePath, Settings, environment};
use common::snapshot::publish::Reader;
use common::source;
use common::spans::export::Exporters;
use common::telemetry::logging::{self, Logging};
use common::telemetry::metrics::Metrics;
use common::telemetry::tcp::EdgeCache;
use ebb_loader::{AttachMode, Redirector};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::live::Live;
use crate::outbound::same_node::SameNode;
use crate::pods::agent::Agent;
use crate::pods::status::Status;
use crate::spans::Spans;
use crate::spans::reach::Reach;
use crate::view;
use crate::worker::{MAX_QUEUED_COMMANDS, Serve, Worker};

const _: () = assert!(common::settings::MAX_WORKERS == ebb_loader::abi::MAX_WORKERS as usize);

/// What readiness says while a pod of this node is not protected.
const PODS_ENROLLED: &str = "pods of this node enrolled";

/// How long turning new connections away from this process may take: a few system calls a pod, behind an enrolment that
/// may be under way.
const DOORS_DEADLINE: Duration = Duration::from_secs(1);

/// The version in logs, metrics and dumps.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Runs the proxy until it is asked to stop.
///
/// # Errors
/// When it cannot start: the sentence names what is missing.
pub fn run(settings: Settings) -> anyhow::Result<()> {
    let logging = logging::init(&settings.log.filter, settings.log.format).context("--log")?;
    let names: Vec<String> = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect();
    for warning in environment::warnings(names.iter().map(String::as_str)) {
        tracing::warn!("{warning}");
    }
    let (node, manifests) = (&settings.node.node, settings.node.manifests.display());
    tracing::info!(%node, %manifests, "ztunnel {VERSION} starting");
    raise_file_limit();
    let control = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the control runtime")?;
    control.block_on(serve(settings, logging))
}

async fn serve(settings: Settings, logging: Logging) -> anyhow::Result<()> {
    let mut shutdown = Shutdown::listen().context("listen for signals")?;
    let readiness = Readiness::default();
    let certs = CertStore::open(&settings.certificates, &settings.node)?;
    // First what takes longest: manifests are read while the kernel verifies its programs.
    let (running, mesh) = source::start(&settings.node, Some(settings.node.last_good()), &readiness)?;
    let kernel = redirector(&settings)?;
    let drops = kernel.drops().context("open the kernel's reports of drops")?;
    tokio::spawn(async move {
        if let Err(error) = drops.log().await {
            tracing::error!(%error, "the kernel's reports of drops are no longer read");
        }
    });
    let status = Arc::new(Status::default());
    let spans = spans(&settings, &mesh, &certs);
    let mut metrics = Metrics::install("ztunnel", VERSION)?;
    view::collect(&mut metrics, &status, &certs, (&logging, &spans));
    metrics.expire_after(settings.servers.metrics_idle_expiry);
    let metrics = Arc::new(metrics);
    tokio::spawn(metrics.upkeep());

    let (trigger, watch) = drain::channel();
    let (end, stop) = (CancellationToken::new(), CancellationToken::new());
    let parts = Parts {
        settings: &settings,
        mesh: &mesh,
        certs: &certs,
        metrics: &metrics,
        logging: &logging,
        spans: &spans,
    };
    let crew = Crew::start(&parts, &watch, &end, &readiness)?;
    let agent = Agent::new(
        settings.node.node.as_str().into(),
        mesh.clone(),
        certs.clone(),
        status.clone(),
        kernel,
        crew.commands.clone(),
    );
    let leave = agent.leave();
    let pods = spawn_agent(agent, stop.clone(), &readiness, &status)?;

    let sections = view::sections(&settings, &mesh, &certs, (&status, &spans), &crew.live);
    servers(&parts, &readiness, (sections, shutdown.request()))?;
    tokio::spawn(say_when_ready(readiness.clone(), mesh.clone(), settings.node.node.clone()));

    let reason = shutdown.wait().await;
    let _draining = readiness.await_task("the end: draining");
    let grace = settings.runtime.drain_deadline();
    tracing::info!(%reason, grace_seconds = grace.as_secs(), "draining; new connections wait for the next process");
    // First, so that no SYN finds a listener that is about to close, nor a peer this process when it is told to go.
    let begun = Instant::now();
    if timeout(DOORS_DEADLINE.min(grace), leave.close_doors()).await.is_err() {
        tracing::warn!("new connections may be lost: they could not all be turned away in time");
    }
    match trigger.drain(grace.saturating_sub(begun.elapsed())).await {
        Drained::Finished => tracing::info!("every connection has ended"),
        Drained::DeadlinePassed { left } => tracing::warn!(left, "connections are cut at the deadline"),
    }
    stop.cancel();
    end.cancel();
    drop(running);
    crew.join();
    join(pods);
    spans.exporters().flush().await;
    Ok(())
}

/// Who is told of connections, kept in step with the mesh.
fn spans(settings: &Settings, mesh: &Reader, certs: &CertStore) -> Arc<Spans> {
    let node = &settings.node;
    let reach = Reach::new(mesh.clone(), certs.clone(), node.clone());
    let exporters = Exporters::new(Arc::new(Spans::me(node)), Arc::new(reach), Handle::current());
    let spans = Arc::new(Spans::new(exporters));
    let (following, mut mesh) = (spans.clone(), mesh.clone());
    tokio::spawn(async move {
        loop {
            let now = mesh.changed().await;
            following.follow(&now);
        }
    });
    spans
}

/// Says once that the node is served, and how much of a mesh was found.
async fn say_when_ready(readiness: Readiness, mesh: Reader, node: String) {
    readiness.ready().await;
    let now = mesh.current();
    let pods = now.workloads().filter(|it| *it.node == *node).count();
    tracing::info!(pods_of_this_node = pods, workloads = now.workloads().count(), "ready");
    // Most of the program was for that.
    if let Err(error) = ebb_resident::let_go_of_clean_pages() {
        tracing::debug!(%error, "pages of the program stay resident");
    }
}

fn redirector(settings: &Settings) -> anyhow::Result<Redirector> {
    let executable = std::env::current_exe().context("find the executable")?;
    Ok(Redirector::open(ebb_loader::Settings {
        object: settings.redirect.object_path(&executable),
        bpffs: settings.redirect.bpffs.clone(),
        node: settings.node.node.replace('.', "_"),
        attach: AttachMode::Auto,
    })?)
}

/// Starts the servers for operators and probes.
fn servers(
    parts: &Parts<'_>,
    readiness: &Readiness,
    (sections, stop): (Vec<DumpSection>, StopRequest),
) -> anyhow::Result<()> {
    let addresses = &parts.settings.servers;
    let admin = AdminHandler::new(sections, parts.logging.control.clone(), stop);
    tokio::spawn(admin.bind(addresses.admin)?.serve(std::future::pending()));
    let stats = HttpServer::bind("stats", addresses.stats, StatsHandler::new(parts.metrics.clone()))?;
    tokio::spawn(stats.serve(std::future::pending()));
    let probes = ReadinessHandler::new(readiness.clone());
    let probes = HttpServer::bind("readiness", addresses.readiness, probes)?;
    tokio::spawn(probes.serve(std::future::pending()));
    Ok(())
}

struct Parts<'a> {
    settings: &'a Settings,
    mesh: &'a Reader,
    certs: &'a CertStore,
    metrics: &'a Arc<Metrics>,
    logging: &'a Logging,
    spans: &'a Arc<Spans>,
}

/// The traffic threads.
struct Crew {
    commands: Vec<mpsc::Sender<Serve>>,
    live: Vec<Arc<Live>>,
    threads: Vec<JoinHandle<()>>,
}

impl Crew {
    fn start(
        parts: &Parts<'_>,
        drain: &drain::DrainWatch,
        end: &CancellationToken,
        readiness: &Readiness,
    ) -> anyhow::Result<Self> {
        let (mut commands, mut live, mut threads) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..parts.settings.runtime.worker_threads() {
            let budget = Budget::new(limits::HELD_BYTES_PER_WORKER);
            let worker = Arc::new(Worker {
                mesh: parts.mesh.clone(),
                certs: parts.certs.clone(),
                pool: Pool::new(parts.settings.tunnel.pool_unused_release, budget.clone()),
                budget,
                live: Arc::default(),
                silent: Default::default(),
                edges: EdgeCache::new(parts.metrics.tcp()),
                access: parts.logging.access.clone(),
                spans: parts.spans.clone(),
                handshakes: Default::default(),
                tunnels: Default::default(),
                drain: drain.clone(),
                end: end.clone(),
                readiness: readiness.clone(),
                keeps_source: parts.settings.redirect.original_source,
                same_node: (parts.settings.tunnel.same_node_path == SameNodePath::On).then(SameNode::default),
                plaintext_behind_waypoint: parts.settings.redirect.plaintext_to_waypoint_destinations,
            });
            let (sender, receiver) = mpsc::channel(MAX_QUEUED_COMMANDS);
            commands.push(sender);
            live.push(worker.live.clone());
            threads.push(spawn_runtime(&format!("worker-{index}"), move || worker.run(receiver))?);
        }
        Ok(Self { commands, live, threads })
    }

    fn join(self) {
        self.threads.into_iter().for_each(join);
    }
}

fn spawn_agent(
    agent: Agent,
    stop: CancellationToken,
    readiness: &Readiness,
    status: &Arc<Status>,
) -> anyhow::Result<JoinHandle<()>> {
    let (status, readiness) = (status.clone(), readiness.clone());
    let mut enrolled = readiness.await_task(PODS_ENROLLED);
    tokio::spawn(async move {
        loop {
            status.until(true).await;
            enrolled.done();
            status.until(false).await;
            enrolled = readiness.await_task(PODS_ENROLLED);
        }
    });
    spawn_runtime("pods", move || agent.run(stop))
}
