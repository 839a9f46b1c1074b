//! The scenes in their order. Each acts on the [`Stage`] and returns the facts it measured; what is claimed of them is a
//! pure function of the facts, so that a claim can be tested without a cluster, and fails when the facts do.

mod before;
mod cost;
mod crash;
mod enrol;
mod policy;

use anyhow::Result;

use crate::{screen::Facts, stage::Stage};

/// A scene: its heading, and what plays it.
#[derive(Clone, Copy)]
pub(crate) struct Scene {
    /// The heading.
    pub(crate) title: &'static str,
    /// Plays it.
    pub(crate) play: fn(&mut Stage) -> Result<Box<dyn Facts>>,
}

/// All of them. Each relies on what those before it left.
pub(crate) const SCENES: [Scene; 5] = [
    Scene { title: "Without the mesh, a request can be read between the nodes", play: before::play },
    Scene {
        title: "One label enrols the namespace; the same request can be read no more",
        play: enrol::play,
    },
    Scene { title: "Who may call is decided by identity", play: policy::play },
    Scene { title: "A killed ztunnel lets nothing out in the clear, and comes back", play: crash::play },
    Scene { title: "What it costs", play: cost::play },
];
