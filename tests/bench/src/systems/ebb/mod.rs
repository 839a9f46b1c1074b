//! Ebb: a `ztunnel` process on each node, redirection by eBPF, HBONE between the nodes.
//!
//! Run as an operator runs it, with its defaults: log level info, a log line for each connection, metrics, the embedded CA.

mod crowd;
mod l7;
mod manifests;
mod variant;

use std::{
    env, fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use harness::{
    binaries,
    cluster::{Cluster, Node},
    process::Process,
    ztunnel::{Settings, Ztunnel},
};

use self::manifests::Member;
pub(crate) use self::{l7::EbbL7, variant::Variant};
use super::{Asked, Candidate, Crowd, Layout, Proxy, Running, Stage, Switch, Tools};
use crate::{
    layer::Layer,
    results::{Sample, sample},
};

/// How long a proxy may take to be ready, in the largest mesh.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// Where the log tells how many workloads a proxy that got ready knows, and how soon it does.
const KNOWN: &str = "workloads";
const LOGGED_WITHIN: Duration = Duration::from_secs(5);

/// The commit that was built, where whoever built it knows.
const COMMIT: &str = "EBB_COMMIT";

/// Ebb with the path for two pods of one node, which is off by default, and how it is switched on.
const SAME_NODE: &str = "ebb-same-node";
const PATH_ON: [&str; 2] = ["--same-node-path", "on"];

/// The directory of manifests in a run's own.
const MANIFESTS: &str = "manifests";

/// The node proxies.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ebb {
    layer: Layer,
    /// A directory with an earlier build's `ztunnel` and `ebb-redirect.o`, to be compared with this one.
    before: Option<PathBuf>,
    /// Other settings than the defaults.
    variant: Option<Variant>,
}

/// The name of an earlier build in the report.
pub(crate) const BEFORE: &str = "ebb-before";

impl Ebb {
    /// This build, with the path for one node where that is compared, the earlier one if there is one, and this one with
    /// each of the other settings.
    pub(crate) fn of(layer: Layer, asked: &Asked) -> Vec<Self> {
        let ebb = Self { layer, ..Self::default() };
        let before = asked.before.iter().map(|build| Self { before: Some(build.clone()), ..ebb.clone() });
        let variants =
            asked.variants.iter().map(|variant| Self { variant: Some(variant.clone()), ..ebb.clone() });
        let near = (layer == Layer::SameNode).then(|| Variant {
            name: SAME_NODE.into(),
            arguments: PATH_ON.map(Into::into).into(),
            ..Variant::default()
        });
        let near = near.map(|variant| Self { variant: Some(variant), ..ebb.clone() });
        std::iter::once(ebb.clone()).chain(near).chain(before).chain(variants).collect()
    }

    /// Whether it is this build with its defaults.
    pub(crate) fn is_plain(&self) -> bool {
        self.before.is_none() && self.variant.is_none()
    }

    fn settings(&self) -> Settings {
        let variant = self.variant.clone().unwrap_or_default();
        Settings {
            build: self.before.clone(),
            arguments: variant.arguments,
            environment: variant.environment,
            ..Settings::default()
        }
    }

    /// The path of one of its programs.
    fn program(&self, name: &str) -> Result<PathBuf> {
        match &self.before {
            Some(build) => Ok(build.join(name)),
            None => binaries::find(name),
        }
    }

    fn start_with(&self, strangers: u32) -> Result<Running> {
        let stage = Stage::set(Layout { one_node: self.layer.is_one_node(), strangers })?;
        let directory = stage.directory().join(MANIFESTS);
        let inside = |pod| Member { pod, in_mesh: true };
        let server = Member { pod: &stage.server, in_mesh: self.layer != Layer::Passthrough };
        let members: Vec<Member<'_>> = std::iter::once(inside(&stage.client))
            .chain([server])
            .chain(stage.strangers.iter().map(inside))
            .collect();
        manifests::write_small(&directory, &members)?;
        let nodes = if self.layer.is_one_node() { 1 } else { 2 };
        let started: Vec<Ztunnel> = stage.cluster().nodes()[..nodes]
            .iter()
            .map(|node| Ztunnel::start(node, &directory, self.settings()))
            .collect::<Result<_>>()?;
        let mut running = Running::without_proxies(stage);
        running.encrypted = self.layer.is_encrypted();
        for ztunnel in started {
            ztunnel.wait_ready(READY_WITHIN)?;
            running.proxies.push(Box::new(ztunnel));
        }
        Ok(running)
    }
}

impl Candidate for Ebb {
    fn name(&self) -> &str {
        match (&self.before, &self.variant) {
            (Some(_), _) => BEFORE,
            (None, Some(variant)) => &variant.name,
            (None, None) => "ebb",
        }
    }

    fn about(&self) -> String {
        let proxies = if self.layer.is_one_node() || self.layer == Layer::Scale {
            "one ztunnel process"
        } else {
            "two ztunnel processes, one on each node,"
        };
        let settings = match &self.variant {
            None => "default settings".into(),
            Some(variant) => format!("the settings `{variant}`"),
        };
        let carried = match self.layer {
            Layer::Passthrough => "plain TCP to the server",
            Layer::SameNode if self.name() == SAME_NODE => "no tunnel between two pods of the node",
            _ => "HBONE over mutual TLS 1.3, P-256 certificates",
        };
        format!("{proxies} with eBPF redirection and {settings}: {carried}, a log line for each connection")
    }

    fn version(&self, _: &Tools) -> String {
        let told = self
            .program("ztunnel")
            .and_then(|program| Ok(Command::new(program).arg("--version").output()?));
        let mut version =
            told.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
        if let (None, Ok(commit)) = (&self.before, env::var(COMMIT)) {
            version += &format!(" at {commit}");
        }
        version
    }

    fn start(&self, _: &Tools) -> Result<Running> {
        self.start_with(0)
    }

    fn start_with_clients(&self, _: &Tools, clients: u32) -> Result<Option<Running>> {
        self.start_with(clients).map(Some)
    }

    fn start_on_a_node(&self, _: &Tools, pods: u32) -> Result<Option<Crowd>> {
        crowd::start(self, pods, false).map(Some)
    }

    fn start_in_large_mesh(&self, workloads: u32) -> Result<Option<Sample>> {
        let cluster = Cluster::start(1)?;
        let node = cluster.node(0);
        let directory = cluster.run().directory().join(MANIFESTS);
        manifests::write_large(&directory, node, workloads)?;
        large_mesh(node, &directory, self.settings(), workloads).map(Some)
    }

    fn policy(&self, running: &Running) -> Option<Switch> {
        let file = running.stage.directory().join(MANIFESTS).join("policy.yaml");
        let [deny, allow] = ["client", "nobody"].map(manifests::refusal_of);
        Some(Switch { file, deny, allow })
    }
}

/// Starts a node's proxy on many manifests, and looks what it took.
fn large_mesh(
    node: &std::sync::Arc<Node>,
    directory: &std::path::Path,
    settings: Settings,
    workloads: u32,
) -> Result<Sample> {
    let started = Instant::now();
    let ztunnel = Ztunnel::start(node, directory, settings)?;
    ztunnel.wait_ready(READY_WITHIN)?;
    let took = started.elapsed();
    // Nothing is asked of it, since to answer costs memory too.
    let (process, spent) = (ztunnel.process(), ztunnel.process().role().cpu()?);
    let (peak, memory) = (peak_resident(process)?, process.memory()?);
    let line = process.wait_for_log(KNOWN, LOGGED_WITHIN)?;
    let known = known(&line).with_context(|| format!("no number of workloads in {line:?}"))?;
    ensure!(known >= workloads, "it was ready with {known} of {workloads} workloads");
    Ok(sample([
        ("seconds", took.as_secs_f64()),
        ("cpu", spent.as_secs_f64()),
        ("peak", peak as f64 / 1e6),
        ("rss", memory.rss as f64 / 1e6),
        ("pss", memory.pss as f64 / 1e6),
    ]))
}

impl Proxy for Ztunnel {
    fn process(&self) -> &Process {
        self.process()
    }

    fn has_carried(&self, encrypted: bool) -> Result<bool> {
        let policy = [("connection_security_policy", "mutual_tls")];
        let filter = if encrypted { policy.as_slice() } else { &[] };
        Ok(self.metrics()?.sum("istio_tcp_connections_opened_total", filter) > 0.0)
    }
}

/// The number of workloads that a line of the log tells of.
fn known(line: &str) -> Option<u32> {
    let (_, rest) = line.split_once(KNOWN)?;
    rest.split(|c: char| !c.is_ascii_digit()).find(|digits| !digits.is_empty())?.parse().ok()
}

/// The most that a process ever had resident, in bytes.
fn peak_resident(process: &Process) -> Result<u64> {
    let path = format!("/proc/{}/status", process.pid());
    let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    peak(&status).with_context(|| format!("no VmHWM in {path}"))
}

fn peak(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_in_bytes() {
        assert_eq!(peak("Name:\tx\nVmHWM:\t   12 kB\nVmRSS:\t 8 kB\n"), Some(12 * 1024));
        assert_eq!(peak("Name:\tx\n"), None);
    }

    #[test]
    fn the_log_tells_how_many_workloads_are_known() {
        assert_eq!(known("INFO ztunnel: ready pods_of_this_node=0 workloads=100000"), Some(100_000));
        assert_eq!(known(r#"{"fields":{"message":"ready","workloads":12,"x":3}}"#), Some(12));
        assert_eq!(known("ready"), None);
    }

    #[test]
    fn other_builds_and_settings_take_part_under_names_of_their_own() {
        let asked = Asked {
            before: Some("old".into()),
            variants: vec!["ebb-one=--workers 1".parse().unwrap()],
            ..Asked::default()
        };
        let all = Ebb::of(Layer::L4, &asked);
        assert_eq!(all.iter().map(Candidate::name).collect::<Vec<_>>(), ["ebb", BEFORE, "ebb-one"]);
        assert_eq!(all[2].settings().arguments, ["--workers", "1"]);
        let near = Ebb::of(Layer::SameNode, &Asked::default());
        assert_eq!(near.iter().map(Candidate::name).collect::<Vec<_>>(), ["ebb", SAME_NODE]);
        assert!(all[2].about().contains("--workers 1"), "{}", all[2].about());
    }
}
