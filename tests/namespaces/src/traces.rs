//! What a proxy leaves in the world: descriptors, threads, pins, and what it put into a pod's namespace.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use harness::{netns::Namespace, ztunnel::Ztunnel};

/// What a proxy holds at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Open descriptors.
    pub fds: usize,
    /// Threads.
    pub threads: usize,
    /// Pinned objects of the kernel, by path.
    pub pins: Vec<String>,
}

impl Held {
    /// Looks at a running proxy.
    ///
    /// # Errors
    /// It has ended.
    pub fn by(ztunnel: &Ztunnel) -> Result<Self> {
        let node = ztunnel.node();
        let mut pins = Vec::new();
        walk(&node.run().pins(node.name())?, &mut pins)?;
        pins.sort();
        let process = ztunnel.process();
        Ok(Self { fds: process.fd_count()?, threads: process.thread_count()?, pins })
    }

    /// What its descriptors are, for the message of a test that found too many.
    ///
    /// # Errors
    /// It has ended.
    pub fn descriptors(ztunnel: &Ztunnel) -> Result<Vec<String>> {
        let directory = format!("/proc/{}/fd", ztunnel.process().pid());
        let entries = fs::read_dir(&directory).with_context(|| format!("read {directory}"))?.flatten();
        let mut targets: Vec<_> = entries
            .filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.display().to_string()))
            .collect();
        targets.sort();
        Ok(targets)
    }
}

fn walk(directory: &Path, found: &mut Vec<String>) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))?;
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, found)?;
        }
        found.push(path.display().to_string());
    }
    Ok(())
}

/// What `ip` shows of rules and of routes in every table in a namespace, line by line.
///
/// # Errors
/// iproute2 is missing.
pub fn routing(namespace: &Namespace) -> Result<Vec<String>> {
    let show = |words: &[&str]| -> Result<Vec<String>> {
        let words = words.to_vec();
        let output = namespace.within(move || Ok(Command::new("ip").args(&words).output()?))?;
        ensure!(output.status.success(), "ip: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).lines().map(|line| line.trim().to_owned()).collect())
    };
    let mut lines = Vec::new();
    for family in ["-4", "-6"] {
        lines.extend(show(&[family, "rule", "show"])?);
        lines.extend(show(&[family, "route", "show", "table", "all"])?);
    }
    Ok(lines)
}

/// How many TCP connections sockets of this namespace have begun, answered or not (`ActiveOpens` of RFC 1213).
///
/// # Errors
/// The kernel does not say.
pub fn connections_begun(namespace: &Namespace) -> Result<u64> {
    let text = namespace.within(|| Ok(fs::read_to_string("/proc/thread-self/net/snmp")?))?;
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next().context("names")?, lines.next().context("values")?);
    let at = names.split_whitespace().position(|name| name == "ActiveOpens").context("no ActiveOpens")?;
    Ok(values.split_whitespace().nth(at).context("no value")?.parse()?)
}

/// Ports on which something listens in a namespace.
///
/// # Errors
/// The kernel does not say.
pub fn listening(namespace: &Namespace) -> Result<Vec<u16>> {
    let text = namespace.within(|| {
        let read = |file| fs::read_to_string(format!("/proc/thread-self/net/{file}"));
        Ok(read("tcp")? + &read("tcp6")?)
    })?;
    // State 0A is LISTEN; the local address is the second word, its port after the colon.
    let port = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let listens = words.get(3) == Some(&"0A");
        listens.then(|| u16::from_str_radix(words[1].rsplit(':').next()?, 16).ok()).flatten()
    };
    let mut ports: Vec<_> = text.lines().filter_map(port).collect();
    ports.sort_unstable();
    ports.dedup();
    Ok(ports)
}
