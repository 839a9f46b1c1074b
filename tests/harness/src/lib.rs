//! Builds small Kubernetes-like worlds out of real network namespaces and real processes.
//!
//! A [`cluster::Cluster`] is nodes joined by a wire, pods are namespaces behind their node, [`kubelet::Kubelet`]
//! turns the manifests a user would `kubectl apply` into running pods, [`ztunnel::Ztunnel`] runs the node proxy, and
//! [`wire::Capture`] sees what went over the wire. The demo, the namespace tests and the benchmark are built on it.
//!
//! It knows nothing of how the proxy works: it starts the shipped binaries by path and talks to their ports. Everything
//! a run makes is written to a ledger first, so that [`run::clean`] can remove what a crashed run left behind and
//! nothing else. Without root nothing here can work, and it says so: `refused: ...`.

#![forbid(unsafe_code)]

pub mod binaries;
pub mod cgroup;
pub mod client;
pub mod cluster;
pub mod interrupt;
pub mod kubelet;
pub mod netns;
pub mod process;
pub mod prometheus;
pub mod report;
pub mod root;
pub mod run;
pub mod wire;
pub mod ztunnel;
