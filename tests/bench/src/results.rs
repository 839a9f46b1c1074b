//! Owns what was measured: for each system and figure one value a round, and why values are missing.
//!
//! Judges nothing and prints nothing. A sample that failed leaves a hole in its round, never a zero. Everything here is
//! written to a file and read back from it, so that a report can be made again without measuring.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    figures::Figure, layer::Layer, machine::Machine, plan::Plan, scenarios::Scenario, statistics::Summary,
};

/// The version of the file's shape; another one is not read.
const VERSION: u32 = 2;

/// What one sample yielded, by the parts of the scenario's figures; `cpu:ROLE` is the CPU of one role for the same unit of
/// work.
pub(crate) type Sample = BTreeMap<String, f64>;

/// Parts of a sample that are CPU time of one role.
pub(crate) const OF_ROLE: &str = "cpu:";

/// The part of a sample that is the share of CPU time, 0 to 1, that the hypervisor gave to others meanwhile.
pub(crate) const STOLEN: &str = "stolen";

/// A sample of these values.
pub(crate) fn sample<const N: usize>(values: [(&str, f64); N]) -> Sample {
    values.into_iter().map(|(part, value)| (part.to_owned(), value)).collect()
}

/// One system that took part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Contestant {
    /// Such as `envoy-2`.
    pub(crate) name: String,
    /// What it is and which settings it ran with.
    pub(crate) about: String,
    /// As it tells it itself; empty where there is nothing to tell.
    #[serde(default)]
    pub(crate) version: String,
    /// What was agreed on for what crosses the wire, as seen there; none where nothing was encrypted or nothing crossed it.
    #[serde(default)]
    pub(crate) cipher: Option<String>,
    /// Whether it is what Ebb is measured against.
    pub(crate) yardstick: bool,
    /// Whether it is a limit of the machine.
    #[serde(default)]
    pub(crate) limit: bool,
}

/// A sample that could not be taken or was not good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mishap {
    /// Where it happened.
    pub(crate) system: String,
    /// In which scenario.
    pub(crate) scenario: Scenario,
    /// In which round, counted from 1.
    pub(crate) round: usize,
    /// What happened.
    pub(crate) reason: String,
}

/// One value a round, by the figures' names.
type Figures = BTreeMap<String, Vec<Option<f64>>>;

/// Everything one comparison measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Results {
    /// What was compared.
    pub(crate) layer: Layer,
    /// The systems in the order in which the rounds went.
    pub(crate) systems: Vec<Contestant>,
    /// System, then figure, then one value a round.
    pub(crate) samples: BTreeMap<String, Figures>,
    /// What went wrong.
    pub(crate) mishaps: Vec<Mishap>,
}

/// A comparison with all that its reader needs to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Comparison {
    /// When it began: date and time, UTC.
    pub(crate) taken: String,
    /// Where.
    pub(crate) machine: Machine,
    /// What was measured for how long.
    pub(crate) plan: Plan,
    /// What came out.
    #[serde(flatten)]
    pub(crate) results: Results,
    /// What each figure was judged to be when the file was written, for other programs; made anew whenever it is.
    #[serde(default)]
    pub(crate) figures: Vec<Value>,
}

/// The JSON file's content.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Document {
    version: u32,
    /// One for each layer.
    pub(crate) comparisons: Vec<Comparison>,
}

impl Document {
    /// Of these comparisons.
    pub(crate) fn new(comparisons: Vec<Comparison>) -> Self {
        Self { version: VERSION, comparisons }
    }

    /// Reads one file.
    ///
    /// # Errors
    /// It cannot be read, or is not of this version.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let document: Self = serde_json::from_str(&text)
            .with_context(|| format!("{} is no file of results", path.display()))?;
        ensure!(document.version == VERSION, "{} is of another version of these benchmarks", path.display());
        Ok(document)
    }

    /// Writes it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("put the results into JSON")?;
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
        }
        fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))
    }

    /// Takes in another document: what it compares replaces what was there of the same layer.
    pub(crate) fn merge(&mut self, other: Self) {
        let layers: Vec<Layer> = other.comparisons.iter().map(|one| one.results.layer).collect();
        self.comparisons.retain(|one| !layers.contains(&one.results.layer));
        self.comparisons.extend(other.comparisons);
        self.comparisons.sort_by_key(|one| one.results.layer);
    }
}

impl Results {
    /// Takes in the sample of `system` in `round`, counted from 0. A later sample replaces an earlier one.
    pub(crate) fn record(&mut self, system: &str, scenario: Scenario, round: usize, sample: &Sample) {
        let figures = self.samples.entry(system.to_owned()).or_default();
        for (part, value) in sample {
            let series = figures.entry(format!("{scenario}.{part}")).or_default();
            if series.len() <= round {
                series.resize(round + 1, None);
            }
            series[round] = Some(*value);
        }
    }

    /// The values of `figure` for `system`, one a round; empty when it was not measured.
    #[must_use]
    pub(crate) fn series(&self, system: &str, figure: &Figure) -> &[Option<f64>] {
        self.series_of(system, &figure.id)
    }

    /// The same by the figure's name.
    #[must_use]
    pub(crate) fn series_of(&self, system: &str, id: &str) -> &[Option<f64>] {
        self.samples.get(system).and_then(|figures| figures.get(id)).map_or(&[], Vec::as_slice)
    }

    /// The median and spread of `figure` for `system`.
    #[must_use]
    pub(crate) fn summary(&self, system: &str, figure: &Figure) -> Option<Summary> {
        self.summary_of(system, &figure.id)
    }

    /// The same by the figure's name.
    #[must_use]
    pub(crate) fn summary_of(&self, system: &str, id: &str) -> Option<Summary> {
        Summary::of(self.series_of(system, id).iter().copied().flatten())
    }

    /// The share of CPU time that was stolen in each sample, of all systems and scenarios.
    pub(crate) fn stolen(&self) -> impl Iterator<Item = f64> {
        let figures = self.samples.values().flatten();
        let stolen = figures.filter(|(id, _)| id.rsplit_once('.').is_some_and(|(_, part)| part == STOLEN));
        stolen.flat_map(|(_, series)| series.iter().copied().flatten())
    }

    /// The roles whose CPU time is known of `system` in `scenario`.
    #[must_use]
    pub(crate) fn roles(&self, system: &str, scenario: Scenario) -> Vec<&str> {
        let start = format!("{scenario}.{OF_ROLE}");
        let figures = self.samples.get(system).into_iter().flat_map(BTreeMap::keys);
        // The start ends where the name begins, so that slicing there is sound.
        figures.filter_map(|id| id.strip_prefix(start.as_str())).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Results of `layer` in which each system has the given values of one figure, one a round.
    pub(crate) fn results(layer: Layer, figure: &Figure, systems: &[(&str, &[f64])]) -> Results {
        let part = figure.id.split_once('.').unwrap().1;
        let mut results = Results { layer, ..Results::default() };
        for (name, values) in systems {
            let (yardstick, limit) = (name.starts_with("envoy"), name.starts_with("bare"));
            results.systems.push(Contestant {
                name: (*name).into(),
                yardstick,
                limit,
                ..Contestant::default()
            });
            for (round, value) in values.iter().enumerate() {
                results.record(name, figure.scenario, round, &sample([(part, *value)]));
            }
        }
        results
    }

    #[test]
    fn a_failed_sample_leaves_a_hole_in_its_round() {
        let mut results = Results::default();
        results.record("ebb", Scenario::PingPong, 0, &sample([("p50", 1.0)]));
        results.record("ebb", Scenario::PingPong, 2, &sample([("p50", 3.0)]));
        assert_eq!(results.series_of("ebb", "ping.p50"), [Some(1.0), None, Some(3.0)]);
        assert_eq!(results.summary_of("ebb", "ping.p50").map(|summary| summary.median), Some(2.0));
        assert_eq!(results.series_of("envoy-1", "ping.p50"), []);
    }

    #[test]
    fn a_repeated_sample_replaces_the_first() {
        let mut results = Results::default();
        for value in [1.0, 2.0] {
            results.record("ebb", Scenario::PingPong, 0, &sample([("p50", value)]));
        }
        assert_eq!(results.series_of("ebb", "ping.p50"), [Some(2.0)]);
    }

    #[test]
    fn roles_are_those_of_one_scenario() {
        let mut results = Results::default();
        results.record("ebb", Scenario::Http(1), 0, &sample([("cpu:client", 1.0), ("cpu", 2.0)]));
        results.record("ebb", Scenario::Http(16), 0, &sample([("cpu:proxy", 1.0)]));
        assert_eq!(results.roles("ebb", Scenario::Http(1)), ["client"]);
        assert_eq!(results.roles("ebb", Scenario::Http(64)), [""; 0]);
    }

    #[test]
    fn stolen_time_is_found_in_every_sample() {
        let mut results = Results::default();
        for (system, scenario, share) in [
            ("ebb", Scenario::Http(1), 0.5),
            ("ebb", Scenario::PingPong, 0.25),
            ("direct", Scenario::Http(1), 0.0),
        ] {
            results.record(system, scenario, 0, &sample([(STOLEN, share), ("rate", 7.0)]));
        }
        let mut stolen: Vec<f64> = results.stolen().collect();
        stolen.sort_by(f64::total_cmp);
        assert_eq!(stolen, [0.0, 0.25, 0.5]);
    }

    pub(crate) fn comparison(results: Results) -> Comparison {
        let plan = Plan::new(results.layer, None, results.layer.scenarios().to_vec(), false);
        Comparison {
            taken: "2030-01-01 00:00".into(),
            machine: Machine::default(),
            plan,
            results,
            figures: Vec::new(),
        }
    }

    #[test]
    fn what_is_written_is_read_back_with_its_holes() {
        let mut results = Results { layer: Layer::L7, ..Results::default() };
        results.record("ebb", Scenario::Http(16), 1, &sample([("cpu", 17.5)]));
        results.mishaps.push(Mishap {
            system: "ebb".into(),
            scenario: Scenario::Http(16),
            round: 1,
            reason: "no answer".into(),
        });
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/results.json");
        Document::new(vec![comparison(results.clone())]).write(&path).unwrap();
        let read = Document::read(&path).unwrap();
        assert_eq!(read.comparisons[0].results, results);
        assert_eq!(read.comparisons[0].plan.scenarios, Layer::L7.scenarios());
    }

    #[test]
    fn a_file_of_another_version_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("results.json");
        std::fs::write(&path, r#"{"version":1,"comparisons":[]}"#).unwrap();
        assert!(Document::read(&path).unwrap_err().to_string().contains("another version"));
    }

    #[test]
    fn a_later_document_replaces_the_layers_it_has() {
        let of = |layer, system: &str| {
            let mut results = Results { layer, ..Results::default() };
            results.record(system, Scenario::PingPong, 0, &sample([("p50", 1.0)]));
            comparison(results)
        };
        let mut first = Document::new(vec![of(Layer::L7, "old"), of(Layer::Scale, "old")]);
        first.merge(Document::new(vec![of(Layer::L4, "new"), of(Layer::Scale, "new")]));
        let systems = |comparison: &Comparison| {
            (comparison.results.layer, comparison.results.samples.keys().next().unwrap().clone())
        };
        let all: Vec<_> = first.comparisons.iter().map(systems).collect();
        assert_eq!(all, [(Layer::L4, "new".into()), (Layer::L7, "old".into()), (Layer::Scale, "new".into())]);
    }
}
