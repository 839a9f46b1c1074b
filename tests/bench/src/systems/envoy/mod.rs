//! A pair of Envoy sidecars that carry connections or route requests, one in each pod's namespace, with mutual TLS between
//! them: what Ebb is measured against.
//!
//! Nothing works without both: the server's side takes nothing but mutual TLS, and the client's sends nothing else.
//! Traffic gets to them as in a sidecar of Istio's, by nat rules in the pod. It runs as root with the sidecar's group, by
//! which the rules know its connections; every other user would have to be let into the directory it is installed in.

mod certificates;
mod config;
mod redirect;

use std::{fs, net::SocketAddrV4, path::Path, time::Duration};

use anyhow::{Context, Result};
use harness::{
    cluster::Pod,
    envoy,
    interrupt::wait_for,
    process::{Process, Spawn},
};

use self::{
    certificates::Certificates,
    config::{Carries, Side},
};
use super::{Candidate, ROUTES, Running, Stage, Tools, request};

/// How long a sidecar may take to be live.
const LIVE_WITHIN: Duration = Duration::from_secs(20);

/// How long its admin port may take to answer.
const ASK_WITHIN: Duration = Duration::from_secs(1);

/// Envoy with a number of worker threads. Which number is better depends on the work, so both take part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Envoy {
    name: &'static str,
    concurrency: u32,
    carries: Carries,
}

impl Envoy {
    /// One worker thread each.
    pub(crate) const ONE: Self = Self { name: "envoy-1", concurrency: 1, carries: Carries::Connections };
    /// Two worker threads each.
    pub(crate) const TWO: Self = Self { name: "envoy-2", concurrency: 2, carries: Carries::Connections };

    /// The same with both sidecars speaking HTTP, and routes in the client's.
    pub(crate) fn routing(self) -> Self {
        Self { carries: Carries::Requests { routes: ROUTES }, ..self }
    }

    fn spawn(&self, program: &Path, pod: &Pod, side: Side, config: &Path) -> Result<Process> {
        let name = match side {
            Side::Client => "proxy-client",
            Side::Server => "proxy-server",
        };
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
            anyhow::ensure!(process.is_alive(), "{name} ended");
            Ok(is_live(pod).ok().filter(|live| *live))
        })
        .with_context(|| process.tail())?;
        Ok(process)
    }
}

/// Asks the sidecar in `pod`.
fn is_live(pod: &Pod) -> Result<bool> {
    let admin = ([127, 0, 0, 1], config::ADMIN).into();
    Ok(request::status(pod.namespace(), admin, "/ready", ASK_WITHIN)? == 200)
}

impl Candidate for Envoy {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> String {
        let filter = match self.carries {
            Carries::Connections => "tcp_proxy",
            Carries::Requests { .. } => {
                "http_connection_manager in both, the routes with Istio's default retries in the client's, HTTP/1.1 \
                 throughout, Envoy's own statistics as in its defaults"
            }
        };
        format!(
            "a pair of Envoy {} sidecars, {filter}, concurrency {}; mutual TLS 1.3 by Envoy's defaults (AES-128-GCM first, \
             sessions resumed), P-256 certificates; nat redirection in the pods; circuit breakers raised; no access log, as \
             in Istio's default installation",
            envoy::VERSION,
            self.concurrency
        )
    }

    fn yardstick(&self) -> bool {
        true
    }

    fn start(&self, tools: &Tools) -> Result<Running> {
        let program = envoy::find_or_install(&tools.directory)?;
        redirect::prepare()?;
        let stage = Stage::set()?;
        let servers: Vec<SocketAddrV4> = stage.servers();
        let certificates = Certificates::generate()?;
        let mut running = Running { proxies: Vec::new(), router: None, stage };
        for (side, pod) in [(Side::Server, &running.stage.server), (Side::Client, &running.stage.client)] {
            let config = running.stage.directory().join(format!("envoy-{side:?}.json").to_lowercase());
            let text = config::sidecar(side, &servers, &certificates, self.carries).to_string();
            fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
            running.proxies.push(Box::new(self.spawn(&program, pod, side, &config)?));
        }
        // The client's, which was pushed last.
        running.router =
            matches!(self.carries, Carries::Requests { .. }).then_some(running.proxies.len() - 1);
        redirect::inbound(running.stage.server.namespace())?;
        redirect::outbound(running.stage.client.namespace())?;
        Ok(running)
    }

    fn start_with_routes(&self, tools: &Tools, routes: u32) -> Result<Option<Running>> {
        match self.carries {
            Carries::Connections => Ok(None),
            Carries::Requests { .. } => {
                Self { carries: Carries::Requests { routes }, ..*self }.start(tools).map(Some)
            }
        }
    }
}
