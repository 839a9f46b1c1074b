//! Owns one child process: born in a namespace and a cgroup, its output in files, ended and reaped on drop.
//!
//! The child inherits namespace and cgroup from the thread that spawns it, so no code runs between fork and exec.

mod usage;

use std::{
    ffi::OsString,
    fs::{self, File},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

pub use self::usage::Memory;
use crate::{
    cgroup::Cgroup,
    interrupt::wait_for,
    netns::Namespace,
    run::{ProcessId, Run},
};

/// How long a process may take to end after SIGTERM before it is killed on drop.
const GRACE: Duration = Duration::from_secs(2);

/// Longest tail of a log shown in an error, in bytes.
const TAIL: usize = 4000;

/// What to run, and as what.
#[derive(Clone, Debug)]
pub struct Spawn {
    name: String,
    role: String,
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    input: bool,
}

impl Spawn {
    /// Runs `program` with logs called `name`, in the role `app` until told otherwise.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>) -> Self {
        let (arguments, environment) = (Vec::new(), Vec::new());
        Self {
            name: name.into(),
            role: "app".into(),
            program: program.into(),
            arguments,
            environment,
            input: false,
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Adds an environment variable to those inherited.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Accounts its CPU time to `role`.
    #[must_use]
    pub fn role(mut self, role: impl Into<String>) -> Self {
        self.role = role.into();
        self
    }

    /// Gives it a pipe to read from, open until [`Process::close_input`]; otherwise it reads end of file.
    #[must_use]
    pub fn with_input(mut self) -> Self {
        self.input = true;
        self
    }
}

/// A running, or ended, child process.
#[derive(Debug)]
pub struct Process {
    name: String,
    id: ProcessId,
    child: Mutex<Child>,
    output: PathBuf,
    errors: PathBuf,
    role: Cgroup,
}

impl Process {
    /// Starts `what` inside `namespace`.
    ///
    /// # Errors
    /// The program does not exist or cannot be run.
    pub fn spawn(run: &Arc<Run>, namespace: &Namespace, what: Spawn) -> Result<Self> {
        let stem = format!("{}.{}", what.name, run.next_number());
        let output = run.directory().join("logs").join(format!("{stem}.out"));
        let errors = output.with_extension("err");
        let role = run.role(&what.role)?;
        let mut command = Command::new(&what.program);
        command.args(&what.arguments).envs(what.environment);
        command.stdin(if what.input { Stdio::piped() } else { Stdio::null() });
        command.stdout(create(&output)?).stderr(create(&errors)?);
        let spawned = namespace.within(|| {
            role.enter()?;
            command.spawn().with_context(|| format!("run {}", what.program.display()))
        });
        let mut child = spawned?;
        // Unreaped, so its entry in /proc exists however soon it ends.
        let recorded = ProcessId::of(child.id().cast_signed())
            .context("read the start time of a new process")
            .and_then(|id| run.record_process(id).map(|()| id))
            .and_then(|id| role.adopt(child.id()).map(|()| id));
        match recorded {
            Ok(id) => Ok(Self { name: what.name, id, child: Mutex::new(child), output, errors, role }),
            Err(error) => {
                let _ = child.kill().and_then(|()| child.wait());
                Err(error)
            }
        }
    }

    /// The name it was spawned with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.id.pid
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.id.is_alive()
    }

    /// Sends a signal; fine when it has ended.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        // Under the lock the child cannot be reaped meanwhile, so the id is still its own.
        let mut child = self.child();
        if child.try_wait().context("look at the child")?.is_none() {
            kill(Pid::from_raw(self.id.pid), signal).with_context(|| format!("signal {}", self.name))?;
        }
        Ok(())
    }

    /// Kills it with SIGKILL, as a crash would, and reaps it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn kill9(&self) -> Result<ExitStatus> {
        self.signal(Signal::SIGKILL)?;
        self.child().wait().context("reap a killed child")
    }

    /// Asks it to end with SIGTERM, and kills it if it has not within `grace`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn terminate(&self, grace: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        let mut child = self.child();
        let deadline = std::time::Instant::now() + grace;
        // Not `wait_for`: this must also work while the user's interrupt unwinds the stack.
        while std::time::Instant::now() < deadline {
            if let Some(status) = child.try_wait().context("look at the child")? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().context("kill the child")?;
        child.wait().context("reap a killed child")
    }

    /// Waits for it to end by itself.
    ///
    /// # Errors
    /// It has not within `within`; it then still runs.
    pub fn wait(&self, within: Duration) -> Result<ExitStatus> {
        wait_for(&format!("end of {}", self.name), within, || {
            self.child().try_wait().context("look at the child")
        })
    }

    /// Waits for it to end well and returns its standard output.
    ///
    /// # Errors
    /// It does not end in time, or ends with another status than 0; the error shows the end of its log.
    pub fn finish(&self, within: Duration) -> Result<String> {
        let status = self.wait(within).with_context(|| self.tail())?;
        if !status.success() {
            let how = match status.signal() {
                Some(signal) => format!("signal {signal}"),
                None => format!("status {}", status.code().unwrap_or_default()),
            };
            bail!("{} ended with {how}; {}", self.name, self.tail());
        }
        self.stdout()
    }

    /// Closes the pipe it reads from, if it was given one.
    pub fn close_input(&self) {
        drop(self.child().stdin.take());
    }

    /// What it wrote to standard output so far.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn stdout(&self) -> Result<String> {
        read(&self.output)
    }

    /// What it wrote to standard error so far.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn stderr(&self) -> Result<String> {
        read(&self.errors)
    }

    /// Lines of either output that hold `needle`.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn log_lines(&self, needle: &str) -> Result<Vec<String>> {
        let (out, err) = (self.stdout()?, self.stderr()?);
        Ok(out.lines().chain(err.lines()).filter(|line| line.contains(needle)).map(str::to_owned).collect())
    }

    /// Waits for a line of either output that holds `needle`, and returns the first.
    ///
    /// # Errors
    /// None came in time, or the process ended without it; the error shows the end of its log.
    pub fn wait_for_log(&self, needle: &str, within: Duration) -> Result<String> {
        let what = format!("log line with {needle:?} from {}", self.name);
        let found = wait_for(&what, within, || {
            // Alive is asked first, so that a last line before the end is not missed.
            let alive = self.is_alive();
            match self.log_lines(needle)?.into_iter().next() {
                None if !alive => bail!("{} ended before a log line with {needle:?}", self.name),
                line => Ok(line),
            }
        });
        found.with_context(|| self.tail())
    }

    /// The end of both outputs, for error messages.
    #[must_use]
    pub fn tail(&self) -> String {
        let end = |text: String| {
            text.char_indices().rev().nth(TAIL).map_or(text.clone(), |(at, _)| text[at..].to_owned())
        };
        let out = end(self.stdout().unwrap_or_default());
        let err = end(self.stderr().unwrap_or_default());
        format!("{} wrote:\n{out}{err}", self.name)
    }

    /// The CPU account of its role.
    #[must_use]
    pub fn role(&self) -> &Cgroup {
        &self.role
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.terminate(GRACE) {
            eprintln!("harness: {} (pid {}) may still run: {error:#}", self.name, self.id.pid);
        }
    }
}

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("create {}", path.display()))
}

fn read(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
