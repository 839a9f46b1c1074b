//! Owns how long a run measures what: rounds, durations, and which scenarios with which systems.
//!
//! Pure. The defaults give answers that hold to about 10 % on a machine that is shared; `--quick` only shows that it works.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{layer::Layer, scenarios::Scenario};

/// Rounds below which a claim under 20 % does not hold on a shared machine.
pub(crate) const ROUNDS: usize = 8;

/// Rounds of `--quick`.
pub(crate) const QUICK_ROUNDS: usize = 3;

/// What to measure and for how long.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// What is compared.
    pub(crate) layer: Layer,
    /// Whether it was only to show that everything works.
    pub(crate) quick: bool,
    /// How often each system is measured in each scenario, but for those that are measured once.
    pub(crate) rounds: usize,
    /// The scenarios, in order.
    pub(crate) scenarios: Vec<Scenario>,
    /// The length of one sample of traffic, in seconds.
    pub(crate) sample_seconds: u64,
    /// Idle connections held to see what one costs.
    pub(crate) connections_held: u32,
    /// Clients of the scenario `cold`, each with an identity of its own.
    pub(crate) cold_clients: u32,
    /// How often a policy is put in force and taken back.
    pub(crate) policy_changes: u32,
    /// The length of one sample at a fixed rate, in seconds.
    pub(crate) paced_seconds: u64,
    /// Routes of the scenario `routes`.
    pub(crate) routes: u32,
    /// Services with a route each in the scenario `change`.
    pub(crate) services: u32,
    /// How often one of them is changed there.
    pub(crate) changes: u32,
    /// Share of stolen CPU time, 0 to 1, above which a sample is taken a second time.
    pub(crate) stolen_limit: f64,
}

impl Plan {
    /// A plan with these rounds and scenarios.
    #[must_use]
    pub(crate) fn new(layer: Layer, rounds: Option<usize>, scenarios: Vec<Scenario>, quick: bool) -> Self {
        let default = if quick { QUICK_ROUNDS } else { ROUNDS };
        Self {
            layer,
            quick,
            rounds: rounds.unwrap_or(default),
            scenarios,
            sample_seconds: if quick { 1 } else { 2 },
            connections_held: if quick { 500 } else { 2000 },
            cold_clients: if quick { 2 } else { 8 },
            policy_changes: if quick { 3 } else { 10 },
            paced_seconds: if quick { 2 } else { 5 },
            routes: 1000,
            services: if quick { 2000 } else { 10_000 },
            changes: if quick { 10 } else { 30 },
            stolen_limit: 0.2,
        }
    }

    /// How often a system is measured in `scenario`.
    #[must_use]
    pub(crate) fn rounds_of(&self, scenario: Scenario) -> usize {
        match scenario {
            // A process that held connections once keeps some of their memory: only the first time is true.
            Scenario::Memory | Scenario::Idle => 1,
            // Each starts what it measures anew, or repeats it by itself.
            Scenario::Cold | Scenario::Policy | Scenario::Routes => 1,
            Scenario::Change | Scenario::Matching | Scenario::Pods(_) => 1,
            Scenario::Workloads(_) => self.rounds.min(3),
            _ => self.rounds,
        }
    }

    /// How long one sample of `scenario` is expected to take, with what surrounds it.
    #[must_use]
    pub(crate) fn expected(&self, scenario: Scenario) -> Duration {
        let (millis, seconds) = (Duration::from_millis, Duration::from_secs);
        match scenario {
            Scenario::Memory => seconds(2) + millis(3) * self.connections_held,
            Scenario::Workloads(count) => seconds(3) + count * Duration::from_micros(150),
            Scenario::Idle => seconds(1),
            Scenario::Paced(_) => seconds(self.paced_seconds) + millis(300),
            Scenario::Routes => seconds(4),
            Scenario::Cold => seconds(3) + millis(500) * self.cold_clients,
            Scenario::Policy => seconds(1) + millis(900) * self.policy_changes,
            Scenario::Change => seconds(15) + millis(500) * self.changes,
            Scenario::Matching => seconds(10),
            Scenario::Pods(count) => seconds(4) + millis(400) * count,
            _ => seconds(self.sample_seconds) + millis(300),
        }
    }

    /// How long the whole run is expected to take for `systems` systems.
    #[must_use]
    pub(crate) fn expected_in_all(&self, systems: usize) -> Duration {
        let one = |scenario: &Scenario| {
            self.expected(*scenario).mul_f64((self.rounds_of(*scenario) * systems) as f64)
        };
        self.scenarios.iter().map(one).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer;

    #[test]
    fn a_full_run_has_the_rounds_that_a_claim_needs_and_ends_within_an_hour_and_a_half() {
        let mut in_all = Duration::ZERO;
        for layer in layer::ALL {
            let plan = Plan::new(layer, None, layer.scenarios().to_vec(), false);
            assert!(plan.rounds >= 8);
            in_all += plan.expected_in_all(4);
        }
        assert!(in_all < Duration::from_secs(90 * 60), "{in_all:?}");
    }

    #[test]
    fn asked_for_rounds_win_over_quick() {
        assert_eq!(Plan::new(Layer::L4, Some(5), vec![Scenario::Bulk(1)], true).rounds, 5);
        assert_eq!(Plan::new(Layer::L7, None, vec![Scenario::Bulk(1)], true).rounds, QUICK_ROUNDS);
    }
}
