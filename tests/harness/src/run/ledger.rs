//! The ledger: what a run has made, one JSON object a line, written before the thing itself is made.
//!
//! Reading is forgiving: a run killed mid-write leaves half a line, and what that line would have named was not made.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The ledger's name in the run directory.
pub(super) const FILE: &str = "ledger.jsonl";

/// A process by its id and the time it started, so that a reused id is never mistaken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The kernel's process id.
    pub pid: i32,
    /// Clock ticks after boot at which it started (field 22 of `/proc/PID/stat`).
    pub started: u64,
}

impl ProcessId {
    /// The process that has this id now, if there is one.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        stat(pid).map(|(_, started)| Self { pid, started })
    }

    /// Whether that very process still runs. One that ended and waits for its parent does not.
    #[must_use]
    pub fn is_alive(self) -> bool {
        stat(self.pid).is_some_and(|(state, started)| started == self.started && !matches!(state, 'Z' | 'X'))
    }
}

/// State and start time. The command name before them may itself hold spaces and parentheses.
fn stat(pid: i32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// One thing a run made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Entry {
    /// The process whose death makes the run a leftover.
    Owner(ProcessId),
    /// A namespace by its name under `/run/netns`.
    Namespace(String),
    /// A process it started.
    Process(ProcessId),
    /// The top cgroup of the run.
    Cgroup(PathBuf),
    /// A directory of pins in bpffs.
    Pins(PathBuf),
}

/// Appends entries to the file of a living run.
#[derive(Debug)]
pub(super) struct Ledger(Mutex<File>);

impl Ledger {
    pub(super) fn create(directory: &Path) -> Result<Self> {
        let path = directory.join(FILE);
        let file = OpenOptions::new().append(true).create_new(true).open(&path);
        Ok(Self(Mutex::new(file.with_context(|| format!("create {}", path.display()))?)))
    }

    pub(super) fn add(&self, entry: &Entry) -> Result<()> {
        let mut line = serde_json::to_vec(entry).context("encode a ledger entry")?;
        line.push(b'\n');
        // One write call: a line is there whole or, after a crash in between, not at all.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line).context("write the ledger")
    }
}

/// Every whole entry of a run directory's ledger; none when it has no ledger.
pub(super) fn read(directory: &Path) -> Vec<Entry> {
    let text = fs::read_to_string(directory.join(FILE)).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_line_loses_only_itself() {
        let line = serde_json::to_string(&Entry::Namespace("ebb-1-0-n1".into())).unwrap();
        let directory = std::env::temp_dir().join(format!("ebb-ledger-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(FILE), format!("{line}\n{{\"namesp")).unwrap();
        let entries = read(&directory);
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(entries, [Entry::Namespace("ebb-1-0-n1".into())]);
    }

    #[test]
    fn a_process_is_known_by_its_start_as_well_as_its_id() {
        let own = ProcessId::of(std::process::id() as i32).unwrap();
        assert!(own.is_alive());
        assert!(!ProcessId { started: own.started + 1, ..own }.is_alive());
    }
}
