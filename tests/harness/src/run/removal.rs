//! Takes down what a ledger names: processes first, then namespaces (and with them links), pins, cgroups, files.
//!
//! An entry that does not carry the run's prefix is an error and is left alone, whoever wrote it there.

use std::{
    fs,
    io::ErrorKind,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::ledger::{Entry, ProcessId};
use crate::{cgroup, netns, root};

/// How long processes may take to end by themselves.
const GRACE: Duration = Duration::from_secs(2);

/// How long the kernel may take to end killed processes.
const DEATH: Duration = Duration::from_secs(5);

/// Removes all of one run, going on after a failure; fails with the first.
pub(super) fn remove(directory: &Path, entries: &[Entry]) -> Result<()> {
    let prefix =
        directory.file_name().and_then(|name| name.to_str()).context("a run directory has a name")?;
    let mut outcome = end_processes(&living(prefix, entries));
    for entry in entries {
        outcome = outcome.and(remove_entry(prefix, entry));
    }
    outcome?;
    // The ledger goes last: while anything is left, it says what.
    fs::remove_dir_all(directory).with_context(|| format!("remove {}", directory.display()))
}

fn remove_entry(prefix: &str, entry: &Entry) -> Result<()> {
    match entry {
        Entry::Owner(_) | Entry::Process(_) => Ok(()),
        Entry::Namespace(name) => {
            let own =
                name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('-') && !rest.contains('/'));
            ensure!(own, "namespace {name} is not of run {prefix}");
            netns::remove(name)
        }
        Entry::Cgroup(path) => {
            ensure!(path.ends_with(prefix), "cgroup {} is not of run {prefix}", path.display());
            cgroup::remove(path)
        }
        Entry::Pins(path) => {
            let own = Path::new(root::BPFFS).join("ebb").join(prefix);
            ensure!(*path == own, "pins {} are not of run {prefix}", path.display());
            match fs::remove_dir_all(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error).context("remove pins"),
                _ => Ok(()),
            }
        }
    }
}

/// The run's processes: those in the ledger, and those in its cgroups, which also hold the children of the former and
/// any that was born in the instant before its ledger entry.
fn living(prefix: &str, entries: &[Entry]) -> Vec<ProcessId> {
    let mut found: Vec<ProcessId> = Vec::new();
    for entry in entries {
        match entry {
            Entry::Process(id) if id.is_alive() => found.push(*id),
            Entry::Cgroup(path) if path.ends_with(prefix) => {
                found.extend(cgroup::members(path).into_iter().filter_map(ProcessId::of));
            }
            _ => {}
        }
    }
    let own = std::process::id().cast_signed();
    found.retain(|id| id.pid != own);
    found
}

fn end_processes(processes: &[ProcessId]) -> Result<()> {
    signal(processes, Signal::SIGTERM);
    if all_ended(processes, GRACE) {
        return Ok(());
    }
    signal(processes, Signal::SIGKILL);
    if !all_ended(processes, DEATH) {
        bail!("processes {processes:?} outlive SIGKILL");
    }
    Ok(())
}

fn signal(processes: &[ProcessId], signal: Signal) {
    for id in processes.iter().filter(|id| id.is_alive()) {
        // It may end between the look and the signal; then the signal has nothing left to do.
        let _ = kill(Pid::from_raw(id.pid), signal);
    }
}

fn all_ended(processes: &[ProcessId], within: Duration) -> bool {
    let deadline = Instant::now() + within;
    loop {
        if !processes.iter().any(|id| id.is_alive()) {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
}
