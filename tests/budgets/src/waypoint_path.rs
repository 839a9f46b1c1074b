//! A request through a whole waypoint: HBONE in over TLS, HTTP/1.1, its route, HBONE out over TLS to the pod.
//!
//! Client and pod are the least there can be, bytes written and bytes read, but for their ends of the tunnels, which are
//! Ebb's and counted as well.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use arc_swap::ArcSwap;
use common::certs::CertStore;
use common::config::ObjectName;
use common::hbone::io::TunnelIo;
use common::hbone::pool::Pool;
use common::hbone::request::{Authority, Connect, Forwarded};
use common::hbone::{Budget, limits};
use common::lifecycle::drain;
use common::settings::Program as _;
use common::snapshot::publish;
use common::spans::Me;
use common::spans::export::Exporters;
use common::spiffe::Identity;
use common::telemetry::line::LogFormat;
use common::telemetry::logging::{self, Logging};
use common::telemetry::metrics::Metrics;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use waypoint::accept::Peer;
use waypoint::authn::fetch::Fetcher;
use waypoint::authn::remote::Keys;
use waypoint::exchange::{Checks, MAX_CHECKS_IN_FLIGHT, MAX_MIRRORS_IN_FLIGHT};
use waypoint::record::Ledger;
use waypoint::routes::View;
use waypoint::settings::Settings;
use waypoint::spans::reach::Reach;
use waypoint::telemetry::Outputs;
use waypoint::upstream::transport::{Connector, Myself};
use waypoint::upstream::{Clusters, Vantage};
use waypoint::worker::{Followed, Shared, Worker};

use crate::counted::{Units, counted_work};
use crate::{mesh, tls};

const CLIENT: &str = "10.9.9.9:40000";
const CALLED: &str = "10.96.0.1:80";
const POD: &str = "10.0.0.1:8080";
const POD_TUNNEL: &str = "10.0.0.1:15008";
const MYSELF: &str = "Kubernetes//Pod/edge/waypoint-1";

/// What a browser or a service sends, and what it is answered.
const REQUEST: &[u8] = b"GET /api/v1/users/12345/orders?page=2 HTTP/1.1\r\nhost: web.shop\r\nuser-agent: \
    budget/1.0\r\naccept: application/json\r\naccept-encoding: gzip, br\r\ncookie: session=0123456789abcdef\r\n\
    x-request-id: 8f14e45f-ceea-467f-a5d5-0123456789ab\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 123\r\nserver: pod\r\n\r\n\
    {\"orders\":[{\"id\":1,\"total\":100},{\"id\":2,\"total\":200},{\"id\":3,\"total\":300},{\"id\":4,\"total\":400}],\
    \"page\":2,\"pages\":10,\"of\":1}";

/// A small GET on a client's open connection, whose connection to the pod is open too.
pub(crate) fn request(units: Units) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let folder = tempfile::tempdir()?;
    let (mut client, _held) = runtime.block_on(client(folder.path()))?;
    let answer = runtime.block_on(exchange(&mut client, units.warm_up))?;
    ensure!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "the waypoint answers {answer}");
    counted_work(|| runtime.block_on(exchange(&mut client, units.counted)))?;
    Ok(())
}

/// Sends requests one after the other; the last answer.
async fn exchange(client: &mut TunnelIo, requests: usize) -> Result<String> {
    let mut buffer = vec![0; 4096];
    let mut length = 0;
    for _ in 0..requests {
        client.write_all(REQUEST).await?;
        length = 0;
        while !buffer[..length].ends_with(&ANSWER[ANSWER.len() - 8..]) {
            let read = client.read(&mut buffer[length..]).await?;
            ensure!(read > 0, "the answer ended early: {}", String::from_utf8_lossy(&buffer[..length]));
            length += read;
        }
    }
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// A client's open connection through a waypoint to a pod, and what has to live as long.
async fn client(folder: &Path) -> Result<(TunnelIo, (Logging, drain::DrainTrigger, Pool))> {
    let settings = settings(folder)?;
    let certs = tls::authority(folder)?;
    let caller = Identity::new("cluster.local", "shop", "caller");
    let myself = Identity::new("cluster.local", "edge", "waypoint");
    let pod = Identity::new("cluster.local", "shop", "web");
    let mut certified = Vec::new();
    for identity in [&caller, &myself, &pod] {
        certified.push(tls::certificate(&certs, identity).await?);
    }
    let (log, subscriber) = logging::build("info", LogFormat::Plain, Box::new(std::io::sink()))?;
    tracing::subscriber::set_global_default(subscriber)?;
    let (trigger, watch) = drain::channel();
    let worker = worker(&settings, &certs, &log, watch)?;
    worker.shared.follow(&mesh::snapshot(MANIFESTS)?);

    // The pod's tunnel is in the waypoint's pool before it is asked for: 10.0.0.1 is nowhere here.
    let (near, far) = tls::ends(&certified[1], &certified[2]);
    far.serve(|_, incoming| drop(tokio::spawn(answer(incoming))));
    let to_pod = tls::key(MYSELF, &myself, &pod, POD_TUNNEL.parse()?);
    let probe = Connect::to(Authority::address(POD.parse()?)?);
    let opened = worker.connector.tunnels.open(&to_pod, &probe, || near.dial()).await;
    drop(opened.map_err(|it| anyhow::anyhow!("{it}"))?);

    let (near, far) = tls::ends(&certified[0], &certified[1]);
    let address: SocketAddr = CLIENT.parse()?;
    far.serve(move |identity, incoming| {
        let local = SocketAddr::from(([10, 0, 9, 9], 15008));
        let peer = Arc::new(Peer { identity: identity.clone(), address, local });
        tokio::spawn(waypoint::serve::serve(worker.clone(), peer, incoming));
    });
    let pool = Pool::new(limits::IDLE_RELEASE, Budget::new(limits::HELD_BYTES_PER_WORKER));
    let key = tls::key("caller", &caller, &myself, "10.0.9.9:15008".parse()?);
    let forwarded = Some(Forwarded { client: address, host: None });
    let connect = Connect { forwarded, ..Connect::to(Authority::address(CALLED.parse()?)?) };
    let stream = pool.open(&key, &connect, || near.dial()).await.map_err(|it| anyhow::anyhow!("{it}"))?;
    Ok((TunnelIo::new(stream), (log, trigger, pool)))
}

/// The pod: reads requests to the empty line that ends them, and answers each.
async fn answer(incoming: common::hbone::server::Incoming) {
    let Ok(stream) = incoming.accept(None) else { return };
    let mut io = TunnelIo::new(stream);
    let (mut buffer, mut length) = (vec![0; 4096], 0);
    while let Ok(read @ 1..) = io.read(&mut buffer[length..]).await {
        length += read;
        if buffer[..length].ends_with(b"\r\n\r\n") {
            length = 0;
            if io.write_all(ANSWER).await.is_err() {
                return;
            }
        }
    }
}

fn settings(folder: &Path) -> Result<Settings> {
    let given = ["waypoint", "--manifests", "/m", "--node", "n", "--pod-name", "waypoint-1", "--gateway"];
    let more = ["edge/waypoint", "--pod-namespace", "edge", "--service-account", "waypoint", "--ca-dir"];
    let all = given.iter().chain(&more).map(OsString::from);
    Ok(Settings::try_read(all.chain([folder.as_os_str().to_owned()]))?)
}

/// What `waypoint::app` makes of settings, on this runtime and without servers.
fn worker(
    settings: &Settings,
    certs: &CertStore,
    log: &Logging,
    drain: drain::DrainWatch,
) -> Result<Arc<Worker>> {
    let given = &settings.waypoint;
    let identity = Identity::new("cluster.local", "edge", "waypoint");
    let pod = ObjectName::new("edge", "waypoint-1");
    let clusters = Clusters::new(Vantage::new(&settings.node.mesh(), pod), Instant::now());
    let budget = Budget::new(limits::HELD_BYTES_PER_WORKER);
    let connector = Connector {
        myself: Arc::new(Myself { identity, uid: MYSELF.into() }),
        certs: certs.clone(),
        tunnels: Pool::new(limits::IDLE_RELEASE, budget.clone()),
        origins: Arc::default(),
    };
    let metrics = Metrics::build("waypoint", "0").0;
    let view = View { waypoint: given.gateway.clone(), cluster_domain: "cluster.local".into() };
    let routes = ArcSwap::from_pointee(Followed::nothing(view, &clusters));
    let (_, reader) = publish::channel();
    let reach = Reach::new(reader, clusters.clone(), connector.clone(), "cluster.local".into());
    let exporters = Exporters::new(Arc::new(me()), Arc::new(reach), Handle::current());
    let shared = Arc::new(Shared {
        clusters,
        routes,
        limited: Default::default(),
        live: Default::default(),
        keys: Keys::new(Fetcher::default(), Handle::current()),
        outputs: Outputs { own: log.access.clone(), files: Default::default(), exporters },
    });
    Ok(Arc::new(Worker {
        shared,
        turns: Default::default(),
        tokens: Default::default(),
        mirrors: Arc::new(Semaphore::new(MAX_MIRRORS_IN_FLIGHT)),
        checks: Checks::new(MAX_CHECKS_IN_FLIGHT),
        gateway: given.gateway.clone(),
        stream_idle: given.stream_idle(),
        certs: certs.clone(),
        connector,
        connections: Default::default(),
        budget,
        handshakes: Default::default(),
        tunnels: Default::default(),
        access: log.access.clone(),
        ledger: Arc::new(Ledger::new(log.access.clone(), &metrics)),
        drain,
        end: CancellationToken::new(),
    }))
}

fn me() -> Me {
    Me {
        program: "ebb-waypoint",
        service: "waypoint.edge".into(),
        node: "waypoint~10.0.9.9~waypoint-1.edge~edge.svc.cluster.local".into(),
        mesh: "cluster.local".into(),
        canonical_service: "waypoint".into(),
        namespace: "edge".into(),
        cluster: "Kubernetes".into(),
    }
}

const MANIFESTS: &str = "\
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: edge, labels: {istio.io/waypoint-for: service}}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {namespaces: {from: All}}}]
---
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
  labels: {istio.io/use-waypoint: waypoint, istio.io/use-waypoint-namespace: edge}
spec:
  clusterIP: 10.96.0.1
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, uid: u1, labels: {app: web, istio.io/dataplane-mode: ambient}}
spec: {nodeName: n1, serviceAccountName: web}
status: {phase: Running, podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: caller, namespace: shop, uid: u2, labels: {app: caller, istio.io/dataplane-mode: ambient}}
spec: {nodeName: n1, serviceAccountName: caller}
status: {phase: Running, podIP: 10.9.9.9}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: shop}
spec:
  hosts: [web]
  http:
  - match: [{uri: {prefix: /api/}}]
    route: [{destination: {host: web}}]
    timeout: 15s
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web, namespace: shop}
spec:
  targetRefs: [{kind: Service, group: '', name: web}]
  action: ALLOW
  rules: [{from: [{source: {namespaces: [shop]}}], to: [{operation: {methods: [GET], paths: ['/api/*']}}]}]
";
