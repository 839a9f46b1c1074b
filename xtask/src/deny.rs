//! `cargo xtask deny`: all of cargo-deny, advisories included, installing it first where it is missing.
//!
//! Not part of `cargo xtask test`: it needs the network, for its database, and minutes to install.

use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::cargo::cargo;
use crate::child;
use crate::workspace::Workspace;

/// The version the configuration was written for.
const VERSION: &str = "0.20.2";

/// Checks advisories, bans, licences and sources.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    if !is_installed() {
        let name = format!("install cargo-deny {VERSION}");
        let mut install =
            cargo(workspace, &["install", "cargo-deny", "--locked", "--quiet", "--version", VERSION]);
        child::run_quietly(workspace, &name, &mut install)
            .context("cannot install cargo-deny; is crates.io reachable?")?;
    }
    child::run(&mut cargo(workspace, &["deny", "check"])).context(
        "if the advisory database could not be fetched, `cargo deny check bans licenses sources` works offline",
    )
}

fn is_installed() -> bool {
    Command::new("cargo-deny")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
