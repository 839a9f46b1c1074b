//! Redirects a pod's traffic to a proxy in its namespace, by nftables: the rules Istio's sidecar has, or a file's own.
//!
//! The sidecar's own connections are told by its group, so it must run as [`GROUP`]. IPv4 only, as are the measurements.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use harness::netns::Namespace;

use super::install;

/// The group of Istio's sidecars, by which the rules leave their connections alone.
pub(super) const GROUP: u32 = 1337;

/// Where a client's connections are redirected to, as in a sidecar of Istio's.
pub(super) const OUTBOUND: u16 = 15001;

/// Where connections to a server are redirected to.
pub(super) const INBOUND: u16 = 15006;

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

/// Hands `rules` to `nft` inside `namespace`.
///
/// # Errors
/// There is no such program and none can be installed, or it refuses the rules.
pub(super) fn apply(namespace: &Namespace, rules: &str) -> Result<()> {
    let program = install::program("nft", &["nftables".into()])?;
    let output = namespace.within(|| {
        let mut nft = Command::new(program)
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
