//! Requests that an external authorizer decides about, as policies of action CUSTOM state it: real authorizers in pods, in the
//! mesh and outside of it, over HTTP and gRPC.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use ebb_tests::{
    app::{self, App},
    behind::{Behind, Port},
    mesh::{SETTLED, eventually},
};
use harness::{
    binaries,
    process::{Process, Spawn},
    report::Described,
};

const SOON: Duration = Duration::from_secs(10);

/// An answer, read to the end of its connection.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    /// What the server saw.
    fn seen(&self) -> Result<Described> {
        ensure!(self.status == 200, "{self:?}");
        serde_json::from_str(&self.body).with_context(|| format!("{self:?}"))
    }
}

/// A request by the client, through its ztunnel and the waypoint. `line` is its method and path.
fn send(stage: &Behind, line: &str, headers: &str, body: &str) -> Result<Reply> {
    send_to(stage, Behind::at(Port::Http), (line, headers, body))
}

/// The same, to an address.
fn send_to(stage: &Behind, to: SocketAddr, (line, headers, body): (&str, &str, &str)) -> Result<Reply> {
    let mut stream = stage.pod("client")?.namespace().connect(to, SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    // In one piece: what comes behind an early answer may end in a reset.
    let head = format!("{line} HTTP/1.1\r\nHost: server.shop\r\nConnection: close\r\n{length}{headers}\r\n");
    stream.write_all((head + body).as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no end of the head")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok(Reply { status, head: head.to_ascii_lowercase(), body: body.to_owned() })
}

fn ask(stage: &Behind, check: &str) -> Result<Reply> {
    send(stage, "GET /asked?a=1", &format!("X-Check: {check}\r\nX-User: root\r\n"), "")
}

/// Waits until requests of this wish are answered so.
fn comes(stage: &Behind, check: &str, status: u16) -> Result<()> {
    let mut last = String::new();
    let outcome = eventually(&format!("{status} for {check}"), SETTLED, || {
        let reply = ask(stage, check)?;
        last = format!("{reply:?}");
        Ok(reply.status == status)
    });
    outcome.with_context(|| last)
}

/// Has a provider asked, and waits until it is. What is under way when that changes is cut off, because nobody of those who
/// have to agree by then was asked about it.
fn asks(stage: &mut Behind, provider: &str) -> Result<()> {
    stage.mesh.apply("52-policy.yaml", &policy(provider))?;
    let by = if provider == "by-grpc" { "by grpc" } else { "by http" };
    let mut last = String::new();
    let outcome = eventually(provider, SETTLED, || {
        let reply = ask(stage, "allow")?;
        last = format!("{reply:?}");
        let seen = reply.seen().ok().and_then(|it| it.headers.get("x-checked").cloned());
        Ok(seen.is_some_and(|it| it.ends_with(by)))
    });
    outcome.with_context(|| last)
}

/// Starts an authorizer in a pod.
fn authorizer(stage: &Behind, pod: &str) -> Result<Process> {
    let what = Spawn::new(format!("authorizer-{pod}"), binaries::find("ebb-app")?).args(["authorizer"]);
    let process = stage.pod(pod)?.spawn(what)?;
    process.wait_for_log("ready:", SOON)?;
    Ok(process)
}

/// The MeshConfig, with these fields of each provider beside where it is.
fn providers(plain: &str, more: &str) -> String {
    let of_http = "pathPrefix: /check\n        includeRequestHeadersInCheck: [x-check]\n        headersToUpstreamOnAllow: \
                   [x-user, x-checked]\n        headersToDownstreamOnDeny: [x-why]\n        headersToDownstreamOnAllow: [x-told]";
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    \
         extensionProviders:\n    - name: by-http\n      envoyExtAuthzHttp:\n        service: \
         authz.shop.svc.cluster.local\n        port: 8000\n        {of_http}\n        {more}\n    - name: by-grpc\n      \
         envoyExtAuthzGrpc:\n        service: shop/authz.shop.svc.cluster.local\n        port: 9000\n        {more}\n    \
         - name: outside\n      envoyExtAuthzHttp:\n        service: authz.example.com\n        port: 8000\n        \
         {of_http}\n        {more}\n---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: \
         outside, namespace: shop}}\nspec:\n  hosts: [authz.example.com]\n  location: MESH_EXTERNAL\n  resolution: \
         STATIC\n  ports: [{{number: 8000, name: http, protocol: HTTP}}]\n  endpoints: [{{address: {plain}}}]\n"
    )
}

/// The policy that has a provider asked about everything under `/asked`.
fn policy(provider: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: ask, namespace: shop}}\nspec:\n  \
         targetRefs: [{{kind: Service, name: server}}]\n  action: CUSTOM\n  provider: {{name: {provider}}}\n  rules: [{{to: \
         [{{operation: {{paths: ['/asked*']}}}}]}}]\n"
    )
}

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: authz, namespace: shop}\nspec:\n  clusterIP: \
                       10.96.0.20\n  selector: {app: authz}\n  ports:\n    - {name: http, port: 8000}\n    - {name: grpc, \
                       port: 9000}\n";

/// A stage with a server, an authorizer in the mesh, and one outside.
fn stage() -> Result<(Behind, Process, [Process; 2])> {
    let mut stage = Behind::build()?;
    stage.mesh.apply("50-authz.yaml", SERVICE)?;
    stage.mesh.run(&[App::new("authz").on(1), App::new("plain").label("istio.io/dataplane-mode", "none")])?;
    let server = stage.serve(&["http", "--name", "server"])?;
    let authorizers = [authorizer(&stage, "authz")?, authorizer(&stage, "plain")?];
    Ok((stage, server, authorizers))
}

fn configure(stage: &mut Behind, more: &str) -> Result<()> {
    let plain = stage.pod("plain")?.addresses().v4.to_string();
    stage.mesh.apply("51-mesh-config.yaml", &providers(&plain, more))
}

#[test]
fn an_authorizer_lets_through_refuses_and_says_who_it_is() -> Result<()> {
    let (mut stage, _server, _authorizers) = stage()?;
    stage.mesh.apply("52-policy.yaml", &policy("by-http"))?;
    comes(&stage, "allow", 403)?;
    stage.logged(&[
        "GET /asked",
        "rbac_access_denied_matched_policy[ns[shop]-policy[ask]-rule[0]-deny-due-to-bad-CUSTOM-action]",
    ])?;
    configure(&mut stage, "timeout: 5s")?;
    for (provider, asked) in [
        ("by-http", "GET /check/asked?a=1 by http"),
        ("by-grpc", "GET /asked?a=1 by grpc"),
        ("outside", "GET /check/asked?a=1 by http"),
    ] {
        stage.mesh.apply("52-policy.yaml", &policy(provider))?;
        let mut last = String::new();
        let outcome = eventually(provider, SETTLED, || {
            let reply = ask(&stage, "allow")?;
            last = format!("{reply:?}");
            let checked = reply.seen().ok().and_then(|it| it.headers.get("x-checked").cloned());
            Ok(checked.as_deref() == Some(asked))
        });
        outcome.with_context(|| last)?;
        let allowed = ask(&stage, "allow")?;
        assert_eq!(allowed.seen()?.headers["x-user"], "alice", "{provider}");
        assert!(allowed.head.contains("x-told: yes"), "{provider}: {allowed:?}");
        let refused = ask(&stage, "deny")?;
        assert_eq!((refused.status, refused.body), (401, format!("refused: {asked}")), "{provider}");
        for told in ["www-authenticate: ebb", "x-why: no word"] {
            assert!(refused.head.contains(told), "{provider}: {}", refused.head);
        }
        // Whom it does not concern it is not asked about.
        assert_eq!(send(&stage, "GET /free", "", "")?.status, 200, "{provider}");
        let failed = ask(&stage, "fail")?;
        assert_eq!((failed.status, &*failed.body), (403, ""), "{provider}");
    }
    // What only the authorizer may say reaches nobody from a client.
    assert!(!ask(&stage, "bare")?.seen()?.headers.contains_key("x-user"));
    stage.logged(&["GET /asked", "401 UAEX ext_authz_denied"])?;
    stage.logged(&["GET /asked", "403 UAEX ext_authz_error"])?;

    // Where it has agreed, DENY is asked as well.
    let deny =
        policy("outside").replace("name: ask,", "name: deny,").replace("  provider: {name: outside}\n", "");
    stage.mesh.apply("53-deny.yaml", &deny.replace("CUSTOM", "DENY"))?;
    comes(&stage, "allow", 403)?;
    assert_eq!(ask(&stage, "deny")?.status, 401);
    stage.mesh.finish()
}

#[test]
fn an_authorizer_sees_the_body_and_the_server_gets_all_of_it() -> Result<()> {
    let (mut stage, _server, _authorizers) = stage()?;
    configure(&mut stage, "includeRequestBodyInCheck: {maxRequestBytes: 32}")?;
    let post = |stage: &Behind, body: &str| send(stage, "POST /asked", "X-Check: body\r\n", body);
    for provider in ["by-http", "by-grpc"] {
        asks(&mut stage, provider)?;
        let outcome = eventually(provider, SETTLED, || Ok(post(&stage, "open sesame")?.status == 200));
        outcome.with_context(|| format!("{:?}", post(&stage, "open sesame")))?;
        assert_eq!(post(&stage, "open sesame")?.body, "open sesame", "{provider}");
        assert_eq!(post(&stage, "open barley")?.status, 401, "{provider}");
        assert_eq!(post(&stage, &format!("open sesame{}", "x".repeat(40)))?.status, 413, "{provider}");
    }
    configure(&mut stage, "includeRequestBodyInCheck: {maxRequestBytes: 32, allowPartialMessage: true}")?;
    for provider in ["by-grpc", "by-http"] {
        asks(&mut stage, provider)?;
        let long = format!("open sesame{}", "x".repeat(8_000));
        // Until then it is refused before all of it was read, which may end in a reset.
        let outcome =
            eventually(provider, SETTLED, || Ok(post(&stage, &long).is_ok_and(|it| it.status == 200)));
        outcome.with_context(|| provider.to_owned())?;
        assert!(post(&stage, &long)?.body == long, "{provider}: the server got something else");
        assert_eq!(post(&stage, &format!("{}open sesame", "x".repeat(64)))?.status, 401, "{provider}");
    }
    stage.mesh.finish()
}

#[test]
fn an_authorizer_that_says_nothing_refuses_unless_it_is_to_fail_open() -> Result<()> {
    let (mut stage, _server, [in_mesh, _outside]) = stage()?;
    let providers = ["by-http", "by-grpc"];
    let closed = "timeout: 0.3s\n        statusOnError: \"503\"";
    let open = "timeout: 0.3s\n        failOpen: true";
    for provider in providers {
        stage.mesh.apply("52-policy.yaml", &policy(provider))?;
        configure(&mut stage, closed)?;
        comes(&stage, "hang", 503)?;
        let began = Instant::now();
        assert_eq!(ask(&stage, "hang")?.status, 503, "{provider}");
        ensure!(began.elapsed() < Duration::from_secs(3), "{provider}: {:?}", began.elapsed());
        assert_eq!(ask(&stage, "fail")?.status, 503, "{provider}");
        configure(&mut stage, open)?;
        comes(&stage, "hang", 200)?;
        let passed = ask(&stage, "fail")?.seen()?;
        assert!(!passed.headers.contains_key("x-user") || provider == "by-grpc", "{passed:?}");
        assert_eq!(ask(&stage, "deny")?.status, 401, "{provider}: what it says counts");
    }
    // Killed, it says nothing any more; and when it is back it does.
    in_mesh.kill9()?;
    for provider in providers {
        stage.mesh.apply("52-policy.yaml", &policy(provider))?;
        configure(&mut stage, closed)?;
        comes(&stage, "allow", 503)?;
        configure(&mut stage, open)?;
        comes(&stage, "deny", 200)?;
    }
    configure(&mut stage, closed)?;
    comes(&stage, "allow", 503)?;
    let _again = authorizer(&stage, "authz")?;
    comes(&stage, "allow", 200)?;
    comes(&stage, "deny", 401)?;
    stage.logged(&["GET /asked", "503 UAEX ext_authz_error"])?;
    stage.mesh.finish()
}

/// A route whose filter has an authorizer asked about everything under `/asked`, and about nothing else.
fn route(filter: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: ask, namespace: shop}}\nspec:\n  \
         parentRefs: [{{group: '', kind: Service, name: server}}]\n  rules:\n  - matches: [{{path: {{value: /asked}}}}]\n    \
         filters: [{{type: ExternalAuth, externalAuth: {{{filter}}}}}]\n    backendRefs: [{{name: server, port: 8080}}]\n  - \
         backendRefs: [{{name: server, port: 8080}}]\n"
    )
}

#[test]
fn a_filter_of_a_route_has_its_authorizer_asked_and_sends_nothing_without_its_word() -> Result<()> {
    let (mut stage, _server, authorizers) = stage()?;
    stage
        .mesh
        .apply("52-route.yaml", &route("protocol: GRPC, backendRef: {name: gone, port: 9000}, grpc: {}"))?;
    comes(&stage, "allow", 500)?;
    assert_eq!(send(&stage, "GET /free", "", "")?.status, 200);
    let by_http = "protocol: HTTP, backendRef: {name: authz, port: 8000}, http: {path: /check, allowedHeaders: [x-check], \
                   allowedResponseHeaders: [x-user, x-checked]}";
    let by_grpc = "protocol: GRPC, backendRef: {name: authz, port: 9000}, grpc: {allowedHeaders: [x-check]}";
    for (filter, asked) in [(by_http, "GET /check/asked?a=1 by http"), (by_grpc, "GET /asked?a=1 by grpc")] {
        stage.mesh.apply("52-route.yaml", &route(filter))?;
        let mut last = String::new();
        let outcome = eventually(filter, SETTLED, || {
            let reply = ask(&stage, "allow")?;
            last = format!("{reply:?}");
            let checked = reply.seen().ok().and_then(|it| it.headers.get("x-checked").cloned());
            Ok(checked.as_deref() == Some(asked))
        });
        outcome.with_context(|| last)?;
        assert_eq!(ask(&stage, "allow")?.seen()?.headers["x-user"], "alice", "{filter}");
        let refused = ask(&stage, "deny")?;
        assert_eq!((refused.status, refused.body), (401, format!("refused: {asked}")), "{filter}");
        assert_eq!(ask(&stage, "fail")?.status, 403, "{filter}");
        assert_eq!(send(&stage, "GET /free", "", "")?.status, 200, "{filter}");
    }
    stage.logged(&["GET /asked", "401 UAEX ext_authz_denied"])?;
    drop(authorizers);
    comes(&stage, "allow", 403)?;

    // One that was never read may have somebody asked too: what it names is refused until it can be.
    stage.mesh.kubelet_mut().delete("52-route.yaml")?;
    comes(&stage, "allow", 200)?;
    let unread =
        route(by_grpc).replace("name: ask,", "name: other,").replace("rules:", "rulez: []\n  rules:");
    stage.mesh.apply("53-unread.yaml", &unread)?;
    comes(&stage, "allow", 500)?;
    stage.mesh.kubelet_mut().delete("53-unread.yaml")?;
    comes(&stage, "allow", 200)?;

    // Nor does anybody get round it who calls the pod itself, not even about what nobody is asked about.
    let labelled = app::namespace("shop", true).replace("ambient}", "ambient, istio.io/use-waypoint: wp}");
    stage.mesh.apply("10-shop.yaml", &labelled)?;
    stage.mesh.apply("40-gateway.yaml", &app::gateway("wp", "all"))?;
    pod_answers(&stage, 200)?;
    stage.mesh.apply("53-unread.yaml", &unread)?;
    pod_answers(&stage, 500)?;
    stage.mesh.kubelet_mut().delete("53-unread.yaml")?;
    stage.mesh.apply("52-route.yaml", &route(by_grpc))?;
    pod_answers(&stage, 403)?;
    assert_eq!(send(&stage, "GET /free", "", "")?.status, 200);
    stage.logged(&["GET /free", "403 UAEX ext_authz_error"])?;
    stage.mesh.finish()
}

/// Waits until requests to the server's own address are answered so by whom the waypoint lets answer.
fn pod_answers(stage: &Behind, status: u16) -> Result<()> {
    let pod = SocketAddr::new(IpAddr::V4(stage.pod("server")?.addresses().v4), Port::Http as u16);
    let mut last = String::new();
    let outcome = eventually(&format!("{status} of the pod"), SETTLED, || {
        let reply = send_to(stage, pod, ("GET /free", "", ""));
        last = format!("{reply:?}");
        // What was under way when the waypoint came between was cut off.
        Ok(reply.is_ok_and(|it| it.status == status))
    });
    outcome.with_context(|| last)
}
