//! The project's own commands: `cargo xtask <command>`.
//!
//! Depends on none of the crates it builds and runs, so that it works when they do not compile.

#![forbid(unsafe_code)]

mod bench;
mod budgets;
mod cargo;
mod child;
mod deny;
mod ebpf;
mod envoy;
mod fuzz;
mod harness;
mod licences;
mod progress;
mod setup;
mod test;
mod tidy;
mod toolchain;
mod workspace;
mod zipkin;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use workspace::Workspace;

/// Ebb's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what building, testing and the demo need, where it is missing.
    Setup,
    /// Build the kernel programs.
    Ebpf,
    /// Check the rules of the house: layers, unsafe islands, names, sizes, the map.
    Tidy,
    /// Run every check and every test; what continuous integration runs.
    Test(test::Options),
    /// Show two nodes, their pods and the mesh between them on this machine (root).
    #[command(after_help = "Builds with optimisations first, which takes about ten minutes the first time.")]
    Demo {
        /// Stay up after the last step, until Ctrl-C.
        #[arg(long)]
        keep: bool,
        /// Play one step alone; README.md lists them.
        #[arg(long, value_name = "NAME")]
        scene: Option<String>,
    },
    /// Compare Ebb with other meshes and proxies, and write the report (root).
    #[command(disable_help_flag = true)]
    #[command(
        after_help = "Builds with optimisations first, which takes about ten minutes the first time.\n\
        [--quick] [--layer A,B] [--scenario A,B] [--systems A,B] [--rounds N] [--before DIR] [--list]\n\
        [--variant NAME=ARGUMENTS] [--system-file PATH] [--no-files] [--from FILE] [--out DIR]\n\
        deploy/benchmarks/README.md says what they are for."
    )]
    Bench {
        /// What to measure; everything when nothing is said.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Count the instructions of units of work and compare them with what is recorded.
    Budgets(budgets::Options),
    /// Feed the parsers random input.
    Fuzz(fuzz::Options),
    /// Check dependencies for advisories, bans, licences and sources with cargo-deny.
    Deny,
    /// Remove what crashed runs of the demo and the tests left on this machine (root).
    Clean,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        // What failed then is whatever the interrupt ended, which is no error.
        Err(_) if child::interrupted() => {
            eprintln!("interrupted");
            ExitCode::from(child::INTERRUPTED_EXIT)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    let workspace = Workspace::find()?;
    child::forward_signals()?;
    match command {
        Command::Setup => {
            setup::run().and_then(|()| envoy::ensure(&workspace)).and_then(|()| zipkin::ensure(&workspace))
        }
        Command::Ebpf => ebpf::run(),
        Command::Tidy => tidy::run(&workspace),
        Command::Test(options) => test::run(&workspace, &options),
        Command::Demo { keep, scene } => harness::demo(&workspace, keep, scene),
        Command::Bench { arguments } => bench::run(&workspace, &arguments),
        Command::Budgets(options) => budgets::run(&workspace, &options),
        Command::Fuzz(options) => fuzz::run(&workspace, &options),
        Command::Deny => deny::run(&workspace),
        Command::Clean => harness::clean(&workspace),
    }
}
