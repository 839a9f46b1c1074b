//! A worker as the composition root makes it, with a certificate authority of its own.

use std::net::TcpListener;
use std::sync::Arc;

use common::certs::{CertStore, EmbeddedCa, StoreSettings};
use common::hbone::pool::Pool;
use common::hbone::{Budget, limits};
use common::lifecycle::drain::{DrainTrigger, channel};
use common::lifecycle::readiness::Readiness;
use common::snapshot::publish::Reader;
use common::spans::export::Exporters;
use common::spans::reach::{Connecting, Dial, Wanted};
use common::telemetry::access::AccessLog;
use common::telemetry::line::LogFormat;
use common::telemetry::metrics::Metrics;
use common::telemetry::sink::{LogGuard, LogSink};
use common::telemetry::tcp::EdgeCache;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use ztunnel::netns::listen::PodListeners;
use ztunnel::pods::Pod;
use ztunnel::spans::Spans;
use ztunnel::worker::{MAX_QUEUED_COMMANDS, Serve, Worker};

/// A worker at work on this runtime.
pub struct Staff {
    /// The worker.
    pub worker: Arc<Worker>,
    /// Begins the drain.
    pub trigger: DrainTrigger,
    /// Ends what the drain left.
    pub end: CancellationToken,
    /// Ends when the worker does.
    pub running: JoinHandle<()>,
    commands: mpsc::Sender<Serve>,
    _logs: LogGuard,
    _keys: tempfile::TempDir,
}

impl Staff {
    /// Starts a worker that follows `mesh`.
    ///
    /// # Errors
    /// When the certificate authority or the log cannot be set up.
    pub fn start(mesh: Reader) -> anyhow::Result<Self> {
        let keys = tempfile::tempdir()?;
        let clock = Arc::new(rustls::time_provider::DefaultTimeProvider);
        let ca = Arc::new(EmbeddedCa::open_or_create(keys.path(), "cluster.local".into(), clock)?);
        let (sink, logs) = LogSink::start(Box::new(std::io::sink()), LogFormat::Plain)?;
        let (trigger, drain) = channel();
        let end = CancellationToken::new();
        let budget = Budget::new(limits::HELD_BYTES_PER_WORKER);
        let (metrics, _recorder) = Metrics::build("ztunnel", "scenario");
        let worker = Arc::new(Worker {
            mesh,
            certs: CertStore::new(ca, StoreSettings::new(Handle::current())),
            pool: Pool::new(limits::IDLE_RELEASE, budget.clone()),
            budget,
            live: Arc::default(),
            silent: Default::default(),
            edges: EdgeCache::new(metrics.tcp()),
            access: AccessLog::new(sink, LogFormat::Plain),
            spans: Arc::new(Spans::new(Exporters::new(Arc::default(), Arc::new(Nobody), Handle::current()))),
            handshakes: Default::default(),
            tunnels: Default::default(),
            drain,
            end: end.clone(),
            readiness: Readiness::default(),
            keeps_source: false,
            same_node: None,
            plaintext_behind_waypoint: Default::default(),
        });
        let (commands, queue) = mpsc::channel(MAX_QUEUED_COMMANDS);
        let running = tokio::spawn(worker.clone().run(queue));
        Ok(Self { worker, trigger, end, running, commands, _logs: logs, _keys: keys })
    }

    /// Has a pod served, on listeners that nobody connects to.
    ///
    /// # Errors
    /// When no socket can be opened.
    ///
    /// # Panics
    /// When the worker takes no commands.
    pub fn serve(&self, pod: &Arc<Pod>) -> std::io::Result<()> {
        let listener = || {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            listener.set_nonblocking(true)?;
            Ok::<_, std::io::Error>(listener)
        };
        let listeners = PodListeners::new(listener()?, listener()?, listener()?)?;
        let serve = Serve { pod: pod.clone(), listeners };
        self.commands.try_send(serve).expect("a worker at work takes commands");
        Ok(())
    }
}

/// No collector is to be reached.
struct Nobody;

impl Dial for Nobody {
    fn connect<'c>(&'c self, wanted: Wanted<'c>) -> Connecting<'c> {
        Box::pin(async move { Err(format!("{} is not to be reached", wanted.service.host)) })
    }
}
