//! Configuration: what is bad is rejected by itself and by name, and never touches traffic or what was good before.

use std::{fs, os::unix::fs::symlink, path::Path};

use anyhow::Result;
use ebb_tests::{
    app::{App, namespace},
    load::Load,
    mesh::{Mesh, SETTLED, eventually},
    peer::{Server, at, call, refused},
};
use harness::ztunnel::{Settings, Ztunnel};

/// Exchanges that go on while one bad file is there.
const MEANWHILE: usize = 10;

fn bad_files() -> Vec<(&'static str, Vec<u8>)> {
    let head = "apiVersion: v1\nkind: Service\nmetadata: {name: bad, namespace: shop}\n";
    let bomb: String = (1..9).fold("a0: &a0 [x,x,x,x,x,x,x,x,x]\n".into(), |yaml, level| {
        let before = level - 1;
        let nine = vec![format!("*a{before}"); 9].join(",");
        format!("{yaml}a{level}: &a{level} [{nine}]\n")
    });
    let utf16: Vec<u8> =
        [0xff, 0xfe].into_iter().chain(head.encode_utf16().flat_map(u16::to_le_bytes)).collect();
    vec![
        ("anchors", format!("{head}{bomb}spec: *a8\n").into_bytes()),
        ("depth", format!("{head}spec: {}{}\n", "[".repeat(10_000), "]".repeat(10_000)).into_bytes()),
        ("duplicate", format!("{head}spec: {{clusterIP: 10.96.0.1, clusterIP: 10.96.0.2}}\n").into_bytes()),
        ("tabs", format!("{head}spec:\n\tclusterIP: 10.96.0.1\n").into_bytes()),
        ("nul", format!("{head}spec: {{clusterIP: \"10.96\0.0.1\"}}\n").into_bytes()),
        ("utf16", utf16),
        ("not-utf8", [head.as_bytes(), b"spec: {clusterIP: \"\xff\xfe\"}\n"].concat()),
        ("wrong-type", format!("{head}spec: {{ports: 80}}\n").into_bytes()),
        (
            "port-as-text",
            format!("{head}spec: {{clusterIP: 10.96.0.77, ports: [{{port: \"eighty\"}}]}}\n").into_bytes(),
        ),
        ("half", b"apiVersion: v1\nkind: Service\nmetadata: {name: ba".to_vec()),
        ("no-kind", b"metadata: {name: x}\n".to_vec()),
        ("a-list", b"- 1\n- 2\n".to_vec()),
        ("garbage", vec![0x80; 5000]),
    ]
}

#[test]
fn bad_manifests_are_named_with_their_line_and_leave_traffic_and_the_last_good_alone() -> Result<()> {
    let mut mesh = Mesh::start()?;
    mesh.run(&[App::new("client"), App::new("server").on(1)])?;
    let _echo = Server::echo(mesh.pod("server")?, 8080)?;
    let to = at(mesh.pod("server")?.addresses().v4);
    let load = Load::start(mesh.pod("client")?.namespace(), to, mesh.marker(), 2)?;
    for (name, bytes) in bad_files() {
        let file = format!("90-{name}.yaml");
        fs::write(mesh.manifests().join(&file), bytes)?;
        for ztunnel in mesh.ztunnels() {
            ztunnel.process().wait_for_log(&file, SETTLED)?;
        }
        let until = load.done() + MEANWHILE;
        eventually("traffic to go on", SETTLED, || Ok(load.done() >= until))?;
    }
    let dump = mesh.ztunnel(0).config_dump()?.to_string();
    // What says of no kind what it is can be rejected, but is nothing that the dump could show.
    for (name, _) in bad_files().iter().filter(|(name, _)| *name != "no-kind") {
        assert!(dump.contains(&format!("90-{name}.yaml")), "the dump does not name 90-{name}.yaml");
    }
    let line = &mesh.ztunnel(0).log_lines("90-port-as-text.yaml")?[0];
    assert!(line.contains("90-port-as-text.yaml:4"), "no line number in {line}");
    assert!(line.contains("port"), "no field in {line}");
    // What is good is still taken.
    fs::remove_file(mesh.manifests().join("90-half.yaml"))?;
    for (name, _) in bad_files().iter().filter(|(name, _)| *name != "half") {
        fs::remove_file(mesh.manifests().join(format!("90-{name}.yaml")))?;
    }
    let report = load.stop()?;
    assert!(report.failed.is_empty(), "{report:#?}");
    mesh.run(&[App::new("newcomer")])?;
    call(mesh.pod("newcomer")?, to, mesh.marker())?;
    mesh.finish()
}

fn policy(action: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: shop}}\nspec:\n  \
         action: {action}\n  rules: [{{}}]\n"
    )
}

#[test]
fn a_policy_overwritten_by_half_of_itself_keeps_its_last_good_version() -> Result<()> {
    let mut mesh = Mesh::start()?;
    mesh.run(&[App::new("client"), App::new("server").on(1)])?;
    let _echo = Server::echo(mesh.pod("server")?, 8080)?;
    let (client, to) = (mesh.pod("client")?, at(mesh.pod("server")?.addresses().v4));
    let path = mesh.manifests().join("60-p.yaml");
    fs::write(&path, policy("DENY"))?;
    eventually("the denial", SETTLED, || refused(client.namespace(), to, mesh.marker()).map(|()| true))?;
    let half = &policy("ALLOW")[..60];
    fs::write(&path, half)?;
    for ztunnel in mesh.ztunnels() {
        ztunnel.process().wait_for_log("60-p.yaml", SETTLED)?;
    }
    refused(client.namespace(), to, mesh.marker())?;
    fs::write(&path, policy("ALLOW"))?;
    eventually("the permission", SETTLED, || call(client, to, mesh.marker()).map(|_| true))?;
    mesh.finish()
}

/// What kubelet does with a ConfigMap: a new directory, and one rename of the link to it.
fn publish(volume: &Path, version: u32, files: &[(&str, String)]) -> Result<()> {
    let directory = volume.join(format!("..version_{version}"));
    fs::create_dir_all(&directory)?;
    for (name, text) in files {
        fs::write(directory.join(name), text)?;
        let link = volume.join(name);
        if !link.exists() {
            symlink(Path::new("..data").join(name), link)?;
        }
    }
    let temporary = volume.join("..data_tmp");
    symlink(directory.file_name().unwrap_or_default(), &temporary)?;
    Ok(fs::rename(temporary, volume.join("..data"))?)
}

#[test]
fn a_volume_whose_data_link_is_swapped_is_read_again() -> Result<()> {
    let mesh = Mesh::without_proxies()?;
    let volume = mesh.cluster().run().directory().join("volume");
    fs::create_dir(&volume)?;
    publish(&volume, 1, &[("ns.yaml", namespace("one", true)), ("policy.yaml", policy("ALLOW"))])?;
    let ztunnel = Ztunnel::start(mesh.node(0), &volume, Settings::default())?;
    ztunnel.wait_ready(SETTLED)?;
    let action = || Ok::<_, anyhow::Error>(ztunnel.config_dump()?["policies"][0]["action"].to_string());
    assert!(action()?.eq_ignore_ascii_case("\"allow\""), "{}", action()?);
    for (version, wanted) in [(2, "DENY"), (3, "ALLOW"), (4, "DENY")] {
        publish(&volume, version, &[("ns.yaml", namespace("one", true)), ("policy.yaml", policy(wanted))])?;
        let shown = format!("\"{wanted}\"");
        eventually("the new version", SETTLED, || Ok(action()?.eq_ignore_ascii_case(&shown)))?;
    }
    mesh.finish()
}
