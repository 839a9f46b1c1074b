//! Systems that a file describes, so that others can be compared without a line of code here.
//!
//! Certificates are made for each run, of the kind the other systems use, whether the file asks for them or not.

mod description;

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use harness::{
    binaries,
    cluster::Pod,
    interrupt::wait_for,
    process::{Process, Spawn},
};

use self::description::{Call, Description, Place, fill};
use super::{Candidate, Layout, Running, Stage, Tools, certificates::Authority, install, port, redirect};
use crate::layer::Layer;

/// How long a proxy may take to listen.
const LISTENS_WITHIN: Duration = Duration::from_secs(20);

/// How long one connection may take that looks whether it does.
const TRY: Duration = Duration::from_millis(500);

/// A system that a file describes, in one comparison.
#[derive(Clone, Debug)]
pub(crate) struct Described {
    layer: Layer,
    description: Description,
}

/// Those of `paths`, files or directories of them, that take part in `layer`; in order of their files' names.
///
/// # Errors
/// A file cannot be read or describes nothing that could be run.
pub(crate) fn of(layer: Layer, paths: &[PathBuf]) -> Result<Vec<Described>> {
    let mut found = Vec::new();
    for path in paths {
        let mut files = if path.is_dir() { toml_files(path)? } else { vec![path.clone()] };
        files.sort();
        for file in files {
            let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
            let description = Description::parse(&text).with_context(|| file.display().to_string())?;
            if description.layers.contains(&layer) {
                found.push(Described { layer, description });
            }
        }
    }
    Ok(found)
}

fn toml_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    Ok(paths.into_iter().filter(|path| path.extension().is_some_and(|end| end == "toml")).collect())
}

impl Described {
    fn program(&self) -> Result<PathBuf> {
        let program = &self.description.program;
        if program.built {
            return binaries::find(&program.name);
        }
        install::program(&program.name, &program.packages)
    }

    /// What the placeholders stand for; the certificates are written to the run's directory.
    fn values(&self, stage: &Stage, between: Option<&Pod>) -> Result<BTreeMap<&'static str, String>> {
        let directory = stage.directory();
        let mut values = BTreeMap::from([
            ("program", text(&self.program()?)?),
            ("directory", text(directory)?),
            ("client", stage.client.addresses().v4.to_string()),
            ("server", stage.address().to_string()),
            ("http", port::HTTP.to_string()),
            ("echo", port::ECHO.to_string()),
            ("sink", port::SINK.to_string()),
            ("group", redirect::GROUP.to_string()),
        ]);
        values.extend(between.map(|pod| ("between", pod.addresses().v4.to_string())));
        let authority = Authority::new()?;
        let mut keep = |placeholder, name: &str, content: &str| -> Result<()> {
            let path = directory.join(name);
            fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
            values.insert(placeholder, text(&path)?);
            Ok(())
        };
        keep("authority", "authority.pem", &authority.pem())?;
        for (account, chain, key, both) in [
            ("client", "client_chain", "client_key", "client_pem"),
            ("server", "server_chain", "server_key", "server_pem"),
        ] {
            let identity = authority.identity(account)?;
            keep(chain, &format!("{account}-chain.pem"), &identity.chain)?;
            keep(key, &format!("{account}-key.pem"), &identity.key)?;
            keep(both, &format!("{account}.pem"), &(identity.chain + &identity.key))?;
        }
        Ok(values)
    }
}

impl Candidate for Described {
    fn name(&self) -> &str {
        &self.description.name
    }

    fn about(&self) -> String {
        self.description.about.trim().to_owned()
    }

    fn version(&self, _: &Tools) -> String {
        let told = self.program().and_then(|program| {
            Ok(Command::new(program).args(&self.description.program.version).output()?)
        });
        let Some(output) = told.ok().filter(|_| !self.description.program.version.is_empty()) else {
            return String::new();
        };
        // Some tell it where errors go.
        let both = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&both).lines().next().unwrap_or_default().trim().to_owned()
    }

    fn yardstick(&self) -> bool {
        self.description.yardstick
    }

    fn limit(&self) -> bool {
        self.description.limit
    }

    fn on_demand(&self) -> bool {
        self.description.on_demand
    }

    fn start(&self, _: &Tools) -> Result<Running> {
        let stage = Stage::set(Layout { one_node: self.layer.is_one_node(), strangers: 0 })?;
        let mut running = Running::without_proxies(stage);
        if self.description.has_between() {
            let node = running.stage.server.node().clone();
            running.pods.push(node.add_pod("between")?);
        }
        let values = self.values(&running.stage, running.pods.first())?;
        for file in &self.description.file {
            let path = running.stage.directory().join(&file.name);
            fs::write(&path, fill(&file.text, &values)?)
                .with_context(|| format!("write {}", path.display()))?;
        }
        for (number, proxy) in self.description.proxy.iter().enumerate() {
            let pod = pod(&running, proxy.pod)?;
            let words =
                proxy.command.iter().map(|word| fill(word, &values)).collect::<Result<Vec<String>>>()?;
            let process = spawn(pod, &proxy.name, &words, proxy.ready_port)?;
            running.proxies.push(Box::new(process));
            if proxy.router {
                running.router = Some(number);
            }
        }
        for redirect in &self.description.redirect {
            redirect::apply(pod(&running, redirect.pod)?.namespace(), &fill(&redirect.rules, &values)?)?;
        }
        let front = match self.description.call {
            Call::Server => None,
            Call::Between => Some(pod(&running, Place::Between)?),
            Call::Client => Some(&running.stage.client),
        };
        if let Some(front) = front.map(|pod| pod.addresses().v4) {
            running.stage.call_at(front);
        }
        Ok(running)
    }
}

fn pod(running: &Running, place: Place) -> Result<&Pod> {
    match place {
        Place::Client => Ok(&running.stage.client),
        Place::Server => Ok(&running.stage.server),
        Place::Between => running.pods.first().context("there is no pod between"),
    }
}

/// Starts one process and waits until it listens.
fn spawn(pod: &Pod, name: &str, words: &[String], ready_port: u16) -> Result<Process> {
    let (program, arguments) = words.split_first().context("a command has a first word")?;
    let process = pod.spawn(Spawn::new(name, program).role(name).args(arguments))?;
    let listens = wait_for(&format!("{name} on port {ready_port}"), LISTENS_WITHIN, || {
        ensure!(process.is_alive(), "{name} ended");
        let address = SocketAddr::from(([127, 0, 0, 1], ready_port));
        Ok(pod.namespace().connect(address, TRY).ok().map(drop))
    });
    listens.with_context(|| process.tail())?;
    Ok(process)
}

fn text(path: &Path) -> Result<String> {
    Ok(path.to_str().context("the path of a run is text")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/benchmarks/systems")
    }

    #[test]
    fn the_systems_that_come_with_ebb_can_be_read() {
        let hops = of(Layer::Hop, &[committed()]).unwrap();
        let names: Vec<&str> = hops.iter().map(Candidate::name).collect();
        assert_eq!(names, ["haproxy", "nginx"]);
        assert!(hops.iter().all(|hop| !hop.on_demand() && hop.description.proxy[0].router));
        let pairs = of(Layer::L4, &[committed()]).unwrap();
        let pairs: Vec<_> = pairs.iter().map(|pair| (pair.name(), pair.on_demand(), pair.limit())).collect();
        let expected = [("bare-tcp", false, true), ("bare-tls", false, true), ("haproxy-pair", true, false)];
        assert_eq!(pairs, expected);
        for layer in [Layer::SameNode, Layer::Passthrough] {
            let near = of(layer, &[committed()]).unwrap();
            assert_eq!(near.iter().map(Candidate::name).collect::<Vec<_>>(), ["bare-tcp"], "{layer}");
            assert_eq!(near[0].description.proxy.len(), 1, "one process is all that {layer} needs");
        }
        let rows = of(Layer::L7, &[committed()]).unwrap();
        assert_eq!(rows.iter().map(Candidate::name).collect::<Vec<_>>(), ["bare-tcp", "bare-tls"]);
        for row in rows {
            let places: Vec<_> = row.description.proxy.iter().map(|proxy| proxy.pod).collect();
            assert_eq!(places, [Place::Server, Place::Between, Place::Client], "as many as Ebb has there");
            assert!(row.limit() && row.description.proxy[1].router);
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let error = format!("{:#}", of(Layer::L4, &["/nowhere.toml".into()]).unwrap_err());
        assert!(error.contains("/nowhere.toml"), "{error}");
    }
}
