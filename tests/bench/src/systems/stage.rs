//! Sets the stage that is the same for every system: two nodes, a client's pod on one, a server's pod on the other, and the
//! server's applications.
//!
//! Knows nothing of proxies. The server listens on a port for each kind of work, since what is done on a connection cannot
//! be told from outside.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result};
use harness::{
    binaries,
    cgroup::Cgroup,
    cluster::{Cluster, Pod},
    process::{Process, Spawn},
};

use super::{CLIENT, SERVER, request};

/// The server's ports.
pub(crate) mod port {
    /// HTTP/1.1 with small answers.
    pub(crate) const HTTP: u16 = 8080;
    /// Sends back what it gets.
    pub(crate) const ECHO: u16 = 8081;
    /// Reads and throws away.
    pub(crate) const SINK: u16 = 8082;

    /// All of them.
    pub(crate) const ALL: [u16; 3] = [HTTP, ECHO, SINK];
}

/// How long one try may take.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// How long an application may take to listen.
const LISTENS_WITHIN: Duration = Duration::from_secs(10);

/// Ports for outgoing connections, and their reuse after a second in TIME_WAIT. The defaults last for 28,000 connections a
/// minute, which is a second or two of what is measured here.
const CONNECTION_SYSCTLS: [(&str, &str); 2] =
    [("ipv4/ip_local_port_range", "16384 65535"), ("ipv4/tcp_tw_reuse", "1")];

/// Where the pods are, and how many more clients there are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Layout {
    /// Both pods on the first node, instead of the server's on the second.
    pub(crate) one_node: bool,
    /// Further pods of clients beside the first.
    pub(crate) strangers: u32,
}

/// Two pods on two nodes, or on one. Fields are dropped in this order: processes, pods, and the cluster last.
#[derive(Debug)]
pub(crate) struct Stage {
    applications: Vec<Process>,
    /// The pod of the load generators.
    pub(crate) client: Pod,
    /// The pod of the applications.
    pub(crate) server: Pod,
    /// Pods of clients that have called nobody yet.
    pub(crate) strangers: Vec<Pod>,
    /// Where clients call the server, if not at its own address.
    front: Option<Ipv4Addr>,
    cluster: Cluster,
}

impl Stage {
    /// Makes the cluster, the pods and starts the applications.
    ///
    /// # Errors
    /// Not root, or `ebb-app` is missing.
    pub(crate) fn set(layout: Layout) -> Result<Self> {
        let cluster = Cluster::two_nodes()?;
        let client = cluster.node(0).add_pod(CLIENT)?;
        let server = cluster.node(usize::from(!layout.one_node)).add_pod(SERVER)?;
        let stranger = |number| cluster.node(0).add_pod(&format!("stranger-{number}"));
        let strangers = (0..layout.strangers).map(stranger).collect::<Result<Vec<_>>>()?;
        for pod in [&client, &server] {
            for (name, value) in CONNECTION_SYSCTLS {
                pod.namespace().sysctl(name, value)?;
            }
        }
        let mut stage = Self { applications: Vec::new(), client, server, strangers, front: None, cluster };
        for (program, port) in [("http", port::HTTP), ("tcp-echo", port::ECHO), ("tcp-sink", port::SINK)] {
            let application = Spawn::new(program, binaries::find("ebb-app")?)
                .role(SERVER)
                .args([program, "--port"])
                .args([port.to_string()]);
            let process = stage.server.spawn(application)?;
            process.wait_for_log("ready:", LISTENS_WITHIN)?;
            stage.applications.push(process);
        }
        Ok(stage)
    }

    /// The cluster.
    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// A directory that is gone when the run ends.
    #[must_use]
    pub(crate) fn directory(&self) -> &Path {
        self.cluster.run().directory()
    }

    /// The CPU account of a role.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn role(&self, role: &str) -> Result<Cgroup> {
        self.cluster.run().role(role)
    }

    /// Every address the server listens on.
    #[must_use]
    pub(crate) fn servers(&self) -> Vec<SocketAddrV4> {
        port::ALL.map(|port| SocketAddrV4::new(self.address(), port)).into()
    }

    /// Where the server is.
    #[must_use]
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.server.addresses().v4
    }

    /// Starts a load generator in the client's pod. It has a pipe to read from, whose end tells `hold` to let go.
    ///
    /// # Errors
    /// It cannot be run.
    pub(crate) fn generate(&self, arguments: &[&str]) -> Result<Process> {
        let name = arguments.first().copied().unwrap_or("generator");
        let generator = Spawn::new(name, binaries::find("ebb-app")?).role(CLIENT).with_input();
        self.client.spawn(generator.args(arguments))
    }

    /// The same in the pod of a client that has called nobody yet.
    ///
    /// # Errors
    /// There is no such client, or it cannot be run.
    pub(crate) fn generate_as(&self, stranger: usize, arguments: &[&str]) -> Result<Process> {
        let pod = self.strangers.get(stranger).context("no such client")?;
        pod.spawn(Spawn::new("stranger", binaries::find("ebb-app")?).role(CLIENT).args(arguments))
    }

    /// How many clients have called nobody yet.
    #[must_use]
    pub(crate) fn strangers(&self) -> usize {
        self.strangers.len()
    }

    /// Where clients call the server's port, as text.
    pub(crate) fn target(&self, port: u16) -> String {
        self.at(port).to_string()
    }

    /// From now on clients call the server at `front`, as at a service's address or through a proxy that stands before it.
    pub(crate) fn call_at(&mut self, front: Ipv4Addr) {
        self.front = Some(front);
    }

    /// Where clients call the server's HTTP.
    #[must_use]
    pub(crate) fn called(&self) -> SocketAddrV4 {
        self.at(port::HTTP)
    }

    fn at(&self, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(self.front.unwrap_or(self.address()), port)
    }

    /// The congestion control of the client's connections.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub(crate) fn congestion_control(&self) -> Result<String> {
        self.client.namespace().within(|| {
            let text = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control");
            Ok(text.context("read the congestion control")?.trim().to_owned())
        })
    }

    /// The address of a small answer.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/bytes/64", self.called())
    }

    /// Whether a request from the client's pod is answered.
    pub(crate) fn answers(&self) -> bool {
        request::status(self.client.namespace(), self.called().into(), "/bytes/1", ANSWERS_WITHIN)
            .is_ok_and(|status| status == 200)
    }
}
