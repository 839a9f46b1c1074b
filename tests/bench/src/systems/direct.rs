//! No mesh at all: the floor under every other figure.

use anyhow::Result;

use super::{Candidate, Layout, Running, Stage, Tools};

/// The client's pod talks to the server's by plain TCP.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Direct {
    /// Whether both are on one node.
    pub(crate) one_node: bool,
}

impl Direct {
    fn start_with(&self, strangers: u32) -> Result<Running> {
        Ok(Running::without_proxies(Stage::set(Layout { one_node: self.one_node, strangers })?))
    }
}

impl Candidate for Direct {
    fn name(&self) -> &str {
        "direct"
    }

    fn about(&self) -> String {
        "no mesh: plain TCP from pod to pod".into()
    }

    fn start(&self, _: &Tools) -> Result<Running> {
        self.start_with(0)
    }

    fn start_with_clients(&self, _: &Tools, clients: u32) -> Result<Option<Running>> {
        self.start_with(clients).map(Some)
    }
}
