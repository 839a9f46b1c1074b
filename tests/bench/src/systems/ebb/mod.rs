//! Ebb: a `ztunnel` process on each node, redirection by eBPF, HBONE between the nodes.
//!
//! Run as an operator runs it, with its defaults: log level info, a log line for each connection, metrics, the embedded CA.

mod l7;
mod manifests;

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use harness::{
    cluster::Cluster,
    process::Process,
    ztunnel::{Settings, Ztunnel},
};

pub(crate) use self::l7::EbbL7;
use super::{Candidate, Proxy, Running, Stage, Tools};
use crate::results::Sample;

/// How long a proxy may take to be ready, in the largest mesh.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// The pair of proxies.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ebb {
    /// A directory with an earlier build's `ztunnel` and `ebb-redirect.o`, to be compared with this one.
    pub(crate) before: Option<PathBuf>,
}

/// The name of an earlier build in the report.
pub(crate) const BEFORE: &str = "ebb-before";

impl Ebb {
    fn settings(&self) -> Settings {
        Settings { build: self.before.clone(), ..Settings::default() }
    }
}

impl Candidate for Ebb {
    fn name(&self) -> &'static str {
        if self.before.is_some() { BEFORE } else { "ebb" }
    }

    fn about(&self) -> String {
        "two ztunnel processes with eBPF redirection and their default settings: HBONE over mutual TLS 1.3, P-256 \
         certificates, a log line for each connection"
            .into()
    }

    fn start(&self, _: &Tools) -> Result<Running> {
        let stage = Stage::set()?;
        let nodes = [stage.cluster().node(0), stage.cluster().node(1)];
        let directory = stage.directory().join("manifests");
        manifests::write_small(&directory, nodes.map(AsRef::as_ref), [&stage.client, &stage.server])?;
        let started = nodes.map(|node| Ztunnel::start(node, &directory, self.settings()));
        let mut proxies: Vec<Box<dyn Proxy>> = Vec::new();
        for ztunnel in started {
            let ztunnel = ztunnel?;
            ztunnel.wait_ready(READY_WITHIN)?;
            proxies.push(Box::new(ztunnel));
        }
        Ok(Running { proxies, router: None, stage })
    }

    fn start_in_large_mesh(&self, workloads: u32) -> Result<Option<Sample>> {
        let cluster = Cluster::start(1)?;
        let node = cluster.node(0);
        let directory = cluster.run().directory().join("manifests");
        manifests::write_large(&directory, node, workloads)?;
        let started = Instant::now();
        let ztunnel = Ztunnel::start(node, &directory, self.settings())?;
        ztunnel.wait_ready(READY_WITHIN)?;
        let took = started.elapsed();
        // Before anything is asked of it, since to answer costs memory too.
        let peak = peak_resident(ztunnel.process())?;
        let dump = ztunnel.config_dump()?;
        let known = dump["workloads"].as_array().map_or(0, Vec::len);
        ensure!(known >= workloads as usize, "it was ready with {known} of {workloads} workloads");
        Ok(Some(Sample::from([("ready.seconds", took.as_secs_f64()), ("ready.peak", peak as f64 / 1e6)])))
    }
}

impl Proxy for Ztunnel {
    fn process(&self) -> &Process {
        self.process()
    }

    fn has_encrypted(&self) -> Result<bool> {
        let encrypted = [("connection_security_policy", "mutual_tls")];
        Ok(self.metrics()?.sum("istio_tcp_connections_opened_total", &encrypted) > 0.0)
    }
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
}
