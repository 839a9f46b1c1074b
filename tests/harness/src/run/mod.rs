//! A run: one cluster's prefix, directory and ledger, and the removal of everything in the ledger.
//!
//! The same removal serves a living run that ends and, through [`clean`], one that was killed. It goes by the ledger
//! alone and checks that every name carries the run's prefix, so it never touches what is not the run's own.

mod ledger;
mod removal;

use std::{
    env,
    fs::{self, File, OpenOptions},
    io::ErrorKind,
    path::{Path, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

pub use self::ledger::ProcessId;
use self::ledger::{Entry, Ledger};
use crate::{cgroup::Cgroup, netns::NETNS, root};

/// Where run directories are.
const RUNS: &str = "/run/ebb";

/// Directory to which the logs and captures of ended runs are copied, for looking into a failure.
pub const KEEP: &str = "EBB_KEEP_RUN";

/// Runs that one process may have had with the same prefix stem.
const RUNS_PER_PROCESS: u32 = 100_000;

/// What one cluster has made.
#[derive(Debug)]
pub struct Run {
    prefix: String,
    directory: PathBuf,
    ledger: Ledger,
    cgroup: Cgroup,
    counter: AtomicU64,
    ended: AtomicBool,
}

impl Run {
    /// Starts a run after checking that the machine can carry one.
    pub(crate) fn start() -> Result<Arc<Self>> {
        root::require()?;
        fs::create_dir_all(RUNS).with_context(|| format!("create {RUNS}"))?;
        fs::create_dir_all(NETNS).with_context(|| format!("create {NETNS}"))?;
        // Held until the owner stands in the ledger, so that a concurrent `clean` never sees a run without one.
        let _lock = lock()?;
        root::allow_cubic()?;
        let (prefix, directory) = new_directory()?;
        let ledger = Ledger::create(&directory)?;
        let own = ProcessId::of(process::id().cast_signed()).context("read own /proc/PID/stat")?;
        ledger.add(&Entry::Owner(own))?;
        let cgroup = Cgroup::top(&prefix)?;
        ledger.add(&Entry::Cgroup(cgroup.path().to_owned()))?;
        for part in ["logs", "captures"] {
            fs::create_dir(directory.join(part)).context("create the run directory")?;
        }
        let (counter, ended) = (AtomicU64::new(0), AtomicBool::new(false));
        Ok(Arc::new(Self { prefix, directory, ledger, cgroup, counter, ended }))
    }

    /// What every name of this run begins with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The run's own directory, gone when it ends.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The directory of the mesh's own certificate authority, which all proxies of a cluster share.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn authority(&self) -> Result<PathBuf> {
        let directory = self.directory.join("ca");
        fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
        Ok(directory)
    }

    /// The CPU account of a role in this run.
    ///
    /// # Errors
    /// The cgroup cannot be made.
    pub fn role(&self, role: &str) -> Result<Cgroup> {
        self.cgroup.role(role)
    }

    /// A directory in bpffs for pins, removed with all it holds when the run ends.
    ///
    /// # Errors
    /// bpffs cannot be mounted or written.
    pub fn pins(&self, name: &str) -> Result<PathBuf> {
        let _lock = lock()?;
        root::mount_bpffs()?;
        let top = Path::new(root::BPFFS).join("ebb").join(&self.prefix);
        self.ledger.add(&Entry::Pins(top.clone()))?;
        let directory = top.join(name);
        fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
        Ok(directory)
    }

    /// A number not handed out before in this run.
    pub(crate) fn next_number(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn record_namespace(&self, name: &str) -> Result<()> {
        if self.ended.load(Ordering::Acquire) {
            bail!("the cluster has ended");
        }
        self.ledger.add(&Entry::Namespace(name.to_owned()))
    }

    pub(crate) fn record_process(&self, id: ProcessId) -> Result<()> {
        self.ledger.add(&Entry::Process(id))
    }

    /// Removes everything the run made. Does nothing the second time.
    pub(crate) fn end(&self) {
        if self.ended.swap(true, Ordering::AcqRel) {
            return;
        }
        self.keep_logs();
        if let Err(error) = removal::remove(&self.directory, &ledger::read(&self.directory)) {
            eprintln!("harness: run {} left something behind: {error:#}", self.prefix);
        }
    }

    fn keep_logs(&self) {
        let Some(keep) = env::var_os(KEEP) else { return };
        let target = Path::new(&keep).join(&self.prefix);
        if let Err(error) = copy_tree(&self.directory, &target) {
            eprintln!("harness: cannot keep {} in {}: {error:#}", self.prefix, target.display());
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.end();
    }
}

/// Removes what runs left behind whose owner is dead; returns their prefixes. Living runs are not touched.
///
/// # Errors
/// Not root, or something cannot be removed; what can be removed has been, and a next call tries the rest again.
pub fn clean() -> Result<Vec<String>> {
    root::require()?;
    if !Path::new(RUNS).exists() {
        return Ok(Vec::new());
    }
    let _lock = lock()?;
    let (mut cleaned, mut failures) = (Vec::new(), Vec::new());
    for directory in fs::read_dir(RUNS).with_context(|| format!("read {RUNS}"))?.flatten() {
        let path = directory.path();
        let Some(prefix) = path.file_name().and_then(|name| name.to_str()).filter(|_| path.is_dir()) else {
            continue;
        };
        let entries = ledger::read(&path);
        let owned = entries.iter().any(|entry| matches!(entry, Entry::Owner(owner) if owner.is_alive()));
        if owned || !prefix.starts_with("ebb-") {
            continue;
        }
        match removal::remove(&path, &entries) {
            Ok(()) => cleaned.push(prefix.to_owned()),
            Err(error) => failures.push(format!("{prefix}: {error:#}")),
        }
    }
    if !failures.is_empty() {
        bail!("cannot remove all of {failures:?}");
    }
    Ok(cleaned)
}

/// Serialises the start of runs and `clean` over all processes of the machine.
fn lock() -> Result<Flock<File>> {
    let path = Path::new(RUNS).join("lock");
    let file = OpenOptions::new().create(true).append(true).open(&path);
    let file = file.with_context(|| format!("open {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno).context("lock the list of runs")
}

fn new_directory() -> Result<(String, PathBuf)> {
    for number in 0..RUNS_PER_PROCESS {
        let prefix = format!("ebb-{:x}-{number}", process::id());
        let directory = Path::new(RUNS).join(&prefix);
        match fs::create_dir(&directory) {
            Ok(()) => return Ok((prefix, directory)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).context(format!("create {}", directory.display())),
        }
    }
    bail!("every run directory for process {:x} in {RUNS} is taken", process::id())
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
