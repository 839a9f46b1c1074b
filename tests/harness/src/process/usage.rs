//! What a process holds: memory, descriptors, threads. CPU time is its role's, see [`crate::cgroup`].

use std::fs;

use anyhow::{Context, Result};

use super::Process;

/// Memory of a process in bytes, from `smaps_rollup`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Resident pages.
    pub rss: u64,
    /// Resident pages, shared ones divided by their sharers.
    pub pss: u64,
    /// Resident pages that are not backed by a file.
    pub anonymous: u64,
}

impl Process {
    /// Its memory now.
    ///
    /// # Errors
    /// It has ended.
    pub fn memory(&self) -> Result<Memory> {
        let path = format!("/proc/{}/smaps_rollup", self.pid());
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let field = |name| kibibytes(&text, name).with_context(|| format!("no {name} in {path}"));
        Ok(Memory { rss: field("Rss:")?, pss: field("Pss:")?, anonymous: field("Anonymous:")? })
    }

    /// Open file descriptors.
    ///
    /// # Errors
    /// It has ended.
    pub fn fd_count(&self) -> Result<usize> {
        self.count("fd")
    }

    /// Threads.
    ///
    /// # Errors
    /// It has ended.
    pub fn thread_count(&self) -> Result<usize> {
        self.count("task")
    }

    fn count(&self, of: &str) -> Result<usize> {
        let path = format!("/proc/{}/{of}", self.pid());
        Ok(fs::read_dir(&path).with_context(|| format!("read {path}"))?.count())
    }
}

fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
