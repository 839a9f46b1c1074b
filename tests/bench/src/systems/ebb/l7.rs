//! Ebb in front of HTTP: `ztunnel`, a waypoint in a pod of its own, `ztunnel`.
//!
//! The waypoint is on the server's node, as in the examples; every leg leaves one pod and enters another, so which node it
//! is on changes nothing here but whose `ztunnel` carries it. All three processes run with their defaults, the waypoint's
//! access log with a line for each request among them.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use harness::{
    binaries,
    cluster::Pod,
    interrupt::wait_for,
    process::{Process, Spawn},
    prometheus::Metrics,
    ztunnel::Ztunnel,
};

use super::{
    Ebb, MANIFESTS, READY_WITHIN, crowd,
    manifests::{self, Member},
};
use crate::{
    layer::Layer,
    systems::{Candidate, Changing, Crowd, Layout, Proxy, Running, Stage, Tools, port, routes},
};

/// The address of the service that is called.
pub(super) const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// The file of the routes of the service that is called.
const ROUTES_FILE: &str = "routes.yaml";

/// The name under which a node with a waypoint takes part beside one without.
const WITH_WAYPOINT: &str = "ebb-waypoint";

/// The waypoint's ports for metrics and readiness.
const METRICS: u16 = 15020;
const READINESS: u16 = 15021;

/// How long one of its answers may take.
const ANSWER: Duration = Duration::from_secs(5);

/// Both node proxies and a waypoint, of this build or an earlier one.
#[derive(Clone, Debug)]
pub(crate) struct EbbL7 {
    /// The node proxies.
    pub(crate) ebb: Ebb,
    /// Routes of the service that is called.
    pub(crate) routes: u32,
}

/// The waypoint's process, which ends before its pod goes.
pub(super) struct Waypoint {
    process: Process,
    pod: Pod,
}

impl EbbL7 {
    /// The system with these routes for the service that is called, and `others` services with a route each beside it.
    fn start_with(&self, routes: &str, others: u32) -> Result<Running> {
        let mut stage = Stage::set(Layout::default())?;
        let nodes = [stage.cluster().node(0).clone(), stage.cluster().node(1).clone()];
        let pod = nodes[1].add_pod("waypoint")?;
        let directory = stage.directory().join(MANIFESTS);
        let members = [&stage.client, &stage.server].map(|pod| Member { pod, in_mesh: true });
        manifests::write_small(&directory, &members)?;
        let front = SocketAddrV4::new(SERVICE, port::HTTP);
        manifests::write_waypoint(&directory, &pod, front)?;
        let path = directory.join(ROUTES_FILE);
        fs::write(&path, routes).with_context(|| format!("write {}", path.display()))?;
        manifests::write_services(&directory, others)?;
        let mut proxies: Vec<Box<dyn Proxy>> = Vec::new();
        let ztunnels: Vec<Ztunnel> = nodes
            .iter()
            .map(|node| Ztunnel::start(node, &directory, self.ebb.settings()))
            .collect::<Result<_>>()?;
        let waypoint = Waypoint::start(&self.ebb, pod)?;
        for ztunnel in ztunnels {
            ztunnel.wait_ready(READY_WITHIN)?;
            proxies.push(Box::new(ztunnel));
        }
        waypoint.wait_ready()?;
        proxies.push(Box::new(waypoint));
        stage.call_at(SERVICE);
        Ok(Running { router: Some(proxies.len() - 1), proxies, encrypted: true, pods: Vec::new(), stage })
    }
}

impl Candidate for EbbL7 {
    fn name(&self) -> &str {
        if self.ebb.layer == Layer::Scale { WITH_WAYPOINT } else { self.ebb.name() }
    }

    fn about(&self) -> String {
        if self.ebb.layer == Layer::Scale {
            return "the same ztunnel and a waypoint, as where requests are routed".into();
        }
        "ztunnel, waypoint, ztunnel, CPU of all three, with their default settings: eBPF redirection, HBONE over mutual TLS \
         1.3 on both legs, P-256 certificates, the waypoint in a pod of its own on the server's node, a line for each request \
         in its access log, Istio's metrics of requests"
            .into()
    }

    fn version(&self, tools: &Tools) -> String {
        self.ebb.version(tools)
    }

    fn start(&self, _: &Tools) -> Result<Running> {
        self.start_with(&table(self.routes), 0)
    }

    fn start_on_a_node(&self, _: &Tools, pods: u32) -> Result<Option<Crowd>> {
        crowd::start(&self.ebb, pods, true).map(Some)
    }

    fn start_with_routes(&self, _: &Tools, routes: u32) -> Result<Option<Running>> {
        self.start_with(&table(routes), 0).map(Some)
    }

    fn start_among_services(&self, _: &Tools, services: u32) -> Result<Option<Changing>> {
        let running = self.start_with(&changing(0), services.saturating_sub(1))?;
        let file = running.stage.directory().join(MANIFESTS).join(ROUTES_FILE);
        Ok(Some(Changing { running, file, content: Box::new(changing), _directory: None }))
    }

    fn routing_cost(&self) -> Result<Option<PathBuf>> {
        // Of an earlier build only the programs that run are kept.
        if self.ebb.before.is_some() { Ok(None) } else { binaries::find("examples/routing_cost").map(Some) }
    }
}

fn table(count: u32) -> String {
    routes::virtual_services(&routes::table(count), manifests::NAMESPACE, manifests::SERVICE)
}

/// The route of the service that is called, in a version.
fn changing(version: u32) -> String {
    let header = crate::systems::VERSION_HEADER;
    let entry = format!(
        "  - route: [{{destination: {{host: {host}}}}}]\n    headers: {{response: {{set: {{{header}: '{version}'}}}}}}\n",
        host = manifests::SERVICE
    );
    routes::virtual_service("changing", manifests::NAMESPACE, manifests::SERVICE, &entry)
}

impl Waypoint {
    /// As its Deployment would run it.
    pub(super) fn start(ebb: &Ebb, pod: Pod) -> Result<Self> {
        let program = ebb.program("waypoint")?;
        let run = pod.node().run();
        let spawn = Spawn::new("waypoint", program)
            .role("proxy-waypoint")
            .args(["--manifests".as_ref(), run.directory().join(MANIFESTS).as_os_str()])
            .args(["--gateway", &format!("{}/waypoint", manifests::NAMESPACE)])
            .args(["--ca-dir".as_ref(), run.authority()?.as_os_str()])
            .env("EBB_STATE_DIR", run.directory().join("state"))
            .env("POD_NAME", pod.name())
            .env("POD_NAMESPACE", manifests::NAMESPACE)
            .env("POD_IP", pod.addresses().v4.to_string())
            .env("SERVICE_ACCOUNT", pod.name())
            .env("NODE_NAME", pod.node().name())
            .env("RUST_LOG", std::env::var_os("RUST_LOG").unwrap_or_else(|| "info".into()));
        Ok(Self { process: pod.spawn(spawn)?, pod })
    }

    pub(super) fn wait_ready(&self) -> Result<()> {
        let ready = wait_for("readiness of the waypoint", READY_WITHIN, || {
            ensure!(self.process.is_alive(), "it has ended");
            Ok(self.ask(READINESS, "/healthz/ready").is_ok_and(|(status, _)| status == 200).then_some(()))
        });
        ready.with_context(|| self.process.tail())
    }

    fn ask(&self, port: u16, path: &str) -> Result<(u16, String)> {
        self.pod.namespace().http_get(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), path, ANSWER)
    }
}

impl Proxy for Waypoint {
    fn process(&self) -> &Process {
        &self.process
    }

    fn has_carried(&self, _: bool) -> Result<bool> {
        let (_, text) = self.ask(METRICS, "/metrics")?;
        let encrypted = [("connection_security_policy", "mutual_tls")];
        Ok(Metrics::parse(&text)?.sum("istio_requests_total", &encrypted) > 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_a_route_differ_in_nothing_but_the_version() {
        assert_ne!(changing(1), changing(2));
        assert_eq!(changing(1).replace("'1'", "'2'"), changing(2));
    }
}
