//! Carries out a plan: brings all systems up, goes round them, repeats what was disturbed, and says how far it is.
//!
//! Which sample comes next and whether it counts is decided here and nowhere else. A system that fails in a round leaves a
//! hole there; only a system that cannot even start ends the run, since a comparison without it is not what was asked for.

use anyhow::{Context, Result};
use harness::interrupt;

use crate::{
    machine::CpuTime,
    plan::Plan,
    progress::Progress,
    results::{Contestant, Mishap, Results, Sample},
    scenarios::{self, Scenario},
    systems::{Candidate, Running, Tools},
};

/// The systems that take part, all of them up.
struct Field<'a> {
    tools: &'a Tools,
    systems: Vec<(&'a dyn Candidate, Running)>,
    plan: &'a Plan,
    progress: Progress,
    results: Results,
}

/// Measures `candidates` by `plan`. An interrupt ends it early with what was measured so far.
///
/// # Errors
/// A system cannot be started.
pub(crate) fn measure(candidates: &[Box<dyn Candidate>], tools: &Tools, plan: &Plan) -> Result<Results> {
    let mut systems = Vec::new();
    for candidate in candidates {
        eprintln!("  ...  start {}", candidate.name());
        let running = candidate.start(tools).with_context(|| format!("start {}", candidate.name()))?;
        running.prove().with_context(|| format!("{} carries no traffic", candidate.name()))?;
        systems.push((candidate.as_ref(), running));
    }
    let progress = Progress::start(plan.expected_in_all(candidates.len()));
    let results = Results {
        layer: plan.layer,
        systems: candidates.iter().map(|one| contestant(one.as_ref())).collect(),
        ..Results::default()
    };
    let mut field = Field { tools, systems, plan, progress, results };
    for scenario in &plan.scenarios {
        for round in 0..plan.rounds_of(*scenario) {
            if interrupt::interrupted() {
                return Ok(field.results);
            }
            field.round(*scenario, round);
        }
    }
    Ok(field.results)
}

impl Field<'_> {
    /// One sample of every system, one after the other.
    fn round(&mut self, scenario: Scenario, round: usize) {
        let rounds = self.plan.rounds_of(scenario);
        for (candidate, running) in &self.systems {
            if interrupt::interrupted() {
                return;
            }
            let place = format!("{}, round {} of {rounds}", scenario.name(), round + 1);
            self.progress.now(&format!("{place}, {}", candidate.name()));
            let (sample, mishaps) = undisturbed(self.plan.stolen_limit, || {
                let before = CpuTime::now()?;
                let sample = scenarios::take(scenario, *candidate, running, (self.tools, self.plan))?;
                Ok((sample, CpuTime::now()?.stolen_since(&before)))
            });
            if let Some(sample) = sample {
                self.results.record(candidate.name(), round, &sample);
            }
            for reason in mishaps {
                self.progress.note(&format!(
                    "{place}, {}: {}",
                    candidate.name(),
                    reason.lines().next().unwrap_or("")
                ));
                let system = candidate.name().to_owned();
                self.results.mishaps.push(Mishap {
                    system,
                    scenario: scenario.name(),
                    round: round + 1,
                    reason,
                });
            }
            self.progress.step_done(self.plan.expected(scenario));
        }
        self.progress.note(&format!("{}, round {} of {rounds} done", scenario.name(), round + 1));
    }
}

/// Takes a sample, and once more if the hypervisor stole too much of it or it failed. Of two disturbed samples the less
/// disturbed one counts: without it the round would be lost for every comparison with this system.
fn undisturbed(limit: f64, mut take: impl FnMut() -> Result<(Sample, f64)>) -> (Option<Sample>, Vec<String>) {
    let mut mishaps = Vec::new();
    let mut best: Option<(Sample, f64)> = None;
    for _ in 0..2 {
        match take() {
            Ok((sample, stolen)) if stolen <= limit => return (Some(sample), mishaps),
            Ok((sample, stolen)) => {
                mishaps.push(format!("{:.0} % of the CPU time was stolen", stolen * 100.0));
                if best.as_ref().is_none_or(|(_, least)| stolen < *least) {
                    best = Some((sample, stolen));
                }
            }
            // Not the sample's fault.
            Err(_) if interrupt::interrupted() => break,
            Err(error) => mishaps.push(reason(&error)),
        }
    }
    (best.map(|(sample, _)| sample), mishaps)
}

/// The cause first, then all that is known: the end of a program's log can be long.
fn reason(error: &anyhow::Error) -> String {
    match error.chain().count() {
        1 => error.to_string(),
        _ => format!("{}\n{error:#}", error.root_cause()),
    }
}

fn contestant(candidate: &dyn Candidate) -> Contestant {
    Contestant { name: candidate.name().into(), about: candidate.about(), yardstick: candidate.yardstick() }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    fn sample(value: f64) -> Sample {
        Sample::from([("ping.p50", value)])
    }

    #[test]
    fn a_quiet_sample_is_taken_once() {
        let mut taken = 0;
        let (kept, mishaps) = undisturbed(0.2, || {
            taken += 1;
            Ok((sample(1.0), 0.2))
        });
        assert_eq!((kept, mishaps.len(), taken), (Some(sample(1.0)), 0, 1));
    }

    #[test]
    fn a_disturbed_sample_is_repeated_once_and_the_calmer_one_counts() {
        let mut stolen = [0.5, 0.3, 0.0].into_iter();
        let (kept, mishaps) = undisturbed(0.2, || {
            let stolen = stolen.next().unwrap();
            Ok((sample(stolen), stolen))
        });
        assert_eq!((kept, mishaps.len()), (Some(sample(0.3)), 2));
        assert_eq!(stolen.next(), Some(0.0), "not a third time");
    }

    #[test]
    fn a_sample_that_fails_twice_is_a_hole_and_says_why() {
        let (kept, mishaps) = undisturbed(0.2, || bail!("refused"));
        assert_eq!((kept, mishaps), (None, vec!["refused".to_owned(), "refused".to_owned()]));
    }
}
