//! Installs the Zipkin server that spans are sent to, from Maven Central into the target directory, and a Java to run it.
//!
//! Where and in which version, `tests/harness/src/zipkin.rs` says too, which finds it there; a test of it compares the two.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;
use crate::{child, toolchain};

/// The Zipkin of the tests.
const VERSION: &str = "3.6.1";
/// A path to the server's jar, where somebody has one.
const OVERRIDE: &str = "EBB_ZIPKIN";
/// What the repository said of it when this version was chosen.
const SHA256: &str = "981b1de6139b4f8f787a909c308028732f9713ae5284353d2a5aa404d1094775";
/// The server with storage in memory, without what only other storages need.
const FROM: &str = "https://repo1.maven.org/maven2/io/zipkin/zipkin-server";
/// The oldest Java that runs it.
const JAVA: u32 = 17;
/// What runs it on Debian and its kin.
const PACKAGES: [&str; 1] = ["openjdk-17-jre-headless"];

/// Installs it if it is not there.
///
/// # Errors
/// There is no Java and none can be installed, Maven Central cannot be reached, or what it has is not what it was.
pub(crate) fn ensure(workspace: &Workspace) -> Result<()> {
    if !toolchain::in_path("java") {
        toolchain::ensure_apt(&PACKAGES).context("the Zipkin server needs Java 17")?;
    }
    check_java()?;
    let tools = workspace.target.join("tools");
    let jar = tools.join(format!("zipkin-server-{VERSION}-slim.jar"));
    // What is there already may have been put there by anybody.
    if env::var_os(OVERRIDE).is_some_and(|it| !it.is_empty()) || jar.is_file() && is_as_stated(&jar)? {
        return Ok(());
    }
    if !toolchain::in_path("curl") {
        toolchain::ensure_apt(&["curl"]).context("fetching the Zipkin server needs curl")?;
    }
    fs::create_dir_all(&tools).with_context(|| format!("create {}", tools.display()))?;
    let part = jar.with_extension("part");
    let mut curl = Command::new("curl");
    curl.args(["--fail", "--silent", "--show-error", "--location", "--retry", "3", "--output"]).arg(&part);
    curl.arg(format!("{FROM}/{VERSION}/zipkin-server-{VERSION}-slim.jar"));
    child::run_quietly(workspace, &format!("install Zipkin {VERSION} from Maven Central"), &mut curl)
        .with_context(|| format!("set {OVERRIDE} to the path of its jar if Maven Central is out of reach"))?;
    if !is_as_stated(&part)? {
        bail!("{} is not the Zipkin {VERSION} of SHA-256 {SHA256}", part.display());
    }
    // Whole or not there.
    fs::rename(&part, &jar).with_context(|| format!("keep {}", jar.display()))
}

fn check_java() -> Result<()> {
    let output = Command::new("java").arg("-version").output().context("run java -version")?;
    let said = String::from_utf8_lossy(&output.stderr);
    match java_version(&said) {
        Some(version) if version >= JAVA => Ok(()),
        Some(version) => {
            bail!(
                "the Zipkin server needs Java {JAVA} or newer, and the java in PATH is of version {version}"
            )
        }
        None => bail!("the Zipkin server needs Java {JAVA}, and `java -version` says no version: {said:?}"),
    }
}

/// The feature version in what `java -version` says: `17` of `"17.0.9"`, `8` of `"1.8.0_392"`.
fn java_version(said: &str) -> Option<u32> {
    let version = said.split('"').nth(1)?;
    let mut numbers = version.split(['.', '_', '-', '+']);
    match numbers.next()?.parse().ok()? {
        1 => numbers.next()?.parse().ok(),
        feature => Some(feature),
    }
}

fn is_as_stated(jar: &Path) -> Result<bool> {
    let mut sum = Command::new("sha256sum");
    let output = sum.arg(jar).stderr(Stdio::inherit()).output().context("run sha256sum")?;
    Ok(output.status.success() && output.stdout.starts_with(SHA256.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::java_version;

    #[test]
    fn the_version_of_java_is_read_as_each_vendor_says_it() {
        for (said, version) in [
            ("openjdk version \"17.0.9\" 2023-10-17\nOpenJDK Runtime Environment", Some(17)),
            ("java version \"1.8.0_392\"\n", Some(8)),
            ("openjdk version \"21\" 2023-09-19\n", Some(21)),
            ("openjdk version \"22-ea\"\n", Some(22)),
            ("java: no such thing", None),
        ] {
            assert_eq!(java_version(said), version, "{said}");
        }
    }
}
