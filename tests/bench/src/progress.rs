//! Tells the person at the terminal what is being done and how long it will still take.
//!
//! On a terminal one live line; elsewhere one line for each round, so that a log of a long run never looks dead.

use std::{
    io::{IsTerminal, Write},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// How long what is left will take: what was planned for it, times how far off the plan was so far.
#[must_use]
fn remaining(planned_left: Duration, planned_done: Duration, elapsed: Duration) -> Duration {
    if planned_done.is_zero() {
        return planned_left;
    }
    planned_left.mul_f64(elapsed.as_secs_f64() / planned_done.as_secs_f64())
}

/// The progress of a run whose steps have planned durations.
#[derive(Debug)]
pub(crate) struct Progress {
    started: Instant,
    planned: Duration,
    done: Duration,
    live: bool,
}

impl Progress {
    /// Starts the clock of a run that is planned to take `planned`.
    #[must_use]
    pub(crate) fn start(planned: Duration) -> Self {
        let live = std::io::stderr().is_terminal();
        Self { started: Instant::now(), planned, done: Duration::ZERO, live }
    }

    /// Says what is being done now.
    pub(crate) fn now(&self, what: &str) {
        if self.live {
            let left = remaining(self.planned.saturating_sub(self.done), self.done, self.started.elapsed());
            eprint!("\r\x1b[2K  ...  {what}; about {} left", human(left));
            // A live line that cannot be shown is not worth failing for.
            drop(std::io::stderr().flush());
        }
    }

    /// A step that was planned to take `planned` has ended.
    pub(crate) fn step_done(&mut self, planned: Duration) {
        self.done += planned;
    }

    /// Leaves a line that stays.
    pub(crate) fn note(&self, line: &str) {
        let clear = if self.live { "\r\x1b[2K" } else { "" };
        let left = remaining(self.planned.saturating_sub(self.done), self.done, self.started.elapsed());
        eprintln!("{clear}  {line}; about {} left", human(left));
    }
}

/// Runs `command` quietly as a named step; its output is shown only when it fails.
///
/// # Errors
/// It cannot be run, or fails.
pub(crate) fn command(name: &str, command: &mut Command) -> Result<()> {
    let started = Instant::now();
    eprintln!("  ...  {name}");
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{name}: run {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{name} failed:\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    eprintln!("  ok   {name} ({})", human(started.elapsed()));
    Ok(())
}

/// A duration as people read it: `7s`, `2m05s`.
#[must_use]
pub(crate) fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{:02}s", seconds / 60, seconds % 60) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_corrected_by_how_the_run_went_so_far() {
        let seconds = Duration::from_secs;
        assert_eq!(remaining(seconds(60), seconds(0), seconds(0)), seconds(60), "nothing learnt yet");
        assert_eq!(
            remaining(seconds(60), seconds(10), seconds(20)),
            seconds(120),
            "twice as slow as planned"
        );
        assert_eq!(remaining(seconds(0), seconds(10), seconds(20)), seconds(0));
    }

    #[test]
    fn durations_are_short_to_read() {
        assert_eq!(human(Duration::from_secs(7)), "7s");
        assert_eq!(human(Duration::from_secs(125)), "2m05s");
    }

    #[test]
    fn a_failing_command_shows_what_it_said() {
        let error =
            command("try", Command::new("sh").args(["-c", "echo out; echo err >&2; exit 1"])).unwrap_err();
        assert_eq!(error.to_string(), "try failed:\nout\nerr\n");
    }
}
