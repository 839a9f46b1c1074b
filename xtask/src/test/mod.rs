//! `cargo xtask test`: everything that must hold before a change is merged, in stages, cheapest first.
//!
//! A stage that cannot run is a failure, never a silent pass: without root the namespace tests are `refused`, unless
//! the caller says `--without-root` and sees them counted as skipped.

mod summary;

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::cargo::{TestProgram, build_kernel_programs, build_tests, cargo};
use crate::workspace::{Profile, Workspace};
use crate::{budgets, child, envoy, fuzz, licences, setup, tidy, zipkin};
use summary::{Counts, Outcome, Report, last_line, table, total};

/// The longest one test program may take before it counts as hanging.
const PROGRAM_LIMIT: Duration = Duration::from_secs(15 * 60);
/// Why a stage is left out when somebody asked to stop.
const INTERRUPTED: &str = "interrupted";
/// How many namespace tests run at once. They measure times and share two cores, so one after the other.
const NAMESPACE_TEST_THREADS: &str = "--test-threads=1";

/// Packages with targets or compilers of their own, which commands on the workspace do not reach.
const OUTSIDE_THE_WORKSPACE: [&str; 2] = ["ebpf/programs", "tests/fuzz"];

/// What a test run consists of, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Stage {
    /// Installs what is missing.
    Setup,
    /// Formatting.
    Format,
    /// Lints, as errors.
    Clippy,
    /// The rules of the house.
    Tidy,
    /// Licences and origin of dependencies.
    Licences,
    /// Builds the kernel programs.
    Ebpf,
    /// Tests beside the code, documentation tests among them.
    Unit,
    /// Instructions of units of work, against what is recorded.
    Budgets,
    /// Tests in network namespaces with real kernel programs; needs root.
    Namespaces,
    /// A short run of every fuzz target from its seeds.
    Fuzz,
}

/// Options of `cargo xtask test`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Run only this stage; may be given more than once.
    #[arg(long, value_enum)]
    only: Vec<Stage>,
    /// Run the later stages although one failed.
    #[arg(long)]
    keep_going: bool,
    /// Leave out what needs root, and say so in the table.
    #[arg(long)]
    without_root: bool,
    /// Run only tests whose name contains this.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
}

/// Runs the stages and prints the table.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let mut reports = Vec::new();
    for stage in Stage::value_variants() {
        if !options.only.is_empty() && !options.only.contains(stage) {
            continue;
        }
        let report = run_stage(*stage, workspace, options);
        let failed = matches!(report.outcome, Outcome::Failed(_));
        reports.push(report);
        if child::interrupted() || failed && !options.keep_going {
            break;
        }
    }
    let total = total(&reports);
    println!("\n{}", table(&reports));
    println!("{}", last_line(total, &left_out(&reports, options, child::interrupted())));
    if child::interrupted() {
        bail!("interrupted");
    }
    if total.failed > 0 {
        bail!("the test run failed");
    }
    Ok(())
}

/// What a run did not do, by reason.
fn left_out(reports: &[Report], options: &Options, interrupted: bool) -> Vec<(String, Vec<String>)> {
    let mut left_out = Vec::new();
    let (wanted, unwanted): (Vec<Stage>, Vec<Stage>) = Stage::value_variants()
        .iter()
        .copied()
        .partition(|stage| options.only.is_empty() || options.only.contains(stage));
    left_out.push(("--only was given".to_owned(), unwanted.into_iter().map(name).collect()));
    for report in reports {
        if let Outcome::Skipped(why) = &report.outcome {
            left_out.push((why.clone(), vec![report.stage.clone()]));
        }
    }
    let why = if interrupted { INTERRUPTED } else { "an earlier stage failed" };
    left_out.push((why.to_owned(), wanted.into_iter().skip(reports.len()).map(name).collect()));
    if let Some(text) = &options.filter {
        left_out.push((format!("--filter {text} was given"), vec!["other tests".to_owned()]));
    }
    left_out
}

fn run_stage(stage: Stage, workspace: &Workspace, options: &Options) -> Report {
    println!("== {}", name(stage));
    let started = Instant::now();
    let mut counts = Counts::default();
    let outcome = match stage_outcome(stage, workspace, options, &mut counts) {
        Ok(outcome) => outcome,
        Err(_) if child::interrupted() => Outcome::Skipped(INTERRUPTED.to_owned()),
        Err(error) => {
            println!("{} failed: {error:#}", name(stage));
            Outcome::Failed(format!("{error:#}").lines().next().unwrap_or_default().to_owned())
        }
    };
    Report { stage: name(stage), outcome, counts, took: started.elapsed() }
}

fn name(stage: Stage) -> String {
    stage.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

fn stage_outcome(
    stage: Stage,
    workspace: &Workspace,
    options: &Options,
    counts: &mut Counts,
) -> Result<Outcome> {
    match stage {
        Stage::Setup => set_up(workspace, options)?,
        Stage::Format => formatting(workspace)?,
        Stage::Clippy => {
            let arguments = ["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"];
            child::run_quietly(workspace, "cargo clippy", &mut cargo(workspace, &arguments))?;
        }
        Stage::Tidy => tidy::run(workspace)?,
        Stage::Licences => licences::check(workspace)?,
        Stage::Unit => unit(workspace, options, counts)?,
        Stage::Budgets => within_budgets(workspace, counts)?,
        Stage::Ebpf => drop(build_kernel_programs(workspace)?),
        Stage::Namespaces if options.without_root => {
            return Ok(Outcome::Skipped("--without-root was given".to_owned()));
        }
        Stage::Namespaces => namespaces(workspace, options, counts)?,
        Stage::Fuzz => fuzz::short(workspace)?,
    }
    Ok(Outcome::Passed)
}

/// What the stages need. Envoy and Zipkin are for the tests in namespaces alone.
fn set_up(workspace: &Workspace, options: &Options) -> Result<()> {
    setup::run()?;
    if options.without_root {
        return Ok(());
    }
    envoy::ensure(workspace)?;
    zipkin::ensure(workspace)
}

fn formatting(workspace: &Workspace) -> Result<()> {
    let mut command = cargo(workspace, &["fmt", "--all", "--check"]);
    child::run_quietly(workspace, "cargo fmt", command.args(["--", "--color=never"]))?;
    for package in OUTSIDE_THE_WORKSPACE {
        let mut command = cargo(workspace, &["fmt", "--check", "--manifest-path"]);
        command.arg(format!("{package}/Cargo.toml")).args(["--", "--color=never"]);
        child::run_quietly(workspace, &format!("cargo fmt {package}"), &mut command)?;
    }
    Ok(())
}

fn unit(workspace: &Workspace, options: &Options, counts: &mut Counts) -> Result<()> {
    let programs = build_tests(workspace)?;
    let mut failures = Vec::new();
    for program in programs.iter().filter(|program| !program.needs_root()) {
        let name = format!("{} {}", program.folder.display(), program.name);
        count(&name, &mut command(workspace, program, &arguments(options, &[])), counts, &mut failures)?;
    }
    if options.filter.is_none() {
        let mut doc = cargo(workspace, &["test", "--workspace", "--doc", "--quiet", "--no-fail-fast"]);
        count("documentation tests", &mut doc, counts, &mut failures)?;
    }
    refuse(&failures)
}

fn within_budgets(workspace: &Workspace, counts: &mut Counts) -> Result<()> {
    let judged = budgets::stage(workspace)?;
    let (passed, failed) = judged.counts();
    counts.add(Counts { passed, failed, ignored: 0 });
    judged.check()
}

fn namespaces(workspace: &Workspace, options: &Options, counts: &mut Counts) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "refused: namespace tests need root; run `sudo -E env \"PATH=$PATH\" cargo xtask test`, or leave them \
             out with --without-root"
        );
    }
    let object = build_kernel_programs(workspace)?;
    let programs = build_tests(workspace)?;
    let programs: Vec<_> = programs.iter().filter(|program| program.needs_root()).collect();
    if programs.is_empty() {
        bail!("there are no namespace tests: none of the folders where they are expected has any");
    }
    let mut failures = Vec::new();
    for program in programs {
        let mut command = command(workspace, program, &arguments(options, &[NAMESPACE_TEST_THREADS]));
        command
            .env("EBB_BIN_DIR", workspace.binaries(Profile::Dev))
            .env("EBB_EBPF_OBJECT", &object)
            // Several, whatever the machine has: what goes wrong between workers must go wrong here.
            .env("ZTUNNEL_WORKER_THREADS", "2")
            .env("CARGO_TARGET_DIR", &workspace.target);
        count(&program.name, &mut command, counts, &mut failures)?;
    }
    refuse(&failures)
}

/// Arguments for a test program.
fn arguments<'a>(options: &'a Options, fixed: &[&'a str]) -> Vec<&'a str> {
    options.filter.as_deref().into_iter().chain(fixed.iter().copied()).collect()
}

/// The test program as cargo would run it: in its package's folder.
fn command(workspace: &Workspace, program: &TestProgram, arguments: &[&str]) -> Command {
    let folder = workspace.root.join(&program.folder);
    let mut command = Command::new(&program.executable);
    command.args(arguments).current_dir(&folder).env("CARGO_MANIFEST_DIR", &folder);
    command
}

/// Runs tests, shows what they print, adds up their summaries and notes the program if anything failed.
fn count(name: &str, command: &mut Command, counts: &mut Counts, failures: &mut Vec<String>) -> Result<()> {
    println!("-- {name}");
    let mut summaries = 0;
    let status = child::run_reading(command, PROGRAM_LIMIT, |line| {
        println!("{line}");
        if let Some(found) = Counts::of_line(line) {
            counts.add(found);
            summaries += 1;
        }
    })
    .with_context(|| name.to_owned())?;
    if !status.success() {
        failures.push(name.to_owned());
    } else if summaries == 0 {
        failures.push(format!("{name} (it ran no tests at all)"));
    }
    Ok(())
}

fn refuse(failures: &[String]) -> Result<()> {
    if failures.is_empty() {
        return Ok(());
    }
    bail!("failed: {}", failures.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(only: &[Stage]) -> Options {
        Options { only: only.to_vec(), keep_going: false, without_root: false, filter: None }
    }

    fn report(stage: Stage, outcome: Outcome) -> Report {
        Report { stage: name(stage), outcome, counts: Counts::default(), took: Duration::ZERO }
    }

    fn reasons(reports: &[Report], options: &Options, interrupted: bool) -> Vec<(String, usize)> {
        let mut reasons = left_out(reports, options, interrupted);
        reasons.retain(|(_, names)| !names.is_empty());
        reasons.into_iter().map(|(why, names)| (why, names.len())).collect()
    }

    #[test]
    fn every_stage_that_did_not_run_is_left_out_for_one_reason() {
        let all: Vec<_> =
            Stage::value_variants().iter().map(|stage| report(*stage, Outcome::Passed)).collect();
        let stages = all.len();
        assert_eq!(reasons(&all, &options(&[]), false), []);
        let tidy = [report(Stage::Tidy, Outcome::Passed)];
        assert_eq!(
            reasons(&tidy, &options(&[Stage::Tidy]), false),
            [("--only was given".into(), stages - 1)]
        );
        let failed = [report(Stage::Setup, Outcome::Failed("no".into()))];
        let expected = [("an earlier stage failed".into(), stages - 1)];
        assert_eq!(reasons(&failed, &options(&[]), false), expected);
        let stopped = [
            report(Stage::Setup, Outcome::Passed),
            report(Stage::Format, Outcome::Skipped("interrupted".into())),
        ];
        let expected = [("interrupted".into(), 1), ("interrupted".into(), stages - 2)];
        assert_eq!(reasons(&stopped, &options(&[]), true), expected);
        let filtered = Options { filter: Some("strict".into()), ..options(&[]) };
        assert_eq!(reasons(&all, &filtered, false), [("--filter strict was given".into(), 1)]);
    }
}
