//! Reads what the machine does to a measurement: stolen CPU time, and the facts a reader needs beside the figures.

use std::fs;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, macros::format_description};

/// CPU time of the whole machine since it booted, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CpuTime {
    total: u64,
    stolen: u64,
}

impl CpuTime {
    /// Reads `/proc/stat`.
    ///
    /// # Errors
    /// It cannot be read or has no line for all CPUs.
    pub(crate) fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
        Self::parse(&text).context("no line for all CPUs in /proc/stat")
    }

    /// The first eight numbers of the `cpu` line; the guest times after them are already in user time.
    fn parse(text: &str) -> Option<Self> {
        let fields = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks: Vec<u64> =
            fields.split_whitespace().take(8).map_while(|field| field.parse().ok()).collect();
        Some(Self { total: ticks.iter().sum(), stolen: *ticks.get(7)? })
    }

    /// The share of all CPU time since `earlier` that the hypervisor gave to others, 0 to 1.
    #[must_use]
    pub(crate) fn stolen_since(&self, earlier: &Self) -> f64 {
        let total = self.total.saturating_sub(earlier.total);
        if total == 0 { 0.0 } else { self.stolen.saturating_sub(earlier.stolen) as f64 / total as f64 }
    }
}

/// Facts about the machine for the report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Kernel release.
    pub(crate) kernel: String,
    /// CPUs this process may use.
    pub(crate) cpus: usize,
    /// The model name of the first CPU.
    pub(crate) model: String,
    /// Bytes of memory.
    pub(crate) memory: u64,
    /// What the namespaces of the measurement use; empty where there was no traffic.
    pub(crate) congestion_control: String,
}

impl Machine {
    /// Looks at this machine.
    #[must_use]
    pub(crate) fn describe() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self {
            kernel: or_unknown(read("/proc/sys/kernel/osrelease").trim()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            model: or_unknown(model(&read("/proc/cpuinfo")).unwrap_or_default()),
            memory: memory(&read("/proc/meminfo")).unwrap_or_default(),
            congestion_control: String::new(),
        }
    }
}

/// The date and time now, UTC, to the minute.
#[must_use]
pub(crate) fn now() -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]");
    OffsetDateTime::now_utc().format(format).unwrap_or_default()
}

fn or_unknown(text: &str) -> String {
    if text.is_empty() { "unknown".into() } else { text.into() }
}

fn model(cpuinfo: &str) -> Option<&str> {
    let (_, model) = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "))?;
    Some(model.trim())
}

/// Bytes in all, from `/proc/meminfo`.
fn memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stolen_time_is_a_share_of_all_time() {
        let earlier = CpuTime::parse("cpu  100 0 100 800 0 0 0 50 7 7\ncpu0 1 1 1 1 1 1 1 1\n").unwrap();
        let later = CpuTime::parse("cpu  150 0 130 870 0 0 0 100 9 9\n").unwrap();
        assert!((later.stolen_since(&earlier) - 0.25).abs() < 1e-9, "{}", later.stolen_since(&earlier));
        assert_eq!(later.stolen_since(&later), 0.0);
        assert_eq!(CpuTime::parse("cpu0 1 1 1 1 1 1 1 1\n"), None);
    }

    #[test]
    fn facts_are_read_from_what_the_kernel_writes() {
        assert_eq!(
            model("processor\t: 0\nmodel name\t: Some CPU @ 2.10GHz\nflags\t: a"),
            Some("Some CPU @ 2.10GHz")
        );
        assert_eq!(model("processor\t: 0\n"), None);
        assert_eq!(memory("MemTotal:       24123456 kB\nMemFree: 1 kB\n"), Some(24_123_456 * 1024));
        assert_eq!(memory("MemFree: 1 kB\n"), None);
    }
}
