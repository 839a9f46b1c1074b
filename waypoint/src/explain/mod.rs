//! `waypoint explain`: what would become of a request, by which object of which file.
//!
//! Asks the very functions that decide for live requests, in the order in which they are asked, of the mesh that the
//! manifests make; so it knows routes, policies and destinations, and nothing of what runs. Where chance decides it tells
//! the odds. Keys of issuers are not fetched: what depends on them is said to.

mod asked;
mod bound;
mod onward;
mod stand;
#[cfg(test)]
mod tests;
mod towards;
mod walk;
mod words;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use common::explain::connection::{NotThere, Reached, Teller};
use common::explain::{Explanation, Verdict};
use common::manifests::Manifests;
use common::snapshot::MeshSettings;

pub use self::asked::Asked;
use self::stand::Stand;
use self::walk::Walk;

/// Exit code for arguments that cannot be understood (`EX_USAGE`).
const USAGE: u8 = 64;
/// Exit code for manifests that cannot be read, or do not have what is asked about (`EX_DATAERR`).
const DATA: u8 = 65;

/// Says what would become of a request, and which object of which file decides it.
#[derive(Debug, Parser)]
#[command(name = "waypoint explain", version)]
struct Arguments {
    /// Files and directories of manifests; - is standard input
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    manifests: Vec<PathBuf>,
    /// Look into directories below, too
    #[arg(long, short = 'R')]
    recursive: bool,
    /// The pod that calls: its name, its namespace before it where that is not `default`; NAMESPACE/sa/ACCOUNT for any pod
    /// of a service account; or an address
    #[arg(long, value_name = "[NAMESPACE/]POD")]
    from: String,
    /// What it calls: a name as the pod would write it, or an address
    #[arg(long, value_name = "HOST:PORT")]
    to: String,
    /// The method of the request
    #[arg(long, short = 'X', default_value = "GET")]
    method: String,
    /// Path and query of the request
    #[arg(long, default_value = "/")]
    path: String,
    /// A header of the request; the authority, where `host` is not among them, is what is called
    #[arg(long, short = 'H', value_name = "NAME: VALUE", value_parser = asked::header)]
    header: Vec<(String, String)>,
    /// A token that the request carries as `authorization: Bearer`
    #[arg(long, value_name = "TOKEN")]
    jwt: Option<String>,
    /// The server name of a connection by TLS, instead of a request
    #[arg(long, value_name = "NAME", conflicts_with_all = ["header", "jwt"])]
    sni: Option<String>,
    /// How it is written
    #[arg(long, short, value_enum, default_value_t = Form::Text)]
    output: Form,
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
    match answer(arguments) {
        Ok(text) => {
            let _ = std::io::stdout().lock().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("waypoint explain: {error:#}");
            ExitCode::from(DATA)
        }
    }
}

fn answer(arguments: Arguments) -> anyhow::Result<String> {
    let settings = MeshSettings {
        trust_domain: arguments.trust_domain.as_str().into(),
        root_namespace: arguments.root_namespace.as_str().into(),
        cluster_domain: arguments.cluster_domain.as_str().into(),
        ..MeshSettings::default()
    };
    let manifests = Manifests::read(&arguments.manifests, arguments.recursive, settings)?;
    let mut headers = arguments.header;
    headers.extend(arguments.jwt.map(|it| ("authorization".to_owned(), format!("Bearer {it}"))));
    let (method, path) = (arguments.method, arguments.path);
    let asked = Asked { method, path, headers, server_name: arguments.sni };
    let (mut told, verdict) = explain(&manifests, (&arguments.from, &arguments.to), &asked)?;
    manifests.beware(&mut told);
    Ok(match arguments.output {
        Form::Json => format!("{:#}\n", told.json(&verdict)),
        Form::Text => told.lines(&verdict),
    })
}

/// Tells what becomes of a request by a pod to `HOST:PORT`.
///
/// # Errors
/// There is no such pod, or no such destination.
pub fn explain(
    manifests: &Manifests,
    (from, to): (&str, &str),
    asked: &Asked,
) -> Result<(Explanation, Verdict), NotThere> {
    let sight = manifests.sight();
    let caller = sight.pod(from)?;
    let (service, original) = sight.called(caller, to)?;
    let mut teller = Teller::new(sight, caller);
    teller.ends(service.map(|it| &**it), original);
    bound::tell(manifests, service, &mut teller);
    let verdict = match teller.connect(original) {
        Reached::Verdict(verdict) => verdict,
        Reached::Waypoint { waypoint, bound, authority } => {
            let stand = Stand::new(manifests, bound.gateway, waypoint);
            let walk = Walk { sight, stand: &stand, caller, original: authority };
            walk.tell(asked, to, &mut teller)
        }
    };
    Ok((teller.told, verdict))
}
