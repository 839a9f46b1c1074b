//! The scenes in their order. Each acts on the [`Stage`] and returns the facts it measured; what is claimed of them is a
//! pure function of the facts, so that a claim can be tested without a cluster, and fails when the facts do.

mod before;
mod cost;
mod crash;
mod enrol;
mod policy;

use anyhow::Result;

use crate::{screen::Facts, stage::Stage};

/// Acts on the stage and returns what was measured.
pub(crate) type Play = fn(&mut Stage) -> Result<Box<dyn Facts>>;

/// A scene: its name and heading, and what plays it.
#[derive(Clone, Copy)]
pub(crate) struct Scene {
    /// By which it is asked for alone.
    pub(crate) name: &'static str,
    /// The heading.
    pub(crate) title: &'static str,
    /// Makes what scenes before it would have made, when it is played alone.
    pub(crate) prepare: fn(&mut Stage) -> Result<()>,
    /// Plays it.
    pub(crate) play: Play,
}

/// Those of the mesh itself. Each relies on what those before it left.
pub(crate) const SCENES: [Scene; 5] = [
    Scene {
        name: "before",
        title: "Without the mesh, a request can be read between the nodes",
        prepare: nothing,
        play: before::play,
    },
    Scene {
        name: "enrol",
        title: "One label enrols the namespace; the same request can be read no more",
        prepare: nothing,
        play: enrol::play,
    },
    Scene {
        name: "policy",
        title: "Who may call is decided by identity",
        prepare: enrolled,
        play: policy::play,
    },
    Scene {
        name: "crash",
        title: "A killed ztunnel lets nothing out in the clear, and comes back",
        prepare: enrolled,
        play: crash::play,
    },
    Scene { name: "cost", title: "What it costs", prepare: enrolled, play: cost::play },
];

/// For scenes that need no other.
///
/// # Errors
/// Never.
pub(crate) fn nothing(_: &mut Stage) -> Result<()> {
    Ok(())
}

fn enrolled(stage: &mut Stage) -> Result<()> {
    enrol::label(stage).map(drop)
}
