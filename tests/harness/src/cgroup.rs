//! One cgroup per role, so that the CPU time of a role counts threads and processes that have ended.
//!
//! Uses cpuacct (v1, nanoseconds, a thread may enter alone) where mounted, else the unified hierarchy (v2, microseconds, a
//! process is moved just after its birth). Sets no limits.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

/// How often removal is tried again while the last task is leaving, 5 ms apart.
const REMOVE_ATTEMPTS: u32 = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// The CPU account of one role, such as `proxy` or `app`.
#[derive(Clone, Debug)]
pub struct Cgroup {
    path: PathBuf,
    version: Version,
}

impl Cgroup {
    /// The top group of a run; roles are its children.
    pub(crate) fn top(prefix: &str) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
        let (root, version) =
            hierarchy(&mounts).context("refused: neither cpuacct nor cgroup2 is mounted")?;
        Ok(Self { path: root.join(prefix), version })
    }

    /// The group of one role below this one, made if need be.
    pub(crate) fn role(&self, role: &str) -> Result<Self> {
        let path = self.path.join(role);
        fs::create_dir_all(&path).with_context(|| format!("create cgroup {}", path.display()))?;
        Ok(Self { path, version: self.version })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the calling thread in, so that what it spawns is born inside. Only v1 can.
    pub(crate) fn enter(&self) -> Result<()> {
        match self.version {
            Version::V1 => fs::write(self.path.join("tasks"), "0").context("enter cgroup"),
            Version::V2 => Ok(()),
        }
    }

    /// Moves a new-born process in, where its parent's thread could not.
    pub(crate) fn adopt(&self, pid: u32) -> Result<()> {
        match self.version {
            Version::V1 => Ok(()),
            // The process may have ended already; then there is nothing to count.
            Version::V2 => match fs::write(self.path.join("cgroup.procs"), pid.to_string()) {
                Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => Ok(()),
                other => other.context("move process into cgroup"),
            },
        }
    }

    /// CPU time of every task that ever ran in the group.
    ///
    /// # Errors
    /// The account cannot be read.
    pub fn cpu(&self) -> Result<Duration> {
        match self.version {
            Version::V1 => {
                let text =
                    fs::read_to_string(self.path.join("cpuacct.usage")).context("read cpuacct.usage")?;
                Ok(Duration::from_nanos(text.trim().parse().context("parse cpuacct.usage")?))
            }
            Version::V2 => {
                let text = fs::read_to_string(self.path.join("cpu.stat")).context("read cpu.stat")?;
                let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
                let micros = usage.context("cpu.stat has no usage_usec")?.trim().parse();
                Ok(Duration::from_micros(micros.context("parse usage_usec")?))
            }
        }
    }
}

/// The processes in a run's group and its roles.
pub(crate) fn members(top: &Path) -> Vec<i32> {
    let mut groups = vec![top.to_owned()];
    groups.extend(children(top));
    let lists = groups.iter().filter_map(|group| fs::read_to_string(group.join("cgroup.procs")).ok());
    lists.flat_map(|list| list.lines().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// Removes a run's group and its roles once their last tasks have left.
pub(crate) fn remove(top: &Path) -> Result<()> {
    children(top).iter().map(PathBuf::as_path).chain([top]).try_for_each(|group| {
        let mut attempts = 0;
        loop {
            match fs::remove_dir(group) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) if attempts >= REMOVE_ATTEMPTS => {
                    return Err(error).with_context(|| format!("remove cgroup {}", group.display()));
                }
                Err(_) => attempts += 1,
            }
            thread::sleep(Duration::from_millis(5));
        }
    })
}

fn children(top: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(top).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Picks the hierarchy to account in from the text of `/proc/self/mounts`.
fn hierarchy(mounts: &str) -> Option<(PathBuf, Version)> {
    let fields =
        || mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).filter(|fields| fields.len() >= 4);
    let v1 =
        fields().find(|mount| mount[2] == "cgroup" && mount[3].split(',').any(|option| option == "cpuacct"));
    let v2 =
        || fields().find(|mount| mount[2] == "cgroup2").map(|mount| (PathBuf::from(mount[1]), Version::V2));
    v1.map(|mount| (PathBuf::from(mount[1]), Version::V1)).or_else(v2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpuacct_is_preferred_and_the_unified_hierarchy_is_enough() {
        let v1 = "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0\n";
        let v2 = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        let both = format!("{v2}{v1}");
        assert_eq!(hierarchy(&both), Some((PathBuf::from("/sys/fs/cgroup/cpu,cpuacct"), Version::V1)));
        assert_eq!(hierarchy(v2), Some((PathBuf::from("/sys/fs/cgroup/unified"), Version::V2)));
        assert_eq!(hierarchy("proc /proc proc rw 0 0\n"), None);
    }
}
