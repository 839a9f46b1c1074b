//! Where things are: the repository, the build output and the binaries in it.
//!
//! Nothing is compiled in: a checkout that was moved after `xtask` was built still works.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The repository and its build output.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    /// The folder of the workspace's `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Cargo's target folder: `CARGO_TARGET_DIR`, or `target` in the root.
    pub(crate) target: PathBuf,
}

/// How a binary was built, which is also the name of its folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// What every test uses, so that nothing is built twice.
    Dev,
    /// What the demo and the benchmarks use.
    Release,
    /// What instructions are counted of.
    Budget,
}

impl Workspace {
    /// Finds the workspace from the manifest that cargo says it is running, else upwards from the current folder.
    pub(crate) fn find() -> Result<Self> {
        let start = match std::env::var_os("CARGO_MANIFEST_DIR") {
            Some(manifest_dir) => PathBuf::from(manifest_dir),
            None => std::env::current_dir().context("read the current folder")?,
        };
        let root = start
            .ancestors()
            .find(|folder| is_workspace_root(folder))
            .context("no workspace here: run this inside the repository, as `cargo xtask <command>`")?
            .to_path_buf();
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(folder) => root.join(folder),
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// The folder that binaries of this profile are put into.
    pub(crate) fn binaries(&self, profile: Profile) -> PathBuf {
        self.target.join(match profile {
            Profile::Dev => "debug",
            Profile::Release => "release",
            Profile::Budget => "budget",
        })
    }

    /// Where the output of quiet steps is kept.
    pub(crate) fn logs(&self) -> PathBuf {
        self.target.join("xtask-logs")
    }
}

fn is_workspace_root(folder: &Path) -> bool {
    std::fs::read_to_string(folder.join("Cargo.toml"))
        .is_ok_and(|manifest| manifest.contains("[workspace]") && folder.join("xtask").is_dir())
}
