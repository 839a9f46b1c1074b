//! Start-up settings: flags and environment variables, read once and never again. Those of ztunnel are here, made of
//! groups that a waypoint's are made of too.
//!
//! Names of environment variables are those of Istio's ztunnel where it has them, so that its chart's values keep their
//! meaning. Only what is honoured is accepted; what Istio's ztunnel would honour and Ebb does not is named in a warning
//! (`environment.rs`). Knows nothing of who uses a setting. The surprising thing: an environment variable that is set to
//! nothing counts as unset, because charts set many that way.

mod duration;
pub mod environment;
mod groups;
mod value;

use std::ffi::{OsStr, OsString};

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser};
use serde_json::{Value, json};

pub use duration::parse as parse_duration;
pub use groups::{
    CertificateSettings, LogSettings, NodeSettings, PlaintextBehindWaypoint, RedirectSettings,
    RuntimeSettings, SameNodePath, ServerSettings, TunnelSettings,
};
pub use value::{MAX_WORKERS, Workers};

/// Where Istio's chart puts the cluster's name as well.
const CLUSTER_ID_OF_CHARTS: &str = "ISTIO_META_CLUSTER_ID";

/// Everything ztunnel is told at its start.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "ztunnel",
    version,
    about = "Ebb's node proxy: carries the traffic of enrolled pods over mutual TLS and enforces connection policy",
    after_help = "`ztunnel explain` says what would become of a connection and serves nothing; see its --help.",
    next_line_help = true
)]
pub struct Settings {
    /// Where this node is in the mesh.
    #[command(flatten)]
    pub node: NodeSettings,
    /// Who signs the certificates.
    #[command(flatten)]
    pub certificates: CertificateSettings,
    /// How traffic is captured.
    #[command(flatten)]
    pub redirect: RedirectSettings,
    /// How tunnels are made.
    #[command(flatten)]
    pub tunnel: TunnelSettings,
    /// Threads and the end of the process.
    #[command(flatten)]
    pub runtime: RuntimeSettings,
    /// Where the process answers operators.
    #[command(flatten)]
    pub servers: ServerSettings,
    /// What is logged.
    #[command(flatten)]
    pub log: LogSettings,
}

/// A setting that is not possible: a sentence that names flag, value and what is right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--{flag} {value} is not possible: {right}")]
pub struct InvalidSetting {
    /// The flag, without dashes.
    pub flag: &'static str,
    /// What it was set to.
    pub value: String,
    /// What it may be.
    pub right: String,
}

impl InvalidSetting {
    /// Names flag, value and what is right.
    pub fn new(flag: &'static str, value: impl ToString, right: impl Into<String>) -> Self {
        Self { flag, value: value.to_string(), right: right.into() }
    }
}

/// A program's settings, made of groups.
pub trait Program: CommandFactory + FromArgMatches {
    /// Checks what one setting alone cannot show to be wrong.
    ///
    /// # Errors
    /// The first setting that is not possible.
    fn validate(&self) -> Result<(), InvalidSetting>;

    /// Reads flags and environment of this process. Ends the process with a message when they are wrong, or after
    /// `--help` and `--version`.
    fn read() -> Self {
        Self::try_read(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    /// Reads `arguments` (the first is the program's name) and the environment.
    ///
    /// # Errors
    /// When they are wrong, or ask for help or the version.
    fn try_read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut command = command::<Self>();
        let matches: ArgMatches = command.try_get_matches_from_mut(arguments)?;
        let settings = Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
        settings
            .validate()
            .map_err(|invalid| command.error(clap::error::ErrorKind::ValueValidation, invalid))?;
        Ok(settings)
    }
}

impl Program for Settings {
    fn validate(&self) -> Result<(), InvalidSetting> {
        self.node.validate()?;
        self.certificates.validate()?;
        self.servers.validate()
    }
}

impl Settings {
    /// The settings under the keys and in the shapes of Istio's ztunnel, for `config` of `/config_dump`.
    ///
    /// Kiali decodes this strictly: durations as seconds and nanoseconds, addresses tagged by kind.
    pub fn dump(&self) -> Value {
        json!({
            "localNode": self.node.node,
            "clusterId": self.node.cluster_id,
            "clusterDomain": self.node.cluster_domain,
            "trustDomain": self.node.trust_domain,
            "network": "",
            "rootNamespace": self.node.root_namespace,
            "manifests": self.node.manifests,
            "secretTtl": self.certificates.secret_ttl,
            "enableOriginalSource": self.redirect.original_source,
            "plaintextToWaypointDestinations": format!("{:?}", self.redirect.plaintext_to_waypoint_destinations),
            "bpffs": self.redirect.bpffs,
            "poolUnusedReleaseTimeout": self.tunnel.pool_unused_release,
            "sameNodePath": format!("{:?}", self.tunnel.same_node_path),
            "numWorkerThreads": self.runtime.worker_threads(),
            "selfTerminationDeadline": self.runtime.drain_deadline(),
            "adminAddr": { "Localhost": [self.servers.admin.is_ipv6(), self.servers.admin.port()] },
            "statsAddr": { "SocketAddr": self.servers.stats },
            "readinessAddr": { "SocketAddr": self.servers.readiness },
        })
    }
}

/// The command line, with environment variables that are set to nothing counted as unset.
fn command<S: CommandFactory>() -> clap::Command {
    let is_set = |name: &OsStr| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    S::command().mut_args(|argument| {
        let Some(name) = argument.get_env().map(OsStr::to_owned) else { return argument };
        if is_set(&name) {
            argument
        } else if argument.get_id() == "cluster_id" && is_set(CLUSTER_ID_OF_CHARTS.as_ref()) {
            argument.env(CLUSTER_ID_OF_CHARTS)
        } else if std::env::var_os(&name).is_some() {
            argument.env(None::<&'static str>)
        } else {
            argument
        }
    })
}

#[cfg(test)]
mod tests;
