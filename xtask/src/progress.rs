//! Tells the person at the terminal what is going on and for how long.
//!
//! On a terminal one live line with the elapsed time; elsewhere plain lines, one at the end of each step and one
//! every [`HEARTBEAT`], so that a log of a long build never looks dead.

use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a step that is still running says so where there is no terminal.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// How often the live line is redrawn.
const REDRAW: Duration = Duration::from_secs(1);

/// How far a step has come, when somebody knows.
#[derive(Clone, Default)]
pub(crate) struct Meter(Arc<AtomicU64>);

impl Meter {
    /// `done` of `total` parts are done.
    pub(crate) fn set(&self, done: u32, total: u32) {
        self.0.store(u64::from(done) << 32 | u64::from(total), Ordering::Relaxed);
    }
}

impl fmt::Display for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.load(Ordering::Relaxed) {
            0 => Ok(()),
            both => write!(f, ", {} of {}", both >> 32, both & u64::from(u32::MAX)),
        }
    }
}

/// One step that is being done. Dropping it without an end clears the live line and says nothing.
pub(crate) struct Step {
    name: String,
    started: Instant,
    meter: Meter,
    ticker: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Step {
    /// Starts the clock and, on a terminal, shows the live line.
    pub(crate) fn begin(name: impl Into<String>) -> Self {
        let name = name.into();
        let started = Instant::now();
        let (stop, stopped) = mpsc::channel();
        let (label, meter) = (name.clone(), Meter::default());
        let shown = meter.clone();
        let ticker = std::thread::spawn(move || {
            let live = std::io::stderr().is_terminal();
            let period = if live { REDRAW } else { HEARTBEAT };
            if live {
                draw(&label, &shown, started.elapsed());
            }
            while stopped.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
                if live {
                    draw(&label, &shown, started.elapsed());
                } else {
                    eprintln!("  ... {label}{shown}, {} so far", seconds(started.elapsed()));
                }
            }
            if live {
                eprint!("\r\x1b[2K");
            }
        });
        Self { name, started, meter, ticker: Some((stop, ticker)) }
    }

    /// Where to say how far it has come.
    pub(crate) fn meter(&self) -> Meter {
        self.meter.clone()
    }

    /// Ends the step well.
    pub(crate) fn done(mut self) {
        self.stop();
        eprintln!("  ok   {} ({})", self.name, seconds(self.started.elapsed()));
    }

    /// Ends the step badly.
    pub(crate) fn failed(mut self) {
        self.stop();
        eprintln!("  FAIL {} ({})", self.name, seconds(self.started.elapsed()));
    }

    fn stop(&mut self) {
        if let Some((stop, ticker)) = self.ticker.take() {
            drop(stop);
            // The ticker only prints; if it panicked there is nothing to clean up.
            drop(ticker.join());
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A duration as people read it: `7.3s`, `2m05s`.
pub(crate) fn seconds(elapsed: Duration) -> String {
    let whole = elapsed.as_secs();
    if whole < 60 {
        format!("{:.1}s", elapsed.as_secs_f64())
    } else {
        format!("{}m{:02}s", whole / 60, whole % 60)
    }
}

fn draw(name: &str, meter: &Meter, elapsed: Duration) {
    eprint!("\r\x1b[2K  ...  {name}{meter}, {}", seconds(elapsed));
    // A live line that cannot be shown is not worth failing for.
    drop(std::io::stderr().flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short_to_read() {
        assert_eq!(seconds(Duration::from_millis(7_340)), "7.3s");
        assert_eq!(seconds(Duration::from_secs(125)), "2m05s");
    }
}
