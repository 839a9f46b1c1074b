//! `waypoint explain` as a shell sees it: what it prints where, and how it ends.

use std::fs;
use std::io;
use std::process::{Command, Output};

const MESH: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: gate}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gate, namespace: shop}
spec:
  gatewayClassName: ebb-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
---
apiVersion: v1
kind: Pod
metadata: {name: gate-1, namespace: shop, uid: g, labels: {gateway.networking.k8s.io/gateway-name: gate}}
spec: {nodeName: n, serviceAccountName: gate}
status: {phase: Running, podIPs: [{ip: 10.0.0.9}], conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, uid: w, labels: {app: web}}
spec: {nodeName: n, serviceAccountName: web}
status: {phase: Running, podIPs: [{ip: 10.0.0.1}], conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: shop}
spec: {hosts: [web], http: [{match: [{headers: {x-go: {exact: away}}}], redirect: {uri: /away}}, {route: [{destination: {host: web}}]}]}
";

fn explain(text: &str, arguments: &[&str]) -> io::Result<Output> {
    let directory = tempfile::tempdir()?;
    fs::write(directory.path().join("mesh.yaml"), text)?;
    Command::new(env!("CARGO_BIN_EXE_waypoint"))
        .current_dir(directory.path())
        .args(["explain", "--manifests", ".", "--from"])
        .args(arguments)
        .output()
}

#[test]
fn a_request_is_told_on_standard_output_and_everything_wrong_on_the_other() -> io::Result<()> {
    let cases: &[(&[&str], i32, &str)] = &[
        (&["shop/web-1", "--to", "web:80"], 0, "verdict      admitted"),
        (&["shop/web-1", "--to", "web:80", "-H", "x-go: away"], 0, "answered: 301 to http://web/away"),
        (
            &["shop/sa/web", "--to", "web.shop:80", "--method", "POST", "--path", "/x?y"],
            0,
            "POST web.shop/x?y",
        ),
        (&["10.0.0.1", "--to", "10.96.0.1:80"], 0, "at ./mesh.yaml:33"),
        (&["shop/web-2", "--to", "web:80"], 65, "no pod shop/web-2 is stated"),
        (&["shop/web", "--to", "web:80"], 65, "did you mean shop/web-1?"),
        (&["web-1", "--to", "web:80"], 65, "did you mean shop/web-1?"),
        (&["shop/sa/nobody", "--to", "web:80"], 65, "no pod of the service account shop/nobody"),
        (&["shop/web-1", "--to", "web:http"], 65, "\"http\" is no port"),
        (&["shop/web-1", "--to", "web:0"], 65, "\"0\" is no port"),
        (&["shop/web-1", "--to", "web"], 65, "no HOST:PORT"),
        (&["shop/web-1", "--to", "wob:80"], 65, "no service wob is stated"),
        (&["shop/web-1", "--to", "web:80", "-H", "nonsense"], 64, "name: value"),
        (&["shop/web-1", "--to", "web:80", "-o", "xml"], 64, "xml"),
        (&["shop/web-1"], 64, "--to"),
        (&["shop/web-1", "--to", "web:80", "--path", "cart"], 64, "a path begins with a slash: /cart"),
        (&["shop/web-1", "--to", "web:80", "--json"], 0, "\"outcome\": \"admitted\""),
    ];
    for (arguments, code, expected) in cases {
        let output = explain(MESH, arguments)?;
        assert_eq!(output.status.code(), Some(*code), "{arguments:?}: {output:?}");
        let (said, silent) =
            if *code == 0 { (&output.stdout, &output.stderr) } else { (&output.stderr, &output.stdout) };
        let text = String::from_utf8_lossy(said);
        assert!(text.contains(expected), "{arguments:?}: {text}");
        assert!(silent.is_empty(), "{arguments:?}: {output:?}");
    }
    Ok(())
}

#[test]
fn manifests_that_cannot_be_read_are_named() -> io::Result<()> {
    let output = Command::new(env!("CARGO_BIN_EXE_waypoint"))
        .args(["explain", "--manifests", "/nowhere/at/all", "--from", "a/b", "--to", "c:80"])
        .output()?;
    assert_eq!(output.status.code(), Some(65));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere/at/all"), "{output:?}");
    let broken = format!("{MESH}---\napiVersion: v1\nkind: Service\nmetadata: [");
    let output = explain(&broken, &["shop/web-1", "--to", "web:80"])?;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("beware") && text.contains("mesh.yaml:"), "{text}");
    Ok(())
}

#[test]
fn the_line_of_the_rule_that_decided_is_told() -> io::Result<()> {
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: deny\n  namespace: shop\nspec:\n  \
                  targetRefs:\n    - {kind: Service, group: '', name: web}\n  action: DENY\n  rules:\n    - to:\n        - operation: \
                  {methods: [PUT]}\n    - to:\n        - operation: {paths: ['/x']}\n";
    let text = format!("{MESH}---\n{policy}");
    let output = explain(&text, &["shop/web-1", "--to", "web:80", "--path", "/x"])?;
    let told = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().position(|it| it.ends_with("{methods: [PUT]}")).unwrap_or_default() + 2;
    assert!(told.contains(&format!("AuthorizationPolicy shop/deny at ./mesh.yaml:{line}")), "{told}");
    assert!(told.contains("refused: 403: denied by ns[shop]-policy[deny]-rule[1]"), "{told}");
    Ok(())
}

#[test]
fn json_has_the_steps_with_what_decided_each_and_the_verdict() -> io::Result<()> {
    let output = explain(MESH, &["shop/web-1", "--to", "web:80", "-o", "json", "-H", "x-go: away"])?;
    let told: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(told["verdict"]["outcome"], "answered");
    let steps = told["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of = |subject: &str| steps.iter().find(|it| it["subject"] == subject).cloned().unwrap_or_default();
    let route = steps.iter().rfind(|it| it["subject"] == "route").cloned().unwrap_or_default();
    assert_eq!(route["object"], "VirtualService shop/web");
    assert_eq!((&route["file"], &route["line"]), (&"./mesh.yaml".into(), &33.into()));
    assert_eq!(route["facts"]["field"], "spec.http[0].match[0]");
    assert_eq!(of("waypoint")["facts"]["gateway"], "shop/gate");
    assert_eq!(of("redirect")["facts"]["status"], 301);
    Ok(())
}

#[test]
fn what_is_asked_about_and_cannot_be_read_is_told_to_be_so() -> io::Result<()> {
    let broken = MESH.replace("port: 80, targetPort", "port: 0, targetPort");
    let output = explain(&broken, &["shop/web-1", "--to", "web:80"])?;
    assert_eq!(output.status.code(), Some(65), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    let expected =
        "it is stated, and cannot be read: ./mesh.yaml:28: Service shop/web spec.ports[0].port rejected";
    assert!(text.contains("no service web is stated") && text.contains(expected), "{text}");
    Ok(())
}

#[test]
fn a_command_that_is_not_there_is_turned_away_with_a_hint() -> io::Result<()> {
    for (word, expected) in
        [("exlain", "did you mean `waypoint explain`?"), ("serve", "there is analyze and explain")]
    {
        let output = Command::new(env!("CARGO_BIN_EXE_waypoint")).arg(word).output()?;
        assert_eq!(output.status.code(), Some(64), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(expected), "{output:?}");
    }
    Ok(())
}
