//! Envoy, by which Ebb is measured: a pair of sidecars that carry connections or route requests, one in each pod's namespace,
//! with mutual TLS between them; one sidecar on the way out of the mesh; or one plain proxy between client and server.
//!
//! Nothing works without both of a pair: the server's side takes nothing but mutual TLS, and the client's sends nothing else.
//! Traffic gets to them as in a sidecar of Istio's, by nat rules in the pod. It runs as root with the sidecar's group, by
//! which the rules know its connections; every other user would have to be let into the directory it is installed in.

mod config;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use harness::{
    cluster::{Cluster, Pod},
    envoy,
    interrupt::wait_for,
    process::{Process, Spawn},
};

use self::config::{Carries, Instance, Security, Side};
use super::{
    Candidate, Changing, Crowd, Layout, ROUTES, Running, Stage, Tools, certificates::Authority, redirect,
    request, stage::port,
};
use crate::layer::Layer;

/// How long a sidecar may take to be live: many start one after the other, each beside all before it.
const LIVE_WITHIN: Duration = Duration::from_secs(30);

/// How long its admin port may take to answer.
const ASK_WITHIN: Duration = Duration::from_secs(1);

/// The server that sidecars of a crowd know of. Nobody is there, and nobody asks for it.
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

/// Where the proxies stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// One in each pod.
    Pair { one_node: bool },
    /// One in the client's pod; the server is not in the mesh.
    Outward,
    /// One between the pods.
    Between,
    /// One in each of many pods.
    Crowd,
}

/// Envoy with a number of worker threads. Which number is better depends on the work, so two take part.
#[derive(Clone, Debug)]
pub(crate) struct Envoy {
    name: &'static str,
    concurrency: u32,
    carries: Carries,
    place: Place,
}

impl Envoy {
    /// Those that take part in `layer`.
    pub(crate) fn of(layer: Layer) -> Vec<Self> {
        let envoy = |name, concurrency, carries, place| Self { name, concurrency, carries, place };
        let pair = |name, concurrency, carries| {
            envoy(name, concurrency, carries, Place::Pair { one_node: layer.is_one_node() })
        };
        let (bytes, requests) = (Carries::Connections, Carries::Requests { routes: ROUTES });
        match layer {
            Layer::L4 => vec![pair("envoy-1", 1, bytes.clone()), pair("envoy-2", 2, bytes)],
            Layer::L7 => vec![pair("envoy-1", 1, requests.clone()), pair("envoy-2", 2, requests)],
            Layer::SameNode => vec![pair("envoy-1", 1, bytes)],
            Layer::Scale => vec![envoy("envoy-1", 1, bytes, Place::Crowd)],
            Layer::Passthrough => vec![envoy("envoy-1", 1, bytes, Place::Outward)],
            Layer::Hop => vec![envoy("envoy-hop", 1, Carries::Requests { routes: 1 }, Place::Between)],
        }
    }

    fn start_with(&self, tools: &Tools, strangers: u32) -> Result<Running> {
        let program = envoy::find_or_install(&tools.directory)?;
        let one_node = matches!(self.place, Place::Outward | Place::Pair { one_node: true });
        let stage = Stage::set(Layout { one_node, strangers })?;
        let mut running = Running::without_proxies(stage);
        let servers = running.stage.servers();
        match self.place {
            Place::Pair { .. } | Place::Crowd => self.start_pair(&program, &servers, &mut running)?,
            Place::Outward => {
                let instance = self.plain(Side::Client, &servers);
                let client = self.spawn(&program, &running.stage.client, "proxy-client", &instance)?;
                redirect::outbound(running.stage.client.namespace())?;
                running.proxies.push(Box::new(client));
            }
            Place::Between => {
                let pod = running.stage.cluster().node(1).add_pod("proxy")?;
                let instance = self.plain(Side::Between, &servers);
                running.proxies.push(Box::new(self.spawn(&program, &pod, "proxy", &instance)?));
                running.stage.call_at(pod.addresses().v4);
                running.pods.push(pod);
                running.router = Some(0);
            }
        }
        Ok(running)
    }

    /// The server's sidecar, the client's, and one for each further client.
    fn start_pair(&self, program: &Path, servers: &[SocketAddrV4], running: &mut Running) -> Result<()> {
        running.encrypted = true;
        let stage = &running.stage;
        let authority = Authority::new()?;
        let server = authority.identity("server")?;
        let clients: Vec<&Pod> = std::iter::once(&stage.client).chain(&stage.strangers).collect();
        let identities =
            clients.iter().map(|pod| authority.identity(pod.name())).collect::<Result<Vec<_>>>()?;
        let instance = |side, own, peers| {
            let security = Some(Security { own, peers, authority: authority.pem() });
            Instance { side, servers, security, carries: self.carries.clone() }
        };
        let peers = identities.iter().map(|identity| identity.uri.clone()).collect();
        let inbound = instance(Side::Server, server.clone(), peers);
        running.proxies.push(Box::new(self.spawn(program, &stage.server, "proxy-server", &inbound)?));
        for (pod, identity) in clients.into_iter().zip(identities) {
            let outbound = instance(Side::Client, identity, vec![server.uri.clone()]);
            let name = format!("proxy-{}", pod.name());
            running.proxies.push(Box::new(self.spawn(program, pod, &name, &outbound)?));
            redirect::outbound(pod.namespace())?;
        }
        redirect::inbound(stage.server.namespace())?;
        // The client's, which came after the server's.
        running.router = (self.carries != Carries::Connections).then_some(1);
        Ok(())
    }

    fn plain<'a>(&self, side: Side, servers: &'a [SocketAddrV4]) -> Instance<'a> {
        Instance { side, servers, security: None, carries: self.carries.clone() }
    }

    /// Starts one in `pod`, in a role of its own, and waits until it is live.
    fn spawn(&self, program: &Path, pod: &Pod, name: &str, instance: &Instance<'_>) -> Result<Process> {
        let config = pod.node().run().directory().join(format!("envoy-{name}.json"));
        fs::write(&config, instance.config().to_string())
            .with_context(|| format!("write {}", config.display()))?;
        let group = redirect::GROUP.to_string();
        let concurrency = self.concurrency.to_string();
        let sidecar = Spawn::new(name, "setpriv")
            .role(name)
            .args(["--regid", &group, "--clear-groups", "--"])
            .args([program])
            .args(["--disable-hot-restart", "--log-level", "warning", "--concurrency", &concurrency])
            .args(["--config-path"])
            .args([config]);
        let process = pod.spawn(sidecar)?;
        wait_for(&format!("live {name}"), LIVE_WITHIN, || {
            ensure!(process.is_alive(), "{name} ended");
            Ok(is_live(pod).ok().filter(|live| *live))
        })
        .with_context(|| process.tail())?;
        Ok(process)
    }
}

/// Asks the Envoy in `pod`.
fn is_live(pod: &Pod) -> Result<bool> {
    let admin = ([127, 0, 0, 1], config::ADMIN).into();
    Ok(request::status(pod.namespace(), admin, "/ready", ASK_WITHIN)? == 200)
}

impl Candidate for Envoy {
    fn name(&self) -> &str {
        self.name
    }

    fn about(&self) -> String {
        let filter = match self.carries {
            Carries::Connections => "tcp_proxy",
            _ => {
                "http_connection_manager, the routes with Istio's default retries, HTTP/1.1 throughout, Envoy's own \
                 statistics as in its defaults"
            }
        };
        let place = match self.place {
            Place::Pair { .. } => {
                "a pair of sidecars with mutual TLS 1.3 between them by Envoy's defaults (AES-128-GCM first, sessions \
                 resumed), P-256 certificates, nat redirection in the pods"
            }
            Place::Outward => {
                "a sidecar in the client's pod, plain TCP to the server, nat redirection in the pod"
            }
            Place::Between => "one proxy in a pod of its own, plain HTTP on both sides",
            Place::Crowd => "a sidecar in every pod, each with one listener and three clusters alone",
        };
        format!(
            "{place}; {filter}, concurrency {}; circuit breakers raised; no access log, as in Istio's default installation",
            self.concurrency
        )
    }

    fn version(&self, _: &Tools) -> String {
        format!("Envoy {}", envoy::VERSION)
    }

    fn yardstick(&self) -> bool {
        true
    }

    fn start(&self, tools: &Tools) -> Result<Running> {
        self.start_with(tools, 0)
    }

    fn start_with_clients(&self, tools: &Tools, clients: u32) -> Result<Option<Running>> {
        self.start_with(tools, clients).map(Some)
    }

    fn start_on_a_node(&self, tools: &Tools, pods: u32) -> Result<Option<Crowd>> {
        let program = envoy::find_or_install(&tools.directory)?;
        let cluster = Cluster::start(1)?;
        let servers = port::ALL.map(|port| SocketAddrV4::new(NOBODY, port));
        let authority = Authority::new()?;
        let mut crowd = Crowd { proxies: Vec::new(), _pods: Vec::new(), _cluster: cluster };
        for number in 0..pods {
            let name = format!("pod-{number}");
            let pod = crowd._cluster.node(0).add_pod(&name)?;
            let own = authority.identity(&name)?;
            let peers = vec![own.uri.clone()];
            let security = Some(Security { own, peers, authority: authority.pem() });
            let instance =
                Instance { side: Side::Client, servers: &servers, security, carries: self.carries.clone() };
            let sidecar = self.spawn(&program, &pod, &format!("proxy-{number}"), &instance)?;
            crowd.proxies.push(Box::new(sidecar));
            crowd._pods.push(pod);
        }
        Ok(Some(crowd))
    }

    fn start_with_routes(&self, tools: &Tools, routes: u32) -> Result<Option<Running>> {
        match self.carries {
            Carries::Connections => Ok(None),
            _ => Self { carries: Carries::Requests { routes }, ..self.clone() }.start(tools).map(Some),
        }
    }

    fn start_among_services(&self, tools: &Tools, services: u32) -> Result<Option<Changing>> {
        if self.carries == Carries::Connections {
            return Ok(None);
        }
        let directory = tempfile::tempdir().context("make a directory for routes")?;
        let file = directory.path().join("routes.json");
        let called = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port::HTTP);
        let content = move |version| config::routes_file(called, services, version);
        fs::write(&file, content(0)).with_context(|| format!("write {}", file.display()))?;
        let running = Self { carries: Carries::ByFile(file.clone()), ..self.clone() }.start(tools)?;
        Ok(Some(Changing { running, file, content: Box::new(content), _directory: Some(directory) }))
    }
}
