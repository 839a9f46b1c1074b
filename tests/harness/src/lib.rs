//! Builds small Kubernetes-like worlds out of real network namespaces and real processes.
//!
//! A [`cluster::Cluster`] is nodes joined by a wire, pods are namespaces behind their node, [`kubelet::Kubelet`]
//! turns the manifests a user would `kubectl apply` into running pods, [`ztunnel::Ztunnel`] runs the node proxy, and
//! [`wire::Capture`] sees what went over the wire. The demo, the namespace tests and the benchmark are built on it.
//!
//! It knows nothing of how the proxy works: it starts the shipped binaries by path and talks to their ports. Everything
//! a run makes is written to a ledger first, so that [`run::clean`] can remove what a crashed run left behind and
//! nothing else. Without root nothing here can work, and it says so: `refused: ...`.
//!
//! ```no_run
//! use std::{path::Path, time::Duration};
//! use harness::{client::Client, cluster::Cluster, kubelet::Kubelet, report::FailureKind, wire::Capture, ztunnel::{Settings, Ztunnel}};
//!
//! # fn main() -> anyhow::Result<()> {
//! let cluster = Cluster::two_nodes()?;
//! let mut kubelet = Kubelet::start(&cluster)?;
//! kubelet.apply_path(Path::new("deploy/examples/two-nodes"))?;
//! let start = |node| Ztunnel::start(node, kubelet.directory(), Settings::default());
//! let mut proxies = cluster.nodes().iter().map(start).collect::<Result<Vec<_>, _>>()?;
//! for proxy in &proxies {
//!     proxy.wait_ready(Duration::from_secs(10))?;
//! }
//! let wire = Capture::start(&cluster)?;
//! let client = Client::in_pod(kubelet.replica("shop", "client")?.pod());
//! let answer = client.get("http://10.96.0.10/marker-7f3a")?.done().expect("the client is allowed");
//! println!("{} answered {}", answer.described()?.name, answer.status);
//! assert_eq!(wire.find("marker-7f3a")?, None);
//! assert!(wire.tls_records(15008)?.application_data > 0);
//! let intruder = Client::in_pod(kubelet.replica("shop", "intruder")?.pod());
//! assert_eq!(intruder.get("http://10.96.0.10/")?.failure().map(|failure| failure.kind), Some(FailureKind::Reset));
//! proxies[0].kill9()?;
//! proxies[0].start_again()?;
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

pub mod binaries;
pub mod cgroup;
pub mod client;
pub mod cluster;
pub mod envoy;
pub mod interrupt;
pub mod kubelet;
pub mod netns;
pub mod process;
pub mod prometheus;
pub mod report;
pub mod root;
pub mod run;
pub mod wire;
pub mod zipkin;
pub mod ztunnel;
