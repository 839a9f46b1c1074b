//! Owns the systems that are compared. Others are added by a file each, see `file`; those that need more than a file can say
//! implement [`Candidate`] and are listed in [`all`].
//!
//! Every system has a cluster of its own, of the same shape: a client's pod on one node, a server's on the other. All are
//! up for the whole run and idle but for the one being measured.

mod certificates;
mod cipher;
mod direct;
mod ebb;
mod envoy;
mod file;
mod install;
mod redirect;
mod request;
mod routes;
mod stage;

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use harness::{
    cluster::{Cluster, Pod},
    interrupt::wait_for,
    process::Process,
    wire::Capture,
};
use tempfile::TempDir;

pub(crate) use self::{
    ebb::{BEFORE, Variant},
    routes::{REQUEST_HEADERS, ROUTES},
    stage::{Layout, Stage, port},
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
    fn name(&self) -> &str;

    /// What it is and which settings matter, for the reader of the figures.
    fn about(&self) -> String;

    /// As it tells it itself. Nothing by default.
    fn version(&self, tools: &Tools) -> String {
        let _ = tools;
        String::new()
    }

    /// Whether it is what Ebb is measured against.
    fn yardstick(&self) -> bool {
        false
    }

    /// Whether it is a limit of the machine, shown beside targets that Ebb misses. It is neither judged nor a yardstick.
    fn limit(&self) -> bool {
        false
    }

    /// Whether it takes part only where it is asked for by name.
    fn on_demand(&self) -> bool {
        false
    }

    /// Brings it up, ready to carry traffic. Each proxy runs in a role of its own, by which its CPU time is known; dropping
    /// what is returned stops all.
    ///
    /// # Errors
    /// A program is missing or does not get ready.
    fn start(&self, tools: &Tools) -> Result<Running>;

    /// Brings another one up with so many further clients, each in a pod and with an identity of its own. Nothing by default.
    ///
    /// # Errors
    /// As [`Candidate::start`].
    fn start_with_clients(&self, tools: &Tools, clients: u32) -> Result<Option<Running>> {
        let _ = (tools, clients);
        Ok(None)
    }

    /// Starts all proxies of one node that has so many pods. Nothing by default.
    ///
    /// # Errors
    /// As [`Candidate::start`].
    fn start_on_a_node(&self, tools: &Tools, pods: u32) -> Result<Option<Crowd>> {
        let _ = (tools, pods);
        Ok(None)
    }

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
    fn start_among_services(&self, tools: &Tools, services: u32) -> Result<Option<Changing>> {
        let _ = (tools, services);
        Ok(None)
    }

    /// How the client is refused by a policy, and let through again. Nothing by default.
    fn policy(&self, running: &Running) -> Option<Switch> {
        let _ = running;
        None
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
    /// Whether it is wrong for it to carry anything that is not encrypted.
    pub(crate) encrypted: bool,
    /// Pods of its own.
    pub(crate) pods: Vec<Pod>,
    /// The pods and applications.
    pub(crate) stage: Stage,
}

/// The proxies of one node, and its pods. Fields are dropped in this order.
pub(crate) struct Crowd {
    /// Every proxy on the node; each has a CPU account of its own.
    pub(crate) proxies: Vec<Box<dyn Proxy>>,
    /// Held for as long as the proxies run.
    pub(crate) _pods: Vec<Pod>,
    /// The same.
    pub(crate) _cluster: Cluster,
}

/// A system that is up, and whose route for the service that is called can be changed.
pub(crate) struct Changing {
    /// The system.
    pub(crate) running: Running,
    /// The file that holds the route. It is replaced as a whole.
    pub(crate) file: PathBuf,
    /// The file's content that makes every answer carry a version in the header [`VERSION_HEADER`].
    pub(crate) content: Box<dyn Fn(u32) -> String>,
    /// The directory of that file, where it is not the run's own.
    pub(crate) _directory: Option<TempDir>,
}

/// A file by which a client is refused, or let through. It is not there at first, and is removed in the end.
pub(crate) struct Switch {
    /// Where it is.
    pub(crate) file: PathBuf,
    /// Its content that has the client refused.
    pub(crate) deny: String,
    /// Its content that lets the client through.
    pub(crate) allow: String,
}

/// The header by which a client sees which version of a route it fell under.
pub(crate) const VERSION_HEADER: &str = "x-route-version";

/// One proxy of a running system.
pub(crate) trait Proxy {
    /// Its process.
    fn process(&self) -> &Process;

    /// Whether it has carried a connection, an encrypted one where `encrypted`, as far as it can tell. A system that would
    /// also work without its proxies must be able to, or what is measured may be no mesh at all.
    ///
    /// # Errors
    /// It does not answer.
    fn has_carried(&self, encrypted: bool) -> Result<bool> {
        let _ = encrypted;
        Ok(true)
    }
}

impl Proxy for Process {
    fn process(&self) -> &Process {
        self
    }
}

impl Running {
    /// No mesh at all.
    pub(crate) fn without_proxies(stage: Stage) -> Self {
        Self { proxies: Vec::new(), router: None, encrypted: false, pods: Vec::new(), stage }
    }

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
        let proved = wait_for("answer from the server through the proxies", PROVED_WITHIN, || {
            if !self.stage.answers() {
                return Ok(None);
            }
            for proxy in &self.proxies {
                if !proxy.has_carried(self.encrypted)? {
                    last = format!("{} has carried nothing", proxy.process().name());
                    return Ok(None);
                }
            }
            Ok(Some(()))
        });
        proved.context(last)
    }

    /// The same, and what was agreed on for what crosses the wire, as seen there.
    ///
    /// # Errors
    /// As [`Running::prove`], or the wire cannot be watched.
    pub(crate) fn prove_on_the_wire(&self) -> Result<Option<String>> {
        let wire = Capture::start(self.stage.cluster())?;
        self.prove()?;
        cipher::seen(&wire)
    }
}

/// What a run asks for beyond the systems there always are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    /// A directory with an earlier build of Ebb.
    pub(crate) before: Option<PathBuf>,
    /// Ebb with other settings of its `ztunnel`.
    pub(crate) variants: Vec<Variant>,
    /// Directories or files with further systems.
    pub(crate) files: Vec<PathBuf>,
}

/// Every system of a comparison, in the order in which rounds go.
///
/// # Errors
/// A file that describes a system cannot be read, or two systems have one name, by which samples are kept.
pub(crate) fn all(layer: Layer, asked: &Asked) -> Result<Vec<Box<dyn Candidate>>> {
    let all = listed(layer, asked)?;
    let mut names = BTreeSet::new();
    for system in &all {
        ensure!(names.insert(system.name()), "there are two systems {} in {layer}", system.name());
    }
    Ok(all)
}

fn listed(layer: Layer, asked: &Asked) -> Result<Vec<Box<dyn Candidate>>> {
    let mut all: Vec<Box<dyn Candidate>> = Vec::new();
    if layer != Layer::Scale {
        all.push(Box::new(direct::Direct { one_node: layer.is_one_node() }));
    }
    for envoy in envoy::Envoy::of(layer) {
        all.push(Box::new(envoy));
    }
    for described in file::of(layer, &asked.files)? {
        all.push(Box::new(described));
    }
    for ebb in ebb::Ebb::of(layer, asked) {
        let with_waypoint = (layer == Layer::Scale && ebb.is_plain()).then(|| ebb.clone());
        all.push(match layer {
            Layer::L7 => Box::new(ebb::EbbL7 { ebb, routes: ROUTES }),
            Layer::Hop => Box::new(ebb::EbbL7 { ebb, routes: 1 }),
            _ => Box::new(ebb),
        });
        if let Some(ebb) = with_waypoint {
            all.push(Box::new(ebb::EbbL7 { ebb, routes: ROUTES }));
        }
    }
    Ok(all)
}
