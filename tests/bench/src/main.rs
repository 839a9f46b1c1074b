//! Compares Ebb with other meshes and proxies and with none at all, and says which of its targets were reached.
//!
//! Method: every system of a comparison is up at once and only one is measured at a time, in rounds (A B C, A B C); ratios
//! are taken within a round; the figures are medians with quartiles. CPU time per unit of work is the figure that counts,
//! since throughput on a small machine also contains the load generator. A missed target is a finding, not a failure: the
//! exit code is 0.

#![forbid(unsafe_code)]

mod arguments;
mod figures;
mod layer;
mod machine;
mod plan;
mod progress;
mod report;
mod results;
mod run;
mod scenarios;
mod statistics;
mod systems;

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;

use self::{
    arguments::Arguments,
    plan::Plan,
    progress::Progress,
    results::{Comparison, Document},
    systems::{Candidate, Tools},
};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = match (arguments.list, arguments.from.is_empty()) {
        (true, _) => list(&arguments),
        (false, true) => measure(&arguments),
        (false, false) => report_again(&arguments),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ebb-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Names what could be asked for.
fn list(arguments: &Arguments) -> Result<()> {
    let asked = arguments.asked()?;
    for layer in arguments.layers() {
        let scenarios: Vec<String> = layer.scenarios().iter().map(ToString::to_string).collect();
        let candidates = systems::all(layer, &asked)?;
        let names = candidates.iter().map(|one| match one.on_demand() {
            true => format!("({})", one.name()),
            false => one.name().to_owned(),
        });
        let names: Vec<String> = names.collect();
        println!("{layer}\n  scenarios: {}\n  systems: {}", scenarios.join(", "), names.join(", "));
    }
    println!("Systems in brackets take part only where --systems names them.");
    Ok(())
}

/// Measures what was asked for and reports it.
fn measure(arguments: &Arguments) -> Result<()> {
    harness::interrupt::install()?;
    let target = target_directory()?;
    let tools = Tools { directory: target.join("tools") };
    let chosen = chosen(arguments)?;
    let planned = chosen.iter().map(|(plan, systems)| plan.expected_in_all(systems.len())).sum();
    let mut progress = Progress::start(planned);
    let (mut comparisons, mut failures) = (Vec::new(), Vec::new());
    for (plan, candidates) in &chosen {
        if harness::interrupt::interrupted() {
            break;
        }
        // What else was asked for is worth its report all the same.
        match run::measure(candidates, &tools, plan, &mut progress) {
            Ok(comparison) => comparisons.push(comparison),
            Err(error) => {
                eprintln!("  {} is left out: {error:#}", plan.layer);
                failures.push(format!("{}: {}", plan.layer, error.root_cause()));
            }
        }
    }
    let complete = failures.is_empty() && !harness::interrupt::interrupted();
    let directory = match &arguments.out {
        Some(directory) => directory.clone(),
        None if arguments.is_whole() && complete => arguments.home()?,
        None => target.join("bench"),
    };
    if !comparisons.is_empty() {
        finish(Document::new(comparisons), &directory)?;
    }
    harness::interrupt::check().context("the figures above are of what was measured until then")?;
    ensure!(failures.is_empty(), "could not be measured: {}", failures.join("; "));
    Ok(())
}

/// Makes the report again from files.
fn report_again(arguments: &Arguments) -> Result<()> {
    let mut document = Document::new(Vec::new());
    for path in &arguments.from {
        document.merge(Document::read(path)?);
    }
    let beside = || arguments.from[0].parent().unwrap_or(Path::new("")).to_owned();
    finish(document, &arguments.out.clone().unwrap_or_else(beside))
}

/// Prints the tables and writes the files.
fn finish(document: Document, directory: &Path) -> Result<()> {
    for comparison in &document.comparisons {
        print(comparison);
    }
    report::write(document, directory)?;
    println!("\nThe report, its plots and all samples: {}", directory.join(report::REPORT).display());
    Ok(())
}

fn print(comparison: &Comparison) {
    let Comparison { machine, plan, results, .. } = comparison;
    println!(
        "\n{}\n{} x {}, Linux {} {}",
        plan.layer.title(),
        machine.cpus,
        machine.model,
        machine.kernel,
        machine.congestion_control
    );
    println!(
        "medians of {} rounds, ± half the distance between the quartiles; CPU is the proxies'",
        plan.rounds
    );
    for system in &results.systems {
        println!("  {} ({}): {}", system.name, system.version, system.about);
    }
    println!("\n{}", report::table(results));
    let missed = report::missed(results);
    match missed.len() {
        0 if !report::has_subject(results) => println!("Ebb was not measured."),
        0 if !report::has_targets(results) => println!("Nothing here has a target."),
        0 => println!("No measured target was missed."),
        count => println!("{count} missed:\n  {}", missed.join("\n  ")),
    }
    if !results.mishaps.is_empty() {
        println!("{} samples were disturbed or failed; the JSON file says which.", results.mishaps.len());
    }
}

/// A comparison and its systems.
type Chosen = (Plan, Vec<Box<dyn Candidate>>);

/// The comparisons asked for.
fn chosen(arguments: &Arguments) -> Result<Vec<Chosen>> {
    let asked = arguments.asked()?;
    let mut chosen = Vec::new();
    let mut known = Vec::new();
    for layer in arguments.layers() {
        let mut candidates = systems::all(layer, &asked)?;
        known.extend(candidates.iter().map(|one| one.name().to_owned()));
        candidates.retain(|one| arguments.wants(one.name(), one.on_demand()));
        let scenarios = arguments.scenarios(layer);
        if !candidates.is_empty() && !scenarios.is_empty() {
            let rounds = arguments.rounds.map(usize::from);
            chosen.push((Plan::new(layer, rounds, scenarios, arguments.quick), candidates));
        }
    }
    for name in &arguments.systems {
        known.sort();
        known.dedup();
        ensure!(known.contains(name), "no system {name} here; there are {}", known.join(", "));
    }
    if let Some(unknown) = arguments.unknown_scenario() {
        bail!("no comparison has the scenario {unknown}; --list names those there are");
    }
    ensure!(!chosen.is_empty(), "nothing is measured by these choices");
    Ok(chosen)
}

/// The build's target directory: the one this program was built into.
fn target_directory() -> Result<PathBuf> {
    let executable = env::current_exe().context("find the running executable")?;
    let Some(target) = executable.ancestors().nth(2) else {
        bail!("{} is not in a target directory", executable.display());
    };
    Ok(target.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{layer::Layer, scenarios::Scenario};

    fn names(words: &str) -> Result<Vec<(Layer, Vec<String>)>> {
        let words = format!("ebb-bench --no-files {words}");
        let arguments = Arguments::try_parse_from(words.split_whitespace()).unwrap();
        let names = |(plan, all): Chosen| {
            (plan.layer, all.iter().map(|candidate| candidate.name().to_owned()).collect())
        };
        Ok(chosen(&arguments)?.into_iter().map(names).collect())
    }

    #[test]
    fn systems_are_chosen_by_name_in_the_fixed_order() {
        let l4 = |words: &str| names(&format!("--layer l4 {words}")).map(|mut all| all.remove(0).1);
        assert_eq!(l4("--systems envoy-2,direct").unwrap(), ["direct", "envoy-2"]);
        assert_eq!(l4("").unwrap(), ["direct", "envoy-1", "envoy-2", "ebb"]);
        assert!(l4("--systems ebb-before").is_err(), "there is no earlier build");
        assert_eq!(l4("--before old --systems ebb,ebb-before").unwrap(), ["ebb", "ebb-before"]);
        assert_eq!(l4("--variant ebb-x=--y --systems ebb-x").unwrap(), ["ebb-x"]);
        assert!(l4("--systems istio").unwrap_err().to_string().contains("direct"));
    }

    #[test]
    fn a_scenario_is_measured_where_it_belongs() {
        let layers = |words: &str| -> Vec<Layer> {
            names(words).unwrap().into_iter().map(|(layer, _)| layer).collect()
        };
        assert_eq!(layers(""), layer::ALL);
        assert_eq!(layers("--scenario bulk-8"), [Layer::L4, Layer::SameNode]);
        assert_eq!(layers("--scenario matching,pods-50"), [Layer::L7, Layer::Scale]);
        assert_eq!(layers("--layer l7,scale --systems direct"), [Layer::L7]);
        assert!(names("--layer l4 --scenario matching").is_err());
        assert!(names("--scenario bulk-8,http-2").unwrap_err().to_string().contains("http-2"));
    }

    #[test]
    fn scenarios_keep_the_order_of_a_run() {
        let words = "ebb-bench --layer l4 --scenario connect,bulk-1,memory";
        let arguments = Arguments::try_parse_from(words.split_whitespace()).unwrap();
        let asked = arguments.scenarios(Layer::L4);
        assert_eq!(asked, [Scenario::Memory, Scenario::Bulk(1), Scenario::Connect]);
    }
}
