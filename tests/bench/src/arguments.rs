//! Owns the command line: what a person may choose, and what it means together.

use std::{env, path::PathBuf};

use anyhow::{Context, Result};
use clap::Parser;

use crate::{
    layer::{self, Layer},
    plan::ROUNDS,
    scenarios::Scenario,
    systems::{Asked, Variant},
};

/// Where the published report and the files of further systems are.
const HOME: &str = "EBB_BENCHMARKS";

/// The directory of those files in it.
const SYSTEMS: &str = "systems";

/// What a person chose.
#[derive(Debug, Parser)]
#[command(version, about = "Compares Ebb with other meshes and proxies on this machine (root)")]
#[command(
    after_help = "Comparisons: l4 (connections), l7 (requests), hop (one HTTP hop), same-node, passthrough, scale.\n\
    Everything takes about 80 minutes and replaces deploy/benchmarks/REPORT.md; any narrower choice, and --quick, is \
    reported in the target directory."
)]
pub(crate) struct Arguments {
    /// Only these comparisons: l4, l7, hop, same-node, passthrough, scale
    #[arg(long, value_delimiter = ',')]
    layer: Vec<Layer>,
    /// Only these scenarios, such as `bulk-1,http-16,paced-1000`; --list names them
    #[arg(long, value_delimiter = ',')]
    scenario: Vec<Scenario>,
    /// Only these systems, such as `direct,envoy-1,ebb`
    #[arg(long, value_delimiter = ',')]
    pub(crate) systems: Vec<String>,
    /// Rounds; 8 or more for a claim under 20 %
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) rounds: Option<u16>,
    /// Few and short rounds: shows that everything works, proves nothing
    #[arg(long)]
    pub(crate) quick: bool,
    /// Measure an earlier build of Ebb too: a directory with its `ztunnel`, `ebb-redirect.o` and,
    /// for l7 and hop, `waypoint`
    #[arg(long, value_name = "DIR")]
    before: Option<PathBuf>,
    /// Measure Ebb with other settings too: `ebb-NAME=ARGUMENTS` of ztunnel, a word `VARIABLE=value`
    /// being of its environment; may be given several times
    #[arg(long, value_name = "NAME=ARGUMENTS")]
    variant: Vec<Variant>,
    /// Further systems: a TOML file, or a directory of them; may be given several times
    #[arg(long, value_name = "PATH")]
    system_file: Vec<PathBuf>,
    /// Without the systems in deploy/benchmarks/systems
    #[arg(long)]
    no_files: bool,
    /// Measure nothing, and make the report of these files of results; of two with the same
    /// comparison the later counts
    #[arg(long, value_delimiter = ',', value_name = "FILE")]
    pub(crate) from: Vec<PathBuf>,
    /// Where the report, its plots and results.json go
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Name the comparisons, their scenarios and systems, and measure nothing
    #[arg(long)]
    pub(crate) list: bool,
}

impl Arguments {
    /// The comparisons asked for, in the order of a run.
    pub(crate) fn layers(&self) -> Vec<Layer> {
        let asked = |layer: &Layer| self.layer.is_empty() || self.layer.contains(layer);
        layer::ALL.into_iter().filter(asked).collect()
    }

    /// The scenarios of `layer` asked for, in the order of a run.
    pub(crate) fn scenarios(&self, layer: Layer) -> Vec<Scenario> {
        let asked = |scenario: &&Scenario| self.scenario.is_empty() || self.scenario.contains(scenario);
        layer.scenarios().iter().filter(asked).copied().collect()
    }

    /// A scenario asked for that no comparison has.
    pub(crate) fn unknown_scenario(&self) -> Option<Scenario> {
        let known = |scenario: &Scenario| layer::ALL.iter().any(|layer| layer.scenarios().contains(scenario));
        self.scenario.iter().copied().find(|scenario| !known(scenario))
    }

    /// Whether the system `name` takes part.
    pub(crate) fn wants(&self, name: &str, on_demand: bool) -> bool {
        if self.systems.is_empty() { !on_demand } else { self.systems.iter().any(|system| system == name) }
    }

    /// Whether everything is measured as long as a published report needs.
    pub(crate) fn is_whole(&self) -> bool {
        let all = self.layer.is_empty() && self.scenario.is_empty() && self.systems.is_empty();
        all && !self.no_files && !self.quick && self.rounds.is_none_or(|rounds| usize::from(rounds) >= ROUNDS)
    }

    /// Where the published report is.
    ///
    /// # Errors
    /// Nobody said.
    pub(crate) fn home(&self) -> Result<PathBuf> {
        let home = env::var_os(HOME).map(PathBuf::from);
        home.with_context(|| format!("{HOME} names no directory; `cargo xtask bench` sets it, or give --out"))
    }

    /// The systems asked for beyond those there always are.
    ///
    /// # Errors
    /// Nobody said where the files of systems are.
    pub(crate) fn asked(&self) -> Result<Asked> {
        let mut files = self.system_file.clone();
        if !self.no_files {
            files.insert(0, self.home().context("or leave them out with --no-files")?.join(SYSTEMS));
        }
        Ok(Asked { before: self.before.clone(), variants: self.variant.clone(), files })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(format!("ebb-bench {words}").split_whitespace())
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn only_a_run_of_everything_may_replace_the_published_report() {
        assert!(read("").unwrap().is_whole());
        assert!(read("--rounds 8 --variant ebb-x=--y").unwrap().is_whole());
        for narrower in
            ["--quick", "--rounds 7", "--layer l4", "--scenario bulk-1", "--systems ebb", "--no-files"]
        {
            assert!(!read(narrower).unwrap().is_whole(), "{narrower}");
        }
    }

    #[test]
    fn a_system_on_demand_takes_part_only_by_name() {
        let all = read("").unwrap();
        assert!(all.wants("ebb", false) && !all.wants("haproxy-pair", true));
        let named = read("--systems ebb,haproxy-pair").unwrap();
        assert!(named.wants("haproxy-pair", true) && !named.wants("direct", false));
    }

    #[test]
    fn what_there_is_not_is_refused() {
        assert!(read("--layer l5").is_err());
        assert!(read("--scenario http-x").is_err());
        assert!(read("--rounds 0").is_err());
    }
}
