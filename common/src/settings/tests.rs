use std::process::Command;
use std::time::Duration;

use super::*;

/// The flags without which nothing starts.
const NEEDED: [&str; 4] = ["--manifests", "/etc/mesh", "--node", "node-a"];

fn read(flags: &[&str]) -> Result<Settings, String> {
    let all = ["ztunnel"].iter().chain(&NEEDED).chain(flags);
    Settings::try_read(all.map(OsString::from)).map_err(|error| error.to_string())
}

#[test]
fn help_says_what_unit_default_and_variable_of_every_flag() {
    let help = Settings::command().render_long_help().to_string();
    let command = Settings::command();
    let flags: Vec<_> = command.get_arguments().filter(|a| a.get_long().is_some()).collect();
    assert!(flags.len() >= 18, "only {} flags", flags.len());
    for flag in flags {
        let long = flag.get_long().unwrap();
        assert!(help.contains(&format!("--{long}")), "--{long} is not in --help");
        let about = flag.get_help().unwrap_or_else(|| panic!("--{long} is not explained")).to_string();
        assert!(about.len() > 15, "--{long}: {about}");
        let variable = flag.get_env().unwrap_or_else(|| panic!("--{long} has no variable"));
        assert!(help.contains(&format!("[env: {}", variable.to_string_lossy())), "--{long}");
        let default = !flag.get_default_values().is_empty() || about.contains("Default:");
        let optional = ["ca-root-cert", "ca-root-key", "termination-grace-period"].contains(&long);
        assert!(default || flag.is_required_set() || optional, "--{long} does not say its default");
        if flag.get_value_names().is_some_and(|names| names[0] == "DURATION") {
            assert!(about.contains("with unit"), "--{long}: {about}");
        }
    }
}

#[test]
fn defaults_are_istios() {
    let settings = read(&[]).unwrap();
    assert_eq!(settings.node.cluster_id, "Kubernetes");
    assert_eq!(settings.node.root_namespace, "istio-system");
    assert_eq!(settings.certificates.secret_ttl, Duration::from_secs(86_400));
    assert!(settings.redirect.original_source);
    assert_eq!(settings.tunnel.pool_unused_release, Duration::from_secs(300));
    assert_eq!(settings.tunnel.same_node_path, SameNodePath::Off);
    assert_eq!(settings.servers.admin.to_string(), "127.0.0.1:15000");
    assert_eq!(settings.servers.stats.to_string(), "[::]:15020");
    assert_eq!(settings.servers.readiness.to_string(), "[::]:15021");
    assert_eq!(settings.runtime.drain_deadline(), Duration::from_secs(5));
    let object = settings.redirect.object_path("/usr/bin/ztunnel".as_ref());
    assert_eq!(object.to_str(), Some("/usr/bin/ebb-redirect.o"));
}

#[test]
fn a_wrong_value_is_refused_with_flag_value_and_what_is_right() {
    for (flags, flag, value, right) in [
        (vec!["--secret-ttl", "90"], "--secret-ttl", "90", "such as 90s"),
        (vec!["--secret-ttl", "3s"], "--secret-ttl", "3s", "at least 4s"),
        (vec!["--workers", "0"], "--workers", "0", "from 1 to 16"),
        (vec!["--workers", "150%"], "--workers", "150%", "such as 50%"),
        (vec!["--admin-addr", "0.0.0.0:15000"], "--admin-addr", "0.0.0.0:15000", "loopback"),
        (vec!["--admin-addr", "localhost"], "--admin-addr", "localhost", "127.0.0.1:15000"),
        (vec!["--stats-addr", "[::]:15000"], "--stats-addr", "[::]:15000", "choose another"),
        (vec!["--trust-domain", "Shop"], "--trust-domain", "Shop", "lower-case"),
        (vec!["--cluster-domain", "a/b"], "--cluster-domain", "a/b", "letters"),
        (vec!["--ca-root-cert", "/c.pem"], "--ca-root-cert", "/c.pem", "--ca-root-key"),
        (vec!["--ca-root-key", "/k.pem"], "--ca-root-key", "/k.pem", "--ca-root-cert"),
        (vec!["--log-format", "xml"], "--log-format", "xml", "json"),
        (vec!["--same-node-path", "maybe"], "--same-node-path", "maybe", "on"),
    ] {
        let error = read(&flags).expect_err(&format!("{flags:?} was accepted"));
        for part in [flag, value, right] {
            assert!(error.contains(part), "{flags:?} does not say {part:?}:\n{error}");
        }
    }
}

#[test]
fn manifests_and_node_are_asked_for_when_missing() {
    let error = Settings::try_read(["ztunnel".into()]).unwrap_err().to_string();
    assert!(error.contains("--manifests") && error.contains("--node"), "{error}");
}

#[test]
fn the_drain_deadline_leaves_time_before_the_kill() {
    for (flags, seconds) in [
        (vec!["--termination-grace-period", "30"], 25),
        (vec!["--termination-grace-period", "11"], 6),
        (vec!["--termination-grace-period", "10"], 9),
        (vec!["--termination-grace-period", "0"], 0),
        (vec!["--connection-termination-deadline", "2m", "--termination-grace-period", "30"], 120),
    ] {
        let settings = read(&flags).unwrap();
        assert_eq!(settings.runtime.drain_deadline(), Duration::from_secs(seconds), "{flags:?}");
    }
}

#[test]
fn workers_are_a_number_or_a_share_of_the_processors() {
    for (text, processors, threads) in [
        ("1", 64, 1),
        ("7", 2, 7),
        ("50%", 8, 4),
        ("25%", 2, 1),
        ("100%", 3, 3),
        ("1%", 512, 6),
        ("100%", 512, 16),
    ] {
        assert_eq!(text.parse::<Workers>().unwrap().threads(processors), threads, "{text} of {processors}");
    }
    for (processors, threads) in [(1, 1), (2, 1), (3, 1), (4, 2), (8, 2), (9, 3), (64, 16)] {
        assert_eq!(Workers::default_threads(processors), threads, "{processors}");
    }
}

#[test]
fn the_dump_has_the_shapes_kiali_decodes() {
    let dump = read(&["--workers", "3"]).unwrap().dump();
    assert_eq!(dump["adminAddr"], json!({"Localhost": [false, 15000]}));
    assert_eq!(dump["statsAddr"], json!({"SocketAddr": "[::]:15020"}));
    assert_eq!(dump["readinessAddr"], json!({"SocketAddr": "[::]:15021"}));
    assert_eq!(dump["secretTtl"], json!({"secs": 86400, "nanos": 0}));
    assert_eq!(dump["poolUnusedReleaseTimeout"], json!({"secs": 300, "nanos": 0}));
    assert_eq!(dump["numWorkerThreads"], 3);
}

/// Run by the test below in a process of its own, because the environment belongs to the whole process.
#[test]
#[ignore = "is the child of environment_variables_are_read_and_empty_ones_are_unset"]
fn child_that_prints_its_settings() {
    match Settings::try_read(["ztunnel".into()]) {
        Ok(settings) => println!("settings: {}", settings.dump()),
        Err(error) => println!("error: {error}"),
    }
}

fn in_environment(variables: &[(&str, &str)]) -> String {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--ignored", "--exact", "--nocapture", "settings::tests::child_that_prints_its_settings"]);
    let output = child.env_clear().envs(variables.iter().copied()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn environment_variables_are_read_and_empty_ones_are_unset() {
    let needed = [("EBB_MANIFESTS", "/etc/mesh"), ("NODE_NAME", "node-b")];
    let with = |more: &[(&'static str, &'static str)]| in_environment(&[&needed[..], more].concat());

    let text = with(&[("ENABLE_ORIG_SRC", "false"), ("ZTUNNEL_WORKER_THREADS", "5"), ("CLUSTER_ID", "c1")]);
    assert!(
        text.contains("\"localNode\":\"node-b\"") && text.contains("\"enableOriginalSource\":false"),
        "{text}"
    );
    assert!(text.contains("\"numWorkerThreads\":5") && text.contains("\"clusterId\":\"c1\""), "{text}");

    let text = with(&[("ENABLE_ORIG_SRC", ""), ("ZTUNNEL_WORKER_THREADS", ""), ("SECRET_TTL", "")]);
    assert!(text.contains("\"enableOriginalSource\":true") && text.contains("\"secs\":86400"), "{text}");

    let text = with(&[("CLUSTER_ID", ""), ("ISTIO_META_CLUSTER_ID", "meta")]);
    assert!(text.contains("\"clusterId\":\"meta\""), "{text}");
    let text = with(&[("CLUSTER_ID", "own"), ("ISTIO_META_CLUSTER_ID", "meta")]);
    assert!(text.contains("\"clusterId\":\"own\""), "{text}");

    let text = with(&[("SECRET_TTL", "soon")]);
    assert!(text.contains("error:") && text.contains("--secret-ttl"), "{text}");
}
