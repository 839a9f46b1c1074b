//! The composition root: reads settings, chooses implementations, starts the long-lived tasks and ends them in order.
//!
//! Threads: `main` carries the control runtime (admin servers, certificates), `worker-N` the traffic, `pods` the
//! kernel's side, and the configuration source its own.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use common::admin::{AdminHandler, HttpServer, ReadinessHandler, StatsHandler};
use common::certs::{CertStore, EmbeddedCa, StoreSettings};
use common::hbone::pool::Pool;
use common::hbone::{Budget, limits};
use common::lifecycle::drain::{self, Drained};
use common::lifecycle::readiness::Readiness;
use common::lifecycle::shutdown::Shutdown;
use common::settings::{CertificateSettings, Settings, environment};
use common::snapshot::MeshSettings;
use common::snapshot::publish::Reader;
use common::source::{self, file::FileSource};
use common::telemetry::logging::{self, Logging};
use common::telemetry::metrics::Metrics;
use common::telemetry::tcp::EdgeCache;
use ebb_loader::{AttachMode, Redirector};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::live::Live;
use crate::pods::agent::Agent;
use crate::pods::status::Status;
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
    raise_file_limit();
    let control = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the control runtime")?;
    control.block_on(serve(settings, logging))
}

/// Connections are files: the soft limit that shells set is for programs that use `select`.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) }
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit on open files stays as it was");
    }
}

async fn serve(settings: Settings, logging: Logging) -> anyhow::Result<()> {
    let mut shutdown = Shutdown::listen().context("listen for signals")?;
    let readiness = Readiness::default();
    let certs = certificates(&settings)?;
    let kernel = redirector(&settings)?;
    let drops = kernel.drops().context("open the kernel's reports of drops")?;
    tokio::spawn(async move {
        if let Err(error) = drops.log().await {
            tracing::error!(%error, "the kernel's reports of drops are no longer read");
        }
    });
    let status = Arc::new(Status::default());
    let mut metrics = Metrics::install("ztunnel", VERSION)?;
    view::collect(&mut metrics, &status, &certs, &logging);
    let metrics = Arc::new(metrics);
    tokio::spawn(metrics.upkeep());

    let (running, mesh) = source(&settings, &readiness)?;
    let (trigger, watch) = drain::channel();
    let (end, stop) = (CancellationToken::new(), CancellationToken::new());
    let parts =
        Parts { settings: &settings, mesh: &mesh, certs: &certs, metrics: &metrics, logging: &logging };
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

    let sections = view::sections(&settings, &mesh, &certs, &status, &crew.live);
    let admin = AdminHandler::new(sections, logging.control.clone(), shutdown.request());
    tokio::spawn(admin.bind(settings.servers.admin)?.serve(std::future::pending()));
    let stats = HttpServer::bind("stats", settings.servers.stats, StatsHandler::new(metrics.clone()))?;
    tokio::spawn(stats.serve(std::future::pending()));
    let probes = ReadinessHandler::new(readiness.clone());
    let probes = HttpServer::bind("readiness", settings.servers.readiness, probes)?;
    tokio::spawn(probes.serve(std::future::pending()));

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
    Ok(())
}

/// Starts reading the manifests. The mesh is awaited until all that was there at first has been applied.
fn source(settings: &Settings, readiness: &Readiness) -> anyhow::Result<(source::file::Running, Reader)> {
    let node = &settings.node;
    let (batches, mesh) = source::apply(MeshSettings {
        trust_domain: node.trust_domain.as_str().into(),
        root_namespace: node.root_namespace.as_str().into(),
        cluster: node.cluster_id.as_str().into(),
        cluster_domain: node.cluster_domain.as_str().into(),
    })
    .context("start the thread that applies configuration")?;
    let source = FileSource::new(&node.manifests).remembering(node.last_good());
    let running = source.run(batches).context("start the thread that reads manifests")?;
    let (mut status, mut applied) = (running.status(), mesh.clone());
    let read = readiness.await_task(format!("manifests in {}", node.manifests.display()));
    tokio::spawn(async move {
        if status.wait_for(|status| status.first_read).await.is_ok() {
            while applied.current().generation() == 0 {
                applied.changed().await;
            }
            read.done();
        }
    });
    Ok((running, mesh))
}

fn certificates(settings: &Settings) -> anyhow::Result<CertStore> {
    let clock = Arc::new(rustls::time_provider::DefaultTimeProvider);
    let trust_domain: Arc<str> = settings.node.trust_domain.as_str().into();
    let given: &CertificateSettings = &settings.certificates;
    let ca = match (&given.ca_root_cert, &given.ca_root_key) {
        (Some(cert), Some(key)) => EmbeddedCa::from_files(cert.clone(), key.clone(), trust_domain, clock)?,
        _ => EmbeddedCa::open_or_create(&given.ca_dir, trust_domain, clock)?,
    };
    let ca = Arc::new(ca);
    let control = tokio::runtime::Handle::current();
    control.spawn(ca.clone().watch_files());
    Ok(CertStore::new(ca, StoreSettings { lifetime: given.secret_ttl, ..StoreSettings::new(control) }))
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

struct Parts<'a> {
    settings: &'a Settings,
    mesh: &'a Reader,
    certs: &'a CertStore,
    metrics: &'a Arc<Metrics>,
    logging: &'a Logging,
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
                edges: EdgeCache::new(parts.metrics.tcp()),
                access: parts.logging.access.clone(),
                handshakes: Default::default(),
                tunnels: Default::default(),
                drain: drain.clone(),
                end: end.clone(),
                readiness: readiness.clone(),
                keeps_source: parts.settings.redirect.original_source,
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

/// A named thread with a current-thread runtime of its own.
fn spawn_runtime<F>(name: &str, work: impl FnOnce() -> F + Send + 'static) -> anyhow::Result<JoinHandle<()>>
where
    F: Future<Output = ()>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .with_context(|| format!("start the runtime of {name}"))?;
    std::thread::Builder::new()
        .name(name.into())
        .spawn(move || runtime.block_on(work()))
        .with_context(|| format!("start the thread {name}"))
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!("a thread ended in a panic");
    }
}
