//! Runs other programs and stays in charge of them.
//!
//! A child runs in a process group of its own, and an interrupt is passed on to that group and then waited for: the
//! child's clean-up (namespaces, pinned kernel programs) ends before this process does. Without the group a Ctrl-C
//! at a terminal would reach the child twice.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
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

use crate::progress::{Meter, Step, seconds};
use crate::workspace::Workspace;

/// The longest one quiet step may take: a first build on a slow two-core machine, three times over.
const STEP_LIMIT: Duration = Duration::from_secs(45 * 60);
/// Has cargo draw its progress where nobody sees it, for [`built`] to read.
const PROGRESS_SETTINGS: [(&str, &str); 2] =
    [("CARGO_TERM_PROGRESS_WHEN", "always"), ("CARGO_TERM_PROGRESS_WIDTH", "100")];
/// What erases the rest of a line on a terminal (ECMA-48, EL).
const ERASE: &str = "\x1b[K";
/// How many of the last lines of a quiet step's output are shown when it fails.
const SHOWN_ON_FAILURE: usize = 60;
/// What a shell reports for a program that SIGINT ended.
pub(crate) const INTERRUPTED_EXIT: u8 = 130;

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
                _ => std::process::exit(INTERRUPTED_EXIT.into()),
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
    let (log, mut file) = open_log(workspace, name)?;
    // A log that cannot be written is no reason to fail; the exit code tells how it went.
    run_step((name, &log, &file.try_clone().context("share the log")?), command, |line| {
        let _ = writeln!(file, "{line}");
    })
}

/// The same, with standard output handed to `on_line`. What cargo says of its progress is shown beside the name.
pub(crate) fn run_building(
    workspace: &Workspace,
    name: &str,
    command: &mut Command,
    on_line: impl FnMut(&str),
) -> Result<()> {
    let (log, file) = open_log(workspace, name)?;
    run_step((name, &log, &file), command, on_line)
}

fn open_log(workspace: &Workspace, name: &str) -> Result<(PathBuf, File)> {
    std::fs::create_dir_all(workspace.logs()).context("make the folder for logs")?;
    let log = workspace.logs().join(format!("{}.log", name.replace(|c: char| !c.is_alphanumeric(), "-")));
    let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
    Ok((log, file))
}

fn run_step(
    (name, log, file): (&str, &Path, &File),
    command: &mut Command,
    on_line: impl FnMut(&str),
) -> Result<()> {
    let errors = file.try_clone().context("share the log between output and errors")?;
    let step = Step::begin(name);
    let meter = step.meter();
    let (stderr, ours) = std::io::pipe().context("make a pipe for the child's errors")?;
    let reader = std::thread::spawn(move || keep_errors(stderr, errors, &meter));
    command.stderr(ours);
    for (setting, value) in PROGRESS_SETTINGS {
        command.env(setting, value);
    }
    let outcome = run_reading(command, STEP_LIMIT, on_line);
    // Ours is the last writing end by now, and the reader waits for it.
    command.stderr(Stdio::null());
    // It only copies; if it panicked the log is short, and the exit code still tells.
    drop(reader.join());
    match outcome {
        Ok(status) if status.success() => {
            step.done();
            Ok(())
        }
        outcome => {
            if interrupted() {
                drop(step);
            } else {
                step.failed();
                show_end_of(log);
            }
            let checked = outcome.and_then(|status| check(command, status));
            checked.with_context(|| format!("{name} (whole log: {})", log.display()))
        }
    }
}

/// Copies a child's errors to the log, but for the lines by which cargo draws its progress; those move the meter.
fn keep_errors(stderr: impl Read, mut log: File, meter: &Meter) {
    let mut line = Vec::new();
    // Cargo ends what it draws with a carriage return alone, and nobody wants to wait for the end of the line.
    for byte in BufReader::new(stderr).bytes().map_while(Result::ok) {
        if !matches!(byte, b'\r' | b'\n') {
            line.push(byte);
            continue;
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_start_matches(ERASE);
        match built(text) {
            Some((done, total)) => meter.set(done, total),
            None if text.is_empty() => {}
            // A log that cannot be written is no reason to fail.
            None => drop(writeln!(log, "{text}")),
        }
        line.clear();
    }
}

/// How many of how many parts a line of cargo's progress says are built: `Building [==>  ] 3/120: syn`.
fn built(line: &str) -> Option<(u32, u32)> {
    let (_, counts) = line.trim_start().strip_prefix("Building [")?.split_once("] ")?;
    let (done, rest) = counts.split_once('/')?;
    let total = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((done.trim().parse().ok()?, total.parse().ok()?))
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
    fn cargos_progress_moves_the_meter_and_stays_out_of_the_log() {
        assert_eq!(built("    Building [=====>     ] 3/120: syn, quote(build.rs)"), Some((3, 120)));
        assert_eq!(built("    Building [==========>] 119/120"), Some((119, 120)));
        for other in ["   Compiling syn v2.0.1", "Building blocks 1/2", "error: [x] 1/2", ""] {
            assert_eq!(built(other), None, "{other}");
        }
        let folder = std::env::temp_dir().join(format!("ebb-xtask-errors-{}", std::process::id()));
        let meter = Meter::default();
        let stderr =
            b"   Compiling a\n\r\x1b[K    Building [>  ] 1/2: b\r\r\x1b[K   Compiling b\nerror: no\n";
        keep_errors(&stderr[..], File::create(&folder).unwrap(), &meter);
        let log = std::fs::read_to_string(&folder).unwrap();
        std::fs::remove_file(&folder).unwrap();
        assert_eq!(log, "   Compiling a\n   Compiling b\nerror: no\n");
        assert_eq!(meter.to_string(), ", 1 of 2");
    }

    #[test]
    fn a_failing_child_is_named_in_the_error() {
        let error = run(Command::new("false").arg("x")).unwrap_err();
        assert_eq!(error.to_string(), "`false x` failed with exit code 1");
    }
}
