//! Checks the licence and the origin of everything that is linked, against `deny.toml`.
//!
//! Part of every test run, needs no network and no extra tool. Advisories need a database from the network and are
//! left to `cargo xtask deny`.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cargo::cargo;
use crate::child::shown;
use crate::workspace::Workspace;

/// The one registry packages may come from.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";
/// What is built and shipped; other platforms' dependencies are not looked at.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";
/// The manifests of what ships.
const MANIFESTS: [&str; 2] = ["Cargo.toml", "ebpf/programs/Cargo.toml"];

/// Checks every package of the lock files.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let rule = Rule::read(&workspace.root.join("deny.toml"))?;
    let mut breaches = Vec::new();
    let mut checked = 0;
    for manifest in MANIFESTS.iter().filter(|manifest| workspace.root.join(manifest).is_file()) {
        let metadata = metadata(workspace, manifest)?;
        let packages = metadata["packages"].as_array().context("cargo metadata lists packages")?;
        checked += packages.len();
        breaches.extend(packages.iter().filter_map(|package| breach(package, &rule)));
    }
    for breach in &breaches {
        println!("deny.toml:1: [licences] {breach}");
    }
    if !breaches.is_empty() {
        bail!("{} packages may not be used; choose others, or change deny.toml and say why", breaches.len());
    }
    println!("licences: {checked} packages, all allowed and from crates.io");
    Ok(())
}

fn metadata(workspace: &Workspace, manifest: &str) -> Result<Value> {
    let mut command = cargo(
        workspace,
        &[
            "metadata",
            "--locked",
            "--format-version=1",
            "--filter-platform",
            PLATFORM,
            "--manifest-path",
            manifest,
        ],
    );
    let output = command.output().context("start cargo")?;
    if !output.status.success() {
        bail!("`{}` failed: {}", shown(&command), String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("read what cargo metadata says")
}

/// What `deny.toml` says about licences.
#[derive(Debug, Default)]
struct Rule {
    allowed: Vec<String>,
    /// Crates that may have one more licence, each with it.
    exceptions: Vec<(String, Vec<String>)>,
}

impl Rule {
    fn read(deny: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(deny).with_context(|| format!("read {}", deny.display()))?;
        let table: toml::Table = text.parse().with_context(|| format!("read {}", deny.display()))?;
        let licences = table.get("licenses").context("deny.toml has no [licenses]")?;
        let exceptions = licences.get("exceptions").and_then(toml::Value::as_array).into_iter().flatten();
        Ok(Self {
            allowed: words(licences.get("allow")),
            exceptions: exceptions
                .filter_map(|one| Some((one.get("crate")?.as_str()?.to_owned(), words(one.get("allow")))))
                .collect(),
        })
    }

    fn for_crate(&self, name: &str) -> Vec<String> {
        let more = self.exceptions.iter().filter(|(excepted, _)| excepted == name).flat_map(|(_, more)| more);
        self.allowed.iter().chain(more).cloned().collect()
    }
}

fn words(list: Option<&toml::Value>) -> Vec<String> {
    let list = list.and_then(toml::Value::as_array).into_iter().flatten();
    list.filter_map(toml::Value::as_str).map(str::to_owned).collect()
}

/// What is wrong with a package, if anything is.
fn breach(package: &Value, rule: &Rule) -> Option<String> {
    let crate_name = package["name"].as_str()?;
    let name = format!("{crate_name} {}", package["version"].as_str()?);
    match package["source"].as_str() {
        None | Some(REGISTRY) => {}
        Some(source) => return Some(format!("{name} comes from {source}, not from crates.io")),
    }
    match package["license"].as_str() {
        None => Some(format!("{name} states no licence")),
        Some(licence) if is_allowed(licence, &rule.for_crate(crate_name)) => None,
        Some(licence) => Some(format!("{name} has the licence {licence}")),
    }
}

/// Whether an SPDX expression can be met with allowed licences alone; what cannot be read is not allowed.
fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    // Old manifests write MIT/Apache-2.0 for a choice.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = Words { words: spaced.split_whitespace().collect(), at: 0, allowed };
    words.choice() == Some(true) && words.at == words.words.len()
}

struct Words<'a> {
    words: Vec<&'a str>,
    at: usize,
    allowed: &'a [String],
}

impl Words<'_> {
    fn take(&mut self, word: &str) -> bool {
        let taken = self.words.get(self.at) == Some(&word);
        self.at += usize::from(taken);
        taken
    }

    fn choice(&mut self) -> Option<bool> {
        let mut met = self.all()?;
        while self.take("OR") {
            met |= self.all()?;
        }
        Some(met)
    }

    fn all(&mut self) -> Option<bool> {
        let mut met = self.one()?;
        while self.take("AND") {
            met &= self.one()?;
        }
        Some(met)
    }

    fn one(&mut self) -> Option<bool> {
        if self.take("(") {
            let met = self.choice()?;
            return self.take(")").then_some(met);
        }
        // "MPL-2.0+" offers that version among others.
        let mut licence = self.words.get(self.at)?.trim_end_matches('+').to_owned();
        self.at += 1;
        if self.take("WITH") {
            licence = format!("{licence} WITH {}", self.words.get(self.at)?);
            self.at += 1;
        }
        Some(self.allowed.contains(&licence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Vec<String> {
        ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned).to_vec()
    }

    #[test]
    fn a_licence_is_allowed_when_it_can_be_met_with_allowed_ones() {
        for expression in [
            "MIT",
            "MIT OR GPL-3.0",
            "GPL-3.0 OR MIT",
            "MIT/GPL-3.0",
            "MIT AND Apache-2.0",
            "(GPL-3.0 OR MIT) AND Apache-2.0",
            "Apache-2.0 WITH LLVM-exception",
        ] {
            assert!(is_allowed(expression, &ours()), "{expression}");
        }
    }

    #[test]
    fn anything_else_is_not() {
        for expression in [
            "",
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "(MIT OR Apache-2.0) AND GPL-3.0",
            "MIT AND (GPL-3.0 OR ISC)",
            "MIT WITH LLVM-exception",
            "MIT OR",
            "(MIT",
            "MIT)",
            "MIT GPL-3.0",
        ] {
            assert!(!is_allowed(expression, &ours()), "{expression}");
        }
    }

    #[test]
    fn an_exception_is_for_one_crate() {
        let rule = Rule { allowed: ours(), exceptions: vec![("x".into(), vec!["MPL-2.0".into()])] };
        assert!(is_allowed("MPL-2.0+", &rule.for_crate("x")));
        assert!(!is_allowed("MPL-2.0+", &rule.for_crate("y")));
    }

    #[test]
    fn a_package_from_elsewhere_or_without_a_licence_is_named() {
        let package = |source: &str, licence: &str| {
            let text = format!(r#"{{"name":"x","version":"1","source":{source},"license":{licence}}}"#);
            let rule = Rule { allowed: ours(), exceptions: vec![("y".into(), vec!["GPL-3.0".into()])] };
            breach(&serde_json::from_str(&text).unwrap(), &rule)
        };
        let registry = format!("\"{REGISTRY}\"");
        assert_eq!(package(&registry, "\"MIT\""), None);
        assert_eq!(package("null", "\"MIT\""), None);
        assert_eq!(
            package("\"git+https://x\"", "\"MIT\"").unwrap(),
            "x 1 comes from git+https://x, not from crates.io"
        );
        assert_eq!(package(&registry, "null").unwrap(), "x 1 states no licence");
        assert_eq!(package(&registry, "\"GPL-3.0\"").unwrap(), "x 1 has the licence GPL-3.0");
    }
}
