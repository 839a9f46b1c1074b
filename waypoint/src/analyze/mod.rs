//! `waypoint analyze`: what is wrong with manifests, or not what it looks like, before they are in force.
//!
//! Reads them by the decoders the proxies have and builds the mesh they would see, so that it and they cannot differ. Asks
//! nobody and changes nothing. The surprising thing: where no pods are stated, as in a repository of Deployments, nothing is
//! said of what selects none.

pub mod checks;
pub mod finding;
pub mod output;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use common::manifests::Manifests;
use common::snapshot::MeshSettings;

use self::finding::{Finding, Level};
use self::output::Form;

/// Exit code when there is something at or above the threshold; 79, as of `istioctl analyze`.
pub const FOUND: u8 = 79;
/// Exit code for arguments that cannot be understood (`EX_USAGE`).
const USAGE: u8 = 64;
/// Exit code for paths that cannot be read (`EX_DATAERR`).
const DATA: u8 = 65;

/// Looks for problems in manifests.
#[derive(Debug, Parser)]
#[command(name = "waypoint analyze", version)]
struct Arguments {
    /// Files and directories of manifests; - is standard input
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Look into directories below, too
    #[arg(long, short = 'R')]
    recursive: bool,
    /// How findings are written
    #[arg(long, short, value_enum, default_value_t = Form::Log)]
    output: Form,
    /// From which level on findings are shown
    #[arg(long, value_enum, ignore_case = true, default_value_t = Level::Info)]
    output_threshold: Level,
    /// From which level on the exit code is 79
    #[arg(long, value_enum, ignore_case = true, default_value_t = Level::Error)]
    failure_threshold: Level,
    /// Leave findings of a code about an object out, such as IST0101=VirtualService web.shop; * stands for any text
    #[arg(long, short = 'S', value_name = "CODE=KIND NAME.NAMESPACE", value_parser = Suppressed::read)]
    suppress: Vec<Suppressed>,
    /// Namespace whose policies are for the whole mesh
    #[arg(long, default_value = "istio-system")]
    root_namespace: String,
    /// DNS domain of the cluster
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
}

/// Runs the command; the arguments begin with its name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nothing is left to tell whoever closed the output.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let settings = MeshSettings {
        root_namespace: arguments.root_namespace.as_str().into(),
        cluster_domain: arguments.cluster_domain.as_str().into(),
        ..MeshSettings::default()
    };
    let manifests = match Manifests::read(&arguments.paths, arguments.recursive, settings) {
        Ok(manifests) => manifests,
        Err(error) => {
            eprintln!("waypoint analyze: {error:#}");
            return ExitCode::from(DATA);
        }
    };
    let findings = checks::findings(&manifests);
    let kept = || findings.iter().filter(|it| !arguments.suppress.iter().any(|these| these.fit(it)));
    let shown: Vec<_> = kept().filter(|it| it.code.level >= arguments.output_threshold).collect();
    print(&output::render(arguments.output, &shown, manifests.files));
    let fails = kept().any(|it| it.code.level >= arguments.failure_threshold);
    if fails { ExitCode::from(FOUND) } else { ExitCode::SUCCESS }
}

fn print(text: &str) {
    use std::io::Write as _;
    // Whoever closed the output has seen enough.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// What is not to be said, and of what.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Suppressed {
    code: String,
    kind: String,
    name: String,
}

impl Suppressed {
    fn read(text: &str) -> Result<Self, String> {
        let wrong = || format!("write it as IST0101=VirtualService web.shop, not {text:?}");
        let (code, object) = text.split_once('=').ok_or_else(wrong)?;
        let (kind, name) = object.split_once(' ').ok_or_else(wrong)?;
        if !finding::CODES.iter().any(|it| it.id == code) {
            return Err(format!("{code} is no code"));
        }
        Ok(Self { code: code.to_owned(), kind: kind.to_owned(), name: name.to_owned() })
    }

    fn fit(&self, finding: &Finding) -> bool {
        let Some((kind, object)) = finding.object.split_once(' ') else { return false };
        // Istio writes name.namespace here, and namespace/name in findings.
        let name = match object.split_once('/') {
            Some((namespace, name)) => format!("{name}.{namespace}"),
            None => object.to_owned(),
        };
        finding.code.id == self.code && fits(&self.kind, kind) && fits(&self.name, &name)
    }
}

/// Whether a text fits a pattern in which `*` stands for any text.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
            let from_each = rest.char_indices().map(|(at, _)| &rest[at..]).chain([""]);
            from_each.into_iter().any(|rest| fits(after, rest))
        }),
    }
}

#[cfg(test)]
mod tests;
