//! Warns of environment variables that will not do what whoever set them expects.
//!
//! Pure: it is given names, never values, and returns sentences. Three kinds: variables of Istio's ztunnel that Ebb does
//! not honour (one sentence for all of them), variables of Ebb's own prefix that do not exist, and variables whose name
//! is one or two letters away from one that exists.

use clap::CommandFactory;

use super::Settings;
use crate::config::similar::distance;

/// Variables of Istio's ztunnel that Ebb does not honour.
const NOT_HONOURED: [&str; 45] = [
    "ALT_CA_HOSTNAME",
    "ALT_XDS_HOSTNAME",
    "AUTHZ_POLICY_INFO_LOGGING",
    "AUTH_TOKEN",
    "CA_ADDRESS",
    "CA_ROOT_CA",
    "COMPLIANCE_POLICY",
    "CRL_PATH",
    "DNS_CAPTURE",
    "DNS_PROXY_ADDR",
    "ENABLE_PROXY",
    "ENABLE_RESPONSE_BAGGAGE",
    "FAKE_CA",
    "HTTP2_CONNECTION_WINDOW_SIZE",
    "HTTP2_FRAME_SIZE",
    "HTTP2_STREAM_WINDOW_SIZE",
    "INPOD_ENABLED",
    "INPOD_PORT_REUSE",
    "INPOD_UDS",
    "IPV6_ENABLED",
    "ISTIO_META_DNS_CAPTURE",
    "ISTIO_META_DNS_PROXY_ADDR",
    "KEEPALIVE_ENABLED",
    "KEEPALIVE_INTERVAL",
    "KEEPALIVE_RETRIES",
    "KEEPALIVE_TIME",
    "LOCALHOST_APP_TUNNEL",
    "LOCAL_XDS",
    "LOCAL_XDS_PATH",
    "NETWORK",
    "PACKET_MARK",
    "POOL_MAX_STREAMS_PER_CONNECTION",
    "PREFERED_SERVICE_NAMESPACE",
    "PROXY_CONFIG",
    "PROXY_MODE",
    "PROXY_WORKLOAD_INFO",
    "TLS12_ENABLED",
    "UNSTABLE_ENABLE_SOCKS5",
    "USER_TIMEOUT_ENABLED",
    "XDS_ADDRESS",
    "XDS_ON_DEMAND",
    "XDS_ROOT_CA",
    "ZTUNNEL_CPU_LIMIT",
    "ZTUNNEL_RESOURCE_CPU_LIMIT",
    "ZTUNNEL_RESOURCE_CPU_REQUEST",
];
/// Prefixes of further ones: headers for the control plane.
const NOT_HONOURED_PREFIXES: [&str; 2] = ["XDS_HEADER_", "CA_HEADER_"];
/// Variables that are honoured without being a flag, or that only describe the pod.
const ALSO_KNOWN: [&str; 8] = [
    "INSTANCE_IP",
    "ISTIO_META_CLUSTER_ID",
    "ISTIO_META_ENABLE_HBONE",
    "NO_COLOR",
    "POD_NAME",
    "POD_NAMESPACE",
    "RUST_BACKTRACE",
    "SERVICE_ACCOUNT",
];
/// Names shorter than this are not compared: everything is two letters away from them.
const SHORTEST_COMPARED: usize = 6;

/// The warnings for an environment of `names`.
pub fn warnings<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let command = Settings::command();
    let honoured: Vec<String> = command
        .get_arguments()
        .filter_map(|argument| argument.get_env()?.to_str().map(str::to_owned))
        .chain(ALSO_KNOWN.map(str::to_owned))
        .collect();
    let mut ignored = Vec::new();
    let mut warnings = Vec::new();
    let mut names: Vec<&str> = names.into_iter().collect();
    names.sort_unstable();
    for name in names {
        if honoured.iter().any(|known| known == name) {
            continue;
        }
        if NOT_HONOURED.contains(&name) || NOT_HONOURED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        {
            ignored.push(name);
        } else if let Some(meant) =
            honoured.iter().map(String::as_str).chain(NOT_HONOURED).find(|known| is_slip(name, known))
        {
            warnings.push(format!("environment variable {name} is not a setting; did you mean {meant}?"));
        } else if name.starts_with("EBB_") && !is_service_link(name) {
            warnings.push(format!(
                "environment variable {name} is not a setting; see --help for those there are"
            ));
        }
    }
    if !ignored.is_empty() {
        warnings.push(format!(
            "these settings of Istio's ztunnel are set and have no effect here: {}",
            ignored.join(", ")
        ));
    }
    warnings
}

/// Kubernetes puts variables into every pod for every Service of its namespace: a Service called `ebb` makes
/// `EBB_SERVICE_HOST` and `EBB_PORT_15012_TCP`.
fn is_service_link(name: &str) -> bool {
    name.contains("_SERVICE_") || name.contains("_PORT")
}

/// Whether `name` looks like `known` misspelled.
fn is_slip(name: &str, known: &str) -> bool {
    if name.eq_ignore_ascii_case(known) {
        return true;
    }
    let allowed = if known.len() < 9 { 1 } else { 2 };
    name.len() >= SHORTEST_COMPARED
        && known.len() >= SHORTEST_COMPARED
        && name.len().abs_diff(known.len()) <= allowed
        && distance(name.as_bytes(), known.as_bytes()) <= allowed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelled_setting_is_pointed_at_the_right_one() {
        for (name, meant) in [
            ("HTTP2_FRAME_SIZ", "HTTP2_FRAME_SIZE"),
            ("NODENAME", "NODE_NAME"),
            ("EBB_MANIFEST", "EBB_MANIFESTS"),
            ("SECRETS_TTL", "SECRET_TTL"),
            ("trust_domain", "TRUST_DOMAIN"),
            ("XDS_ADRESS", "XDS_ADDRESS"),
        ] {
            let found = warnings([name]);
            assert_eq!(
                found,
                [format!("environment variable {name} is not a setting; did you mean {meant}?")]
            );
        }
    }

    #[test]
    fn what_has_no_effect_is_named_in_one_sentence() {
        let found = warnings(["XDS_ADDRESS", "FAKE_CA", "XDS_HEADER_X", "NODE_NAME"]);
        assert_eq!(
            found,
            [
                "these settings of Istio's ztunnel are set and have no effect here: FAKE_CA, XDS_ADDRESS, XDS_HEADER_X"
            ]
        );
    }

    #[test]
    fn an_unknown_name_of_our_own_prefix_is_named() {
        assert_eq!(warnings(["EBB_COLOUR"]).len(), 1);
        assert!(warnings(["EBB_SERVICE_HOST", "EBB_PORT_15012_TCP_ADDR"]).is_empty());
    }

    #[test]
    fn an_ordinary_environment_warns_of_nothing() {
        let ordinary = "PATH HOME HOSTNAME PWD LANG TERM USER SHLVL KUBERNETES_SERVICE_HOST KUBERNETES_PORT \
            ISTIOD_SERVICE_PORT NODE_NAME POD_NAME POD_NAMESPACE INSTANCE_IP SERVICE_ACCOUNT RUST_BACKTRACE \
            ISTIO_META_CLUSTER_ID RUST_LOG SSL_CERT_FILE TZ LS_COLORS LOGNAME MAIL OLDPWD";
        assert!(
            warnings(ordinary.split_whitespace()).is_empty(),
            "{:?}",
            warnings(ordinary.split_whitespace())
        );
    }

    #[test]
    fn no_name_is_both_honoured_and_not() {
        let command = Settings::command();
        for name in command.get_arguments().filter_map(|argument| argument.get_env()?.to_str()) {
            assert!(!NOT_HONOURED.contains(&name), "{name}");
        }
    }
}
