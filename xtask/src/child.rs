//! Runs other programs and stays in charge of them.
//!
//! A child runs in a process group of its own, and an interrupt is passed on to that group and then waited for: the
//! child's clean-up (namespaces, pinned kernel programs) ends before this process does. Without the group a Ctrl-C
//! at a terminal would reach the child twice.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::progress::{Step, seconds};
use crate::workspace::Workspace;

/// How many of the last lines of a quiet step's output are shown when it fails.
const SHOWN_ON_FAILURE: usize = 60;
/// What a shell reports for a program that SIGINT ended.
const INTERRUPTED_EXIT: i32 = 130;

/// The child's process group, while one is running. Locked across spawn, so that no signal falls in between.
static RUNNING: Mutex<State> = Mutex::new(State { group: None, interrupted: false });

struct State {
    group: Option<Pid>,
    interrupted: bool,
}

fn state() -> MutexGuard<'static, State> {
    // Every write is a single assignment, so a poisoned lock still guards a sound value.
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts passing SIGINT, SIGTERM and SIGHUP on to whichever child is running.
pub(crate) fn forward_signals() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("watch for signals")?;
    std::thread::spawn(move || {
        for number in signals.forever() {
            let mut state = state();
            state.interrupted = true;
            match (state.group, Signal::try_from(number)) {
                (Some(group), Ok(signal)) => tell(group, signal),
                _ => std::process::exit(INTERRUPTED_EXIT),
            }
        }
    });
    Ok(())
}

fn tell(group: Pid, signal: Signal) {
    // The group may have ended a moment ago; then there is nobody left to tell.
    let _ = killpg(group, signal);
}

/// Whether somebody asked this process to stop.
pub(crate) fn interrupted() -> bool {
    state().interrupted
}

/// Runs `command` with its output on ours.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = wait(spawn(command)?)?;
    check(command, status)
}

/// Runs `command` with its standard output handed to `on_line` line by line and its errors on ours.
///
/// A child that is not done after `limit` is killed with its whole group, so that a hanging test is a failure with a
/// name and not a build that never ends.
pub(crate) fn run_reading(
    command: &mut Command,
    limit: Duration,
    mut on_line: impl FnMut(&str),
) -> Result<ExitStatus> {
    let mut child = spawn(command.stdout(Stdio::piped()))?;
    let watchdog = Watchdog::start(limit);
    if let Some(stdout) = child.stdout.take() {
        let mut lines = BufReader::new(stdout);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).context("read the child's output")? > 0 {
            on_line(String::from_utf8_lossy(&line).trim_end_matches('\n'));
            line.clear();
        }
    }
    let status = wait(child)?;
    if watchdog.has_fired() {
        bail!("`{}` was not done after {} and was killed", shown(command), seconds(limit));
    }
    Ok(status)
}

/// Kills the running group when it is not dropped or asked in time.
struct Watchdog {
    _cancel: Sender<()>,
    fired: Arc<AtomicBool>,
}

impl Watchdog {
    fn start(limit: Duration) -> Self {
        let (cancel, cancelled) = mpsc::channel::<()>();
        let fired = Arc::new(AtomicBool::new(false));
        let mark = Arc::clone(&fired);
        std::thread::spawn(move || {
            if cancelled.recv_timeout(limit) == Err(RecvTimeoutError::Timeout)
                && let Some(group) = state().group
            {
                mark.store(true, Ordering::SeqCst);
                tell(group, Signal::SIGKILL);
            }
        });
        Self { _cancel: cancel, fired }
    }

    fn has_fired(&self) -> bool {
        self.fired.load(Ordering::SeqCst)
    }
}

/// Runs `command` as a named step: its output goes to a log, whose end is shown only when it fails.
pub(crate) fn run_quietly(workspace: &Workspace, name: &str, command: &mut Command) -> Result<()> {
    std::fs::create_dir_all(workspace.logs()).context("make the folder for logs")?;
    let log = workspace.logs().join(format!("{}.log", name.replace(|c: char| !c.is_alphanumeric(), "-")));
    let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
    let errors = file.try_clone().context("share the log between output and errors")?;
    let step = Step::begin(name);
    let status = wait(spawn(command.stdout(file).stderr(errors))?)?;
    if status.success() {
        step.done();
        return Ok(());
    }
    step.failed();
    show_end_of(&log);
    check(command, status).with_context(|| format!("{name} (whole log: {})", log.display()))
}

fn spawn(command: &mut Command) -> Result<Child> {
    let mut state = state();
    if state.interrupted {
        bail!("interrupted");
    }
    let child = command
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .with_context(|| format!("start `{}`: is it installed and in PATH?", shown(command)))?;
    let id = i32::try_from(child.id()).context("a process id fits in 31 bits")?;
    state.group = Some(Pid::from_raw(id));
    Ok(child)
}

fn wait(mut child: Child) -> Result<ExitStatus> {
    let status = child.wait().context("wait for the child")?;
    let mut state = state();
    state.group = None;
    if state.interrupted {
        bail!("interrupted");
    }
    Ok(status)
}

fn check(command: &Command, status: ExitStatus) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    match (status.code(), status.signal()) {
        (Some(code), _) => bail!("`{}` failed with exit code {code}", shown(command)),
        (None, Some(signal)) => bail!("`{}` was ended by signal {signal}", shown(command)),
        (None, None) => bail!("`{}` failed", shown(command)),
    }
}

/// The command as somebody would type it, without the environment.
pub(crate) fn shown(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

fn show_end_of(log: &Path) {
    let Ok(text) = std::fs::read(log) else { return };
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    for line in &lines[lines.len().saturating_sub(SHOWN_ON_FAILURE)..] {
        eprintln!("       {line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_the_exit_code_of_a_child_are_both_seen() {
        let mut lines = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two; exit 3"]);
        let status =
            run_reading(&mut command, Duration::from_secs(60), |line| lines.push(line.to_owned())).unwrap();
        assert_eq!(lines, ["one", "two"]);
        assert_eq!(status.code(), Some(3));
    }

    #[test]
    fn a_failing_child_is_named_in_the_error() {
        let error = run(Command::new("false").arg("x")).unwrap_err();
        assert_eq!(error.to_string(), "`false x` failed with exit code 1");
    }
}
