//! Runs a benchmark under callgrind and reads what it counted.
//!
//! Only what happens inside `counted_work` of `tests/budgets` is counted, on whichever thread; the kernel's side of a system
//! call never is. Valgrind shows programs the same processor on every machine that has AVX2, so that code
//! that chooses by what the processor can do (the ciphers, memcpy) chooses the same everywhere.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;
use crate::{child, setup};

/// The longest one benchmark may take.
const LIMIT: Duration = Duration::from_secs(5 * 60);
/// The function inside which is counted; of a generic one every instance.
const COUNTED: &str = "*counted_work*";
/// How many functions a profile shows, in each of its two orders.
const SHOWN_FUNCTIONS: usize = 40;

/// A unit of work that is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Benchmark {
    /// Its name.
    pub(crate) name: String,
    /// How many units one run does.
    pub(crate) units: u64,
    /// What one of them is.
    pub(crate) unit: String,
}

/// Makes sure that counting here means what it means elsewhere.
///
/// # Errors
/// What is missing.
pub(crate) fn require() -> Result<()> {
    if !setup::is_in_path("valgrind") {
        bail!(
            "no valgrind here, which counts the instructions: run `cargo xtask setup`, or install the package valgrind"
        );
    }
    let processor = std::fs::read_to_string("/proc/cpuinfo").context("read what the processor can do")?;
    if !processor.split_whitespace().any(|flag| flag == "avx2") {
        bail!(
            "this processor has no AVX2, so that other code runs than that whose instructions were recorded"
        );
    }
    Ok(())
}

/// The compiler in use, as it calls itself.
///
/// # Errors
/// When it does not start.
pub(crate) fn compiler() -> Result<String> {
    let output =
        Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).arg("--version").output();
    let output = output.context("ask rustc for its version")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What there is to count.
///
/// # Errors
/// When the program does not start or says something else.
pub(crate) fn list(program: &Path) -> Result<Vec<Benchmark>> {
    let mut all = Vec::new();
    let mut odd = None;
    let status = child::run_reading(&mut Command::new(program), LIMIT, |line| match parse(line) {
        Some(benchmark) => all.push(benchmark),
        None => odd = Some(line.to_owned()),
    })?;
    if let Some(line) = odd {
        bail!("{} lists what is no benchmark: {line}", program.display());
    }
    if !status.success() || all.is_empty() {
        bail!("{} lists nothing to count", program.display());
    }
    Ok(all)
}

/// Reads `NAME UNITS UNIT`.
fn parse(line: &str) -> Option<Benchmark> {
    let mut words = line.split(' ');
    let (name, units, unit) =
        (words.next()?.to_owned(), words.next()?.parse().ok()?, words.next()?.to_owned());
    (units > 0 && words.next().is_none()).then_some(Benchmark { name, units, unit })
}

/// Where a benchmark's counts are kept.
///
/// # Errors
/// When the folder cannot be made.
pub(crate) fn file(workspace: &Workspace, name: &str) -> Result<PathBuf> {
    let folder = workspace.target.join("budgets");
    std::fs::create_dir_all(&folder).context("make the folder for counts")?;
    Ok(folder.join(format!("callgrind.out.{name}")))
}

/// Instructions of one unit of a benchmark. What was counted where stays in `file`.
///
/// # Errors
/// When it fails, or nothing was counted.
pub(crate) fn count(program: &Path, benchmark: &Benchmark, file: &Path) -> Result<u64> {
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--quiet", "--collect-atstart=no"])
        .arg(format!("--toggle-collect={COUNTED}"))
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(program)
        .arg(&benchmark.name);
    let status = child::run_reading(&mut command, LIMIT, |line| println!("{line}"))?;
    if !status.success() {
        bail!("{} failed under valgrind with {status}", benchmark.name);
    }
    let text = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
    match total(&String::from_utf8_lossy(&text)) {
        Some(total @ 1..) => Ok(total.div_ceil(benchmark.units)),
        _ => bail!("valgrind counted nothing for {}: did it find `counted_work`?", benchmark.name),
    }
}

/// The sum in a file of callgrind.
fn total(text: &str) -> Option<u64> {
    // Parts of a run have sums of their own; the last speaks of all of it.
    let line = text.lines().rev().find_map(|line| line.strip_prefix("totals: "))?;
    line.split(' ').next()?.parse().ok()
}

/// Prints the functions that cost most: with what they call, then by themselves.
///
/// # Errors
/// When `callgrind_annotate`, which comes with valgrind, fails.
pub(crate) fn show(file: &Path) -> Result<()> {
    for (what, inclusive) in [("with what they call", "yes"), ("by themselves", "no")] {
        let mut command = Command::new("callgrind_annotate");
        command.arg(format!("--inclusive={inclusive}")).arg("--auto=no").arg("--threshold=100").arg(file);
        println!("\nfunctions, {what}:");
        let mut shown = 0;
        let status = child::run_reading(&mut command, LIMIT, |line| {
            if let Some((cost, name)) = function(line).filter(|_| shown < SHOWN_FUNCTIONS) {
                println!("{cost:>24})  {name}");
                shown += 1;
            }
        })?;
        if !status.success() {
            bail!("callgrind_annotate failed with {status}");
        }
    }
    Ok(())
}

/// What a line says of a function: its count with its share, and its name without the file it is in.
fn function(line: &str) -> Option<(&str, &str)> {
    let (cost, place) = line.split_once(")  ")?;
    let is_count = cost.trim_start().starts_with(|c: char| c.is_ascii_digit());
    let (_, name) = place.split_once(':').filter(|_| is_count)?;
    Some((cost, name.rsplit_once(" [").map_or(name, |(name, _)| name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_list_is_a_name_a_number_and_a_unit() {
        let expected = Benchmark { name: "waypoint.request".into(), units: 500, unit: "request".into() };
        assert_eq!(parse("waypoint.request 500 request"), Some(expected));
        for wrong in ["", "name", "name 0 unit", "name many unit", "name 5", "name 5 unit more"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_sum_of_the_whole_run_is_read() {
        let text =
            "version: 1\nevents: Ir\nsummary: 12\n\nfn=(1) f\n1 12\n\ntotals: 12\n\nfn=(1)\ntotals: 345\n";
        assert_eq!(total(text), Some(345));
        assert_eq!(total("events: Ir\nfn=(1) f\n"), None);
    }

    #[test]
    fn a_profile_shows_functions_and_not_what_stands_round_them() {
        let line = "1,234,567 (12.30%)  ???:ebb::f<[u8]> [/target/ebb]";
        assert_eq!(function(line), Some(("1,234,567 (12.30%", "ebb::f<[u8]>")));
        assert_eq!(function("  567 ( 0.30%)  a.c:memcpy "), Some(("  567 ( 0.30%", "memcpy ")));
        for other in ["", "---------", "Ir", "Events shown: Ir", "1,234,567 (100.0%)  PROGRAM TOTALS"] {
            assert_eq!(function(other), None, "{other}");
        }
    }
}
