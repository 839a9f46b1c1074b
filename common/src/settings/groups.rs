//! The settings, grouped by who uses them. The text of each field is its `--help`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgAction, Args};

use super::value::{Workers, listen_address, loopback_address};
use super::{InvalidSetting, duration};
use crate::snapshot::MeshSettings;
use crate::spiffe::Identity;
use crate::telemetry::line::LogFormat;

/// The name of the eBPF object beside the binary.
const OBJECT_NAME: &str = "ebb-redirect.o";
/// How long a drain may take when nothing says how long the process has (Istio's default).
const DEFAULT_DRAIN: Duration = Duration::from_secs(5);
/// The shortest certificate life: renewal happens at half of it and must leave time for retries.
const MIN_SECRET_TTL: Duration = Duration::from_secs(4);

/// Where this node is in the mesh, and where its configuration comes from.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Mesh")]
pub struct NodeSettings {
    /// Directory of Kubernetes manifests: its files that end in `.yaml`, `.yml` or `.json` that describe the mesh; read again whenever a file changes.
    #[arg(long, env = "EBB_MANIFESTS", value_name = "DIR")]
    pub manifests: PathBuf,
    /// Directory where the last good version of the policies is kept for the next start, one file per node.
    #[arg(long, env = "EBB_STATE_DIR", value_name = "DIR", default_value = "/var/lib/ebb/state")]
    pub state_dir: PathBuf,
    /// Name of this node, as in spec.nodeName of its pods.
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node: String,
    /// Name of the cluster; part of every workload's id. Istio's ISTIO_META_CLUSTER_ID is read as well.
    #[arg(long, env = "CLUSTER_ID", value_name = "NAME", default_value = "Kubernetes")]
    pub cluster_id: String,
    /// DNS domain of the cluster, the end of every service's host name.
    #[arg(long, env = "CLUSTER_DOMAIN", value_name = "DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Trust domain of the mesh: the first part of every SPIFFE id. Lower case.
    #[arg(long, env = "TRUST_DOMAIN", value_name = "DOMAIN", default_value = "cluster.local")]
    pub trust_domain: String,
    /// Namespace whose policies hold for the whole mesh.
    #[arg(long, env = "EBB_ROOT_NAMESPACE", value_name = "NAMESPACE", default_value = "istio-system")]
    pub root_namespace: String,
}

impl NodeSettings {
    /// What the meaning of resources depends on besides them.
    pub fn mesh(&self) -> MeshSettings {
        MeshSettings {
            trust_domain: self.trust_domain.as_str().into(),
            root_namespace: self.root_namespace.as_str().into(),
            cluster: self.cluster_id.as_str().into(),
            cluster_domain: self.cluster_domain.as_str().into(),
        }
    }

    /// The file in which this node's process keeps the last good version of the policies.
    #[must_use]
    pub fn last_good(&self) -> PathBuf {
        self.state_dir.join(format!("{}.last-good", self.node))
    }

    /// Checks what one setting alone cannot show to be wrong.
    ///
    /// # Errors
    /// The first setting that is not possible.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        if Identity::parse(&format!("spiffe://{}/ns/n/sa/s", self.trust_domain)).is_err() {
            let right = "lower-case letters, digits, '.', '-' and '_', such as cluster.local";
            return Err(InvalidSetting::new("trust-domain", format!("{:?}", self.trust_domain), right));
        }
        for (flag, value) in [
            ("node", &self.node),
            ("cluster-id", &self.cluster_id),
            ("cluster-domain", &self.cluster_domain),
            ("root-namespace", &self.root_namespace),
        ] {
            let spelled = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
            if value.is_empty() || value.len() > 253 || !value.bytes().all(spelled) {
                let right = "1 to 253 letters, digits, '.', '-' and '_'";
                return Err(InvalidSetting::new(flag, format!("{value:?}"), right));
            }
        }
        Ok(())
    }
}

/// Who signs the certificates of this node's pods.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Certificates")]
pub struct CertificateSettings {
    /// Directory where the built-in certificate authority keeps its root certificate and key; made when missing.
    #[arg(long, env = "EBB_CA_DIR", value_name = "DIR", default_value = "/var/lib/ebb/ca")]
    pub ca_dir: PathBuf,
    /// Root certificate to sign with (PEM), instead of the one in --ca-dir; needs --ca-root-key.
    #[arg(long, env = "EBB_CA_ROOT_CERT", value_name = "FILE")]
    pub ca_root_cert: Option<PathBuf>,
    /// Private key of --ca-root-cert (PEM).
    #[arg(long, env = "EBB_CA_ROOT_KEY", value_name = "FILE")]
    pub ca_root_key: Option<PathBuf>,
    /// Life of a pod's certificate, with unit; it is renewed at half of it. At least 1m.
    #[arg(long, env = "SECRET_TTL", value_name = "DURATION", default_value = "24h", value_parser = duration::parse)]
    pub secret_ttl: Duration,
}

impl CertificateSettings {
    /// Checks what one setting alone cannot show to be wrong.
    ///
    /// # Errors
    /// The first setting that is not possible.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        match (&self.ca_root_cert, &self.ca_root_key) {
            (Some(cert), None) => {
                let right = "its private key is missing; give --ca-root-key as well";
                return Err(InvalidSetting::new("ca-root-cert", cert.display(), right));
            }
            (None, Some(key)) => {
                let right = "its certificate is missing; give --ca-root-cert as well";
                return Err(InvalidSetting::new("ca-root-key", key.display(), right));
            }
            _ => {}
        }
        if self.secret_ttl < MIN_SECRET_TTL {
            let value = format!("{}s", self.secret_ttl.as_secs_f64());
            return Err(InvalidSetting::new(
                "secret-ttl",
                value,
                "a certificate must live at least 4s, and in use an hour or more",
            ));
        }
        Ok(())
    }
}

/// How the traffic of pods is captured and how the proxy's own is told from it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Redirection")]
pub struct RedirectSettings {
    /// The eBPF programs. Default: ebb-redirect.o beside the binary.
    #[arg(long, env = "EBB_EBPF_OBJECT", value_name = "FILE")]
    pub ebpf_object: Option<PathBuf>,
    /// Directory on a bpf file system where links and maps are pinned; one for each proxy of a machine.
    #[arg(long, env = "EBB_BPFFS", value_name = "DIR", default_value = "/sys/fs/bpf/ebb")]
    pub bpffs: PathBuf,
    /// Whether applications see the address of the calling pod instead of the proxy's: true or false.
    #[arg(long, env = "ENABLE_ORIG_SRC", value_name = "BOOL", default_value = "true", action = ArgAction::Set)]
    pub original_source: bool,
    /// What becomes of plaintext that arrives for a port which is reached through a waypoint only: it is refused, or
    /// taken to the waypoint, which treats its caller as one that proved nothing.
    #[arg(
        long,
        env = "EBB_PLAINTEXT_TO_WAYPOINT_DESTINATIONS",
        value_name = "WHAT",
        default_value = "refuse",
        value_enum
    )]
    pub plaintext_to_waypoint_destinations: PlaintextBehindWaypoint,
}

/// What becomes of plaintext for a destination behind a waypoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum PlaintextBehindWaypoint {
    /// It is refused.
    #[default]
    Refuse,
    /// It is taken to the waypoint first.
    Hairpin,
}

impl RedirectSettings {
    /// The path of the eBPF programs, for the binary at `executable`.
    pub fn object_path(&self, executable: &Path) -> PathBuf {
        self.ebpf_object.clone().unwrap_or_else(|| executable.with_file_name(OBJECT_NAME))
    }
}

/// How tunnels between proxies are made and shared.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Tunnels")]
pub struct TunnelSettings {
    /// How long a tunnel without streams is kept, with unit.
    #[arg(long, env = "POOL_UNUSED_RELEASE_TIMEOUT", value_name = "DURATION", default_value = "5m",
        value_parser = duration::parse)]
    pub pool_unused_release: Duration,
    /// Whether a connection between two pods of this node is carried past the tunnel, from the one's socket to the
    /// other's: every check is the same, but no packet of it leaves the pods, so that nobody else sees any.
    #[arg(long, env = "SAME_NODE_PATH", value_name = "WHETHER", default_value = "off", value_enum)]
    pub same_node_path: SameNodePath,
}

/// What becomes of a connection between two pods of one node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum SameNodePath {
    /// It is tunnelled, as between nodes.
    #[default]
    Off,
    /// It is carried from socket to socket.
    On,
}

/// Threads, and how the process ends.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Process")]
pub struct RuntimeSettings {
    /// Threads that carry traffic: a number, or a share of the processors such as 50%.
    /// Default: a quarter of the processors, and 2 at least, or 1 where there are fewer than 4; 16 at most.
    #[arg(long, env = "ZTUNNEL_WORKER_THREADS", value_name = "NUMBER|PERCENT%")]
    pub workers: Option<Workers>,
    /// How long open connections may take to finish after SIGTERM, with unit.
    /// Default: from --termination-grace-period, else 5s.
    #[arg(long, env = "CONNECTION_TERMINATION_DEADLINE", value_name = "DURATION", value_parser = duration::parse)]
    pub connection_termination_deadline: Option<Duration>,
    /// terminationGracePeriodSeconds of the proxy's own pod, in seconds: connections get 5 of them less
    /// (1 less when it is 10 or shorter).
    #[arg(long = "termination-grace-period", env = "TERMINATION_GRACE_PERIOD_SECONDS", value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(..=86_400))]
    pub termination_grace_period_seconds: Option<u64>,
}

impl RuntimeSettings {
    /// How long open connections may take to finish after SIGTERM.
    pub fn drain_deadline(&self) -> Duration {
        let of_grace = |grace: u64| Duration::from_secs(grace.saturating_sub(if grace > 10 { 5 } else { 1 }));
        self.connection_termination_deadline
            .or_else(|| self.termination_grace_period_seconds.map(of_grace))
            .unwrap_or(DEFAULT_DRAIN)
    }

    /// How many threads carry traffic on this machine.
    pub fn worker_threads(&self) -> usize {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        match self.workers {
            Some(workers) => workers.threads(processors),
            None => Workers::default_threads(processors),
        }
    }
}

/// Where the process answers operators and probes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Servers")]
pub struct ServerSettings {
    /// Address of the admin server (/config_dump, /logging, /quitquitquit); a loopback address.
    #[arg(long = "admin-addr", env = "EBB_ADMIN_ADDR", value_name = "ADDRESS", default_value = "127.0.0.1:15000",
        value_parser = loopback_address)]
    pub admin: SocketAddr,
    /// Address of the metrics (/metrics and /stats/prometheus).
    #[arg(long = "stats-addr", env = "EBB_STATS_ADDR", value_name = "ADDRESS", default_value = "[::]:15020",
        value_parser = listen_address)]
    pub stats: SocketAddr,
    /// Address of the probes (/healthz/ready and /healthz/live).
    #[arg(long = "readiness-addr", env = "EBB_READINESS_ADDR", value_name = "ADDRESS", default_value = "[::]:15021",
        value_parser = listen_address)]
    pub readiness: SocketAddr,
    /// How long series of who talked to whom are kept when nobody does any more, with unit; 0s is for ever.
    #[arg(long, env = "EBB_METRICS_IDLE_EXPIRY", value_name = "DURATION", default_value = "15m",
        value_parser = duration::parse)]
    pub metrics_idle_expiry: Duration,
}

impl ServerSettings {
    /// Checks what one setting alone cannot show to be wrong.
    ///
    /// # Errors
    /// The first setting that is not possible.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        let all =
            [("admin-addr", self.admin), ("stats-addr", self.stats), ("readiness-addr", self.readiness)];
        for (n, (flag, address)) in all.iter().enumerate() {
            // Port 0 is one the kernel chooses, a different one each time.
            let taken =
                all[..n].iter().find(|(_, other)| other.port() == address.port() && address.port() != 0);
            if let Some((other, _)) = taken {
                let right = format!("--{other} has port {} already; choose another", address.port());
                return Err(InvalidSetting::new(flag, address, right));
            }
        }
        Ok(())
    }
}

/// What is logged, and how.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Log")]
pub struct LogSettings {
    /// What is logged: a level (error, warn, info, debug, trace, off), or target=level pairs after one, such as
    /// info,access=debug. The target of the access log is access.
    #[arg(long = "log", env = "RUST_LOG", value_name = "FILTER", default_value = "info")]
    pub filter: String,
    /// Shape of log lines.
    #[arg(long = "log-format", env = "LOG_FORMAT", value_name = "FORMAT", default_value = "plain")]
    pub format: LogFormat,
}
