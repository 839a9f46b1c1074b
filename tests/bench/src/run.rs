//! Carries out a plan: brings all systems up, goes round them, repeats what was disturbed, and says how far it is.
//!
//! Which sample comes next and whether it counts is decided here and nowhere else. A system that fails in a round leaves a
//! hole there; only a system that cannot even start ends the run, since a comparison without it is not what was asked for.

use anyhow::{Context, Result};
use harness::interrupt;

use crate::{
    layer::Layer,
    machine::{self, CpuTime, Machine},
    plan::Plan,
    progress::Progress,
    results::{Comparison, Contestant, Mishap, Results, STOLEN, Sample},
    scenarios::{self, Scenario},
    systems::{Candidate, Running, Tools},
};

/// The systems that take part, all of them up.
struct Field<'a> {
    tools: &'a Tools,
    systems: Vec<(&'a dyn Candidate, Option<Running>)>,
    plan: &'a Plan,
    progress: &'a mut Progress,
    results: Results,
}

/// Measures `candidates` by `plan`. An interrupt ends it early with what was measured so far.
///
/// # Errors
/// A system cannot be started.
pub(crate) fn measure(
    candidates: &[Box<dyn Candidate>],
    tools: &Tools,
    plan: &Plan,
    progress: &mut Progress,
) -> Result<Comparison> {
    let (taken, mut machine) = (machine::now(), Machine::describe());
    let mut systems = Vec::new();
    let mut results = Results { layer: plan.layer, ..Results::default() };
    for candidate in candidates {
        interrupt::check()?;
        let name = candidate.name();
        let mut contestant = Contestant {
            name: name.into(),
            about: candidate.about(),
            version: candidate.version(tools),
            yardstick: candidate.yardstick(),
            limit: candidate.limit(),
            ..Contestant::default()
        };
        // What a comparison of sizes measures it starts for itself.
        let running = if plan.layer == Layer::Scale {
            None
        } else {
            progress.note(&format!("start {name}"));
            let running = candidate.start(tools).with_context(|| format!("start {name}"))?;
            let agreed = running.prove_on_the_wire();
            contestant.cipher = agreed.with_context(|| format!("{name} carries no traffic"))?;
            machine.congestion_control = running.stage.congestion_control()?;
            Some(running)
        };
        results.systems.push(contestant);
        systems.push((candidate.as_ref(), running));
    }
    let mut field = Field { tools, systems, plan, progress, results };
    field.all_rounds();
    Ok(Comparison { taken, machine, plan: plan.clone(), results: field.results, figures: Vec::new() })
}

impl Field<'_> {
    /// Every scenario in turn, and in each the rounds.
    fn all_rounds(&mut self) {
        for scenario in &self.plan.scenarios {
            for round in 0..self.plan.rounds_of(*scenario) {
                if interrupt::interrupted() {
                    return;
                }
                self.round(*scenario, round);
            }
        }
    }

    /// One sample of every system, one after the other.
    fn round(&mut self, scenario: Scenario, round: usize) {
        let rounds = self.plan.rounds_of(scenario);
        let place = format!("{} {scenario}, round {} of {rounds}", self.plan.layer, round + 1);
        for (candidate, running) in &self.systems {
            if interrupt::interrupted() {
                return;
            }
            let name = candidate.name();
            self.progress.now(&format!("{place}, {name}"));
            let (samples, mishaps) = undisturbed(self.plan.stolen_limit, || {
                let before = CpuTime::now()?;
                let mut samples =
                    scenarios::take(scenario, *candidate, running.as_ref(), (self.tools, self.plan))?;
                let stolen = CpuTime::now()?.stolen_since(&before);
                for sample in &mut samples {
                    sample.insert(STOLEN.into(), stolen);
                }
                Ok((samples, stolen))
            });
            // A scenario that repeats something by itself fills rounds of its own.
            for (own, sample) in samples.into_iter().flatten().enumerate() {
                self.results.record(name, scenario, round + own, &sample);
            }
            for reason in mishaps {
                let first = reason.lines().next().unwrap_or_default();
                self.progress.note(&format!("{place}, {name}: {first}"));
                self.results.mishaps.push(Mishap { system: name.into(), scenario, round: round + 1, reason });
            }
            self.progress.step_done(self.plan.expected(scenario));
        }
        self.progress.note(&format!("{place} done"));
    }
}

/// Takes a sample, and once more if the hypervisor stole too much of it or it failed. Of two disturbed samples the less
/// disturbed one counts: without it the round would be lost for every comparison with this system.
fn undisturbed(
    limit: f64,
    mut take: impl FnMut() -> Result<(Vec<Sample>, f64)>,
) -> (Option<Vec<Sample>>, Vec<String>) {
    let mut mishaps = Vec::new();
    let mut best: Option<(Vec<Sample>, f64)> = None;
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

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;
    use crate::results;

    fn sample(value: f64) -> Vec<Sample> {
        vec![results::sample([("p50", value)])]
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
