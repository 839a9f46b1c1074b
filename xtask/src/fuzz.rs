//! `cargo xtask fuzz`: builds and runs the targets of `tests/fuzz`.
//!
//! The layout is cargo-fuzz's and `cargo fuzz run` works there too, but neither it nor a nightly compiler is needed:
//! coverage instrumentation is an LLVM pass that stable rustc can be told to run. What only nightly adds is
//! AddressSanitizer, which has nothing to find in crates that forbid unsafe code.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::cargo::cargo;
use crate::workspace::Workspace;
use crate::{child, progress};

const FOLDER: &str = "tests/fuzz";
/// Folders whose files are inputs to start from as they are, besides a target's own seeds.
const MORE_SEEDS: [(&str, &[&str]); 1] =
    [("manifests", &["deploy/examples/two-nodes", "tests/demo/manifests"])];
/// The host, named so that build scripts and procedural macros stay without instrumentation.
const TRIPLE: &str =
    if cfg!(target_arch = "aarch64") { "aarch64-unknown-linux-gnu" } else { "x86_64-unknown-linux-gnu" };
/// What makes the fuzzing engine see which code an input reaches; the same flags as cargo-fuzz gives.
const INSTRUMENTATION: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Inputs per target in a test run.
const SHORT_RUNS: u32 = 200_000;
/// When a test run's target is cut short on a slow machine, in seconds.
const SHORT_SECONDS: u32 = 30;
/// An input that takes longer than this many seconds is a finding. One second is the promise; the rest is for
/// machines that are busy with other things.
const INPUT_SECONDS: u32 = 5;
/// Memory in MiB above which an input is a finding.
const MEMORY_MIB: u32 = 512;
/// The longest input that is tried, in bytes.
const MAX_INPUT_BYTES: u32 = 16 * 1024;
/// How long after its time is up a target may still be running.
const GRACE: Duration = Duration::from_secs(60);
/// How long a run takes when nobody says, in seconds.
const DEFAULT_SECONDS: u32 = 60;

/// Options of `cargo xtask fuzz`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Which target; all of them when left out.
    target: Option<String>,
    /// How long each target runs.
    #[arg(long, default_value_t = DEFAULT_SECONDS)]
    seconds: u32,
    /// Run one input instead, such as a crash that was found.
    #[arg(long, value_name = "FILE", requires = "target", conflicts_with = "seconds")]
    input: Option<PathBuf>,
}

/// Runs what was asked for; inputs that reach new code are kept in `tests/fuzz/corpus`.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let all = targets(workspace)?;
    let chosen: Vec<&String> =
        all.iter().filter(|name| options.target.as_ref().is_none_or(|target| target == *name)).collect();
    if chosen.is_empty() {
        bail!("no such target; there are: {}", all.join(", "));
    }
    build(workspace)?;
    for target in chosen {
        if let Some(input) = &options.input {
            child::run(program(workspace, target).arg(input))?;
            continue;
        }
        let corpus = workspace.root.join(FOLDER).join("corpus").join(target);
        let seconds = options.seconds;
        campaign(workspace, target, &corpus, &[format!("-max_total_time={seconds}")], seconds)?;
    }
    Ok(())
}

/// The run that is part of every test run: from the seeds alone and with a fixed random seed, so that it is the same
/// everywhere.
pub(crate) fn short(workspace: &Workspace) -> Result<()> {
    build(workspace)?;
    for target in targets(workspace)? {
        let corpus = workspace.target.join("fuzz-short").join(&target);
        // What an earlier run found would make this one another run.
        if corpus.exists() {
            std::fs::remove_dir_all(&corpus).with_context(|| format!("empty {}", corpus.display()))?;
        }
        let limits =
            [format!("-runs={SHORT_RUNS}"), format!("-max_total_time={SHORT_SECONDS}"), "-seed=1".to_owned()];
        campaign(workspace, &target, &corpus, &limits, SHORT_SECONDS)?;
    }
    Ok(())
}

/// The names of the targets, as the manifest of `tests/fuzz` lists them.
fn targets(workspace: &Workspace) -> Result<Vec<String>> {
    let manifest = workspace.root.join(FOLDER).join("Cargo.toml");
    let text = std::fs::read_to_string(&manifest).with_context(|| format!("read {}", manifest.display()))?;
    let table: toml::Table = text.parse().with_context(|| format!("read {}", manifest.display()))?;
    let listed = table.get("bin").and_then(toml::Value::as_array).context("tests/fuzz has no targets")?;
    Ok(listed.iter().filter_map(|bin| Some(bin.get("name")?.as_str()?.to_owned())).collect())
}

/// Not `--locked`: the lock file follows the dependencies of `common`, and nothing of this is shipped.
fn build(workspace: &Workspace) -> Result<()> {
    let manifest = format!("{FOLDER}/Cargo.toml");
    let mut command = cargo(
        workspace,
        &["build", "--release", "--bins", "--quiet", "--target", TRIPLE, "--manifest-path", &manifest],
    );
    command.env("RUSTFLAGS", INSTRUMENTATION).env("CARGO_TARGET_DIR", build_folder(workspace));
    child::run_quietly(workspace, "build the fuzz targets", &mut command)
}

fn build_folder(workspace: &Workspace) -> PathBuf {
    workspace.target.join("fuzz")
}

fn program(workspace: &Workspace, target: &str) -> Command {
    let mut command = Command::new(build_folder(workspace).join(TRIPLE).join("release").join(target));
    command.current_dir(workspace.root.join(FOLDER));
    command
}

fn campaign(
    workspace: &Workspace,
    target: &str,
    corpus: &Path,
    limits: &[String],
    seconds: u32,
) -> Result<()> {
    let artifacts = workspace.root.join(FOLDER).join("artifacts").join(target);
    for folder in [corpus, &artifacts] {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    let log = workspace.logs().join(format!("fuzz-{target}.log"));
    std::fs::create_dir_all(workspace.logs()).context("make the folder for logs")?;
    let errors = std::fs::File::create(&log).with_context(|| format!("create {}", log.display()))?;
    let mut command = program(workspace, target);
    command
        .args(limits)
        .arg(format!("-timeout={INPUT_SECONDS}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
        .arg(format!("-max_len={MAX_INPUT_BYTES}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg("-print_final_stats=1")
        .args([corpus.as_os_str(), workspace.root.join(FOLDER).join("seeds").join(target).as_os_str()])
        .args(more_seeds(target).iter().map(|folder| workspace.root.join(folder)))
        .stderr(errors);
    let limit = Duration::from_secs(seconds.into()) + GRACE;
    let started = Instant::now();
    let status = child::run_reading(&mut command, limit, |line| println!("{line}"))?;
    let text = std::fs::read(&log).with_context(|| format!("read {}", log.display()))?;
    let text = String::from_utf8_lossy(&text);
    if !status.success() {
        println!("{text}");
        bail!(
            "{target} found an input that breaks it; see {} and run `cargo xtask fuzz {target} --input <file>`",
            artifacts.display()
        );
    }
    let inputs = inputs_tried(&text).context("the fuzzing engine printed no statistics")?;
    println!("  ok   {target}: {inputs} inputs, nothing found ({})", progress::seconds(started.elapsed()));
    Ok(())
}

fn more_seeds(target: &str) -> &'static [&'static str] {
    MORE_SEEDS.iter().find(|(name, _)| *name == target).map_or(&[], |(_, folders)| folders)
}

/// How many inputs were tried, out of libFuzzer's closing lines.
fn inputs_tried(log: &str) -> Option<u64> {
    log.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_come_from_folders_and_targets_that_exist() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for (target, folders) in MORE_SEEDS {
            assert!(root.join(FOLDER).join("seeds").join(target).is_dir(), "{target}");
            for folder in folders {
                assert!(root.join(folder).is_dir(), "{folder}");
            }
        }
    }

    #[test]
    fn the_closing_lines_are_read() {
        let log = "Done 9 runs\nstat::number_of_executed_units: 9\nstat::average_exec_per_sec:     3\n";
        assert_eq!(inputs_tried(log), Some(9));
        assert_eq!(inputs_tried("crash"), None);
    }
}
