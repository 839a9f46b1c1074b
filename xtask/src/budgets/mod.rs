//! `cargo xtask budgets`: what units of work cost in instructions, and whether that is what was recorded.
//!
//! Instructions, because they are the same on a busy machine and an idle one, where times are not. The runner is our own:
//! what it takes is one command line of valgrind and one number of the file it writes. The library for this, gungraun (once
//! iai-callgrind), would have every machine build and install its runner, in the very version of the library, before
//! anything is counted; and what holds here is one committed file. A figure that falls fails as one that rises
//! does: a budget that is not tight would let the gain be lost again unseen.

mod callgrind;
mod record;
mod verdict;

use anyhow::{Context, Result, bail};
use clap::Args;

use self::callgrind::Benchmark;
use self::record::Record;
use self::verdict::{Line, table};
use crate::cargo::cargo;
use crate::child;
use crate::progress::Step;
use crate::workspace::{Profile, Workspace};

/// The package of the benchmarks, which is also its binary's name.
const PACKAGE: &str = "ebb-budgets";

/// Options of `cargo xtask budgets`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Write what is measured to tests/budgets/budgets.toml.
    #[arg(long)]
    record: bool,
    /// Show which functions this benchmark spends its instructions in, and keep the file for kcachegrind.
    #[arg(long, value_name = "NAME", conflicts_with = "record")]
    profile: Option<String>,
}

/// Measures all and prints the table, or profiles one.
///
/// # Errors
/// When something cannot be measured or is not what was recorded.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    if let Some(name) = &options.profile {
        return profile(workspace, name);
    }
    let measured = measure(workspace)?;
    if options.record {
        let compiler = callgrind::compiler()?;
        let before = record::read(workspace).unwrap_or_default();
        print!("{}", table(&verdict::compare(&before, &measured, &compiler)));
        return Record::of(compiler, &measured).write(workspace);
    }
    judge(workspace, &measured)?.check()
}

/// What a run came to.
pub(crate) struct Judged(Vec<Line>);

impl Judged {
    /// How many figures are what was recorded, and how many are not.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let beyond = self.0.iter().filter(|line| !line.verdict.is_within()).count();
        (self.0.len() - beyond, beyond)
    }

    /// # Errors
    /// What is not as recorded, and what to do about it.
    pub(crate) fn check(&self) -> Result<()> {
        let beyond: Vec<_> = self.0.iter().filter_map(Line::complaint).collect();
        if beyond.is_empty() { Ok(()) } else { bail!("{}", beyond.join("; ")) }
    }
}

/// Builds, counts, prints the table and compares.
///
/// # Errors
/// When something cannot be measured; that a figure differs is told by [`Judged::check`].
pub(crate) fn stage(workspace: &Workspace) -> Result<Judged> {
    let measured = measure(workspace)?;
    judge(workspace, &measured)
}

fn judge(workspace: &Workspace, measured: &[(Benchmark, u64)]) -> Result<Judged> {
    let (record, compiler) = (record::read(workspace)?, callgrind::compiler()?);
    let lines = verdict::compare(&record, measured, &compiler);
    print!("{}", table(&lines));
    if record.compiler != compiler {
        println!(
            "recorded with {}, and this is {compiler}: figures may be {} % away",
            record.compiler,
            verdict::tolerance_percent(&record, &compiler)
        );
    }
    Ok(Judged(lines))
}

/// Every benchmark, and its instructions for one unit.
fn measure(workspace: &Workspace) -> Result<Vec<(Benchmark, u64)>> {
    callgrind::require()?;
    build(workspace)?;
    let program = workspace.binaries(Profile::Budget).join(PACKAGE);
    let all = callgrind::list(&program)?;
    let step = Step::begin("count instructions");
    let meter = step.meter();
    let mut measured = Vec::new();
    for (done, benchmark) in (0..).zip(&all) {
        meter.set(done, all.len() as u32);
        let file = callgrind::file(workspace, &benchmark.name)?;
        measured.push((benchmark.clone(), callgrind::count(&program, benchmark, &file)?));
    }
    step.done();
    Ok(measured)
}

fn build(workspace: &Workspace) -> Result<()> {
    let mut command = cargo(workspace, &["build", "--profile", "budget", "--package", PACKAGE]);
    // What they ask for, such as the instructions of one processor, is not what was counted for the record.
    command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    child::run_quietly(workspace, "build what is counted", &mut command)
}

fn profile(workspace: &Workspace, name: &str) -> Result<()> {
    callgrind::require()?;
    build(workspace)?;
    let program = workspace.binaries(Profile::Budget).join(PACKAGE);
    let all = callgrind::list(&program)?;
    let names = || all.iter().map(|it| it.name.as_str()).collect::<Vec<_>>().join(", ");
    let benchmark = all
        .iter()
        .find(|it| it.name == name)
        .with_context(|| format!("no such benchmark; there are: {}", names()))?;
    let file = callgrind::file(workspace, name)?;
    let instructions = callgrind::count(&program, benchmark, &file)?;
    println!("{name}: {instructions} instructions per {}, counted over {}", benchmark.unit, benchmark.units);
    callgrind::show(&file)?;
    println!("the whole of it: kcachegrind {}", file.display());
    Ok(())
}
