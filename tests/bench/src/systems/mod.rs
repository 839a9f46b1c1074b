//! Owns the systems that are compared. To add one, write a file that implements [`Candidate`] and list it in [`ALL`].
//!
//! Every system has a cluster of its own, of the same shape: a client's pod on one node, a server's on the other. All are
//! up for the whole run and idle but for the one being measured.

mod direct;
mod envoy;
mod stage;

use std::path::PathBuf;

use anyhow::Result;
use harness::process::Process;

pub(crate) use self::stage::{Stage, port};
use crate::results::Sample;

/// The role whose CPU time is the figure to beat.
pub(crate) const PROXY: &str = "proxy";
/// The load generator's role.
pub(crate) const CLIENT: &str = "client";
/// The application's role.
pub(crate) const SERVER: &str = "server";

/// A system that can be brought up.
pub(crate) trait Candidate {
    /// Its name in the report and on the command line.
    fn name(&self) -> &'static str;

    /// What it is and which settings matter, for the reader of the figures.
    fn about(&self) -> String;

    /// Whether it is what Ebb is measured against.
    fn yardstick(&self) -> bool {
        false
    }

    /// Brings it up, ready to carry traffic. Its proxies run in the role [`PROXY`]; dropping what is returned stops all.
    ///
    /// # Errors
    /// A program is missing or does not get ready.
    fn start(&self, tools: &Tools) -> Result<Running>;

    /// Starts one proxy in a mesh of `workloads` workloads and says how long it took to be ready, and what it held. Nothing
    /// by default.
    ///
    /// # Errors
    /// It does not get ready.
    fn start_in_large_mesh(&self, workloads: u32) -> Result<Option<Sample>> {
        let _ = workloads;
        Ok(None)
    }
}

/// Where programs that have to be installed are kept.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    /// A directory that stays from run to run.
    pub(crate) directory: PathBuf,
}

/// A system that is up. Fields are dropped in this order: proxies before what they serve.
pub(crate) struct Running {
    /// Its proxies; none for no mesh.
    pub(crate) proxies: Vec<Box<dyn Proxy>>,
    /// The pods and applications.
    pub(crate) stage: Stage,
}

/// One proxy of a running system.
pub(crate) trait Proxy {
    /// Its process.
    fn process(&self) -> &Process;
}

impl Proxy for Process {
    fn process(&self) -> &Process {
        self
    }
}

/// Every system, in the order in which rounds go.
pub(crate) const ALL: &[&dyn Candidate] = &[&direct::Direct, &envoy::Envoy::ONE, &envoy::Envoy::TWO];
