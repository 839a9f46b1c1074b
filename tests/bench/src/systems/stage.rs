//! Sets the stage that is the same for every system: two nodes, a client's pod on one, a server's pod on the other, and the
//! server's applications.
//!
//! Knows nothing of proxies. The server listens on a port for each kind of work, since what is done on a connection cannot
//! be told from outside.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
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

use super::{CLIENT, SERVER};

/// The server's ports.
pub mod port {
    /// HTTP/1.1 with small answers.
    pub const HTTP: u16 = 8080;
    /// Sends back what it gets.
    pub const ECHO: u16 = 8081;
    /// Reads and throws away.
    pub const SINK: u16 = 8082;

    /// All of them.
    pub const ALL: [u16; 3] = [HTTP, ECHO, SINK];
}

/// How long an application may take to listen.
const LISTENS_WITHIN: Duration = Duration::from_secs(10);

/// How long a first request through a new system may take, tries included.
const PROVED_WITHIN: Duration = Duration::from_secs(20);

/// Ports for outgoing connections, and their reuse after a second in TIME_WAIT. The defaults last for 28,000 connections a
/// minute, which is a second or two of what is measured here.
const CONNECTION_SYSCTLS: [(&str, &str); 2] =
    [("ipv4/ip_local_port_range", "16384 65535"), ("ipv4/tcp_tw_reuse", "1")];

/// Two pods on two nodes. Fields are dropped in this order: processes, pods, and the cluster last.
#[derive(Debug)]
pub struct Stage {
    applications: Vec<Process>,
    /// The pod of the load generators.
    pub client: Pod,
    /// The pod of the applications.
    pub server: Pod,
    cluster: Cluster,
}

impl Stage {
    /// Makes the cluster, the pods and starts the applications.
    ///
    /// # Errors
    /// Not root, or `ebb-app` is missing.
    pub fn set() -> Result<Self> {
        let cluster = Cluster::two_nodes()?;
        let client = cluster.node(0).add_pod("client")?;
        let server = cluster.node(1).add_pod("server")?;
        for pod in [&client, &server] {
            for (name, value) in CONNECTION_SYSCTLS {
                pod.namespace().sysctl(name, value)?;
            }
        }
        let mut stage = Self { applications: Vec::new(), client, server, cluster };
        for (program, port) in [("http", port::HTTP), ("echo", port::ECHO), ("sink", port::SINK)] {
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
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// A directory that is gone when the run ends.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.cluster.run().directory()
    }

    /// The CPU account of a role.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn role(&self, role: &str) -> Result<Cgroup> {
        self.cluster.run().role(role)
    }

    /// Every address the server listens on.
    #[must_use]
    pub fn servers(&self) -> Vec<SocketAddrV4> {
        port::ALL.map(|port| SocketAddrV4::new(self.address(), port)).into()
    }

    /// Where the server is.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.server.addresses().v4
    }

    /// Starts a load generator in the client's pod.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn generate(&self, arguments: &[String]) -> Result<Process> {
        let name = arguments.first().map_or("load", String::as_str);
        self.client.spawn(Spawn::new(name, binaries::find("ebb-app")?).role(CLIENT).args(arguments.iter().cloned()))
    }

    /// Makes sure that a request gets through, and so that what is made on first use is there.
    ///
    /// # Errors
    /// None got through in time.
    pub fn prove_path(&self) -> Result<()> {
        let server = SocketAddr::from((self.address(), port::HTTP));
        let answered = harness::interrupt::wait_for("answer from the server", PROVED_WITHIN, || {
            let answer = self.client.namespace().http_get(server, "/bytes/1", Duration::from_secs(2));
            Ok(answer.ok().filter(|(status, _)| *status == 200))
        });
        answered.map(drop).context("the client's pod cannot reach the server's")
    }
}
