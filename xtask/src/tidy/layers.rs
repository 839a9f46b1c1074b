//! Who may use what: between crates, and between the modules of `common`.
//!
//! Lower code stays free of what is above it, so that decisions can be tested without sockets and replaced without
//! touching them. The tables below are the rule; ARCHITECTURE.md explains it.

use super::paths::{Path, paths};
use super::tree::{File, Finding, Tree};

const RULE: &str = "layers";

/// The folder of each crate and the packages of ours it may depend on; `None` means any.
const CRATES: &[(&str, Option<&[&str]>)] = &[
    ("ebpf/abi", Some(&[])),
    ("ebpf/programs", Some(&["ebb-abi"])),
    ("ebpf/loader", Some(&["ebb-abi"])),
    ("ebpf/resident", Some(&[])),
    ("common", Some(&[])),
    ("ztunnel", Some(&["ebb-common", "ebb-loader", "ebb-resident", "ebb-abi"])),
    ("waypoint", Some(&["ebb-common", "ebb-resident"])),
    ("xtask", Some(&[])),
    ("tests/", None),
];

/// The layers of `common`, lowest first. A module uses those of its own line and of the lines before it.
const LAYERS: [&[&str]; 4] = [
    &["spiffe", "refusal", "wire", "config", "snapshot"],
    &["authz", "balance", "connection", "explain"],
    &["settings", "net", "tls", "lifecycle", "telemetry", "spans"],
    &["hbone", "certs", "source", "admin", "manifests"],
];

/// How many of the lowest layers are pure: no runtime, sockets, files or clock.
const PURE_LAYERS: usize = 2;
/// Hands snapshots to their readers, and so is the one place in the pure layers that knows a runtime.
const PURE_EXCEPT: &str = "common/src/snapshot/publish.rs";
/// What pure code does not touch, as paths start.
const IMPURE: [&[&str]; 9] = [
    &["tokio"],
    &["std", "fs"],
    &["std", "net", "TcpStream"],
    &["std", "net", "TcpListener"],
    &["std", "net", "UdpSocket"],
    &["std", "os", "unix", "net"],
    &["std", "thread"],
    &["socket2"],
    &["nix"],
];
/// Readings of the clock, as paths end.
const CLOCKS: [&[&str]; 2] = [&["SystemTime", "now"], &["Instant", "now"]];

/// Crates that know a configuration format, and the only places that may name them.
const FORMATS: [&str; 5] = ["granit_parser", "serde_saphyr", "kube", "k8s_openapi", "gateway_api"];
const FORMAT_READERS: [&str; 3] =
    ["common/src/config/decode", "common/src/source", "waypoint/src/controller"];

/// Checks every crate and every module.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let manifests: Vec<Manifest> = tree.files.iter().filter_map(Manifest::read).collect();
    let mut findings = between_crates(&manifests);
    for file in tree.rust() {
        inside_common(file, &mut findings);
        composition(file, &mut findings);
    }
    findings
}

/// What the rule needs of a `Cargo.toml`.
struct Manifest<'a> {
    file: &'a File,
    folder: &'a str,
    package: String,
    /// Package names of dependencies of every kind: a test that needs an upper crate belongs in `tests/`.
    dependencies: Vec<String>,
}

impl<'a> Manifest<'a> {
    fn read(file: &'a File) -> Option<Self> {
        let folder = file.path.strip_suffix("/Cargo.toml")?;
        let manifest: toml::Table = file.text.parse().ok()?;
        let package = manifest.get("package")?.get("name")?.as_str()?.to_owned();
        let mut dependencies = Vec::new();
        collect_dependencies(&manifest, &mut dependencies);
        if let Some(targets) = manifest.get("target").and_then(toml::Value::as_table) {
            targets
                .values()
                .filter_map(toml::Value::as_table)
                .for_each(|target| collect_dependencies(target, &mut dependencies));
        }
        Some(Self { file, folder, package, dependencies })
    }
}

fn collect_dependencies(table: &toml::Table, into: &mut Vec<String>) {
    for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
        let Some(listed) = table.get(kind).and_then(toml::Value::as_table) else { continue };
        for (key, value) in listed {
            let renamed = value.get("package").and_then(toml::Value::as_str);
            into.push(renamed.unwrap_or(key).to_owned());
        }
    }
}

fn between_crates(manifests: &[Manifest<'_>]) -> Vec<Finding> {
    let ours: Vec<&str> = manifests.iter().map(|manifest| manifest.package.as_str()).collect();
    let mut findings = Vec::new();
    for manifest in manifests {
        let folder = manifest.folder;
        let rule = CRATES
            .iter()
            .find(|(place, _)| folder == *place || place.ends_with('/') && folder.starts_with(place));
        let Some((_, allowed)) = rule else {
            findings.push(Finding {
                path: manifest.file.path.clone(),
                line: 1,
                rule: RULE,
                what: format!("crate {} is in no layer", manifest.package),
                fix: "give its folder a line in CRATES of xtask/src/tidy/layers.rs and in ARCHITECTURE.md",
            });
            continue;
        };
        let Some(allowed) = allowed else { continue };
        for dependency in &manifest.dependencies {
            if ours.contains(&dependency.as_str()) && !allowed.contains(&dependency.as_str()) {
                findings.push(Finding {
                    path: manifest.file.path.clone(),
                    line: line_of(&manifest.file.text, dependency),
                    rule: RULE,
                    what: format!("{} must not depend on {dependency}", manifest.package),
                    fix: "move the code that needs it to a crate that may, see the layer rule in ARCHITECTURE.md",
                });
            }
        }
    }
    findings
}

fn line_of(text: &str, needle: &str) -> usize {
    text.lines().position(|line| line.contains(needle)).map_or(1, |at| at + 1)
}

/// The layer of a module of `common`, from 0.
fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

fn inside_common(file: &File, findings: &mut Vec<Finding>) {
    let Some(inside) = file.path.strip_prefix("common/src/").and_then(|path| path.strip_suffix(".rs")) else {
        return;
    };
    if inside == "lib" {
        return;
    }
    let parts: Vec<&str> = inside.split('/').filter(|part| *part != "mod").collect();
    let mut report = |line, what, fix| {
        findings.push(Finding { path: file.path.clone(), line, rule: RULE, what, fix });
    };
    let Some(own) = layer(parts[0]) else {
        report(
            1,
            format!("common::{} is in no layer", parts[0]),
            "add it to LAYERS of xtask/src/tidy/layers.rs and to ARCHITECTURE.md",
        );
        return;
    };
    let tokens = file.shipped_tokens();
    for path in paths(&tokens) {
        let used = module_used(&path, parts.len());
        if let Some((module, other)) = used.and_then(|module| Some((module, layer(module)?)))
            && other > own
        {
            report(
                path.line,
                format!("{} (L{own}) uses {module} (L{other})", parts[0]),
                "pass what it needs in as a value or a trait, or move the code up a layer",
            );
        }
        if own < PURE_LAYERS && file.path != PURE_EXCEPT && is_impure(&path) {
            report(
                path.line,
                format!("{} (L{own}) touches {}", parts[0], path.segments.join("::")),
                "L0 and L1 know no runtime, sockets, files or clock: take the value as an argument",
            );
        }
        if let Some(format) = format_named(&path, &file.path) {
            report(
                path.line,
                format!("{} knows {format}", parts[0]),
                "only `source` and `config/decode` know YAML, Kubernetes or xDS",
            );
        }
    }
}

/// The top-level module of `common` that a path names, through `crate` or through enough `super`s.
fn module_used<'a>(path: &Path<'a>, depth: usize) -> Option<&'a str> {
    let supers = path.segments.iter().take_while(|segment| **segment == "super").count();
    match path.segments.first() {
        Some(&"crate") => path.segments.get(1).copied(),
        Some(&"super") if supers >= depth => path.segments.get(supers).copied(),
        _ => None,
    }
}

fn is_impure(path: &Path<'_>) -> bool {
    IMPURE.iter().any(|start| path.starts_with(start)) || CLOCKS.iter().any(|end| path.ends_with(end))
}

fn format_named<'a>(path: &Path<'a>, file: &str) -> Option<&'a str> {
    let first = path.segments.first().filter(|first| FORMATS.contains(first))?;
    (path.segments.len() > 1 && !FORMAT_READERS.iter().any(|place| file.starts_with(place))).then_some(first)
}

/// Only the composition roots choose where configuration comes from.
fn composition(file: &File, findings: &mut Vec<Finding>) {
    let shipped = file.path.starts_with("ztunnel/src/") || file.path.starts_with("waypoint/src/");
    let root = file.path.ends_with("/src/app.rs") || file.path.ends_with("/src/main.rs");
    if !shipped || root {
        return;
    }
    for path in paths(&file.shipped_tokens()) {
        if path.starts_with(&["common", "source"]) {
            findings.push(Finding {
                path: file.path.clone(),
                line: path.line,
                rule: RULE,
                what: "only app.rs and main.rs may use common::source".to_owned(),
                fix: "take the snapshots it publishes as an argument",
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(files: &[(&str, &str)]) -> Vec<(String, usize)> {
        check(&Tree::of(files)).into_iter().map(|finding| (finding.what, finding.line)).collect()
    }

    #[test]
    fn a_crate_uses_only_the_crates_below_it() {
        let common = (
            "common/Cargo.toml",
            "[package]\nname = \"ebb-common\"\n[dependencies]\nebb-loader.workspace = true",
        );
        let loader =
            ("ebpf/loader/Cargo.toml", "[package]\nname = \"ebb-loader\"\n[dependencies]\naya = \"1\"");
        let tests = (
            "tests/harness/Cargo.toml",
            "[package]\nname = \"ebb-harness\"\n[dependencies]\nebb-common = {}",
        );
        assert_eq!(lines(&[common, loader, tests]), [("ebb-common must not depend on ebb-loader".into(), 4)]);
    }

    #[test]
    fn nothing_shipped_uses_a_test_crate_under_any_name_or_kind() {
        let harness = ("tests/harness/Cargo.toml", "[package]\nname = \"ebb-harness\"");
        for table in ["dev-dependencies", "build-dependencies", "target.'cfg(unix)'.dependencies"] {
            let manifest =
                format!("[package]\nname = \"ztunnel\"\n[{table}]\nx = {{ package = \"ebb-harness\" }}");
            let found = lines(&[harness, ("ztunnel/Cargo.toml", &manifest)]);
            assert_eq!(found, [("ztunnel must not depend on ebb-harness".into(), 4)], "{table}");
        }
    }

    #[test]
    fn a_crate_without_a_layer_is_refused() {
        assert_eq!(
            lines(&[("extra/Cargo.toml", "[package]\nname = \"extra\"")]),
            [("crate extra is in no layer".into(), 1)]
        );
    }

    #[test]
    fn a_module_uses_only_its_own_layer_and_lower_ones() {
        let used = |path, text| lines(&[(path, text)]);
        assert_eq!(
            used("common/src/authz.rs", "use crate::{spiffe::Id,\n net::dial};"),
            [("authz (L1) uses net (L2)".into(), 2)]
        );
        assert_eq!(
            used("common/src/tls/verify.rs", "use super::super::hbone::X;"),
            [("tls (L2) uses hbone (L3)".into(), 1)]
        );
        assert_eq!(used("common/src/tls/verify.rs", "use crate::telemetry::x; use super::net::y;"), []);
        assert_eq!(used("common/src/config/mod.rs", "#[cfg(test)] mod tests { use crate::net::x; }"), []);
    }

    #[test]
    fn pure_layers_touch_no_runtime_sockets_files_or_clock() {
        for impure in [
            "use tokio::sync::watch;",
            "use std::{fs};",
            "fn f() { std::net::TcpStream::connect(a) }",
            "fn f() -> Instant { Instant::now() }",
            "fn f() { std::time::SystemTime::now() }",
        ] {
            assert_eq!(lines(&[("common/src/balance/mod.rs", impure)]).len(), 1, "{impure}");
            assert_eq!(lines(&[("common/src/net/mod.rs", impure)]), [], "{impure}");
            assert_eq!(lines(&[(PURE_EXCEPT, impure)]), [], "{impure}");
        }
        assert_eq!(lines(&[("common/src/authz.rs", "use std::net::SocketAddr; // tokio::x")]), []);
    }

    #[test]
    fn formats_stay_with_their_readers() {
        let yaml = "let x = serde_saphyr::from_str(text);";
        assert_eq!(
            lines(&[("common/src/snapshot/mod.rs", yaml)]),
            [("snapshot knows serde_saphyr".into(), 1)]
        );
        assert_eq!(lines(&[("common/src/config/decode/yaml.rs", yaml)]), []);
    }

    #[test]
    fn only_the_composition_root_chooses_a_source() {
        let text = "use common::source::file;";
        assert_eq!(lines(&[("ztunnel/src/outbound/route.rs", text)]).len(), 1);
        assert_eq!(lines(&[("ztunnel/src/app.rs", text)]), []);
    }
}
