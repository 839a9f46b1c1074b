use common::snapshot::MeshSettings;

use super::*;
use crate::testing::{MESH, WAYPOINT_POD, behind_waypoint};

fn told(more: &str, from: &str, to: &str) -> (String, Verdict) {
    // A namespace that is stated again takes the place of the first document.
    let (namespace, others) = MESH.split_once("---\n").expect("the mesh has several documents");
    let again = more.contains("kind: Namespace");
    let text = format!("{}---\n{others}---\n{more}", if again { "" } else { namespace });
    let manifests = Manifests::of(vec![("mesh.yaml".into(), text.into())], MeshSettings::default());
    let (told, verdict) = explain(&manifests, from, to).expect("there are such a pod and such a destination");
    (told.lines(&verdict), verdict)
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n---\n"
    )
}

#[test]
fn a_service_is_found_by_every_name_a_pod_may_write() {
    for host in [
        "web",
        "web.shop",
        "web.shop.svc",
        "web.shop.svc.cluster.local",
        "web.shop.svc.cluster.local.",
        "10.96.0.10",
    ] {
        let (text, verdict) = told("", "shop/client", &format!("{host}:80"));
        assert_eq!(verdict, Verdict::Admitted, "{text}");
        assert!(text.contains("10.0.0.3:8080, pod web"), "{text}");
        assert!(text.contains("through a tunnel by mutual TLS"), "{text}");
    }
}

#[test]
fn the_policy_that_decides_is_named_with_its_file_and_line() {
    let deny =
        policy("no-client", "{action: DENY, rules: [{from: [{source: {principals: ['*/sa/client']}}]}]}");
    let (text, verdict) = told(&deny, "shop/client", "web:80");
    assert!(matches!(&verdict, Verdict::Refused(why) if why.contains("shop/no-client")), "{text}");
    let line = format!("{MESH}---\n").lines().count() + 1;
    assert!(text.contains(&format!("AuthorizationPolicy shop/no-client at mesh.yaml:{line}")), "{text}");
    assert!(text.contains("DENY shop/no-client: matches"), "{text}");

    let allow = policy("only-web", "{rules: [{from: [{source: {principals: ['*/sa/web']}}]}]}");
    let (text, verdict) = told(&allow, "shop/client", "web:80");
    assert!(matches!(verdict, Verdict::Refused(_)), "{text}");
    assert!(text.contains("ALLOW shop/only-web: does not match"), "{text}");
    let why =
        "spec.rules[0].from[0].source.principals: the caller cluster.local/ns/shop/sa/client is not */sa/web";
    assert!(text.contains(why), "{text}");

    let http = policy(
        "get",
        "{rules: [{to: [{operation: {methods: [GET]}}]}, {to: [{operation: {ports: ['81', '82']}}]}]}",
    );
    let (text, _) = told(&http, "shop/client", "web:80");
    assert!(text.contains("spec.rules[0].to[0].operation: asks for what only a waypoint sees"), "{text}");
    assert!(text.contains("spec.rules[1].to[0].operation.ports: the port 8080 is none of 81, 82"), "{text}");
}

#[test]
fn whoever_is_not_in_the_mesh_proves_nothing() {
    let strict = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: s, namespace: shop}\n\
                  spec: {mtls: {mode: STRICT}}\n";
    let (text, verdict) = told(strict, "outside/plain", "web.shop:80");
    assert!(matches!(&verdict, Verdict::Refused(why) if why.contains("mutual TLS")), "{text}");
    let (text, verdict) = told(strict, "shop/client", "web:80");
    assert_eq!(verdict, Verdict::Admitted, "{text}");
    let (text, verdict) = told(strict, "shop/client", "plain.outside:80");
    assert_eq!(verdict, Verdict::Admitted, "{text}");
    assert!(text.contains("as plain TCP"), "{text}");
}

#[test]
fn a_waypoint_is_named_and_so_is_one_that_is_missing() {
    let missing = behind_waypoint("service");
    let (text, verdict) = told(&missing, "shop/client", "web:80");
    assert!(matches!(&verdict, Verdict::Refused(why) if why.contains("shop/wp")), "{text}");
    let (text, verdict) = told(&(missing.clone() + WAYPOINT_POD), "shop/client", "web:80");
    assert!(matches!(verdict, Verdict::Depends(_)), "{text}");
    assert!(text.contains("Gateway shop/wp at mesh.yaml:"), "{text}");
    // What there is no port for needs no waypoint to be decided.
    let (text, verdict) = told(&(missing.clone() + WAYPOINT_POD), "shop/client", "web:81");
    assert!(matches!(&verdict, Verdict::Refused(why) if why.contains("no port 81")), "{text}");
    // Past it there is no way, for those outside the mesh either.
    let (text, verdict) = told(&(missing + WAYPOINT_POD), "outside/plain", "web.shop:80");
    assert!(matches!(&verdict, Verdict::Refused(why) if why.contains("waypoint")), "{text}");
}

#[test]
fn what_is_not_there_is_said() {
    let text = format!("{MESH}---\n");
    let manifests = Manifests::of(vec![("mesh.yaml".into(), text.into())], MeshSettings::default());
    for (from, to, says) in [
        ("shop/nobody", "web:80", "no pod shop/nobody"),
        ("client", "web:80", "no pod default/client"),
        ("10.9.9.9", "web:80", "no pod has the address"),
        ("shop/client", "wed:80", "no service wed"),
        ("shop/client", "web", "no HOST:PORT"),
        ("shop/client", "web:http", "no port"),
    ] {
        let error = explain(&manifests, from, to).unwrap_err();
        assert!(format!("{error:#}").contains(says), "{error:#}");
    }
    let (text, verdict) = told("", "shop/client", "web:81");
    assert!(matches!(&verdict, Verdict::Refused(why) if why.contains("81")), "{text}");
    let (text, verdict) = told("", "10.0.0.2", "192.0.2.1:443");
    assert_eq!(verdict, Verdict::Admitted, "{text}");
}

/// A second pod of the service `web`, at 10.0.0.5, that labels keep out of the mesh.
const OUTSIDE: &str = "apiVersion: v1
kind: Pod
metadata: {name: web-out, namespace: shop, uid: u9, labels: {app: web, istio.io/dataplane-mode: none}}
spec: {nodeName: n2}
status: {phase: Running, podIPs: [{ip: 10.0.0.5}], conditions: [{type: Ready, status: 'True'}]}
---
";

#[test]
fn each_endpoint_is_judged_by_the_way_that_leads_to_it() {
    let nobody = OUTSIDE.to_owned() + &policy("nobody", "{}");
    let (text, verdict) = told(&nobody, "shop/client", "web:80");
    assert!(matches!(&verdict, Verdict::Depends(on) if on.contains("others do not")), "{text}");
    assert!(text.contains("10.0.0.3:8080, pod web, through a tunnel"), "{text}");
    assert!(text.contains("10.0.0.5:8080, pod web-out, as plain TCP"), "{text}");
    // Only the endpoint on the caller's own node may be chosen.
    let local = OUTSIDE.replace("nodeName: n2", "nodeName: n1")
        + "apiVersion: v1\nkind: Service\nmetadata: {name: near, namespace: shop}\nspec: {clusterIP: 10.96.0.13, selector: \
           {app: web}, internalTrafficPolicy: Local, ports: [{port: 80, targetPort: 8080}]}\n";
    let (text, verdict) = told(&local, "shop/client", "near:80");
    assert_eq!(verdict, Verdict::Admitted, "{text}");
    assert!(!text.contains("10.0.0.3"), "{text}");
}

#[test]
fn a_service_entry_is_named_as_stated() {
    let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: bank, namespace: shop}\nspec: {hosts: \
                 [bank.example], addresses: [198.51.100.7], ports: [{number: 443, name: tls, protocol: TLS}], resolution: STATIC, \
                 endpoints: [{address: 198.51.100.8}]}\n";
    let (text, _) = told(entry, "shop/client", "bank.example:443");
    assert!(text.contains("by ServiceEntry shop/bank at mesh.yaml:"), "{text}");
}
