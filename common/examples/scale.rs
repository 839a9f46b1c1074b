//! How long a mesh of many pods takes to load, how much memory it holds, and how soon one change is visible.
//!
//! `cargo run --release -p ebb-common --example scale -- [pods] [files]`: pods and a tenth as many services, spread
//! over that many files (one document each when there are as many files as pods).

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use common::snapshot::MeshSettings;
use common::source::{apply, file::FileSource};

/// Pods of one namespace, and of one service.
const PER_NAMESPACE: usize = 500;
const PER_SERVICE: usize = 10;
/// How many single changes are timed.
const CHANGES: usize = 20;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).map(|it| it.parse::<usize>());
    let pods = arguments.next().transpose()?.unwrap_or(10_000);
    let files = arguments.next().transpose()?.unwrap_or(pods).clamp(1, pods);
    let directory = tempfile::tempdir()?;
    write_mesh(directory.path(), pods, files)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(measure(directory.path(), pods, files))
}

async fn measure(directory: &Path, pods: usize, files: usize) -> Result<()> {
    let rss_before = memory("VmRSS")?;
    let started = Instant::now();
    let (batches, mut reader) = apply(MeshSettings::default())?;
    let source = FileSource::new(directory).run(batches)?;
    let snapshot = reader.changed().await;
    let loaded = started.elapsed();
    let (rss, peak) = (memory("VmRSS")?, memory("VmHWM")?);
    anyhow::ensure!(snapshot.rejected().is_empty(), "rejected: {}", snapshot.rejected()[0]);
    anyhow::ensure!(snapshot.workloads().count() == pods, "not every pod was read");
    println!(
        "pods {pods} files {files}: loaded in {loaded:?}; resident {} MiB more, peak {} MiB",
        (rss - rss_before) / 1024,
        peak / 1024
    );
    let mut took = Vec::new();
    for change in 0..CHANGES {
        // Past the quiet time of the last change, so that each is seen alone.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let started = Instant::now();
        let address = format!("10.250.0.{}", change + 1);
        std::fs::write(directory.join("changed.yaml"), pod(0, "changed", &address))?;
        while reader.changed().await.workload_at(address.parse()?).is_none() {}
        took.push(started.elapsed());
    }
    took.sort();
    println!("one change visible: median {:?}, worst {:?}", took[CHANGES / 2], took[CHANGES - 1]);
    println!("peak at the end {} MiB", memory("VmHWM")? / 1024);
    drop(source);
    Ok(())
}

fn write_mesh(directory: &Path, pods: usize, files: usize) -> Result<()> {
    let mut base = String::new();
    for namespace in 0..pods.div_ceil(PER_NAMESPACE) {
        writeln!(
            base,
            "---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop-{namespace}\n  labels:\n    \
             istio.io/dataplane-mode: ambient"
        )?;
    }
    for service in 0..pods / PER_SERVICE {
        base.push_str(&service_of(service));
    }
    std::fs::write(directory.join("base.yaml"), base)?;
    let each = pods.div_ceil(files);
    for first in (0..pods).step_by(each) {
        let mut text = String::new();
        for i in first..(first + each).min(pods) {
            let address = format!("10.{}.{}.{}", i / 62_500, i / 250 % 250, i % 250 + 1);
            text.push_str(&pod(i, &format!("web-{i}"), &address));
        }
        std::fs::write(directory.join(format!("pods-{first:06}.yaml")), text)?;
    }
    Ok(())
}

fn service_of(i: usize) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: web-{i}\n  namespace: shop-{}\nspec:\n  clusterIP: \
         10.251.{}.{}\n  selector:\n    app: web-{i}\n  ports:\n    - name: http\n      port: 80\n      targetPort: 8080\n",
        i * PER_SERVICE / PER_NAMESPACE,
        i / 250,
        i % 250 + 1
    )
}

fn pod(i: usize, name: &str, address: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: shop-{namespace}
  uid: 00000000-0000-4000-8000-{i:012}
  creationTimestamp: \"2026-01-01T00:00:00Z\"
  labels:
    app: web-{service}
    version: v1
    pod-template-hash: abcdef
  annotations:
    ebb.dev/netns: /var/run/netns/{name}
  ownerReferences:
    - apiVersion: apps/v1
      kind: ReplicaSet
      name: web-{service}-abcdef
      controller: true
spec:
  nodeName: node-{node}
  serviceAccountName: web-{service}
  containers:
    - name: app
      image: registry.example/app:1
      args: [\"--listen\", \"0.0.0.0:8080\"]
      ports:
        - containerPort: 8080
          name: http
status:
  phase: Running
  podIP: {address}
  podIPs:
    - ip: {address}
  conditions:
    - type: Ready
      status: \"True\"
",
        namespace = i / PER_NAMESPACE,
        service = i / PER_SERVICE,
        node = i % 100,
    )
}

/// A line of `/proc/self/status`, in KiB.
fn memory(line: &str) -> Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let value = status.lines().find_map(|it| it.strip_prefix(line)?.strip_prefix(':'));
    let value = value.and_then(|it| it.trim().strip_suffix(" kB")).context("no such line")?;
    Ok(value.trim().parse()?)
}
