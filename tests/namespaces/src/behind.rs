//! A server behind a waypoint: `client` and `neighbour` on the first node, `server` on the second, the waypoint between.
//!
//! What runs in the server is the test's business. The service `server` has a port for each protocol, so that each is
//! declared as itself.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use harness::{
    binaries,
    cluster::Pod,
    process::{Process, Spawn},
};
use serde::de::DeserializeOwned;

use crate::{
    app::{App, gateway},
    mesh::{Mesh, SETTLED, eventually},
    peer::SOON,
};

/// A port of the service, and of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Declared as HTTP.
    Http = 8080,
    /// Declared as gRPC.
    Grpc = 8081,
    /// Declared as TCP.
    Tcp = 8082,
    /// Declared as nothing.
    Undeclared = 8083,
    /// A second one for HTTP.
    OtherHttp = 8084,
}

/// The mesh, with everything in it but the servers.
#[derive(Debug)]
pub struct Behind {
    /// The mesh.
    pub mesh: Mesh,
}

impl Behind {
    /// Builds it and waits until the waypoint is ready and in force.
    ///
    /// # Errors
    /// Anything of it could not be started.
    pub fn build() -> Result<Self> {
        let mut mesh = Mesh::start()?;
        mesh.apply("40-gateway.yaml", &gateway("wp", "service"))?;
        mesh.apply("41-service.yaml", SERVICE)?;
        mesh.run(&[App::new("client"), App::new("neighbour"), App::new("server").on(1)])?;
        mesh.run(&[App::new("wp").waypoint("wp").account("waypoint")])?;
        mesh.wait_ready("wp")?;
        Ok(Self { mesh })
    }

    /// A port of the service.
    #[must_use]
    pub fn at(port: Port) -> SocketAddr {
        SocketAddr::new(IpAddr::from([10, 96, 0, 10]), port as u16)
    }

    /// A pod.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn pod(&self, name: &str) -> Result<&Pod> {
        self.mesh.pod(name)
    }

    /// Starts `ebb-app` in the server with these arguments and waits until it serves.
    ///
    /// # Errors
    /// It does not.
    pub fn serve(&self, arguments: &[&str]) -> Result<Process> {
        let what = Spawn::new(arguments.join("-"), binaries::find("ebb-app")?).args(arguments);
        let process = self.pod("server")?.spawn(what)?;
        process.wait_for_log("ready:", SOON)?;
        Ok(process)
    }

    /// Starts `ebb-app` in the client.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn start(&self, arguments: &[&str]) -> Result<Process> {
        let what = Spawn::new(arguments.first().copied().unwrap_or("app"), binaries::find("ebb-app")?);
        self.pod("client")?.spawn(what.args(arguments))
    }

    /// Runs `ebb-app` in the client to its end, whatever its success, and reads what it prints.
    ///
    /// # Errors
    /// It prints nothing.
    pub fn report<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let process = self.start(arguments)?;
        process.wait(SOON * 4)?;
        let line = process.stdout()?;
        serde_json::from_str(&line).with_context(|| format!("{arguments:?}: {}", process.tail()))
    }

    /// The waypoint's program.
    ///
    /// # Errors
    /// There is none.
    pub fn waypoint(&self) -> Result<Arc<Process>> {
        self.mesh.replica("wp")?.waypoint_process().context("a waypoint has a program")
    }

    /// Waits for a line of the waypoint's output in which each of `words` stands.
    ///
    /// # Errors
    /// None comes.
    pub fn logged(&self, words: &[&str]) -> Result<String> {
        let mut found = None;
        let waypoint = self.waypoint()?;
        let first = words.first().copied().unwrap_or_default();
        let seen = eventually(&format!("a line with {words:?}"), SETTLED, || {
            let lines = waypoint.log_lines(first)?;
            found = lines.into_iter().find(|line| words.iter().all(|word| line.contains(word)));
            Ok(found.is_some())
        });
        seen.with_context(|| waypoint.tail())?;
        found.context("a line that was found")
    }
}

const SERVICE: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: server, namespace: shop, labels: {istio.io/use-waypoint: wp}}
spec:
  clusterIP: 10.96.0.10
  selector: {app: server}
  ports:
    - {name: http, port: 8080}
    - {name: grpc, port: 8081}
    - {name: tcp, port: 8082}
    - {name: whatever, port: 8083}
    - {name: http-other, port: 8084}
"#;
