//! No mesh at all: the floor under every other figure.

use anyhow::Result;

use super::{Candidate, Running, Stage, Tools};

/// The client's pod talks to the server's by plain TCP.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Direct;

impl Candidate for Direct {
    fn name(&self) -> &'static str {
        "direct"
    }

    fn about(&self) -> String {
        "no mesh: plain TCP from pod to pod".into()
    }

    fn start(&self, _: &Tools) -> Result<Running> {
        Ok(Running { proxies: Vec::new(), router: None, stage: Stage::set()? })
    }
}
