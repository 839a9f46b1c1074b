//! A whole waypoint in memory: requests of a client go through all of it, to endpoints that are streams.
//!
//! Nothing is dialled. A pod `listens` where a connection to it waits in the pool already; one of the mesh that does not is
//! out of reach, because this waypoint has no certificate.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use bytes::Bytes;
use common::balance::budget::Resource;
use common::certs::CertStore;
use common::config::ObjectName;
use common::hbone::pool::Pool;
use common::hbone::{Budget, limits};
use common::lifecycle::drain;
use common::settings::Program as _;
use common::snapshot::MeshSettings;
use common::spiffe::Identity;
use common::telemetry::line::LogFormat;
use common::telemetry::logging::{self, Logging};
use common::telemetry::metrics::Metrics;
use http::{Request, Response, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, duplex};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::accept::Peer;
use crate::authn::fetch::Fetcher;
use crate::authn::remote::Keys;
use crate::destination::Destination;
use crate::exchange;
use crate::record::Ledger;
use crate::routes::tests::{Desk, view};
use crate::serve::pulse::Pulse;
use crate::serve::{Conversation, REQUEST_HEAD_DEADLINE};
use crate::settings::Settings;
use crate::spans::tests::Collector;
use crate::strict::StrictIo;
use crate::upstream::connection::{self, Sender};
use crate::upstream::pool::{Connections, PoolKey, Pooled};
use crate::upstream::transport::{Connector, Myself};
use crate::upstream::{Cluster, ClusterKey, Clusters, Freed, Vantage};
use crate::worker::{Followed, Shared, Worker};

/// A waypoint, and one conversation with it: somebody calls `web` in `shop`, port 80.
pub(super) struct Rig {
    pub(super) conversation: Arc<Conversation>,
    desk: Desk,
    log: Logging,
    metrics: Arc<Metrics>,
    out: Log,
    _certificates: tempfile::TempDir,
    _subscriber: tracing::subscriber::DefaultGuard,
}

/// What is logged.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// `web` in `shop` behind the waypoint, and so many pods of it at 10.0.0.1:8080 and following, those of `in_mesh` enrolled.
pub(super) fn web(pods: u8, in_mesh: &[u8]) -> String {
    let service = "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  namespace: shop\n  labels: \
                   {istio.io/use-waypoint: waypoint, istio.io/use-waypoint-namespace: edge}\nspec:\n  clusterIP: \
                   10.96.0.1\n  selector: {app: web}\n  ports: [{name: http, port: 80, targetPort: 8080}]\n";
    let pod = |n: u8| {
        let mode = if in_mesh.contains(&n) { "ambient" } else { "none" };
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: web-{n}\n  namespace: shop\n  uid: uid-{n}\n  labels: \
             {{app: web, istio.io/dataplane-mode: {mode}}}\nspec: {{nodeName: n1}}\nstatus: {{phase: Running, podIP: \
             10.0.0.{n}}}\n"
        )
    };
    service.to_owned() + &(1..=pods).map(pod).collect::<String>()
}

impl Rig {
    pub(super) fn new(manifests: &str) -> Self {
        Self::told_to(manifests, Arc::default())
    }

    /// Its spans go to `collector`.
    pub(super) fn told_to(manifests: &str, collector: Arc<Collector>) -> Self {
        let desk = Desk::with(manifests);
        let certificates = tempfile::tempdir().unwrap();
        let out = Log::default();
        let (log, subscriber) = logging::build("info", LogFormat::Plain, Box::new(out.clone())).unwrap();
        let metrics = Arc::new(Metrics::build("waypoint", "0").0);
        let worker = Arc::new(worker(certificates.path(), (&log, &metrics), collector));
        worker.shared.follow(&desk.now);
        let service = desk.now.service("shop", "web").unwrap().clone();
        let client = "10.9.9.9:40000".parse().unwrap();
        let live = worker.shared.live.enter().unwrap();
        let conversation = Arc::new(Conversation {
            worker,
            peer: Arc::new(Peer {
                identity: Identity::new("cluster.local", "shop", "caller"),
                address: client,
                local: "10.0.9.9:15008".parse().unwrap(),
            }),
            proved: true,
            caller: desk.now.workload_at(client.ip()).cloned(),
            client,
            baggage: None,
            destination: Destination::Service { service, port: 80 },
            original: "10.96.0.1:80".parse().unwrap(),
            pod: Default::default(),
            live,
        });
        let _subscriber = tracing::subscriber::set_default(subscriber);
        Self { conversation, desk, log, metrics, out, _certificates: certificates, _subscriber }
    }

    /// From now on pod `n` is called itself, at the port that it serves.
    pub(super) fn calls_pod(&mut self, n: u8) {
        let original = std::net::SocketAddr::from(([10, 0, 0, n], 8080));
        let workload = self.desk.now.workload_at(original.ip()).unwrap().clone();
        let conversation = Arc::get_mut(&mut self.conversation).expect("nothing is under way yet");
        conversation.destination = Destination::Workload { workload, port: original.port() };
        conversation.original = original;
    }

    /// A client's connection of HTTP/1.1 to the waypoint.
    pub(super) fn client(&self) -> DuplexStream {
        let (near, far) = duplex(64 * 1024);
        self.serve(far);
        near
    }

    /// The same, past the strict reader.
    pub(super) fn strict_client(&self) -> DuplexStream {
        let (near, far) = duplex(64 * 1024);
        self.serve(StrictIo::new(far, REQUEST_HEAD_DEADLINE, Arc::default()));
        near
    }

    fn serve(&self, far: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let (conversation, pulse) =
            (self.conversation.clone(), Arc::new(Pulse::of_connection(self.conversation.worker.stream_idle)));
        let of_requests = pulse.clone();
        let service = service_fn(move |request| {
            let (conversation, pulse) = (conversation.clone(), of_requests.clone());
            async move { Ok::<_, Infallible>(exchange::serve(&conversation, pulse, request).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .half_close(true)
            .auto_date_header(false)
            .serve_connection(TokioIo::new(far), service);
        tokio::spawn(async move {
            let mut connection = Box::pin(connection);
            let _ = pulse.bound(connection.as_mut()).await;
        });
    }

    /// Pod `n` listens, and `answer`s the requests of one connection.
    pub(super) async fn listens<F, R>(&self, n: u8, answer: F)
    where
        F: Fn(Request<Incoming>) -> R + Send + 'static,
        R: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        let (near, far) = duplex(64 * 1024);
        let service = service_fn(move |request| {
            let answer = answer(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            // As many as a client may send, and what a waypoint adds.
            .max_headers(2 * crate::serve::REQUEST_FIELDS)
            .serve_connection(TokioIo::new(far), service);
        tokio::spawn(served);
        let sender = connection::begin(near, Version::HTTP_11, None, ()).await.unwrap();
        // It is ready once it has had a turn.
        tokio::task::yield_now().await;
        let pooled = self.pooled(sender);
        self.conversation.worker.connections.keep(&self.key(n, Version::HTTP_11), pooled);
    }

    /// The same of HTTP/2 on a connection that takes a place, where there may be only so many.
    pub(super) async fn listens_in_place<F, R>(&self, n: u8, answer: F)
    where
        F: Fn(Request<Incoming>) -> R + Send + 'static,
        R: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        let (near, far) = duplex(64 * 1024);
        let service = service_fn(move |request| {
            let answer = answer(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        tokio::spawn(server.serve_connection(TokioIo::new(far), service));
        let client = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(near));
        let (sender, driver) = client.await.unwrap();
        let (cluster, key) = (self.cluster(), self.key(n, Version::HTTP_2));
        let place = cluster.admit(Resource::Connection, Instant::now()).unwrap();
        let held = (place, self.limited().begin(&key), Freed(cluster));
        tokio::spawn(async move {
            let _ = driver.await;
            drop(held);
        });
        let pooled = self.pooled(Sender::Http2(sender));
        self.limited().keep(&key, pooled);
    }

    fn pooled(&self, sender: Sender) -> Pooled {
        let policy = self.cluster().policy();
        Pooled {
            sender,
            made_under: policy.pool.clone(),
            taken: 1,
            most: policy.max_requests_per_connection.map(std::num::NonZeroU32::get),
            idle: None,
            until: None,
            most_streams: policy.max_concurrent_streams,
            streams: Arc::default(),
            place: std::sync::Weak::<()>::new(),
        }
    }

    /// From now on this is stated too, in a file of its own.
    pub(super) fn states(&mut self, manifests: &str) {
        self.desk.write("stated.yaml", manifests);
        self.conversation.worker.shared.follow(&self.desk.now);
    }

    /// The connections to `web` where there may be only so many.
    pub(super) fn limited(&self) -> &Connections {
        &self.conversation.worker.shared.limited
    }

    /// `web` as a destination.
    pub(super) fn cluster(&self) -> Arc<Cluster> {
        let service = ObjectName::new("shop", "web");
        let key = ClusterKey { service, port: 80, subset: None };
        self.conversation.worker.shared.clusters.get(&key).unwrap()
    }

    fn key(&self, n: u8, version: Version) -> PoolKey {
        let cluster = self.cluster();
        let address = std::net::SocketAddr::from(([10, 0, 0, n], 8080));
        PoolKey {
            cluster: cluster.name().clone(),
            address,
            incarnation: self.desk.now.workload_at(address.ip()).unwrap().incarnation.clone(),
            version,
            client: self.conversation.client.ip(),
            tls: cluster.policy().tls.clone(),
            external: None,
            namespace: "shop".into(),
        }
    }

    /// What a scrape shows.
    pub(super) fn scraped(&self) -> String {
        let chunks = self.metrics.scrape(common::telemetry::exposition::Format::Text);
        chunks.map(|chunk| String::from_utf8(chunk.to_vec()).unwrap()).collect()
    }

    /// The access log so far.
    pub(super) fn log(&self) -> String {
        assert!(self.log.sink.flush(std::time::Duration::from_secs(10)));
        String::from_utf8(self.out.0.lock().unwrap().clone()).unwrap()
    }
}

fn worker(
    certificates: &std::path::Path,
    (log, metrics): (&Logging, &Metrics),
    collector: Arc<Collector>,
) -> Worker {
    let given = ["waypoint", "--manifests", "/m", "--node", "n", "--pod-name", "waypoint-1", "--gateway"];
    let more = ["edge/waypoint", "--pod-namespace", "edge", "--service-account", "waypoint", "--ca-dir"];
    let all = given.iter().chain(&more).map(std::ffi::OsString::from);
    let settings = Settings::try_read(all.chain([certificates.into()])).unwrap();
    let certs = CertStore::open(&settings.certificates, &settings.node).unwrap();
    let clusters =
        Clusters::new(Vantage::new(&MeshSettings::default(), ObjectName::new("edge", "w")), Instant::now());
    let routes = Followed::nothing(view(), &clusters);
    let budget = Budget::new(limits::HELD_BYTES_PER_WORKER);
    let identity = Identity::new("cluster.local", "edge", "waypoint");
    Worker {
        shared: Arc::new(Shared {
            clusters,
            routes: ArcSwap::from_pointee(routes),
            limited: Connections::default(),
            live: Default::default(),
            keys: Keys::new(Fetcher::default(), Handle::current()),
            outputs: crate::telemetry::tests::outputs_to(log, collector),
        }),
        turns: Default::default(),
        tokens: Default::default(),
        mirrors: Arc::new(Semaphore::new(0)),
        checks: exchange::Checks::new(1),
        gateway: ObjectName::new("edge", "waypoint"),
        stream_idle: settings.waypoint.stream_idle(),
        certs: certs.clone(),
        connector: Connector {
            myself: Arc::new(Myself { identity, uid: "waypoint".into() }),
            certs,
            tunnels: Pool::new(limits::IDLE_RELEASE, budget.clone()),
            origins: Arc::default(),
        },
        connections: Connections::default(),
        budget,
        handshakes: Default::default(),
        tunnels: Default::default(),
        access: log.access.clone(),
        ledger: Arc::new(Ledger::new(log.access.clone(), metrics)),
        drain: drain::channel().1,
        end: CancellationToken::new(),
    }
}

/// What came, as text.
pub(super) async fn text(request: Request<Incoming>) -> String {
    String::from_utf8(request.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}
