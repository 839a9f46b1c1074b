//! What the harness needs of the machine: root, IPv6, cubic, and a mounted bpffs.
//!
//! Refuses rather than skips: a privileged test that passes because it could not run is worse than one that fails.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
    unistd::Uid,
};

/// Where the kernel expects the bpf file system.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";

const ALLOWED: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";

/// Fails with `refused: ...` unless the process may make network namespaces.
///
/// # Errors
/// The effective user is not root, or the kernel has no IPv6.
pub fn require() -> Result<()> {
    ensure!(
        Uid::effective().is_root(),
        "refused: network namespaces need root; run this as root (for example with sudo)"
    );
    ensure!(
        Path::new("/proc/sys/net/ipv6").exists(),
        "refused: this kernel has IPv6 disabled and the clusters are dual stack; boot without ipv6.disable=1"
    );
    Ok(())
}

/// Lets namespaces choose cubic. The default here may be bbr, whose pacing ruins throughput and latency over veth, and a
/// namespace may choose only what the root namespace allows to everyone.
pub(crate) fn allow_cubic() -> Result<()> {
    let allowed = fs::read_to_string(ALLOWED).with_context(|| format!("read {ALLOWED}"))?;
    if allowed.split_whitespace().any(|name| name == "cubic") {
        return Ok(());
    }
    fs::write(ALLOWED, format!("{} cubic", allowed.trim())).with_context(|| {
        format!("refused: cannot allow cubic in {ALLOWED}; is this the root network namespace?")
    })
}

/// Mounts bpffs when the machine has not. The mount is the machine's and stays.
pub(crate) fn mount_bpffs() -> Result<()> {
    if is_bpffs()? {
        return Ok(());
    }
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .with_context(|| format!("refused: cannot mount bpffs at {BPFFS}"))?;
    if !is_bpffs()? {
        bail!("refused: {BPFFS} is still not a bpf file system after mounting one");
    }
    Ok(())
}

fn is_bpffs() -> Result<bool> {
    Ok(statfs(BPFFS).with_context(|| format!("statfs {BPFFS}"))?.filesystem_type() == BPF_FS_MAGIC)
}
