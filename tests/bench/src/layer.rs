//! Which comparison a run is: of connections or of requests. What is measured, in what and against which targets hangs on it.

use std::path::PathBuf;

use serde::Serialize;

use crate::{
    figures::{self, Figure},
    scenarios::Scenario,
    systems::{self, Candidate},
};

/// A comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Layer {
    /// Of connections through the node proxies.
    #[default]
    L4,
    /// Of HTTP requests through a proxy that routes them.
    L7,
}

impl Layer {
    /// Its name on the command line and in the JSON file.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::L4 => "l4",
            Self::L7 => "l7",
        }
    }

    /// What is measured, in the order of a run.
    #[must_use]
    pub(crate) fn scenarios(self) -> &'static [Scenario] {
        match self {
            Self::L4 => Scenario::L4,
            Self::L7 => Scenario::L7,
        }
    }

    /// What comes out, in the order of the report.
    #[must_use]
    pub(crate) fn figures(self) -> &'static [Figure] {
        match self {
            Self::L4 => figures::L4,
            Self::L7 => figures::L7,
        }
    }

    /// Every system, in the order in which rounds go; with the earlier build of Ebb that lies in `before`, if any.
    #[must_use]
    pub(crate) fn candidates(self, before: Option<PathBuf>) -> Vec<Box<dyn Candidate>> {
        systems::all(self, before)
    }

    /// Headers of the requests that are sent, beside Host.
    #[must_use]
    pub(crate) fn request_headers(self) -> &'static [&'static str] {
        match self {
            Self::L4 => &[],
            Self::L7 => systems::REQUEST_HEADERS,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_figure_has_a_name_of_its_own_and_every_scenario_a_figure() {
        for layer in [Layer::L4, Layer::L7] {
            let ids: BTreeSet<_> = layer.figures().iter().map(|figure| figure.id).collect();
            assert_eq!(ids.len(), layer.figures().len(), "{layer:?}");
            for scenario in layer.scenarios() {
                assert!(layer.figures().iter().any(|figure| figure.scenario == *scenario), "{scenario:?}");
            }
            for figure in layer.figures() {
                assert!(layer.scenarios().contains(&figure.scenario), "{} is never measured", figure.id);
            }
        }
    }

    #[test]
    fn the_name_is_that_in_the_json() {
        for layer in [Layer::L4, Layer::L7] {
            assert_eq!(serde_json::to_value(layer).unwrap(), layer.name());
        }
    }
}
