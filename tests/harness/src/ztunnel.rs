//! Runs one node's proxy, the shipped `ztunnel` binary, and asks it how it does.
//!
//! Uses only what an operator has: the command line, the admin, metrics and readiness ports, and the log.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    binaries,
    cluster::Node,
    interrupt::wait_for,
    process::{Process, Spawn},
    prometheus::Metrics,
};

/// The role under which the CPU time of the proxies of node `node-N` is accounted is `proxy-node-N`.
pub const ROLE: &str = "proxy";

/// Admin, on loopback of the node.
const ADMIN: u16 = 15000;

/// `/metrics`.
const METRICS: u16 = 15020;

/// `/healthz/ready`.
const READINESS: u16 = 15021;

/// How long one of its answers may take.
const ANSWER: Duration = Duration::from_secs(5);

/// How a proxy is run, beyond what every one needs.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `--workers`; its own default when none.
    pub workers: Option<u16>,
    /// Further arguments.
    pub arguments: Vec<String>,
    /// A directory with another build's `ztunnel` and `ebb-redirect.o`; this build's when none.
    pub build: Option<PathBuf>,
    /// Environment, over `RUST_LOG=info` and what is inherited.
    pub environment: Vec<(String, String)>,
}

/// The proxy of one node.
#[derive(Debug)]
pub struct Ztunnel {
    process: Process,
    node: Arc<Node>,
    manifests: PathBuf,
    settings: Settings,
}

impl Ztunnel {
    /// Starts it on the manifest directory that a kubelet keeps. The embedded CA's directory is one for all nodes of the
    /// cluster; pins are kept per node and outlive the process.
    ///
    /// # Errors
    /// The binary or the eBPF object is missing.
    pub fn start(node: &Arc<Node>, manifests: &Path, settings: Settings) -> Result<Self> {
        let process = spawn(node, manifests, &settings)?;
        Ok(Self { process, node: Arc::clone(node), manifests: manifests.to_owned(), settings })
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// It is not within `within`, or has ended; the error shows its last answer and the end of its log.
    pub fn wait_ready(&self, within: Duration) -> Result<()> {
        let mut last = String::new();
        let ready = wait_for("readiness", within, || {
            ensure!(self.process.is_alive(), "it has ended");
            match self.ask(READINESS, "/healthz/ready") {
                Ok((200, _)) => return Ok(Some(())),
                Ok((status, body)) => last = format!("{status} {}", body.trim()),
                Err(error) => last = format!("{error:#}"),
            }
            Ok(None)
        });
        let whose = || format!("ztunnel of {} is not ready (last answer: {last})", self.node.name());
        ready.with_context(whose).with_context(|| self.process.tail())
    }

    /// Kills it as a crash would. It stays dead until [`Ztunnel::start_again`].
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn kill9(&self) -> Result<ExitStatus> {
        self.process.kill9()
    }

    /// Starts a new process in place of one that has ended.
    ///
    /// # Errors
    /// The old one still runs, or the new one cannot be run.
    pub fn start_again(&mut self) -> Result<()> {
        ensure!(!self.process.is_alive(), "ztunnel of {} still runs", self.node.name());
        self.process = spawn(&self.node, &self.manifests, &self.settings)?;
        Ok(())
    }

    /// Ends it in good order, or by force after `grace`, and starts a new one.
    ///
    /// # Errors
    /// The new one cannot be run.
    pub fn restart(&mut self, grace: Duration) -> Result<()> {
        self.process.terminate(grace)?;
        self.start_again()
    }

    /// Changes how it is run from the next start on.
    pub fn settings_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }

    /// The process now running, or the last that did.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The node it serves.
    #[must_use]
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Scrapes its metrics.
    ///
    /// # Errors
    /// It does not answer, or with what is not Prometheus text.
    pub fn metrics(&self) -> Result<Metrics> {
        Metrics::parse(&self.body(METRICS, "/metrics")?)
    }

    /// Its configuration as it understands it.
    ///
    /// # Errors
    /// It does not answer, or not with JSON.
    pub fn config_dump(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.body(ADMIN, "/config_dump")?).context("parse /config_dump")
    }

    /// Any page of its admin port.
    ///
    /// # Errors
    /// It does not answer, or not with 200.
    pub fn admin(&self, path: &str) -> Result<String> {
        self.body(ADMIN, path)
    }

    /// Lines of the running process's log that hold `needle`.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn log_lines(&self, needle: &str) -> Result<Vec<String>> {
        self.process.log_lines(needle)
    }

    fn body(&self, port: u16, path: &str) -> Result<String> {
        let (status, body) = self.ask(port, path)?;
        if status != 200 {
            bail!("{path} of ztunnel on {} answers {status}: {body}", self.node.name());
        }
        Ok(body)
    }

    fn ask(&self, port: u16, path: &str) -> Result<(u16, String)> {
        self.node.namespace().http_get(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), path, ANSWER)
    }
}

fn spawn(node: &Arc<Node>, manifests: &Path, settings: &Settings) -> Result<Process> {
    let ca = node.run().authority()?;
    let (program, object) = match &settings.build {
        Some(build) => (build.join("ztunnel"), build.join("ebb-redirect.o")),
        None => (binaries::find("ztunnel")?, binaries::ebpf_object()?),
    };
    let mut spawn = Spawn::new(format!("ztunnel-{}", node.name()), program)
        .role(format!("{ROLE}-{}", node.name()))
        .args(["--manifests".as_ref(), manifests.as_os_str()])
        .args(["--node", node.name()])
        .args(["--ebpf-object".as_ref(), object.as_os_str()])
        .args(["--bpffs".as_ref(), node.run().pins(node.name())?.as_os_str()])
        .args(["--ca-dir".as_ref(), ca.as_os_str()])
        // Not a flag, which an earlier build may not know.
        .env("EBB_STATE_DIR", node.run().directory().join("state"))
        .env("RUST_LOG", std::env::var_os("RUST_LOG").unwrap_or_else(|| "info".into()));
    if let Some(workers) = settings.workers {
        spawn = spawn.args(["--workers".to_owned(), workers.to_string()]);
    }
    for (name, value) in &settings.environment {
        spawn = spawn.env(name, value);
    }
    node.spawn(spawn.args(&settings.arguments))
}
