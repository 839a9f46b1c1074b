//! `cargo xtask demo` and `clean`, and what `bench` shares with them: build, then hand over to the programs made of the
//! harness.
//!
//! The demo and the benchmarks replace this process, so that a Ctrl-C and the exit code are theirs and their clean-up
//! cannot be cut short from here.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cargo::{build_kernel_programs, cargo};
use crate::workspace::{Profile, Workspace};
use crate::{child, setup};

/// Removing what crashed runs left is quick; more means that something hangs.
const CLEAN_LIMIT: Duration = Duration::from_secs(120);

/// What a program needs to be built, and done, before it runs.
#[derive(Debug)]
pub(crate) struct Needs<'a> {
    packages: &'a [&'a str],
    examples: &'a [&'a str],
    /// Makes namespaces and loads kernel programs.
    root: bool,
}

impl<'a> Needs<'a> {
    /// Root, the tools of the set-up, the kernel programs, and the programs of these packages and these examples.
    pub(crate) fn everything(packages: &'a [&'a str], examples: &'a [&'a str]) -> Self {
        Self { packages, examples, root: true }
    }

    /// Itself alone: the package of its name.
    pub(crate) fn nothing_but(package: &'a &'a str) -> Self {
        Self { packages: std::slice::from_ref(package), examples: &[], root: false }
    }
}

/// Builds what is shipped with optimisations, the kernel programs and the package of the demo, and becomes the demo.
pub(crate) fn demo(workspace: &Workspace, keep: bool, scene: Option<String>) -> Result<()> {
    let needs = Needs::everything(&["ztunnel", "waypoint", "ebb-harness", "ebb-demo"], &[]);
    let keep = keep.then(|| "--keep".to_owned());
    let scene = scene.map(|name| format!("--scene={name}"));
    let arguments: Vec<_> = keep.into_iter().chain(scene).collect();
    become_program(workspace, "ebb-demo", &needs, &arguments, &[])
}

/// Builds with optimisations what `program` needs, and becomes it.
///
/// # Errors
/// There is no root, or something cannot be built or run.
pub(crate) fn become_program(
    workspace: &Workspace,
    program: &str,
    needs: &Needs<'_>,
    arguments: &[String],
    environment: &[(&str, &OsStr)],
) -> Result<()> {
    let mut object = None;
    if needs.root {
        require_root(program)?;
        setup::run()?;
        object = Some(build_kernel_programs(workspace)?);
    }
    let mut build = cargo(workspace, &["build", "--release", "--bins"]);
    build.args(needs.packages.iter().flat_map(|package| ["--package", package]));
    build.args(needs.examples.iter().flat_map(|example| ["--example", example]));
    child::run_quietly(workspace, &format!("build {}", needs.packages.join(" ")), &mut build)?;
    let binaries = workspace.binaries(Profile::Release);
    let path = binaries.join(program);
    let mut command = Command::new(&path);
    command.args(arguments).env("EBB_BIN_DIR", &binaries).envs(environment.iter().copied());
    command.envs(object.map(|object| ("EBB_EBPF_OBJECT", object)));
    Err(command.exec()).with_context(|| format!("start {}", path.display()))
}

/// Prints the help of a program as built last; says whether there is one.
pub(crate) fn help(workspace: &Workspace, program: &str, arguments: &[String]) -> Result<bool> {
    let Some(path) = built(workspace, program) else { return Ok(false) };
    child::run(Command::new(path).args(arguments))?;
    Ok(true)
}

/// Removes what crashed runs left behind (namespaces, links, pinned kernel programs) and says what that was.
pub(crate) fn clean(workspace: &Workspace) -> Result<()> {
    require_root("clean")?;
    let Some(demo) = built(workspace, "ebb-demo") else {
        println!("clean: ebb-demo was never built here, so there is nothing of its making to remove");
        return Ok(());
    };
    let mut removed = 0_usize;
    let status = child::run_reading(Command::new(&demo).arg("clean"), CLEAN_LIMIT, |line| {
        println!("{line}");
        removed += usize::from(!line.trim().is_empty());
    })?;
    if !status.success() {
        bail!("`{} clean` failed; what it could not remove is named above", demo.display());
    }
    match removed {
        0 => println!("clean: nothing was left behind"),
        _ => println!("clean: removed what is named above"),
    }
    Ok(())
}

fn built(workspace: &Workspace, program: &str) -> Option<PathBuf> {
    [Profile::Release, Profile::Dev]
        .into_iter()
        .map(|profile| workspace.binaries(profile).join(program))
        .find(|path| path.is_file())
}

fn require_root(what: &str) -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    bail!(
        "{what} needs root for network namespaces and kernel programs: put `sudo -E env \"PATH=$PATH\"` before it"
    )
}
