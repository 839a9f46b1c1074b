//! Finds, and where possible installs, the tools that the build needs beyond the pinned Rust.
//!
//! Two toolchains can build for the kernel: a rustup nightly with `rust-src`, and Debian's compiler with its
//! library sources for machines where rustup can download nothing. Both link with bpf-linker. The surprising thing: the
//! nightly is one of a certain day, since bpf-linker reads only what comes from an LLVM that is no newer than its own.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_LIBRARY: &str = "/usr/lib/rustlib/src/rust/library/Cargo.lock";
const DEBIAN_LLVM: &str = "/usr/lib/llvm-22";
const DEBIAN_RUST_PACKAGES: [&str; 2] = ["rustc-web", "rust-web-src"];
const DEBIAN_LLVM_PACKAGES: [&str; 4] = ["llvm-22-dev", "libpolly-22-dev", "zlib1g-dev", "libzstd-dev"];
const BPF_LINKER_VERSION: &str = "0.13.0";
/// Of the last days on which rustc's LLVM was 22, the one that [`BPF_LINKER_VERSION`] is linked with.
const NIGHTLY: &str = "nightly-2026-05-20";

/// A compiler that can build for the `bpfel` target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BpfToolchain {
    /// rustup's nightly with the `rust-src` component.
    Nightly,
    /// Debian's rustc with the `rust-web-src` package.
    Debian,
}

impl BpfToolchain {
    /// What to call it in progress lines.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nightly => "the rustup nightly",
            Self::Debian => "Debian's rustc",
        }
    }

    /// A `cargo` that uses this compiler and nothing of the outer build's environment.
    pub(crate) fn cargo(self) -> Command {
        let mut command = match self {
            Self::Nightly => {
                let mut command = Command::new("rustup");
                command.args(["run", NIGHTLY, "cargo"]);
                command
            }
            Self::Debian => {
                let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
                command.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
                command
            }
        };
        for inherited in ["CARGO_TARGET_DIR", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
            command.env_remove(inherited);
        }
        if self == Self::Nightly {
            command.env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
        }
        command.env("PATH", path_with_cargo_bin());
        command
    }

    fn is_installed(self) -> bool {
        match self {
            Self::Nightly => nightly_sysroot()
                .is_some_and(|root| root.join("lib/rustlib/src/rust/library/Cargo.lock").exists()),
            Self::Debian => Path::new(DEBIAN_RUSTC).exists() && Path::new(DEBIAN_LIBRARY).exists(),
        }
    }
}

/// A toolchain for the kernel programs: one that is there, else one that can be installed now.
///
/// # Errors
/// One line that says what to install, when neither rustup nor apt could provide a toolchain.
pub(crate) fn ensure_bpf() -> anyhow::Result<BpfToolchain> {
    let candidates = [BpfToolchain::Nightly, BpfToolchain::Debian];
    let toolchain = match candidates.into_iter().find(|candidate| candidate.is_installed()) {
        Some(found) => found,
        None => install_compiler()?,
    };
    if !in_path("bpf-linker") {
        install_linker()?;
    }
    Ok(toolchain)
}

fn how_to_fix() -> String {
    format!(
        "no compiler for the kernel programs: run `rustup toolchain install {NIGHTLY} --component rust-src && cargo install \
         bpf-linker`, or, on Debian 12 and newer, run this command as root with apt-get at hand"
    )
}

fn install_compiler() -> anyhow::Result<BpfToolchain> {
    if in_path("rustup") {
        println!("toolchain: installing rustup's {NIGHTLY} with rust-src");
        let install = ["toolchain", "install", NIGHTLY, "--profile", "minimal", "--component", "rust-src"];
        if run(Command::new("rustup").args(install)).is_ok() && BpfToolchain::Nightly.is_installed() {
            return Ok(BpfToolchain::Nightly);
        }
    }
    println!("toolchain: rustup has no {NIGHTLY} with rust-src to offer; trying Debian's packages");
    ensure_apt(&DEBIAN_RUST_PACKAGES).with_context(how_to_fix)?;
    if BpfToolchain::Debian.is_installed() { Ok(BpfToolchain::Debian) } else { bail!(how_to_fix()) }
}

fn install_linker() -> anyhow::Result<()> {
    println!("toolchain: installing bpf-linker {BPF_LINKER_VERSION} (a minute or two)");
    // It takes whatever LLVM the system has, if nobody says which.
    let has_llvm = || Path::new(DEBIAN_LLVM).join("bin/llvm-config").exists();
    if has_llvm() || ensure_apt(&DEBIAN_LLVM_PACKAGES).is_ok() && has_llvm() {
        let features = ["--no-default-features", "--features", "llvm-22"];
        let env = [("LLVM_PREFIX", DEBIAN_LLVM)];
        if ensure_cargo("bpf-linker", BPF_LINKER_VERSION, &features, &env).is_ok() {
            return Ok(());
        }
    }
    ensure_cargo("bpf-linker", BPF_LINKER_VERSION, &[], &[]).with_context(how_to_fix)
}

/// Installs those of the Debian packages that are missing.
///
/// # Errors
/// When something is missing and there is no apt-get, no root, or no such package.
pub(crate) fn ensure_apt(packages: &[&str]) -> anyhow::Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !has_package(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !in_path("apt-get") {
        bail!("{} must be installed, and there is no apt-get to do it", missing.join(", "));
    }
    println!("toolchain: apt-get install {}", missing.join(" "));
    run(apt().arg("update").arg("-qq")).context("apt-get update failed; is this root, with network?")?;
    run(apt().args(["install", "-y", "-qq", "--no-install-recommends"]).args(&missing))
        .with_context(|| format!("apt-get could not install {}; is this root?", missing.join(", ")))
}

/// Installs a crate's binary with cargo if it is not in the path; `env` is set for its build.
///
/// # Errors
/// When cargo could not build or fetch it.
pub(crate) fn ensure_cargo(
    binary: &str,
    version: &str,
    options: &[&str],
    env: &[(&str, &str)],
) -> anyhow::Result<()> {
    if in_path(binary) {
        return Ok(());
    }
    let mut command = Command::new("cargo");
    command
        .args(["install", binary, "--version", version, "--locked"])
        .args(options)
        .envs(env.iter().copied());
    command.env_remove("CARGO_TARGET_DIR");
    run(&mut command).with_context(|| format!("cargo install {binary} failed"))
}

/// Whether a program of this name can be started.
pub(crate) fn in_path(program: &str) -> bool {
    env::split_paths(&path_with_cargo_bin()).any(|dir| dir.join(program).is_file())
}

fn has_package(package: &str) -> bool {
    let query =
        Command::new("dpkg-query").args(["-W", "-f=${Status}", package]).stderr(Stdio::null()).output();
    query.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("install ok installed"))
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// The path, with the folder `cargo install` writes to, which a fresh machine's path lacks.
fn path_with_cargo_bin() -> std::ffi::OsString {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain(home.map(|home| home.join("bin")));
    env::join_paths(dirs).unwrap_or(path.clone())
}

fn nightly_sysroot() -> Option<PathBuf> {
    let mut command = Command::new("rustup");
    command.args(["run", NIGHTLY, "rustc", "--print", "sysroot"]).env_remove("RUSTUP_TOOLCHAIN");
    let output = command.stderr(Stdio::null()).output().ok()?;
    let sysroot = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(sysroot.trim()))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot start {:?}", command.get_program()))?;
    if status.success() { Ok(()) } else { bail!("{:?} ended with {status}", command.get_program()) }
}
