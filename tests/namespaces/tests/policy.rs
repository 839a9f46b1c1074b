//! Policy: who may call is decided by identity, unknown means no, and a change holds for what is open already.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use ebb_tests::{
    app::App,
    mesh::{Mesh, SETTLED, eventually},
    peer::{Flow, SOON, Server, at, call, refused},
};
use harness::cluster::Pod;

/// What a policy change may take on open connections, by promise.
const AT_ONCE: Duration = Duration::from_secs(1);
/// What two shared processor cores may add to it in this test.
const SLACK: Duration = Duration::from_millis(700);

const DEPLOYED: [(&str, &str); 4] =
    [("client", "shop"), ("intruder", "shop"), ("partner", "partners"), ("stranger", "outside")];

/// `client`, `intruder` and `server` in `shop`, `partner` in `partners`, `stranger` outside the mesh.
fn mesh() -> Result<Mesh> {
    let mut mesh = Mesh::start()?;
    mesh.namespace("partners", true)?;
    mesh.namespace("istio-system", false)?;
    mesh.run(&[App::new("client"), App::new("intruder"), App::new("server").on(1)])?;
    mesh.run(&[App::new("partner").of("partners")])?;
    mesh.run(&[App::new("stranger").of("outside")])?;
    Ok(mesh)
}

fn authorization(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: \
         {namespace}}}\nspec: {spec}\n"
    )
}

fn authentication(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: {name}, namespace: \
         {namespace}}}\nspec: {spec}\n"
    )
}

fn caller<'m>(mesh: &'m Mesh, name: &str) -> Result<&'m Pod> {
    let namespace = DEPLOYED.iter().find(|(known, _)| *known == name).context("a caller of the mesh")?.1;
    mesh.pod(&format!("{namespace}/{name}"))
}

/// What `name` sends: plaintext by intent when it is not in the mesh.
fn payload(mesh: &Mesh, name: &str) -> String {
    if name == "stranger" { mesh.open_marker() } else { mesh.marker().to_owned() }
}

/// Waits until exactly `allowed` of the callers get through to `to`, and then makes sure of it once more in both ways.
fn only(mesh: &Mesh, to: SocketAddr, allowed: &[&str]) -> Result<()> {
    for (name, _) in DEPLOYED {
        let (from, text) = (caller(mesh, name)?, payload(mesh, name));
        let may = allowed.contains(&name);
        let as_it_should = || {
            if may { call(from, to, &text).map(drop) } else { refused(from.namespace(), to, &text) }
        };
        eventually(&format!("{name} to be {}", if may { "let in" } else { "refused" }), SETTLED, || {
            as_it_should().map(|()| true)
        })?;
        as_it_should().with_context(|| format!("{name}, a second time"))?;
    }
    Ok(())
}

const ALL: [&str; 4] = ["client", "intruder", "partner", "stranger"];

#[test]
fn allow_and_deny_go_by_principal_namespace_and_port() -> Result<()> {
    let mut mesh = mesh()?;
    let server = mesh.pod("server")?;
    let (_web, _admin) = (Server::echo(server, 8080)?, Server::echo(server, 9090)?);
    let (v4, v6) = (at(server.addresses().v4), at(server.addresses().v6));
    let admin = SocketAddr::new(v4.ip(), 9090);
    only(&mesh, v4, &ALL)?;

    let from = |what: &str| format!("{{action: ALLOW, rules: [{{from: [{{source: {what}}}]}}]}}");
    let principal = from("{principals: [cluster.local/ns/shop/sa/client]}");
    mesh.apply("60-allow.yaml", &authorization("a", "shop", &principal))?;
    only(&mesh, v4, &["client"])?;
    only(&mesh, v6, &["client"])?;

    mesh.apply("60-allow.yaml", &authorization("a", "shop", &from("{namespaces: [partners]}")))?;
    only(&mesh, v4, &["partner"])?;

    let deny = "{action: DENY, rules: [{from: [{source: {principals: [\"*/sa/intruder\"]}}]}]}";
    mesh.apply("60-allow.yaml", &authorization("a", "shop", deny))?;
    only(&mesh, v4, &["client", "partner", "stranger"])?;

    // DENY wins over ALLOW, and applies to the port it names alone: the pod's, not the tunnel's.
    let port = "{selector: {matchLabels: {app: server}}, action: DENY, rules: [{to: [{operation: {ports: [\"9090\"]}}]}]}";
    mesh.apply("60-allow.yaml", &authorization("a", "shop", "{action: ALLOW, rules: [{}]}"))?;
    mesh.apply("61-deny.yaml", &authorization("d", "shop", port))?;
    only(&mesh, admin, &[])?;
    only(&mesh, v4, &ALL)?;

    // An ALLOW policy without rules admits nobody, and one of the root namespace holds everywhere.
    mesh.kubelet_mut().delete("61-deny.yaml")?;
    mesh.kubelet_mut().delete("60-allow.yaml")?;
    mesh.apply("62-nothing.yaml", &authorization("nothing", "istio-system", "{}"))?;
    only(&mesh, v4, &[])?;
    mesh.kubelet_mut().delete("62-nothing.yaml")?;
    only(&mesh, v4, &ALL)?;
    mesh.finish()
}

#[test]
fn strict_refuses_plaintext_at_each_level_and_the_narrower_level_decides() -> Result<()> {
    let mut mesh = mesh()?;
    let server = mesh.pod("server")?;
    let (_web, _admin) = (Server::echo(server, 8080)?, Server::echo(server, 9090)?);
    let (web, admin) = (at(server.addresses().v4), SocketAddr::new(server.addresses().v6.into(), 9090));
    let in_mesh = &ALL[..3];

    mesh.apply("50-mesh.yaml", &authentication("default", "istio-system", "{mtls: {mode: STRICT}}"))?;
    only(&mesh, web, in_mesh)?;
    only(&mesh, admin, in_mesh)?;

    mesh.apply("51-namespace.yaml", &authentication("default", "shop", "{mtls: {mode: PERMISSIVE}}"))?;
    only(&mesh, web, &ALL)?;

    let select = "selector: {matchLabels: {app: server}}";
    let strict = format!("{{{select}, mtls: {{mode: STRICT}}}}");
    mesh.apply("52-workload.yaml", &authentication("server", "shop", &strict))?;
    only(&mesh, web, in_mesh)?;

    let port =
        format!("{{{select}, mtls: {{mode: PERMISSIVE}}, portLevelMtls: {{\"9090\": {{mode: STRICT}}}}}}");
    mesh.apply("52-workload.yaml", &authentication("server", "shop", &port))?;
    only(&mesh, web, &ALL)?;
    only(&mesh, admin, in_mesh)?;
    mesh.finish()
}

#[test]
fn a_policy_that_cannot_be_read_denies_until_it_can() -> Result<()> {
    let mut mesh = mesh()?;
    let _web = Server::echo(mesh.pod("server")?, 8080)?;
    let web = at(mesh.pod("server")?.addresses().v4);
    let select = "selector: {matchLabels: {app: server}}";
    for unreadable in [
        format!(
            "{{{select}, action: DENY, rules: [{{from: [{{source: {{ipBlocks: [not-an-address]}}}}]}}]}}"
        ),
        format!("{{{select}, action: PERHAPS, rules: [{{}}]}}"),
        format!("{{{select}, action: ALLOW, rules: 7}}"),
    ] {
        mesh.apply("60-policy.yaml", &authorization("p", "shop", &unreadable))?;
        only(&mesh, web, &[]).with_context(|| unreadable.clone())?;
        let good = format!(
            "{{{select}, action: DENY, rules: [{{from: [{{source: {{namespaces: [partners]}}}}]}}]}}"
        );
        mesh.apply("60-policy.yaml", &authorization("p", "shop", &good))?;
        only(&mesh, web, &["client", "intruder", "stranger"])?;
        // Otherwise the next would be an update of a good policy, which is another promise.
        mesh.kubelet_mut().delete("60-policy.yaml")?;
        only(&mesh, web, &ALL)?;
    }
    assert!(!mesh.log_lines("60-policy.yaml")?.is_empty(), "the log names the file");
    mesh.finish()
}

/// Pushes `policy` and returns how long it took until both `closed` had ended.
fn time_to_close(
    mesh: &mut Mesh,
    (file, policy): (&str, &str),
    closed: &mut [&mut Flow],
) -> Result<Duration> {
    let start = Instant::now();
    mesh.apply(file, policy)?;
    for flow in closed.iter_mut() {
        ensure!(flow.ends(SOON)?, "a connection that is no longer allowed goes on");
    }
    Ok(start.elapsed())
}

#[test]
fn a_policy_pushed_over_live_connections_ends_within_a_second_what_it_no_longer_allows() -> Result<()> {
    let mut mesh = mesh()?;
    let _web = Server::echo(mesh.pod("server")?, 8080)?;
    let web = at(mesh.pod("server")?.addresses().v4);
    let open = |mesh: &Mesh, name: &str| {
        let mut flow = Flow::open(caller(mesh, name)?.namespace(), web)?;
        flow.say(&payload(mesh, name))?;
        Ok::<_, anyhow::Error>(flow)
    };
    let mut client = open(&mesh, "client")?;
    let (mut intruder, mut stranger) = (open(&mesh, "intruder")?, open(&mesh, "stranger")?);

    let deny =
        "{action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/intruder]}}]}]}";
    let took =
        time_to_close(&mut mesh, ("60-p.yaml", &authorization("p", "shop", deny)), &mut [&mut intruder])?;
    assert!(took < AT_ONCE + SLACK, "a tunnelled connection went on for {took:?}");
    stranger.say(&mesh.open_marker())?;

    let strict = authentication("default", "shop", "{mtls: {mode: STRICT}}");
    let took = time_to_close(&mut mesh, ("50-p.yaml", &strict), &mut [&mut stranger])?;
    assert!(took < AT_ONCE + SLACK, "a plaintext connection went on for {took:?}");
    client.say(mesh.marker()).context("the connection that is still allowed")?;

    let nothing = authorization("nothing", "shop", "{}");
    let took = time_to_close(&mut mesh, ("61-p.yaml", &nothing), &mut [&mut client])?;
    assert!(took < AT_ONCE + SLACK, "the last one went on for {took:?}");
    mesh.finish()
}

#[test]
fn connections_older_than_enrolment_go_on_while_plaintext_is_allowed_and_end_with_it() -> Result<()> {
    let mut mesh = Mesh::start()?;
    mesh.namespace("shop", false)?;
    mesh.run(&[App::new("server").on(1)])?;
    mesh.run(&[App::new("stranger").of("outside")])?;
    let _web = Server::echo(mesh.pod("server")?, 8080)?;
    let text = mesh.open_marker();
    let mut old = Vec::new();
    for ip in mesh.pod("server")?.addresses().both() {
        old.push(Flow::open(mesh.pod("outside/stranger")?.namespace(), at(ip))?);
    }
    mesh.namespace("shop", true)?;
    mesh.settle()?;
    for flow in &mut old {
        flow.say(&text).context("permissive keeps it")?;
    }
    let strict = authentication("default", "shop", "{mtls: {mode: STRICT}}");
    let mut flows: Vec<_> = old.iter_mut().collect();
    let took = time_to_close(&mut mesh, ("50-strict.yaml", &strict), &mut flows)?;
    assert!(took < AT_ONCE + SLACK, "older connections went on for {took:?}");
    refused(mesh.pod("outside/stranger")?.namespace(), at(mesh.pod("server")?.addresses().v4), &text)?;
    mesh.finish()
}

#[test]
fn a_pod_enrolled_under_strict_loses_its_older_plaintext_connections_at_once() -> Result<()> {
    let mut mesh = Mesh::start()?;
    mesh.namespace("shop", false)?;
    mesh.apply("50-strict.yaml", &authentication("default", "shop", "{mtls: {mode: STRICT}}"))?;
    mesh.run(&[App::new("server").on(1)])?;
    mesh.run(&[App::new("stranger").of("outside")])?;
    let _web = Server::echo(mesh.pod("server")?, 8080)?;
    let text = mesh.open_marker();
    let mut old =
        Flow::open(mesh.pod("outside/stranger")?.namespace(), at(mesh.pod("server")?.addresses().v4))?;
    old.say(&text).context("nothing is captured yet")?;
    mesh.namespace("shop", true)?;
    let start = Instant::now();
    assert!(old.ends(SOON)?, "it goes on as plaintext in a strict mesh");
    assert!(start.elapsed() < AT_ONCE + SLACK, "it went on for {:?}", start.elapsed());
    mesh.settle()?;
    mesh.finish()
}
