//! Tells the person at the terminal what is going on and for how long.
//!
//! On a terminal one live line with the elapsed time; elsewhere plain lines, one at the end of each step and one
//! every [`HEARTBEAT`], so that a log of a long build never looks dead.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a step that is still running says so where there is no terminal.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// How often the live line is redrawn.
const REDRAW: Duration = Duration::from_secs(1);

/// One step that is being done. Dropping it without an end clears the live line and says nothing.
pub(crate) struct Step {
    name: String,
    started: Instant,
    ticker: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Step {
    /// Starts the clock and, on a terminal, shows the live line.
    pub(crate) fn begin(name: impl Into<String>) -> Self {
        let name = name.into();
        let started = Instant::now();
        let (stop, stopped) = mpsc::channel();
        let label = name.clone();
        let ticker = std::thread::spawn(move || {
            let live = std::io::stderr().is_terminal();
            let period = if live { REDRAW } else { HEARTBEAT };
            if live {
                draw(&label, started.elapsed());
            }
            while stopped.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
                if live {
                    draw(&label, started.elapsed());
                } else {
                    eprintln!("  ... {label}, {} so far", seconds(started.elapsed()));
                }
            }
            if live {
                eprint!("\r\x1b[2K");
            }
        });
        Self { name, started, ticker: Some((stop, ticker)) }
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

fn draw(name: &str, elapsed: Duration) {
    eprint!("\r\x1b[2K  ...  {name} {}", seconds(elapsed));
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
