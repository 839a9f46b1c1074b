//! `ztunnel explain`: what would become of a connection, by which object of which file.
//!
//! Asks the very functions that decide for live connections, of the mesh that the manifests make; so it knows policies,
//! routes and waypoints, and nothing of what runs. What a waypoint makes of a request is for `waypoint explain` to say.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use common::explain::connection::{NotThere, Teller};
use common::explain::{Explanation, Verdict};
use common::manifests::Manifests;
use common::snapshot::MeshSettings;

/// Exit code for arguments that cannot be understood (`EX_USAGE`).
const USAGE: u8 = 64;
/// Exit code for manifests that cannot be read, or do not have what is asked about (`EX_DATAERR`).
const DATA: u8 = 65;

/// Says what would become of a connection, and which object of which file decides it.
#[derive(Debug, Parser)]
#[command(name = "ztunnel explain", version)]
struct Arguments {
    /// Files and directories of manifests; - is standard input
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    manifests: Vec<PathBuf>,
    /// Look into directories below, too
    #[arg(long, short = 'R')]
    recursive: bool,
    /// The pod that connects: its name, its namespace before it where that is not `default`; NAMESPACE/sa/ACCOUNT for any
    /// pod of a service account; or an address
    #[arg(long, value_name = "[NAMESPACE/]POD")]
    from: String,
    /// Where it connects to: a name as the pod would write it, or an address
    #[arg(long, value_name = "HOST:PORT")]
    to: String,
    /// How it is written
    #[arg(long, short, value_enum, default_value_t = Form::Text)]
    output: Form,
    /// The same as `--output json`
    #[arg(long)]
    json: bool,
    /// Trust domain of the mesh
    #[arg(long, default_value = common::spiffe::DEFAULT_TRUST_DOMAIN)]
    trust_domain: String,
    /// Namespace whose policies are for the whole mesh
    #[arg(long, default_value = "istio-system")]
    root_namespace: String,
    /// DNS domain of the cluster
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
}

/// In which form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// Lines for a reader.
    Text,
    /// JSON.
    Json,
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
    match answer(&arguments) {
        Ok(text) => {
            let _ = std::io::stdout().lock().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("ztunnel explain: {error:#}");
            ExitCode::from(DATA)
        }
    }
}

fn answer(arguments: &Arguments) -> anyhow::Result<String> {
    let settings = MeshSettings {
        trust_domain: arguments.trust_domain.as_str().into(),
        root_namespace: arguments.root_namespace.as_str().into(),
        cluster_domain: arguments.cluster_domain.as_str().into(),
        ..MeshSettings::default()
    };
    let manifests = Manifests::read(&arguments.manifests, arguments.recursive, settings)?;
    let (mut told, verdict) = explain(&manifests, &arguments.from, &arguments.to)?;
    manifests.beware(&mut told);
    Ok(if arguments.json || arguments.output == Form::Json {
        format!("{:#}\n", told.json(&verdict))
    } else {
        told.lines(&verdict)
    })
}

/// Tells what becomes of a connection.
///
/// # Errors
/// There is no such pod, or no such destination.
pub fn explain(manifests: &Manifests, from: &str, to: &str) -> Result<(Explanation, Verdict), NotThere> {
    let sight = manifests.sight();
    let caller = sight.pod(from)?;
    let (service, original) = sight.called(caller, to)?;
    let mut teller = Teller::new(sight, caller);
    teller.ends(service.map(|it| &**it), original);
    let verdict = teller.connect(original).verdict();
    Ok((teller.told, verdict))
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
