//! Start-up settings of a waypoint: those it shares with ztunnel, and which waypoint it is.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::{Args, Parser};
use common::config::ObjectName;
use common::settings::{
    CertificateSettings, InvalidSetting, LogSettings, NodeSettings, Program, RuntimeSettings, ServerSettings,
    parse_duration,
};

/// The port of HBONE.
const HBONE_PORT: u16 = 15008;

/// Everything a waypoint is told at its start.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "waypoint",
    version,
    about = "Ebb's namespace proxy: applies what needs HTTP to the services that are bound to it",
    after_help = "`waypoint analyze PATH...` looks for problems in manifests, and `waypoint explain` says what becomes of a \
                  request; neither serves anything. See their --help.",
    next_line_help = true
)]
pub struct Settings {
    /// Where it is in the mesh.
    #[command(flatten)]
    pub node: NodeSettings,
    /// Which waypoint it is.
    #[command(flatten)]
    pub waypoint: WaypointSettings,
    /// Who signs its certificate.
    #[command(flatten)]
    pub certificates: CertificateSettings,
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

/// Which waypoint this process is, and as which pod.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Waypoint")]
pub struct WaypointSettings {
    /// The Gateway it belongs to.
    #[arg(long, env = "EBB_GATEWAY", value_name = "NAMESPACE/NAME", value_parser = object_name)]
    pub gateway: ObjectName,
    /// Name of its own pod.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub pod_name: String,
    /// Namespace of its own pod.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    pub pod_namespace: String,
    /// Service account of its own pod, whose identity it has.
    #[arg(long, env = "SERVICE_ACCOUNT", value_name = "NAME")]
    pub service_account: String,
    /// Address at which it takes tunnels.
    #[arg(long = "listen-addr", env = "EBB_LISTEN_ADDR", value_name = "ADDRESS",
        default_value_t = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), HBONE_PORT))]
    pub listen: SocketAddr,
    /// How long a request, its answer or a changed protocol may stand still, with unit; 0s is for ever.
    #[arg(long, env = "EBB_STREAM_IDLE_TIMEOUT", value_name = "DURATION", default_value = "5m",
        value_parser = parse_duration)]
    pub stream_idle_timeout: Duration,
}

impl WaypointSettings {
    /// How long a request may stand still; `None` is for ever.
    pub fn stream_idle(&self) -> Option<Duration> {
        Some(self.stream_idle_timeout).filter(|idle| !idle.is_zero())
    }
}

impl Program for Settings {
    fn validate(&self) -> Result<(), InvalidSetting> {
        self.node.validate()?;
        self.certificates.validate()?;
        self.servers.validate()?;
        for (flag, value) in [
            ("pod-name", &self.waypoint.pod_name),
            ("pod-namespace", &self.waypoint.pod_namespace),
            ("service-account", &self.waypoint.service_account),
        ] {
            if !is_name(value) {
                return Err(InvalidSetting::new(flag, format!("{value:?}"), NAME));
            }
        }
        Ok(())
    }
}

const NAME: &str = "1 to 253 lower-case letters, digits, '.' and '-'";

fn is_name(text: &str) -> bool {
    let spelled = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-');
    (1..=253).contains(&text.len()) && text.bytes().all(spelled)
}

fn object_name(text: &str) -> Result<ObjectName, String> {
    match text.split_once('/') {
        Some((namespace, name)) if is_name(namespace) && is_name(name) => {
            Ok(ObjectName::new(namespace, name))
        }
        _ => Err(format!("write NAMESPACE/NAME, each of {NAME}")),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn read(flags: &[&str]) -> Result<Settings, String> {
        let needed = ["waypoint", "--manifests", "/m", "--node", "n", "--pod-name", "p"];
        let more = ["--pod-namespace", "ns", "--service-account", "sa"];
        let all = needed.iter().chain(&more).chain(flags).map(OsString::from);
        Settings::try_read(all).map_err(|error| error.to_string())
    }

    #[test]
    fn a_request_may_stand_still_for_as_long_as_is_said() {
        let idle = |more: &[&str]| {
            let given = [&["--gateway", "shop/waypoint"], more].concat();
            read(&given).map(|settings| settings.waypoint.stream_idle())
        };
        assert_eq!(idle(&[]), Ok(Some(crate::serve::pulse::STREAM_IDLE_DEADLINE)));
        assert_eq!(idle(&["--stream-idle-timeout", "1h"]), Ok(Some(Duration::from_secs(3600))));
        assert_eq!(idle(&["--stream-idle-timeout", "0s"]), Ok(None));
        assert!(idle(&["--stream-idle-timeout", "90"]).is_err());
    }

    #[test]
    fn a_gateway_is_named_with_its_namespace() {
        let settings = read(&["--gateway", "shop/waypoint"]).unwrap();
        assert_eq!(settings.waypoint.gateway, ObjectName::new("shop", "waypoint"));
        assert_eq!(settings.waypoint.listen.port(), 15008);
        for wrong in ["waypoint", "shop/", "/waypoint", "Shop/w", "a/b/c"] {
            let error = read(&["--gateway", wrong]).unwrap_err();
            assert!(error.contains("write NAMESPACE/NAME"), "{error}");
        }
        assert!(read(&[]).unwrap_err().contains("--gateway"));
        let error = read(&["--gateway", "a/b", "--service-account", "a/b"]).unwrap_err();
        assert!(error.contains("--service-account"), "{error}");
    }
}
