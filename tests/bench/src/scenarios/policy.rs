//! How long a policy takes to be in force: from the file that is replaced to the first connection it refuses, and back.
//!
//! New connections are tried one after the other without a pause, so that the grain is the time of one of them.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::change::replace;
use crate::{
    plan::Plan,
    results::{Sample, sample},
    systems::{Candidate, Running},
};

/// How long a change may take.
const IN_FORCE_WITHIN: Duration = Duration::from_secs(10);

/// Between two changes, so that each is the first after a while.
const PAUSE: Duration = Duration::from_millis(300);

pub(super) fn take(candidate: &dyn Candidate, running: &Running, plan: &Plan) -> Result<Vec<Sample>> {
    let Some(switch) = candidate.policy(running) else { return Ok(Vec::new()) };
    ensure!(running.stage.answers(), "the server does not answer");
    let changed = (0..plan.policy_changes).map(|_| {
        thread::sleep(PAUSE);
        let deny = until(running, || replace(&switch.file, &switch.deny), false)?;
        thread::sleep(PAUSE);
        let allow = until(running, || replace(&switch.file, &switch.allow), true)?;
        Ok(sample([("deny", deny), ("allow", allow)]))
    });
    let samples = changed.collect::<Result<Vec<_>>>();
    // What is measured next needs connections, whatever happened here.
    fs::remove_file(&switch.file).with_context(|| format!("remove {}", switch.file.display()))?;
    until(running, || Ok(()), true)?;
    samples
}

/// Milliseconds from `change` to the first connection that is answered, or is not.
fn until(running: &Running, change: impl FnOnce() -> Result<()>, answered: bool) -> Result<f64> {
    change()?;
    let changed = Instant::now();
    while running.stage.answers() != answered {
        ensure!(changed.elapsed() < IN_FORCE_WITHIN, "the change is not in force");
    }
    Ok(changed.elapsed().as_secs_f64() * 1e3)
}
