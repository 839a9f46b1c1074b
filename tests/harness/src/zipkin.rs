//! Finds the Zipkin server that spans are sent to, as `cargo xtask setup` installs it.
//!
//! Knows nothing of what is sent. It is a program of Java, which is looked for as well: without either there is no test.

use std::{
    env,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{envoy, process::Spawn};

/// The Zipkin of the tests.
pub const VERSION: &str = "3.6.1";

/// A path to the server's jar, instead of looking for it.
pub const OVERRIDE: &str = "EBB_ZIPKIN";

/// Where it serves, in whatever namespace it runs.
pub const PORT: u16 = 9411;

/// How it is run: one process of at most 256 MiB of heap, with what starts fastest, and nothing kept beyond its end.
const FLAGS: [&str; 4] = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"];

/// The server, to be spawned where it is to serve. It is ready when `/health` on [`PORT`] answers 200.
///
/// # Errors
/// There is no Java, or no Zipkin: the sentence says what installs it.
pub fn server() -> Result<Spawn> {
    let jar = jar()?;
    let mut java = Command::new("java");
    java.arg("-version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if !java.status().is_ok_and(|status| status.success()) {
        bail!("the Zipkin server needs Java: `cargo xtask setup`, or install openjdk-17-jre-headless");
    }
    let arguments = FLAGS.map(Into::into).into_iter().chain(["-jar".into(), jar.into_os_string()]);
    Ok(Spawn::new("zipkin", "java").args::<std::ffi::OsString>(arguments).env("QUERY_PORT", PORT.to_string()))
}

fn jar() -> Result<PathBuf> {
    let installed =
        || Ok::<_, anyhow::Error>(envoy::tools()?.join(format!("zipkin-server-{VERSION}-slim.jar")));
    let stated = env::var_os(OVERRIDE).filter(|it| !it.is_empty());
    let jar = stated.map_or_else(installed, |path| Ok(PathBuf::from(path)));
    let jar = jar.context("look for the Zipkin server")?;
    if !jar.is_file() {
        bail!(
            "{} is not there: `cargo xtask setup` installs Zipkin {VERSION}, or {OVERRIDE} names it",
            jar.display()
        );
    }
    Ok(jar)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_up_installs_what_is_looked_for() {
        const SET_UP: &str = include_str!("../../../xtask/src/zipkin.rs");
        for stated in [VERSION, OVERRIDE] {
            assert!(SET_UP.contains(&format!("{stated:?}")), "{stated}");
        }
        assert!(SET_UP.contains("zipkin-server-{VERSION}-slim.jar"));
    }
}
