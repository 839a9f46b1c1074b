//! Reads what the machine does to a measurement: stolen CPU time, and the facts a reader needs beside the figures.

use std::fs;

use anyhow::{Context, Result};
use serde::Serialize;

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
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// Kernel release.
    pub(crate) kernel: String,
    /// CPUs this process may use.
    pub(crate) cpus: usize,
    /// The model name of the first CPU.
    pub(crate) model: String,
    /// What every namespace of the measurement uses.
    pub(crate) congestion_control: &'static str,
}

impl Machine {
    /// Looks at this machine.
    #[must_use]
    pub(crate) fn describe() -> Self {
        let unknown = || "unknown".to_owned();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| unknown(), |text| text.trim().into()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            model: model.map_or_else(unknown, |(_, model)| model.to_owned()),
            congestion_control: "cubic",
        }
    }
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
}
