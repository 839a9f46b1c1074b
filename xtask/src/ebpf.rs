//! Builds the kernel programs.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::workspace::Workspace;

/// Builds the object and returns its path.
pub(crate) fn build(release: bool) -> Result<PathBuf> {
    let workspace = Workspace::find()?;
    let profile = if release { "release" } else { "debug" };
    bail!("the kernel programs are not in {} yet ({profile})", workspace.root.join("ebpf/programs").display())
}
