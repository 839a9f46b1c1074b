//! A cluster by hand: `ebb-rig up` makes one from manifests and keeps it until Ctrl-C, `ebb-rig clean` removes what crashed
//! runs left behind.
//!
//! While it is up, `nsenter --net=/run/netns/NAME` looks around in it.

#![forbid(unsafe_code)]

use std::{path::PathBuf, process::ExitCode, thread, time::Duration};

use anyhow::Result;
use clap::{Parser, Subcommand};
use harness::{cluster::Cluster, interrupt, kubelet::Kubelet, run};

#[derive(Parser)]
#[command(version, about = "Clusters of network namespaces, by hand")]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make a cluster and keep it until Ctrl-C
    Up {
        /// Nodes
        #[arg(long, default_value_t = 2)]
        nodes: u8,
        /// Manifest files or directories to apply
        manifests: Vec<PathBuf>,
    },
    /// Remove what crashed runs left behind
    Clean,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().action {
        Action::Up { nodes, manifests } => up(nodes, &manifests),
        Action::Clean => clean(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ebb-rig: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn up(nodes: u8, manifests: &[PathBuf]) -> Result<()> {
    interrupt::install()?;
    let cluster = Cluster::start(nodes)?;
    let mut kubelet = Kubelet::start(&cluster)?;
    for path in manifests {
        kubelet.apply_path(path)?;
    }
    for node in cluster.nodes() {
        println!("{}: {} in {}", node.name(), node.addresses(), node.namespace().path().display());
    }
    for replica in kubelet.all_replicas() {
        let pod = replica.pod();
        let netns = pod.namespace().path();
        println!("{}/{}: {} in {}", replica.namespace(), replica.name(), pod.addresses(), netns.display());
    }
    println!("up: {}, manifests in {}", cluster.run().prefix(), kubelet.directory().display());
    while !interrupt::interrupted() {
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn clean() -> Result<()> {
    for prefix in run::clean()? {
        println!("removed {prefix}");
    }
    Ok(())
}
