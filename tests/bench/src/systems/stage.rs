//! Sets the stage that is the same for every system: two nodes, a client's pod on one, a server's pod on the other, and the
//! server's applications.
//!
//! Knows nothing of proxies. The server listens on a port for each kind of work, since what is done on a connection cannot
//! be told from outside.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    path::Path,
    time::Duration,
};

use anyhow::Result;
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

/// Two pods on two nodes. Fields are dropped in this order: processes, pods, and the cluster last.
#[derive(Debug)]
pub(crate) struct Stage {
    applications: Vec<Process>,
    /// The pod of the load generators.
    pub(crate) client: Pod,
    /// The pod of the applications.
    pub(crate) server: Pod,
    /// Where clients call the server, if not at its own address.
    front: Option<SocketAddrV4>,
    cluster: Cluster,
}

impl Stage {
    /// Makes the cluster, the pods and starts the applications.
    ///
    /// # Errors
    /// Not root, or `ebb-app` is missing.
    pub(crate) fn set() -> Result<Self> {
        let cluster = Cluster::two_nodes()?;
        let client = cluster.node(0).add_pod("client")?;
        let server = cluster.node(1).add_pod("server")?;
        for pod in [&client, &server] {
            for (name, value) in CONNECTION_SYSCTLS {
                pod.namespace().sysctl(name, value)?;
            }
        }
        let mut stage = Self { applications: Vec::new(), client, server, front: None, cluster };
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

    /// The server's port as an address.
    pub(crate) fn target(&self, port: u16) -> String {
        SocketAddrV4::new(self.address(), port).to_string()
    }

    /// From now on clients call the server's HTTP at `front`, as at a service's address.
    pub(crate) fn call_at(&mut self, front: SocketAddrV4) {
        self.front = Some(front);
    }

    /// Where clients call the server's HTTP.
    #[must_use]
    pub(crate) fn called(&self) -> SocketAddrV4 {
        self.front.unwrap_or(SocketAddrV4::new(self.address(), port::HTTP))
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
