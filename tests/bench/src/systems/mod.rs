//! Owns the systems that are compared. To add one, write a file that implements [`Candidate`] and list it in [`all`].
//!
//! Every system has a cluster of its own, of the same shape: a client's pod on one node, a server's on the other. All are
//! up for the whole run and idle but for the one being measured.

mod direct;
mod ebb;
mod envoy;
mod request;
mod routes;
mod stage;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use harness::{interrupt::wait_for, process::Process};

pub(crate) use self::{
    ebb::BEFORE,
    routes::{REQUEST_HEADERS, ROUTES},
    stage::{Stage, port},
};
use crate::{layer::Layer, results::Sample};

/// The load generator's role.
pub(crate) const CLIENT: &str = "client";
/// The application's role.
pub(crate) const SERVER: &str = "server";

/// How long a first request through a new system may take, tries included.
const PROVED_WITHIN: Duration = Duration::from_secs(20);

/// A system that can be brought up.
pub(crate) trait Candidate {
    /// Its name in the report and on the command line.
    fn name(&self) -> &'static str;

    /// What it is and which settings matter, for the reader of the figures.
    fn about(&self) -> String;

    /// Whether it is what Ebb is measured against.
    fn yardstick(&self) -> bool {
        false
    }

    /// Brings it up, ready to carry traffic. Each proxy runs in a role of its own, by which its CPU time is known; dropping
    /// what is returned stops all.
    ///
    /// # Errors
    /// A program is missing or does not get ready.
    fn start(&self, tools: &Tools) -> Result<Running>;

    /// Starts one proxy in a mesh of `workloads` workloads and says how long it took to be ready, and what it held. Nothing
    /// by default.
    ///
    /// # Errors
    /// It does not get ready.
    fn start_in_large_mesh(&self, workloads: u32) -> Result<Option<Sample>> {
        let _ = workloads;
        Ok(None)
    }

    /// Brings another one up whose table has `routes` routes instead of [`ROUTES`]. Nothing by default.
    ///
    /// # Errors
    /// As [`Candidate::start`].
    fn start_with_routes(&self, tools: &Tools, routes: u32) -> Result<Option<Running>> {
        let _ = (tools, routes);
        Ok(None)
    }

    /// Brings another one up that routes `services` services, the one that is called among them. Nothing by default.
    ///
    /// # Errors
    /// As [`Candidate::start`].
    fn start_among_services(&self, services: u32) -> Result<Option<Changing>> {
        let _ = services;
        Ok(None)
    }

    /// The program that measures its routing by itself and prints what it found as JSON. Nothing by default.
    ///
    /// # Errors
    /// It is missing.
    fn routing_cost(&self) -> Result<Option<PathBuf>> {
        Ok(None)
    }
}

/// Where programs that have to be installed are kept.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    /// A directory that stays from run to run.
    pub(crate) directory: PathBuf,
}

/// A system that is up. Fields are dropped in this order: proxies before what they serve.
pub(crate) struct Running {
    /// Its proxies; none for no mesh.
    pub(crate) proxies: Vec<Box<dyn Proxy>>,
    /// Which of them matches requests with routes.
    pub(crate) router: Option<usize>,
    /// The pods and applications.
    pub(crate) stage: Stage,
}

/// A system that is up, and whose route for the service that is called can be changed.
pub(crate) struct Changing {
    /// The system.
    pub(crate) running: Running,
    /// The file that holds the route. It is replaced as a whole.
    pub(crate) file: PathBuf,
    /// The file's content that makes every answer carry `version` in the header [`VERSION_HEADER`].
    pub(crate) content: fn(version: u32) -> String,
}

/// The header by which a client sees which version of a route it fell under.
pub(crate) const VERSION_HEADER: &str = "x-route-version";

/// One proxy of a running system.
pub(crate) trait Proxy {
    /// Its process.
    fn process(&self) -> &Process;

    /// Whether it has carried an encrypted connection, where it can tell. A system that would also work without its proxies
    /// must be able to, or what is measured may be no mesh at all.
    ///
    /// # Errors
    /// It does not answer.
    fn has_encrypted(&self) -> Result<bool> {
        Ok(true)
    }
}

impl Proxy for Process {
    fn process(&self) -> &Process {
        self
    }
}

impl Running {
    /// The proxy that matches requests with routes.
    pub(crate) fn router(&self) -> Option<&dyn Proxy> {
        self.proxies.get(self.router?).map(AsRef::as_ref)
    }

    /// Makes sure that requests get through, and through the proxies; what is made on first use is there afterwards.
    ///
    /// # Errors
    /// None did in time.
    pub(crate) fn prove(&self) -> Result<()> {
        let mut last = "nobody answered".to_owned();
        let proved = wait_for("encrypted answer from the server", PROVED_WITHIN, || {
            if !self.stage.answers() {
                return Ok(None);
            }
            for proxy in &self.proxies {
                if !proxy.has_encrypted()? {
                    last = format!("{} has encrypted nothing", proxy.process().name());
                    return Ok(None);
                }
            }
            Ok(Some(()))
        });
        proved.context(last)
    }
}

/// Every system of a comparison, in the order in which rounds go; with the earlier build of Ebb that lies in `before`, if
/// any.
pub(crate) fn all(layer: Layer, before: Option<PathBuf>) -> Vec<Box<dyn Candidate>> {
    let mut all: Vec<Box<dyn Candidate>> = vec![Box::new(direct::Direct)];
    for envoy in [envoy::Envoy::ONE, envoy::Envoy::TWO] {
        all.push(match layer {
            Layer::L4 => Box::new(envoy),
            Layer::L7 => Box::new(envoy.routing()),
        });
    }
    let builds = [Some(None), before.map(Some)].into_iter().flatten();
    for before in builds {
        let ebb = ebb::Ebb { before };
        all.push(match layer {
            Layer::L4 => Box::new(ebb),
            Layer::L7 => Box::new(ebb::EbbL7(ebb)),
        });
    }
    all
}
