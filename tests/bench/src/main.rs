//! Compares Ebb with Envoy and with no mesh at all, in one run, and says which of its targets were reached.
//!
//! Method: every system is up at once and only one is measured at a time, in rounds (A B C, A B C); ratios are taken within
//! a round; the figures are medians with quartiles. CPU time per unit of work is the figure that counts, since throughput
//! on a small machine also contains the load generator. A missed target is a finding, not a failure: the exit code is 0.

#![forbid(unsafe_code)]

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

use std::{env, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail, ensure};
use clap::{
    Parser, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};

use self::{
    layer::Layer,
    machine::Machine,
    plan::Plan,
    scenarios::Scenario,
    systems::{Candidate, Tools},
};

#[derive(Parser)]
#[command(version, about = "Compares Ebb with other meshes on this machine")]
struct Arguments {
    #[command(subcommand)]
    compared: Compared,
}

#[derive(Subcommand)]
enum Compared {
    /// Connections between two pods through the node proxies
    L4 {
        /// Only these scenarios
        #[arg(long, value_delimiter = ',', value_parser = scenarios(Layer::L4))]
        scenario: Vec<Scenario>,
        #[command(flatten)]
        flags: Flags,
    },
    /// HTTP requests between two pods through node proxies and a waypoint with 10 routes
    L7 {
        /// Only these scenarios
        #[arg(long, value_delimiter = ',', value_parser = scenarios(Layer::L7))]
        scenario: Vec<Scenario>,
        #[command(flatten)]
        flags: Flags,
    },
}

/// Reads the name of a scenario of `layer`.
fn scenarios(layer: Layer) -> impl TypedValueParser<Value = Scenario> {
    let list = layer.scenarios();
    let named = move |name: String| list.iter().copied().find(|it| it.name() == name);
    PossibleValuesParser::new(list.iter().map(|it| it.name()))
        .try_map(move |name| named(name).ok_or("no such scenario"))
}

#[derive(clap::Args)]
struct Flags {
    /// Rounds; 8 or more for a claim under 20 %
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: Option<u16>,
    /// Only these systems, such as `direct,envoy-1,ebb`
    #[arg(long, value_delimiter = ',')]
    systems: Vec<String>,
    /// Measure an earlier build too: a directory with its `ztunnel`, `ebb-redirect.o` and, for l7,
    /// `waypoint`
    #[arg(long, value_name = "DIR")]
    before: Option<PathBuf>,
    /// Few and short rounds: shows that everything works, proves nothing
    #[arg(long)]
    quick: bool,
    /// Where the JSON file goes, instead of `bench/LAYER.json` in the target directory
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let ended = match Arguments::parse().compared {
        Compared::L4 { scenario, flags } => compare(Layer::L4, scenario, flags),
        Compared::L7 { scenario, flags } => compare(Layer::L7, scenario, flags),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ebb-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn compare(layer: Layer, mut scenarios: Vec<Scenario>, flags: Flags) -> Result<()> {
    harness::interrupt::install()?;
    let target = target_directory()?;
    let candidates = chosen(layer, flags.before, &flags.systems)?;
    if scenarios.is_empty() {
        scenarios = layer.scenarios().to_vec();
    }
    scenarios.sort_unstable();
    scenarios.dedup();
    let plan = Plan::new(layer, flags.rounds.map(usize::from), scenarios, flags.quick);
    let tools = Tools { directory: target.join("tools") };
    let machine = Machine::describe();
    let results = run::measure(&candidates, &tools, &plan)?;
    print(&machine, &plan, &results);
    let json = flags.json.unwrap_or_else(|| target.join(format!("bench/{}.json", layer.name())));
    report::write_json(&json, &machine, &plan, &results)?;
    println!("\nAll samples: {}", json.display());
    harness::interrupt::check().context("the figures above are of what was measured until then")
}

fn print(machine: &Machine, plan: &Plan, results: &results::Results) {
    println!(
        "\n{} x {}, Linux {}, {}",
        machine.cpus, machine.model, machine.kernel, machine.congestion_control
    );
    println!(
        "medians of {} rounds, ± half the distance between the quartiles; CPU is the proxies'",
        plan.rounds
    );
    for system in &results.systems {
        println!("  {}: {}", system.name, system.about);
    }
    println!("\n{}", report::table(results));
    let missed = report::missed(results);
    match missed.len() {
        0 if !report::has_subject(results) => println!("Ebb was not measured."),
        0 => println!("No measured target was missed."),
        count => println!("{count} missed:\n  {}", missed.join("\n  ")),
    }
    if !results.mishaps.is_empty() {
        println!("{} samples were disturbed or failed; the JSON file says which.", results.mishaps.len());
    }
}

/// The systems asked for, in the fixed order; all of them when none is named.
fn chosen(layer: Layer, before: Option<PathBuf>, names: &[String]) -> Result<Vec<Box<dyn Candidate>>> {
    let mut candidates = layer.candidates(before);
    let known = || candidates.iter().map(|candidate| candidate.name());
    for name in names {
        ensure!(
            known().any(|known| known == name),
            "no system {name}; there are {}",
            known().collect::<Vec<_>>().join(", ")
        );
    }
    candidates.retain(|candidate| names.is_empty() || names.iter().any(|name| name == candidate.name()));
    Ok(candidates)
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

    #[test]
    fn systems_are_chosen_by_name_in_the_fixed_order() {
        let names = |asked: &[&str]| -> Result<Vec<&str>> {
            let asked: Vec<String> = asked.iter().map(|name| (*name).into()).collect();
            Ok(chosen(Layer::L4, None, &asked)?.iter().map(|candidate| candidate.name()).collect())
        };
        assert_eq!(names(&["envoy-2", "direct"]).unwrap(), ["direct", "envoy-2"]);
        assert_eq!(names(&[]).unwrap().len(), Layer::L4.candidates(None).len());
        assert!(names(&["ebb-before"]).is_err(), "there is no earlier build");
        for layer in [Layer::L4, Layer::L7] {
            let all = layer.candidates(None).len();
            assert_eq!(chosen(layer, Some("old".into()), &[]).unwrap().len(), all + 1);
        }
        assert!(names(&["istio"]).unwrap_err().to_string().contains("direct"));
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn each_comparison_takes_its_own_scenarios() {
        let read = |arguments: &str| Arguments::try_parse_from(arguments.split_whitespace());
        let Ok(Arguments { compared: Compared::L7 { scenario, .. } }) = read("b l7 --scenario paced,http-16")
        else {
            panic!("scenarios of l7 are refused");
        };
        assert_eq!(scenario, [Scenario::Paced, Scenario::Http16]);
        assert!(read("b l4 --scenario paced").is_err());
        assert!(read("b l7 --scenario bulk").is_err());
    }
}
