//! What an operator sees: metrics of Istio's names, the dump, readiness in words, log levels that change.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ebb_tests::{
    app::{App, service},
    mesh::{Mesh, eventually},
    peer::{SOON, Server, call},
};
use harness::ztunnel::{Settings, Ztunnel};

const TOTALS: [&str; 4] = [
    "istio_tcp_connections_opened_total",
    "istio_tcp_connections_closed_total",
    "istio_tcp_sent_bytes_total",
    "istio_tcp_received_bytes_total",
];

const POLICY: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: \
                      shop}\nspec: {action: ALLOW, rules: [{}]}\n";

#[test]
fn a_connection_is_counted_once_by_each_side_under_the_labels_dashboards_group_by() -> Result<()> {
    let mut mesh = Mesh::start()?;
    mesh.apply("20-server.yaml", &service("server", 10))?;
    mesh.run(&[App::new("client").label("version", "v7"), App::new("server").on(1)])?;
    let server = mesh.pod("server")?;
    let _echo = Server::echo(server, 8080)?;
    call(mesh.pod("client")?, "10.96.0.10:80".parse()?, mesh.marker())?;
    let labels = [
        ("source_workload", "client"),
        ("source_workload_namespace", "shop"),
        ("source_canonical_service", "client"),
        ("source_canonical_revision", "v7"),
        ("source_principal", "spiffe://cluster.local/ns/shop/sa/client"),
        ("source_app", "client"),
        ("source_version", "v7"),
        ("source_cluster", "Kubernetes"),
        ("destination_workload", "server"),
        ("destination_workload_namespace", "shop"),
        ("destination_principal", "spiffe://cluster.local/ns/shop/sa/server"),
        ("destination_service", "server.shop.svc.cluster.local"),
        ("destination_service_name", "server"),
        ("destination_service_namespace", "shop"),
        ("request_protocol", "tcp"),
        ("response_flags", "-"),
        ("connection_security_policy", "mutual_tls"),
    ];
    for (node, reporter) in [(0, "source"), (1, "destination")] {
        let labels = [&labels[..], &[("reporter", reporter)]].concat();
        let ztunnel = mesh.ztunnel(node);
        let seen = eventually("the connection to be counted", SOON, || {
            let metrics = ztunnel.metrics()?;
            let counts = TOTALS.map(|name| metrics.sum(name, &labels));
            let text = mesh.marker().len() as f64;
            // The greeting goes one way only; `sent` is the server's side whoever reports.
            Ok(counts[0] == 1.0 && counts[1] == 1.0 && counts[2] > text && counts[3] == text)
        });
        seen.with_context(|| {
            let metrics = ztunnel.metrics().unwrap_or_default();
            let of_tcp = metrics.samples().iter().filter(|sample| sample.name.starts_with("istio_tcp"));
            format!("{reporter}: {:#?}", of_tcp.collect::<Vec<_>>())
        })?;
        let other = mesh.ztunnel(1 - node).metrics()?;
        assert_eq!(other.sum(TOTALS[0], &labels), 0.0, "the other node reports the other side only");
    }
    mesh.finish()
}

#[test]
fn the_dump_has_the_keys_that_istioctl_reads() -> Result<()> {
    let mut mesh = Mesh::start()?;
    mesh.apply("20-server.yaml", &service("server", 10))?;
    mesh.apply("60-policy.yaml", POLICY)?;
    mesh.run(&[App::new("server").on(1)])?;
    let dump = mesh.ztunnel(1).config_dump()?;
    for key in ["workloads", "services", "policies", "certificates", "config", "version"] {
        assert!(
            !dump[key].is_null(),
            "{key} is missing in {:?}",
            dump.as_object().map(|o| o.keys().collect::<Vec<_>>())
        );
    }
    assert_eq!(dump["workloads"][0]["protocol"], "HBONE");
    assert_eq!(dump["workloads"][0]["serviceAccount"], "server");
    assert_eq!(dump["services"][0]["hostname"], "server.shop.svc.cluster.local");
    assert_eq!(dump["policies"][0]["name"], "p");
    let certificates = dump["certificates"].to_string();
    assert!(certificates.contains("spiffe://cluster.local/ns/shop/sa/server"), "{certificates}");
    assert!(!dump.to_string().contains("PRIVATE KEY"), "a key is in the dump");
    mesh.finish()
}

#[test]
fn readiness_names_what_is_awaited_until_the_manifests_are_there() -> Result<()> {
    let mesh = Mesh::without_proxies()?;
    let node = mesh.node(0);
    let run = mesh.cluster().run().directory();
    let (late, away) = (run.join("late"), run.join("away"));
    std::fs::create_dir(&late)?;
    std::fs::copy(mesh.manifests().join("00-nodes.yaml"), late.join("00-nodes.yaml"))?;
    std::fs::write(late.join("60-policy.yaml"), POLICY)?;
    let mut ztunnel = Ztunnel::start(node, &late, Settings::default())?;
    ztunnel.wait_ready(SOON)?;
    let kept = run.join("state").join(format!("{}.last-good", node.name()));
    eventually("the policy to be kept", SOON, || Ok(kept.exists()))?;
    ztunnel.kill9()?;
    // As when a volume is mounted late, at a start that is not the first.
    std::fs::rename(&late, &away)?;
    ztunnel.start_again()?;
    let ready =
        || node.namespace().http_get("127.0.0.1:15021".parse()?, "/healthz/ready", Duration::from_secs(2));
    eventually("readiness to answer", SOON, || Ok(ready()?.0 != 200))?;
    let (status, body) = ready()?;
    assert!((500..600).contains(&status), "{status}");
    assert!(body.contains("manifests"), "{body}");
    ztunnel.process().wait_for_log("waiting for it, with the policies kept from before", SOON)?;
    std::fs::rename(&away, &late)?;
    ztunnel.wait_ready(SOON)?;
    mesh.finish()
}

#[test]
fn a_first_start_without_manifests_is_refused_and_one_with_them_says_when_it_is_ready() -> Result<()> {
    let mesh = Mesh::without_proxies()?;
    let node = mesh.node(0);
    let absent = mesh.cluster().run().directory().join("misspelt");
    let refused = Ztunnel::start(node, &absent, Settings::default())?;
    ensure!(!refused.process().wait(SOON)?.success(), "it ended well");
    let said = refused.process().stderr()?;
    ensure!(said.contains("--manifests") && said.contains("misspelt: No such file or directory"), "{said}");
    let ztunnel = Ztunnel::start(node, mesh.manifests(), Settings::default())?;
    ztunnel.process().wait_for_log(&format!("ztunnel {} starting", env!("CARGO_PKG_VERSION")), SOON)?;
    ztunnel.process().wait_for_log("\tready\t", SOON)?;
    mesh.finish()
}

#[test]
fn log_levels_change_while_it_runs() -> Result<()> {
    let mut mesh = Mesh::start()?;
    mesh.run(&[App::new("client"), App::new("server").on(1)])?;
    let server = mesh.pod("server")?;
    let _echo = Server::echo(server, 8080)?;
    let to = ebb_tests::peer::at(server.addresses().v4);
    call(mesh.pod("client")?, to, mesh.marker())?;
    assert!(mesh.ztunnel(0).log_lines("connection opened")?.is_empty());
    let answer = post(&mesh, "/logging?level=access:debug")?;
    assert!(answer.contains("200") && answer.contains("access"), "{answer}");
    call(mesh.pod("client")?, to, mesh.marker())?;
    mesh.ztunnel(0).process().wait_for_log("connection opened", SOON)?;
    assert!(post(&mesh, "/logging?level=loud")?.contains(" 400 "));
    mesh.finish()
}

fn post(mesh: &Mesh, path: &str) -> Result<String> {
    use std::io::{Read, Write};
    let mut stream = mesh.node(0).namespace().connect("127.0.0.1:15000".parse()?, SOON)?;
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
