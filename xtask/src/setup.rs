//! `cargo xtask setup`: installs what building, testing and the demo need, and only what is missing.

use anyhow::{Context, Result};

use crate::progress::Step;
use crate::toolchain;

/// A program, the Debian package that brings it, and what it does for us.
type Program = (&'static str, &'static str, &'static str);

const PROGRAMS: [Program; 5] = [
    ("cc", "gcc", "compiles the cryptography library"),
    ("c++", "g++", "compiles the fuzzing engine"),
    ("ip", "iproute2", "shows the network when a test fails"),
    ("tcpdump", "tcpdump", "proves that nothing crosses a wire in clear"),
    ("valgrind", "valgrind", "counts the instructions that have a budget"),
];

/// Makes the machine ready.
///
/// # Errors
/// One line that says what could not be installed and what to do about it.
pub(crate) fn run() -> Result<()> {
    let missing: Vec<_> = PROGRAMS.iter().filter(|(program, ..)| !is_in_path(program)).collect();
    for (program, package, purpose) in &missing {
        println!("setup: no `{program}` here, which {purpose}: it comes with the package {package}");
    }
    if !missing.is_empty() {
        install(&missing)?;
    }
    toolchain::ensure_bpf()?;
    println!("setup: nothing is missing");
    Ok(())
}

fn install(missing: &[&Program]) -> Result<()> {
    let packages: Vec<&str> = missing.iter().map(|(_, package, _)| *package).collect();
    let step = Step::begin(format!("install {}", packages.join(" ")));
    toolchain::ensure_apt(&packages)
        .with_context(|| format!("setup cannot install them; install by hand: {}", packages.join(" ")))?;
    step.done();
    Ok(())
}

/// Whether there is a program of this name.
pub(crate) fn is_in_path(program: &str) -> bool {
    // Daemons' tools are in sbin, which is not in everybody's PATH.
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(program).is_file())
}
