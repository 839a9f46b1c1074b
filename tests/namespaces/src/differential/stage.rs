//! A mesh with a waypoint, an Envoy beside it, and the pods behind both.

use std::{
    io::{BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use harness::{
    cluster::Pod,
    netns::Namespace,
    process::{Process, Spawn},
};

use super::{
    backend::{self, Book, KEY},
    envoy::{self, ADMIN},
    istio,
    outcome::Outcome,
    tables::{Request, Table},
    wire::Message,
};
use crate::{
    app::{App, gateway},
    mesh::{Mesh, SETTLED, eventually},
    peer::{SOON, Server},
};

/// The pods behind both, and the version of each: of one pod, of another, of four.
const BACKENDS: [(&str, &str); 6] =
    [("one", "v1"), ("two", "v2"), ("three", "v3"), ("four", "v3"), ("five", "v3"), ("six", "v3")];

/// Where they serve; port 8082 has nobody.
const PORTS: [u16; 2] = [8080, 8081];

/// A file of manifests holds no more than a thousand documents.
const TABLES_PER_FILE: usize = 200;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(8);

/// Everything that tables are asked through.
pub struct Stage {
    mesh: Mesh,
    envoy: Process,
    book: Book,
    _servers: Vec<Server>,
}

/// Which proxy a request goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    /// The client's ztunnel and the waypoint.
    Ebb,
    /// Envoy.
    Envoy,
}

impl Stage {
    /// Both proxies with these tables.
    ///
    /// # Errors
    /// One does not start, or does not take its configuration.
    pub fn set(tables: &[Table], program: &Path) -> Result<Self> {
        let mut mesh = Mesh::start()?;
        for (number, some) in tables.chunks(TABLES_PER_FILE).enumerate() {
            let documents: Vec<String> =
                some.iter().flat_map(istio::manifests).map(|it| it.to_string()).collect();
            mesh.apply(&format!("20-tables-{number:03}.yaml"), &documents.join("\n---\n"))?;
        }
        mesh.apply("40-gateway.yaml", &gateway("wp", "service"))?;
        let backend = |(at, (name, version)): (usize, &(&str, &str))| {
            let labelled = App::new(name).on(at % 2).label("part-of", "backend").label("version", version);
            labelled.label("istio.io/dataplane-mode", "none")
        };
        let backends: Vec<App> = BACKENDS.iter().enumerate().map(backend).collect();
        mesh.run(&backends)?;
        mesh.run(&[App::new("client"), App::new("wp").waypoint("wp").account("waypoint").on(1)])?;
        mesh.run(&[App::new("envoy").of("outside").on(1)])?;
        let book = Book::default();
        let mut servers = Vec::new();
        let mut endpoints = Vec::new();
        for (name, version) in BACKENDS {
            let pod = mesh.pod(name)?;
            endpoints.push((version.to_owned(), pod.addresses().v4));
            for port in PORTS {
                servers.push(backend::serve(pod, name, port, &book)?);
            }
        }
        let config = mesh.cluster().run().directory().join("envoy.json");
        std::fs::write(&config, envoy::configuration(tables, &endpoints).to_string())
            .with_context(|| format!("write {}", config.display()))?;
        let envoy = start_envoy(mesh.pod("outside/envoy")?, program, config)?;
        mesh.wait_ready("wp")?;
        let stage = Self { mesh, envoy, book, _servers: servers };
        stage.wait(tables)?;
        Ok(stage)
    }

    /// Waits until the last table is in force, which was applied together with all others.
    fn wait(&self, tables: &[Table]) -> Result<()> {
        let last = tables.last().context("no tables")?;
        let request = last.requests.first().context("a table without requests")?;
        eventually("the tables to be in force", SETTLED, || {
            Asker::new(self).ask(last, request, Through::Ebb, "first")?;
            let _ = self.book.take("first");
            Ok(true)
        })
    }

    /// The end of each proxy's log.
    #[must_use]
    pub fn tails(&self) -> String {
        let waypoint = self.mesh.replica("wp").ok().and_then(|it| it.waypoint_process());
        let waypoint = waypoint.map(|it| it.tail()).unwrap_or_default();
        format!("{}\n{waypoint}", self.envoy.tail())
    }

    /// Ends the mesh, which looks back at what it did.
    ///
    /// # Errors
    /// A proxy panicked.
    pub fn finish(self) -> Result<()> {
        ensure!(self.envoy.is_alive(), "Envoy has ended: {}", self.envoy.tail());
        self.mesh.finish()
    }

    fn client(&self) -> Result<&Namespace> {
        Ok(self.mesh.pod("client")?.namespace())
    }

    fn entrance(&self, table: &Table, port: u16, through: Through) -> Result<SocketAddr> {
        Ok(match through {
            Through::Ebb => {
                let address: Ipv4Addr = istio::address(table.number).parse()?;
                SocketAddr::from((address, port))
            }
            Through::Envoy => {
                envoy::entrance(self.mesh.pod("outside/envoy")?.addresses().v4, table.number, port)
            }
        })
    }
}

fn start_envoy(pod: &Pod, program: &Path, config: PathBuf) -> Result<Process> {
    let envoy = Spawn::new("envoy", program)
        .args(["--disable-hot-restart", "--log-level", "warning", "--concurrency", "1", "--config-path"])
        .args([config]);
    let process = pod.spawn(envoy)?;
    eventually("Envoy to be live", SETTLED, || {
        ensure!(process.is_alive(), "it has ended");
        let mut stream = pod.namespace().connect(([127, 0, 0, 1], ADMIN).into(), SOON)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.write_all(b"GET /ready HTTP/1.1\r\nHost: admin\r\n\r\n")?;
        let answer = Message::read(&mut BufReader::new(stream), false)?.context("no answer")?;
        Ok(answer.status()? == 200)
    })
    .with_context(|| process.tail())?;
    Ok(process)
}

/// Asks through both proxies, on connections that go on from request to request.
pub struct Asker<'s> {
    stage: &'s Stage,
    open: Vec<(SocketAddr, BufReader<TcpStream>)>,
}

impl<'s> Asker<'s> {
    /// Without a connection yet.
    #[must_use]
    pub fn new(stage: &'s Stage) -> Self {
        Self { stage, open: Vec::new() }
    }

    /// Lets go of the connections to a table.
    pub fn forget(&mut self) {
        self.open.clear();
    }

    /// Asks one request of a table, known by its key.
    ///
    /// # Errors
    /// There is no answer.
    pub fn ask(&mut self, table: &Table, request: &Request, through: Through, key: &str) -> Result<Outcome> {
        let to = self.stage.entrance(table, request.port, through)?;
        let open = self.open.iter().position(|(it, _)| *it == to).map(|at| self.open.swap_remove(at).1);
        let mut connection = match open {
            Some(connection) => connection,
            None => {
                let stream = self.stage.client()?.connect(to, SOON)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(ANSWER))?;
                BufReader::new(stream)
            }
        };
        connection.get_mut().write_all(&written(request, key))?;
        let answer = Message::read(&mut connection, request.method == "HEAD")?;
        let answer = answer.context("the connection ended without an answer")?;
        if !answer.is_last() {
            self.open.push((to, connection));
        }
        Ok(Outcome::new(request, answer.status()?, &answer, self.stage.book.take(key)))
    }
}

/// A request's bytes.
fn written(request: &Request, key: &str) -> Vec<u8> {
    let mut text = format!(
        "{} {} HTTP/1.1\r\nHost: {}\r\n{KEY}: {key}\r\n",
        request.method, request.target, request.authority
    );
    for (name, value) in &request.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(body) = request.body {
        text.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    text.push_str(request.body.unwrap_or_default());
    text.into_bytes()
}
