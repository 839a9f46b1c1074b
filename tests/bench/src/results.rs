//! Owns what was measured: for each system and figure one value a round, and why values are missing.
//!
//! Judges nothing and prints nothing. A sample that failed leaves a hole in its round, never a zero.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{figures::Figure, layer::Layer, statistics::Summary};

/// What one sample yielded, by the figures' names.
pub(crate) type Sample = BTreeMap<&'static str, f64>;

/// One system that took part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Contestant {
    /// Such as `envoy-2`.
    pub(crate) name: String,
    /// What it is and which settings it ran with.
    pub(crate) about: String,
    /// Whether it is what the others are measured against.
    pub(crate) yardstick: bool,
}

/// A sample that could not be taken or was not good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Mishap {
    /// Where it happened.
    pub(crate) system: String,
    /// In which scenario.
    pub(crate) scenario: &'static str,
    /// In which round, counted from 1.
    pub(crate) round: usize,
    /// What happened.
    pub(crate) reason: String,
}

/// Everything a run measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Results {
    /// What was compared.
    #[serde(skip)]
    pub(crate) layer: Layer,
    /// The systems in the order in which the rounds went.
    pub(crate) systems: Vec<Contestant>,
    /// System, then figure, then one value a round.
    pub(crate) samples: BTreeMap<String, BTreeMap<&'static str, Vec<Option<f64>>>>,
    /// What went wrong.
    pub(crate) mishaps: Vec<Mishap>,
}

impl Results {
    /// Takes in the sample of `system` in `round`, counted from 0. A later sample replaces an earlier one.
    pub(crate) fn record(&mut self, system: &str, round: usize, sample: &Sample) {
        let figures = self.samples.entry(system.to_owned()).or_default();
        for (figure, value) in sample {
            let series = figures.entry(*figure).or_default();
            if series.len() <= round {
                series.resize(round + 1, None);
            }
            series[round] = Some(*value);
        }
    }

    /// The values of `figure` for `system`, one a round; empty when it was not measured.
    #[must_use]
    pub(crate) fn series(&self, system: &str, figure: &Figure) -> &[Option<f64>] {
        self.samples.get(system).and_then(|figures| figures.get(figure.id)).map_or(&[], Vec::as_slice)
    }

    /// The median and spread of `figure` for `system`.
    #[must_use]
    pub(crate) fn summary(&self, system: &str, figure: &Figure) -> Option<Summary> {
        Summary::of(self.series(system, figure).iter().copied().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::L4;

    #[test]
    fn a_failed_sample_leaves_a_hole_in_its_round() {
        let figure = &L4[0];
        let mut results = Results::default();
        results.record("ebb", 0, &Sample::from([(figure.id, 1.0)]));
        results.record("ebb", 2, &Sample::from([(figure.id, 3.0)]));
        assert_eq!(results.series("ebb", figure), [Some(1.0), None, Some(3.0)]);
        assert_eq!(results.summary("ebb", figure).map(|summary| summary.median), Some(2.0));
        assert_eq!(results.series("envoy-1", figure), []);
    }

    #[test]
    fn a_repeated_sample_replaces_the_first() {
        let figure = &L4[0];
        let mut results = Results::default();
        results.record("ebb", 0, &Sample::from([(figure.id, 1.0)]));
        results.record("ebb", 0, &Sample::from([(figure.id, 2.0)]));
        assert_eq!(results.series("ebb", figure), [Some(2.0)]);
    }
}
