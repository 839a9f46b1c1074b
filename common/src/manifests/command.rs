//! What the commands that explain have in common: their arguments, and how they end.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use super::Manifests;
use crate::config::similar::nearest;
use crate::explain::connection::NotThere;
use crate::explain::{Explanation, Verdict};
use crate::snapshot::MeshSettings;

/// Exit code for arguments that cannot be understood (`EX_USAGE`).
pub const USAGE: u8 = 64;
/// Exit code for manifests that cannot be read, or do not have what is asked about (`EX_DATAERR`).
pub const DATA: u8 = 65;

/// Who calls whom, by which manifests, and how the answer is written.
#[derive(Debug, clap::Args)]
pub struct Question {
    /// Files and directories of manifests; - is standard input
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    manifests: Vec<PathBuf>,
    /// Look into directories below, too
    #[arg(long, short = 'R')]
    recursive: bool,
    /// The pod that calls: its name, its namespace before it where that is not `default`; NAMESPACE/sa/ACCOUNT for any pod
    /// of a service account; or an address
    #[arg(long, value_name = "[NAMESPACE/]POD")]
    pub from: String,
    /// What it calls: a name as the pod would write it, or an address
    #[arg(long, value_name = "HOST:PORT")]
    pub to: String,
    /// How the answer is written
    #[arg(long, short, value_enum, default_value_t = Form::Text)]
    output: Form,
    /// The same as `--output json`
    #[arg(long)]
    json: bool,
    /// Trust domain of the mesh
    #[arg(long, default_value = crate::spiffe::DEFAULT_TRUST_DOMAIN)]
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
pub enum Form {
    /// Lines for a reader.
    Text,
    /// JSON.
    Json,
}

impl Question {
    /// The answer, written down.
    ///
    /// # Errors
    /// Manifests that cannot be read, or do not have what is asked about.
    pub fn answer(
        &self,
        explain: impl FnOnce(&Manifests) -> Result<(Explanation, Verdict), NotThere>,
    ) -> anyhow::Result<String> {
        let settings = MeshSettings {
            trust_domain: self.trust_domain.as_str().into(),
            root_namespace: self.root_namespace.as_str().into(),
            cluster_domain: self.cluster_domain.as_str().into(),
            ..MeshSettings::default()
        };
        let manifests = Manifests::read(&self.manifests, self.recursive, settings)?;
        let (mut told, verdict) =
            explain(&manifests).map_err(|missing| anyhow::anyhow!(manifests.missing(&missing)))?;
        manifests.beware(&mut told);
        Ok(match self.json || self.output == Form::Json {
            true => format!("{:#}\n", told.json(&verdict)),
            false => told.lines(&verdict),
        })
    }
}

/// Turns away what stands where a command would and is none, by its program; `None` where nothing stands there.
pub fn unknown(program: &str, word: &OsStr, known: &[&str]) -> Option<ExitCode> {
    let word = word.to_string_lossy();
    if word.is_empty() || word.starts_with('-') {
        return None;
    }
    let hint = match nearest(&word, known.iter().copied()) {
        Some(meant) => format!("did you mean `{program} {meant}`?"),
        None => format!("there is {}, and without a command it serves: see --help", known.join(" and ")),
    };
    eprintln!("{program}: no command {word:?}; {hint}");
    Some(ExitCode::from(USAGE))
}

/// Reads arguments, which begin with the name of the command, and writes the answer to them.
pub fn run<A: Parser>(
    arguments: impl IntoIterator<Item = OsString>,
    answer: impl FnOnce(A) -> anyhow::Result<String>,
) -> ExitCode {
    let arguments = match A::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nothing is left to tell whoever closed the output.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match answer(arguments) {
        Ok(text) => {
            // Whoever closed the output has seen enough.
            let _ = std::io::stdout().lock().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{}: {error:#}", A::command().get_name());
            ExitCode::from(DATA)
        }
    }
}
