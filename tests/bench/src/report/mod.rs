//! Owns what becomes of the results: a table for the person at the terminal, a report with plots for whoever decides, and a
//! JSON file for programs.

mod draw;
mod markdown;
mod method;
mod plots;
mod scenario;
mod table;
mod verdict;

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use self::verdict::{Judgement, judge};
pub(crate) use self::{
    table::{has_targets, missed, table},
    verdict::has_subject,
};
use crate::{
    figures::Figure,
    layer,
    results::{Document, Results},
};

/// The report's file.
pub(crate) const REPORT: &str = "REPORT.md";

/// The file of all samples, from which the report can be made again.
const RESULTS: &str = "results.json";

/// How plots' files end. They begin with the comparison's name.
const PLOT: &str = ".svg";

/// Writes the report, its plots and all samples into `directory`. Plots of an earlier report go.
///
/// # Errors
/// A file cannot be written.
pub(crate) fn write(mut document: Document, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    remove_plots(directory)?;
    for comparison in &mut document.comparisons {
        comparison.figures = judged(&comparison.results)?;
    }
    document.write(&directory.join(RESULTS))?;
    let mut drawn = Vec::new();
    for comparison in &document.comparisons {
        for plot in plots::of(&comparison.results) {
            let name = format!("{}-{}{PLOT}", comparison.results.layer, plot.name);
            let text = draw::svg(&plot).with_context(|| format!("draw {name}"))?;
            let path = directory.join(&name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            drawn.push(markdown::Drawn { layer: comparison.results.layer, name, title: plot.title });
        }
    }
    let path = directory.join(REPORT);
    fs::write(&path, markdown::report(&document, &drawn)).with_context(|| format!("write {}", path.display()))
}

/// A figure and what it was judged to be.
#[derive(Debug, Serialize)]
struct Judged {
    #[serde(flatten)]
    figure: Figure,
    #[serde(flatten)]
    judgement: Judgement,
}

fn judged(results: &Results) -> Result<Vec<Value>> {
    let judged = |figure: Figure| {
        let judgement = judge(results, &figure);
        serde_json::to_value(Judged { figure, judgement }).context("put a verdict into JSON")
    };
    table::measured(results).into_iter().map(judged).collect()
}

/// Removes the plots of an earlier report, and no other picture.
fn remove_plots(directory: &Path) -> Result<()> {
    let is_plot = |name: &str| {
        name.ends_with(PLOT) && layer::ALL.iter().any(|layer| name.starts_with(&format!("{layer}-")))
    };
    for entry in fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))? {
        let path = entry?.path();
        if path.file_name().and_then(|name| name.to_str()).is_some_and(is_plot) {
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        layer::Layer,
        results::{Contestant, sample, tests::comparison},
        scenarios::Scenario,
    };

    #[test]
    fn a_report_has_its_plots_beside_it_and_those_of_an_earlier_one_are_gone() {
        let mut results = Results { layer: Layer::L4, ..Results::default() };
        for name in ["envoy-1", "ebb"] {
            results.systems.push(Contestant { name: name.into(), ..Contestant::default() });
            for streams in [1, 8] {
                let values = sample([("cpu", 1.5), ("throughput", 9.0)]);
                results.record(name, Scenario::Bulk(streams), 0, &values);
            }
        }
        let directory = tempfile::tempdir().unwrap();
        let old = directory.path().join("l4-old.svg");
        fs::write(&old, "").unwrap();
        let document = Document::new(vec![comparison(results.clone())]);
        write(document, directory.path()).unwrap();
        assert!(!old.exists());
        let report = fs::read_to_string(directory.path().join(REPORT)).unwrap();
        let plots: Vec<&str> = report
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split_once(')').map(|(name, _)| name))
            .filter(|name| name.ends_with(PLOT))
            .collect();
        assert!(!plots.is_empty(), "{report}");
        for plot in plots {
            assert!(fs::read_to_string(directory.path().join(plot)).unwrap().starts_with("<svg"), "{plot}");
        }
        let again = Document::read(&directory.path().join(RESULTS)).unwrap();
        assert_eq!(again.comparisons[0].results, results);
        let verdict = |id: &str| {
            let mut figures = again.comparisons[0].figures.iter();
            figures.find(|figure| figure["id"] == id).map(|figure| figure["verdict"].clone())
        };
        assert_eq!(verdict("bulk-1.throughput"), Some("unmeasured".into()), "there is no yardstick");
        assert_eq!(verdict("ping.p50"), None);
    }
}
