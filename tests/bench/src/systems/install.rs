//! Gets programs that a comparison needs: from where the machine has them, else from the distribution.

use std::{
    env,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use crate::progress;

/// Daemons' programs are in sbin, which is not in everybody's PATH.
const DAEMONS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The path of `program`, after its Debian `packages` were installed if there was none.
///
/// # Errors
/// It is not there and cannot be installed.
pub(super) fn program(program: &str, packages: &[String]) -> Result<PathBuf> {
    if let Some(path) = find(program) {
        return Ok(path);
    }
    let mut update = apt();
    // An old list is often good enough, and what is wrong with a new one the installation will say.
    drop(progress::command("look up packages", update.args(["update", "-qq"])));
    let mut install = apt();
    install.args(["install", "-y", "--no-install-recommends"]).args(packages);
    let name = packages.join(" ");
    progress::command(&format!("install {name}"), &mut install)
        .with_context(|| format!("the program {program} is needed; install {name}"))?;
    find(program).with_context(|| format!("{name} brought no program {program}"))
}

fn apt() -> Command {
    let mut apt = Command::new("apt-get");
    // What is installed must not be started by its package as well.
    apt.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1").stdin(Stdio::null());
    apt
}

fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain(DAEMONS.map(PathBuf::from));
    places.map(|place| place.join(program)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_not_installed_and_a_full_path_is_taken_as_it_is() {
        assert!(program("sh", &[]).unwrap().ends_with("sh"));
        assert_eq!(program("/bin/sh", &[]).unwrap(), PathBuf::from("/bin/sh"));
    }
}
