//! Reads the file that describes a system: which programs to install, which to start where with which words, and how traffic
//! gets to them. Pure text; how that is carried out is in `mod.rs`. `deploy/benchmarks/README.md` is its reference.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::layer::Layer;

/// Longest name of a placeholder, in bytes; what is longer between two `@` is text.
const NAME_MAX: usize = 24;

/// A system as its file states it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Description {
    /// Its name in the report and on the command line.
    pub(super) name: String,
    /// What it is and which settings matter, for the reader of the figures.
    pub(super) about: String,
    /// Which comparisons it takes part in.
    pub(super) layers: Vec<Layer>,
    /// Whether it takes part only where it is asked for by name.
    #[serde(default)]
    pub(super) on_demand: bool,
    /// Whether Ebb's targets are judged by it where it is the better one.
    #[serde(default)]
    pub(super) yardstick: bool,
    /// Whether it is shown as the limit of the machine beside targets that Ebb misses.
    #[serde(default)]
    pub(super) limit: bool,
    /// Where clients call: the server itself, if nothing is stated.
    #[serde(default)]
    pub(super) call: Call,
    /// What is run.
    pub(super) program: Program,
    /// Files that are written before anything is started.
    #[serde(default)]
    pub(super) file: Vec<File>,
    /// The processes, in the order in which they are started.
    pub(super) proxy: Vec<Proxy>,
    /// Rules of nftables, applied when all run.
    #[serde(default)]
    pub(super) redirect: Vec<Redirect>,
}

/// Where clients call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Call {
    /// The server; what is between is got to by redirection.
    #[default]
    Server,
    /// The pod between, at the server's ports.
    Between,
    /// Their own pod, at the server's ports: nothing has to be redirected.
    Client,
}

/// A program and what brings it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Program {
    /// Looked for in PATH and where daemons are; or a whole path.
    pub(super) name: String,
    /// Whether it is one of this repository's own, which is built and not installed.
    #[serde(default)]
    pub(super) built: bool,
    /// Debian packages that are installed where it is not there.
    #[serde(default)]
    pub(super) packages: Vec<String>,
    /// Arguments that make it tell its version, in the first line it writes.
    #[serde(default)]
    pub(super) version: Vec<String>,
}

/// A file of the run's own directory.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// Its name.
    pub(super) name: String,
    /// Its content, with placeholders.
    pub(super) text: String,
}

/// One process.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Proxy {
    /// Its name, by which its CPU time is told.
    pub(super) name: String,
    /// In which pod it runs.
    pub(super) pod: Place,
    /// The command and its arguments, with placeholders.
    pub(super) command: Vec<String>,
    /// It is ready when it accepts connections to this port of its pod.
    pub(super) ready_port: u16,
    /// Whether it is the one whose CPU is told as the router's.
    #[serde(default)]
    pub(super) router: bool,
}

/// A pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Place {
    /// The load generator's.
    Client,
    /// The application's.
    Server,
    /// One of its own, on the server's node.
    Between,
}

/// How traffic gets to a process.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Redirect {
    /// In which pod.
    pub(super) pod: Place,
    /// What `nft -f` reads, with placeholders.
    pub(super) rules: String,
}

impl Description {
    /// Reads a file's text.
    ///
    /// # Errors
    /// It is not TOML, states what is not known, or could not be run.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let description: Self = toml::from_str(text).context("read the description")?;
        let name = &description.name;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        ensure!(!name.is_empty() && name.chars().all(plain), "{name:?} is no name of a system");
        let taken = ["direct", "ebb", "envoy-1", "envoy-2", "envoy-hop"].contains(&name.as_str());
        ensure!(
            !taken && !name.starts_with("ebb-"),
            "{name} is, as all that begin with ebb-, no name for a system of a file"
        );
        ensure!(!description.layers.is_empty(), "{name} is in no comparison: layers is empty");
        ensure!(!description.layers.contains(&Layer::Scale), "{name}: scale is not for systems of a file");
        ensure!(!(description.limit && description.yardstick), "{name}: a limit is no yardstick");
        ensure!(!description.proxy.is_empty(), "{name} has no proxy");
        for proxy in &description.proxy {
            let has_program = proxy.command.first().is_some_and(|word| !word.is_empty());
            ensure!(has_program, "{name}: {} has no command", proxy.name);
            ensure!(proxy.ready_port != 0, "{name}: {}: ready_port is 0", proxy.name);
        }
        for file in &description.file {
            ensure!(
                !file.name.contains('/'),
                "{name}: file {:?} is no name in the run's directory",
                file.name
            );
        }
        ensure!(
            description.proxy.iter().filter(|proxy| proxy.router).count() <= 1,
            "{name} has more than one router"
        );
        Ok(description)
    }

    /// Whether a pod of its own is needed.
    pub(super) fn has_between(&self) -> bool {
        self.call == Call::Between || self.proxy.iter().any(|proxy| proxy.pod == Place::Between)
    }
}

/// Replaces every `@name@` in `text` by its value.
///
/// # Errors
/// There is no such placeholder; the error lists those there are.
pub(super) fn fill(text: &str, values: &BTreeMap<&str, String>) -> Result<String> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('@') {
        let (before, after) = rest.split_at(at);
        filled.push_str(before);
        let name = after[1..].split_once('@').map(|(name, _)| name).filter(|name| is_name(name));
        let Some(name) = name else {
            filled.push('@');
            rest = &after[1..];
            continue;
        };
        match values.get(name) {
            Some(value) => filled.push_str(value),
            None => {
                let known: Vec<String> = values.keys().map(|known| format!("@{known}@")).collect();
                bail!("no placeholder @{name}@; there are {}", known.join(", "));
            }
        }
        rest = &after[name.len() + 2..];
    }
    filled.push_str(rest);
    Ok(filled)
}

/// Lower case letters and underscores: an address of mail or a group of digits is text.
fn is_name(text: &str) -> bool {
    (1..=NAME_MAX).contains(&text.len()) && text.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
        name = "hop"
        about = "a hop"
        layers = ["hop", "l4"]
        call = "between"
        program = { name = "sh", packages = ["dash"] }
        [[proxy]]
        name = "proxy"
        pod = "between"
        command = ["@program@", "-c", "true"]
        ready_port = 8080
        router = true
    "#;

    #[test]
    fn a_small_file_states_a_system() {
        let hop = Description::parse(SMALL).unwrap();
        assert_eq!((hop.name.as_str(), hop.layers.as_slice()), ("hop", [Layer::Hop, Layer::L4].as_slice()));
        assert!(hop.has_between() && !hop.on_demand && !hop.yardstick && !hop.limit && !hop.program.built);
    }

    #[test]
    fn what_could_not_be_run_or_is_not_known_is_refused() {
        for (from, to) in [
            ("name = \"hop\"", "name = \"ebb\""),
            ("name = \"hop\"", "name = \"ebb-2\""),
            ("name = \"hop\"", "name = \"A B\""),
            ("\"l4\"", "\"scale\""),
            ("\"l4\"", "\"l5\""),
            ("pod = \"between\"", "pod = \"moon\""),
            ("command = [\"@program@\", \"-c\", \"true\"]", "command = []"),
            ("router = true", "rooter = true"),
            ("call = \"between\"", "call = \"moon\""),
            ("call = \"between\"", "limit = true\nyardstick = true"),
        ] {
            let text = SMALL.replacen(from, to, 1);
            assert_ne!(text, SMALL, "{from}");
            assert!(Description::parse(&text).is_err(), "{to}");
        }
        assert!(Description::parse("").is_err());
    }

    #[test]
    fn placeholders_are_filled_and_other_text_is_left_alone() {
        let values = BTreeMap::from([("server", "10.0.0.1".to_owned()), ("http", "8080".to_owned())]);
        let cases = [
            ("listen @server@:@http@;", "listen 10.0.0.1:8080;"),
            ("a@b.example, 5@9@, @, @@", "a@b.example, 5@9@, @, @@"),
            ("@server@@http@", "10.0.0.18080"),
            ("ends in @", "ends in @"),
        ];
        for (text, expected) in cases {
            assert_eq!(fill(text, &values).unwrap(), expected, "{text}");
        }
        let error = fill("@sever@", &values).unwrap_err().to_string();
        assert!(error.contains("@sever@") && error.contains("@server@"), "{error}");
    }
}
