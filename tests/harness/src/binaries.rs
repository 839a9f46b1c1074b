//! Finds the programs a cluster runs: beside the running executable, or where `EBB_BIN_DIR` says.
//!
//! Never builds anything: a stale binary is the caller's business (`cargo xtask` builds before it runs).

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// The directory that holds the binaries, instead of the running executable's own.
pub const BIN_DIR: &str = "EBB_BIN_DIR";

/// The eBPF object file, instead of `ebpf/ebb-redirect.o` in the target directory.
pub const EBPF_OBJECT: &str = "EBB_EBPF_OBJECT";

/// The path of a program of ours by its name, such as `ztunnel` or `ebb-app`.
///
/// # Errors
/// No such file; the error names the places looked at.
pub fn find(name: &str) -> Result<PathBuf> {
    let places = match env::var_os(BIN_DIR) {
        Some(directory) => vec![PathBuf::from(directory)],
        None => beside_executable()?,
    };
    for place in &places {
        let candidate = place.join(name);
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    bail!("no program {name} in {places:?}; build it with `cargo build`, or set {BIN_DIR}")
}

/// The eBPF object that `cargo xtask ebpf` builds.
///
/// # Errors
/// No such file.
pub fn ebpf_object() -> Result<PathBuf> {
    let object = match env::var_os(EBPF_OBJECT) {
        Some(path) => PathBuf::from(path),
        None => {
            let executable = env::current_exe().context("find the running executable")?;
            let built = |directory: &Path| directory.join("ebpf/ebb-redirect.o");
            executable.ancestors().map(built).find(|path| path.is_file()).with_context(|| {
                format!(
                    "no ebpf/ebb-redirect.o above {}; build it with `cargo xtask ebpf`, or set {EBPF_OBJECT}",
                    executable.display()
                )
            })?
        }
    };
    if !object.is_file() {
        bail!("no eBPF object at {}", object.display());
    }
    Ok(object)
}

/// A test runs from `target/PROFILE/deps`, the programs are one level up.
fn beside_executable() -> Result<Vec<PathBuf>> {
    let executable = env::current_exe().context("find the running executable")?;
    let directory = executable.parent().context("the running executable has no directory")?;
    let mut places = vec![directory.to_owned()];
    if directory.ends_with("deps") || directory.ends_with("examples") {
        places.extend(directory.parent().map(Path::to_owned));
    }
    Ok(places)
}
