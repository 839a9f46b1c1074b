//! A mesh of two nodes under test: cluster, kubelet, two proxies, and an ear on the wire between them.
//!
//! Every test sends its marker as payload. When the mesh goes, it fails the test if the marker could be read on the wire,
//! whatever else the test was about; plaintext that is meant to be plaintext carries [`Mesh::open_marker`].

use std::{
    collections::BTreeSet,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use harness::{
    cluster::{Cluster, Node, Pod},
    kubelet::{Kubelet, Replica},
    prometheus::Metrics,
    wire::Capture,
    ztunnel::{Settings, Ztunnel},
};

use crate::app::{self, App};

/// How long a proxy may take to be ready, and a change to be in force.
pub const SETTLED: Duration = Duration::from_secs(20);

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// The mesh of one test.
#[derive(Debug)]
pub struct Mesh {
    kubelet: Kubelet,
    ztunnels: Vec<Ztunnel>,
    capture: Option<Capture>,
    ambient: BTreeSet<String>,
    opted_out: BTreeSet<(String, String)>,
    marker: String,
    // Last, so that processes and pods go before their namespaces.
    cluster: Cluster,
}

impl Mesh {
    /// Two nodes with a proxy each, `shop` in the mesh and `outside` not, and no pods.
    ///
    /// # Errors
    /// Anything of it could not be started.
    pub fn start() -> Result<Self> {
        Self::start_with(Settings::default())
    }

    /// As [`Mesh::start`], with proxies run as `settings` say.
    ///
    /// # Errors
    /// As [`Mesh::start`].
    pub fn start_with(settings: Settings) -> Result<Self> {
        let mut mesh = Self::without_proxies()?;
        mesh.start_proxies(settings)?;
        Ok(mesh)
    }

    /// As [`Mesh::start`], before the proxies.
    ///
    /// # Errors
    /// As [`Mesh::start`].
    pub fn without_proxies() -> Result<Self> {
        let cluster = Cluster::two_nodes()?;
        let kubelet = Kubelet::start(&cluster)?;
        let capture = Some(Capture::start(&cluster)?);
        let marker = format!("marker-{:016x}", rand::random::<u64>());
        let (ambient, opted_out) = (BTreeSet::new(), BTreeSet::new());
        let mut mesh = Self { kubelet, ztunnels: Vec::new(), capture, ambient, opted_out, marker, cluster };
        mesh.namespace("shop", true)?;
        mesh.namespace("outside", false)?;
        Ok(mesh)
    }

    /// Starts a proxy on each node and waits until both are ready.
    ///
    /// # Errors
    /// One is not.
    pub fn start_proxies(&mut self, settings: Settings) -> Result<()> {
        let directory = self.kubelet.directory().to_owned();
        for node in self.cluster.nodes() {
            self.ztunnels.push(Ztunnel::start(node, &directory, settings.clone())?);
        }
        self.ztunnels.iter().try_for_each(|ztunnel| ztunnel.wait_ready(SETTLED))
    }

    /// What tests send where nobody may read it.
    #[must_use]
    pub fn marker(&self) -> &str {
        &self.marker
    }

    /// What tests send where it is plaintext by intent.
    #[must_use]
    pub fn open_marker(&self) -> String {
        self.marker.replace("marker-", "open-")
    }

    /// Creates a namespace, or takes it into the mesh or out of it.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn namespace(&mut self, name: &str, ambient: bool) -> Result<()> {
        if ambient {
            self.ambient.insert(name.to_owned());
        } else {
            self.ambient.remove(name);
        }
        self.kubelet.apply(&format!("10-{name}.yaml"), &app::namespace(name, ambient))
    }

    /// Runs further pods and waits until both proxies know them and those in the mesh are enrolled.
    ///
    /// # Errors
    /// They are not in time.
    pub fn run(&mut self, apps: &[App]) -> Result<()> {
        let documents: Vec<_> = apps.iter().map(App::manifest).collect();
        let first = apps.first().context("no apps to run")?;
        for app in apps.iter().filter(|app| app.manifest().contains("dataplane-mode: \"none\"")) {
            self.opted_out.insert((app.namespace.clone(), app.name.clone()));
        }
        let file = format!("30-{}-{}.yaml", first.namespace, first.name);
        self.kubelet.apply(&file, &documents.join("---\n"))?;
        self.settle()
    }

    /// Applies a manifest of no pods and waits until both proxies have read it.
    ///
    /// # Errors
    /// They have not in time.
    pub fn apply(&mut self, file: &str, yaml: &str) -> Result<()> {
        self.kubelet.apply(file, yaml)
    }

    /// The pod of a Deployment, given as `NAMESPACE/NAME`, or as `NAME` in `shop`.
    ///
    /// # Errors
    /// There is none.
    pub fn pod(&self, of: &str) -> Result<&Pod> {
        Ok(self.replica(of)?.pod())
    }

    /// The replica of a Deployment, named as for [`Mesh::pod`].
    ///
    /// # Errors
    /// There is none.
    pub fn replica(&self, of: &str) -> Result<&Replica> {
        let (namespace, name) = of.split_once('/').unwrap_or(("shop", of));
        self.kubelet.replica(namespace, name)
    }

    /// Waits until both proxies know exactly the pods that run, and serve those of their node that are in the mesh.
    ///
    /// # Errors
    /// They do not in time; the error shows the difference.
    pub fn settle(&self) -> Result<()> {
        self.ztunnels.iter().try_for_each(|ztunnel| {
            let mut last = String::new();
            let settled = eventually("the proxies to serve what runs", SETTLED, || {
                Ok(self.unsettled(ztunnel)?.is_none_or(|why| {
                    last = why;
                    false
                }))
            });
            settled
                .with_context(|| format!("proxy of {}: {last}", ztunnel.node().name()))
                .with_context(|| ztunnel.process().tail())
        })
    }

    /// What one proxy does not know or serve yet.
    fn unsettled(&self, ztunnel: &Ztunnel) -> Result<Option<String>> {
        let dump = ztunnel.config_dump()?;
        let shown = dump["workloads"].as_array().context("the dump has workloads")?;
        let text =
            |workload: &serde_json::Value, key: &str| workload[key].as_str().unwrap_or_default().to_owned();
        let known: BTreeSet<_> = shown.iter().map(|w| (text(w, "name"), text(w, "protocol"))).collect();
        // A waypoint is in no proxy's care and speaks for itself.
        let speaks = |replica: &Replica| self.is_enrolled(replica) || replica.gateway().is_some();
        let protocol = |replica| if speaks(replica) { "HBONE" } else { "TCP" };
        let wanted: BTreeSet<_> = self
            .kubelet
            .all_replicas()
            .map(|replica| (replica.name().to_owned(), protocol(replica).to_owned()))
            .collect();
        if known != wanted {
            return Ok(Some(format!("it knows {known:?} where {wanted:?} run")));
        }
        // By name: while one pod goes and another comes, the number of those served says nothing.
        let here = |replica: &&Replica| replica.pod().node().name() == ztunnel.node().name();
        let enrolled = self.kubelet.all_replicas().filter(here).filter(|replica| self.is_enrolled(replica));
        let expected: BTreeSet<_> = enrolled.map(|replica| replica.name().to_owned()).collect();
        let states = dump["workloadState"].as_object().context("the dump says what is served")?;
        let served: BTreeSet<_> = states.values().map(|state| text(&state["info"], "name")).collect();
        let pending = ztunnel.metrics()?.sum("workload_manager_pending_proxy_count", &[]);
        let settled = served == expected && pending == 0.0;
        Ok((!settled).then(|| format!("it serves {served:?} of {expected:?}, {pending} are pending")))
    }

    fn is_enrolled(&self, replica: &Replica) -> bool {
        let out = self.opted_out.iter().any(|(namespace, name)| {
            namespace == replica.namespace() && replica.name().starts_with(&format!("{name}-"))
        });
        self.ambient.contains(replica.namespace()) && !out && replica.gateway().is_none()
    }

    /// Waits until every replica of a Deployment, named as for [`Mesh::pod`], is ready and both proxies know it.
    ///
    /// # Errors
    /// They are not in time; the error shows the end of the log of one that is not.
    pub fn wait_ready(&self, of: &str) -> Result<()> {
        let (namespace, name) = of.split_once('/').unwrap_or(("shop", of));
        let replicas = self.kubelet.replicas(namespace, name);
        let known = eventually(&format!("{of} to be ready"), SETTLED, || {
            let mut all = replicas.iter().all(Replica::is_ready);
            for ztunnel in &self.ztunnels {
                let dump = ztunnel.config_dump()?;
                let shown = dump["workloads"].as_array().context("the dump has workloads")?;
                let healthy = |replica: &Replica| {
                    shown.iter().any(|it| it["name"] == replica.name() && it["status"] == "Healthy")
                };
                all &= replicas.iter().all(healthy);
            }
            Ok(all)
        });
        known.with_context(|| {
            let unready = replicas.iter().filter(|replica| !replica.is_ready());
            let tails = unready.filter_map(|replica| Some(replica.waypoint_process()?.tail()));
            tails.collect::<Vec<_>>().join("\n")
        })
    }

    /// The kubelet.
    #[must_use]
    pub fn kubelet(&self) -> &Kubelet {
        &self.kubelet
    }

    /// The kubelet, to change what runs. [`Mesh::settle`] waits for the proxies to follow.
    pub fn kubelet_mut(&mut self) -> &mut Kubelet {
        &mut self.kubelet
    }

    /// The directory of manifests.
    #[must_use]
    pub fn manifests(&self) -> &Path {
        self.kubelet.directory()
    }

    /// The proxy of a node, counted from 0.
    #[must_use]
    pub fn ztunnel(&self, node: usize) -> &Ztunnel {
        &self.ztunnels[node]
    }

    /// The proxy of a node, to end it or start it again.
    pub fn ztunnel_mut(&mut self, node: usize) -> &mut Ztunnel {
        &mut self.ztunnels[node]
    }

    /// Both proxies.
    #[must_use]
    pub fn ztunnels(&self) -> &[Ztunnel] {
        &self.ztunnels
    }

    /// A node, counted from 0.
    #[must_use]
    pub fn node(&self, node: usize) -> &Arc<Node> {
        self.cluster.node(node)
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The ear on the wire.
    ///
    /// # Errors
    /// The mesh has been finished.
    pub fn capture(&self) -> Result<&Capture> {
        self.capture.as_ref().context("the capture has ended")
    }

    /// The metrics of both proxies.
    ///
    /// # Errors
    /// One does not answer.
    pub fn metrics(&self) -> Result<Vec<Metrics>> {
        self.ztunnels.iter().map(Ztunnel::metrics).collect()
    }

    /// Lines of both proxies' logs that hold `needle`.
    ///
    /// # Errors
    /// A log cannot be read.
    pub fn log_lines(&self, needle: &str) -> Result<Vec<String>> {
        let lines: Result<Vec<_>> = self.ztunnels.iter().map(|ztunnel| ztunnel.log_lines(needle)).collect();
        Ok(lines?.concat())
    }

    /// Ends the mesh after making sure that the marker was never readable on the wire.
    ///
    /// # Errors
    /// It was, or the capture does not know.
    pub fn finish(mut self) -> Result<()> {
        self.listen_back()
    }

    fn listen_back(&mut self) -> Result<()> {
        let Some(capture) = self.capture.take() else { return Ok(()) };
        if let Some(sighting) = capture.find(&self.marker)? {
            bail!("the marker was readable on the wire: {sighting}");
        }
        ensure!(
            self.log_lines("panicked at")?.is_empty(),
            "a proxy panicked: {:?}",
            self.log_lines("panicked at")?
        );
        Ok(())
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        // A test that failed has said why; a second panic would end the process without cleaning up.
        if !std::thread::panicking()
            && let Err(error) = self.listen_back()
        {
            panic!("{error:#}");
        }
    }
}

/// Waits for a condition.
///
/// # Errors
/// It does not hold in time, or looking at it failed last.
pub fn eventually(what: &str, within: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + within;
    loop {
        let last = holds();
        match last {
            Ok(true) => return Ok(()),
            Ok(false) if Instant::now() >= deadline => bail!("waited {within:?} for {what}"),
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context(format!("waited {within:?} for {what}")));
            }
            _ => std::thread::sleep(LOOK),
        }
    }
}
