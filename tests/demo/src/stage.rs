//! The world that the scenes play in: two nodes, the pods of the example, a ztunnel on each node, and an eye on the wire.
//!
//! Knows no scene. The example's manifests are part of the program, so that it shows what it was built with; only the label
//! that enrols the namespace is taken off at first, because putting it there is a scene.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use harness::{
    cluster::{Cluster, Pod},
    interrupt,
    kubelet::{Kubelet, Replica},
    run::ProcessId,
    wire::Capture,
    ztunnel::{Settings, Ztunnel},
};

use crate::{
    http,
    sight::{SERVER_PORT, Sight},
};

/// The namespace that joins the mesh.
pub(crate) const SHOP: &str = "shop";

/// What enrols it.
pub(crate) const LABEL: &str = "istio.io/dataplane-mode";

/// The label's value.
pub(crate) const AMBIENT: &str = "ambient";

/// The caller that belongs to the shop, on the first node.
pub(crate) const CLIENT: Name = Name(SHOP, "client");

/// Another account of the same namespace, on the first node.
pub(crate) const INTRUDER: Name = Name(SHOP, "intruder");

/// The service's first version, on the first node.
pub(crate) const WEB_V1: Name = Name(SHOP, "web-v1");

/// Its second version, on the second node.
pub(crate) const WEB_V2: Name = Name(SHOP, "web-v2");

/// A pod of a namespace that is never enrolled, on the second node.
pub(crate) const OUTSIDE: Name = Name("outside", "outside");

/// How long one ordinary call may take.
pub(crate) const CALL: Duration = Duration::from_secs(3);

/// How long a change of manifests may take to be in force.
pub(crate) const CHANGE: Duration = Duration::from_secs(8);

/// How long a ztunnel may take from its start until it is ready.
pub(crate) const READY: Duration = Duration::from_secs(15);

/// The manifests in the order in which a user would apply them.
const EXAMPLE: [(&str, &str); 4] = [
    ("10-namespaces.yaml", include_str!("../../../deploy/examples/two-nodes/10-namespaces.yaml")),
    ("20-accounts.yaml", include_str!("../../../deploy/examples/two-nodes/20-accounts.yaml")),
    ("30-web.yaml", include_str!("../../../deploy/examples/two-nodes/30-web.yaml")),
    ("40-callers.yaml", include_str!("../../../deploy/examples/two-nodes/40-callers.yaml")),
];

/// A Deployment of one replica by namespace and name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Name(pub(crate) &'static str, pub(crate) &'static str);

/// The pods, proxies and wire of the demo.
#[derive(Debug)]
pub(crate) struct Stage {
    // None until somebody looks.
    capture: Option<Capture>,
    /// The pods by their manifests.
    pub(crate) kubelet: Kubelet,
    /// The proxies in the order of the nodes.
    pub(crate) ztunnels: Vec<Ztunnel>,
    // Last, so that everything above is gone when the namespaces go.
    cluster: Cluster,
}

impl Stage {
    /// Builds everything, with no namespace enrolled, and waits until both proxies are ready.
    ///
    /// # Errors
    /// `refused: ...` without root; otherwise what could not be started.
    pub(crate) fn build() -> Result<Self> {
        let cluster = Cluster::two_nodes()?;
        let mut kubelet = Kubelet::start(&cluster)?;
        for (file, yaml) in EXAMPLE {
            kubelet.apply(file, yaml)?;
        }
        kubelet.label_namespace(SHOP, LABEL, None)?;
        let start = |node| Ztunnel::start(node, kubelet.directory(), Settings::default());
        let ztunnels = cluster.nodes().iter().map(start).collect::<Result<Vec<_>>>()?;
        ztunnels.iter().try_for_each(|ztunnel| ztunnel.wait_ready(READY))?;
        Ok(Self { capture: None, kubelet, ztunnels, cluster })
    }

    /// The cluster beneath it all.
    #[must_use]
    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Begins to watch the wire, or forgets what was seen of it so far.
    ///
    /// # Errors
    /// The capture cannot be started, or lost packets.
    pub(crate) fn watch_wire(&mut self) -> Result<()> {
        match &mut self.capture {
            Some(capture) => capture.forget(),
            empty => {
                *empty = Some(Capture::start(&self.cluster)?);
                Ok(())
            }
        }
    }

    /// What the wire showed of `marker`, and of everything else, since [`Stage::watch_wire`].
    ///
    /// # Errors
    /// Nobody watches, or the capture lost packets and so answers nothing.
    pub(crate) fn sight(&self, marker: &str) -> Result<Sight> {
        Sight::of(self.capture.as_ref().context("nobody watches the wire")?, marker)
    }

    /// Watches no more, which costs the machine something.
    pub(crate) fn leave_wire(&mut self) {
        self.capture = None;
    }

    /// The replica of a Deployment.
    ///
    /// # Errors
    /// It has none.
    pub(crate) fn replica(&self, name: Name) -> Result<&Replica> {
        self.kubelet.replica(name.0, name.1)
    }

    /// The pod of a Deployment.
    ///
    /// # Errors
    /// It has none.
    pub(crate) fn pod(&self, name: Name) -> Result<&Pod> {
        Ok(self.replica(name)?.pod())
    }

    /// Where a pod serves.
    ///
    /// # Errors
    /// There is no such pod.
    pub(crate) fn server(&self, name: Name) -> Result<SocketAddr> {
        Ok((self.pod(name)?.addresses().v4, SERVER_PORT).into())
    }

    /// The address of a pod.
    ///
    /// # Errors
    /// There is no such pod.
    pub(crate) fn address(&self, name: Name) -> Result<IpAddr> {
        Ok(self.pod(name)?.addresses().v4.into())
    }

    /// One call from a pod to a server's pod.
    ///
    /// # Errors
    /// No answer came; that is a result for the scenes that expect it.
    pub(crate) fn call(&self, from: Name, to: Name, path: &str) -> Result<http::Reply> {
        http::get(self.pod(from)?, self.server(to)?, path, CALL)
    }

    /// The application of every pod as a process.
    ///
    /// # Errors
    /// One is gone.
    pub(crate) fn applications(&self) -> Result<Vec<Application>> {
        let mut found = Vec::new();
        for replica in self.kubelet.all_replicas() {
            for process in replica.processes() {
                let id = ProcessId::of(process.pid()).filter(|id| id.is_alive());
                let gone = || format!("the application of {} is gone", replica.name());
                found.push(Application { pod: replica.name().to_owned(), id: id.with_context(gone)? });
            }
        }
        Ok(found)
    }

    /// Applies a manifest as `kubectl apply` would, and says when.
    ///
    /// # Errors
    /// It does not parse, or cannot be written.
    pub(crate) fn apply(&mut self, file: &str, yaml: &str) -> Result<Instant> {
        let now = Instant::now();
        self.kubelet.apply(file, yaml).map(|()| now)
    }
}

/// An application's process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Application {
    /// The pod it runs in.
    pub(crate) pod: String,
    /// Which process, and when it was started.
    pub(crate) id: ProcessId,
}

/// Text that nothing else on the wire contains, with a word in front.
///
/// # Errors
/// The kernel gives no random text.
pub(crate) fn marker(word: &str) -> Result<String> {
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").context("read a random uuid")?;
    let (short, _) = uuid.split_at_checked(13).context("a uuid has 36 characters")?;
    Ok(format!("{word}-{short}"))
}

/// Waits, unless the user interrupts.
///
/// # Errors
/// The user did.
pub(crate) fn pause(length: Duration) -> Result<()> {
    let end = Instant::now() + length;
    let over = || Ok((Instant::now() >= end).then_some(()));
    interrupt::wait_for("end of a pause", length + Duration::from_secs(1), over)
}
