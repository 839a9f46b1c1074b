//! Redirects a pod's traffic to the sidecar in its namespace, by the rules Istio's sidecar has, in nftables.
//!
//! The sidecar's own connections are told by its group, so it must run as [`GROUP`]. IPv4 only, as are the measurements.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use harness::netns::Namespace;

use super::config::{INBOUND, OUTBOUND};
use crate::progress;

/// The group of Istio's sidecars, by which the rules leave their connections alone.
pub(super) const GROUP: u32 = 1337;

/// What the rules need of the machine: the program `nft`, installed from the distribution when there is none.
pub(super) fn prepare() -> Result<()> {
    if Command::new("nft")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
    {
        return Ok(());
    }
    let mut update = Command::new("apt-get");
    // An old list is often good enough, and what is wrong with a new one the installation will say.
    drop(progress::command("look up nftables", update.args(["update", "-qq"])));
    let mut install = Command::new("apt-get");
    install.args(["install", "-y", "--no-install-recommends", "nftables"]);
    progress::command("install nftables", &mut install)
        .context("redirecting to Envoy needs the program nft; install nftables")
}

/// Redirects every TCP connection that leaves `namespace`.
pub(super) fn outbound(namespace: &Namespace) -> Result<()> {
    apply(
        namespace,
        &format!(
            "table ip sidecar {{\n  chain output {{\n    type nat hook output priority -100; policy accept;\n    \
             meta skgid {GROUP} return\n    oifname \"lo\" return\n    meta l4proto tcp redirect to :{OUTBOUND}\n  }}\n}}\n"
        ),
    )
}

/// Redirects every TCP connection that comes into `namespace`.
pub(super) fn inbound(namespace: &Namespace) -> Result<()> {
    apply(
        namespace,
        &format!(
            "table ip sidecar {{\n  chain input {{\n    type nat hook prerouting priority -100; policy accept;\n    \
             iifname \"lo\" return\n    meta l4proto tcp redirect to :{INBOUND}\n  }}\n}}\n"
        ),
    )
}

fn apply(namespace: &Namespace, rules: &str) -> Result<()> {
    let output = namespace.within(|| {
        let mut nft = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("run nft")?;
        // Dropping the pipe tells nft that this is all.
        nft.stdin.take().context("nft was given a pipe to read from")?.write_all(rules.as_bytes())?;
        nft.wait_with_output().context("wait for nft")
    })?;
    if !output.status.success() {
        bail!("nft in {}: {}", namespace.name(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
