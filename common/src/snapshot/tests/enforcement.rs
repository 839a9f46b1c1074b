use std::net::SocketAddr;

use super::super::model::MtlsMode;
use super::{Desk, namespace, pod};
use crate::authz::{Connection, evaluate};
use crate::refusal::Refusal;
use crate::spiffe::Identity;

fn policy(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: {name}\n  namespace: {namespace}\nspec: {spec}\n"
    )
}

fn peers(namespace: &str, name: &str, created: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: {name}\n  namespace: {namespace}\n{created}spec: {spec}\n"
    )
}

fn mesh() -> String {
    namespace("shop", "ambient")
        + &pod("a", "10.0.0.1", &[("app", "a")])
        + &pod("b", "10.0.0.2", &[("app", "b")])
        + &pod("c", "10.0.1.1", &[("app", "a")]).replace("namespace: shop", "namespace: bank")
}

/// Whether `client` of namespace shop may connect to port 8080 of a pod; `None` connects in plaintext.
fn judge(desk: &Desk, pod: (&str, &str), client: Option<&str>) -> Result<(), Refusal> {
    let workload = desk.pod(pod.0, pod.1);
    let identity = client.map(|it| Identity::new("cluster.local", "shop", it));
    evaluate(
        desk.now.policy_for(&workload),
        &Connection {
            source_identity: identity.as_ref(),
            source: "10.0.0.9:4000".parse().unwrap(),
            destination: SocketAddr::new(workload.addresses[0], 8080),
        },
    )
}

fn admitted(desk: &Desk, pod: (&str, &str)) -> bool {
    judge(desk, pod, Some("web")).is_ok()
}

const A: (&str, &str) = ("shop", "a");
const B: (&str, &str) = ("shop", "b");
const C: (&str, &str) = ("bank", "c");

#[test]
fn a_policy_binds_its_scope_and_no_more() {
    let deny = "{action: DENY, rules: [{}]}";
    let selecting = "{action: DENY, selector: {matchLabels: {app: a}}, rules: [{}]}";
    for (text, refused) in [
        (policy("istio-system", "p", deny), vec![A, B, C]),
        (policy("shop", "p", deny), vec![A, B]),
        (policy("shop", "p", selecting), vec![A]),
        (policy("istio-system", "p", selecting), vec![A, C]),
        (policy("shop", "p", "{action: DENY}"), vec![]),
        (policy("shop", "p", "{}"), vec![A, B]),
    ] {
        let desk = Desk::with(&(mesh() + &text)).all_good();
        for pod in [A, B, C] {
            assert_eq!(!admitted(&desk, pod), refused.contains(&pod), "{pod:?} with {text}");
        }
    }
}

#[test]
fn conditions_beyond_layer_4_never_widen_access() {
    let rule =
        |action: &str, rule: &str| policy("shop", "p", &format!("{{action: {action}, rules: [{rule}]}}"));
    let get = "{to: [{operation: {methods: [GET]}}]}";
    let from_web = "{from: [{source: {serviceAccounts: [web]}}], to: [{operation: {methods: [GET]}}]}";
    let from_other = "{from: [{source: {serviceAccounts: [other]}}], to: [{operation: {paths: ['/x']}}]}";
    let jwt = "{from: [{source: {requestPrincipals: ['*']}}]}";
    let header = "{when: [{key: 'request.headers[x]', values: [v]}]}";
    for (text, expected) in [
        (rule("ALLOW", get), false),
        (rule("ALLOW", from_web), false),
        (rule("ALLOW", &format!("{get}, {{from: [{{source: {{serviceAccounts: [web]}}}}]}}")), true),
        (rule("DENY", get), false),
        (rule("DENY", from_web), false),
        (rule("DENY", from_other), true),
        (rule("DENY", jwt), false),
        (rule("DENY", header), false),
        (rule("AUDIT", "{}"), true),
        (rule("CUSTOM", "{}"), false),
        (rule("CUSTOM", from_other), true),
    ] {
        let desk = Desk::with(&(mesh() + &text)).all_good();
        assert_eq!(admitted(&desk, A), expected, "{text}");
        assert!(!desk.now.policies().next().unwrap().warnings.is_empty(), "nothing said about {text}");
    }
}

#[test]
fn policies_with_target_refs_are_kept_for_waypoints_and_bind_nobody_here() {
    let text = policy(
        "shop",
        "p",
        "{action: DENY, targetRefs: [{kind: Service, group: '', name: web}], rules: [{}]}",
    );
    let desk = Desk::with(&(mesh() + &text)).all_good();
    assert!(admitted(&desk, A));
    let entry = desk.now.policies().next().unwrap();
    assert!(entry.policy.is_none());
    assert_eq!(&*entry.stated.targets[0].name, "web");
}

/// An object that asks for a waypoint, and cannot be read.
fn bound(version: &str, kind: &str, namespace: &str) -> String {
    format!(
        "---\napiVersion: {version}\nkind: {kind}\nmetadata: {{name: p, namespace: '{namespace}', labels: [\n  \
         istio.io/use-waypoint]}}\n"
    )
}

#[test]
fn what_a_waypoint_reads_otherwise_than_stated_is_said() {
    let to = "targetRefs: [{kind: Service, name: web}]";
    for (spec, words) in [
        (format!("{{action: CUSTOM, {to}, rules: [{{}}]}}"), "without a provider"),
        (
            format!("{{{to}, rules: [{{when: [{{key: 'experimental.envoy.filters.a[b]', values: [c]}}]}}]}}"),
            "experimental.envoy.filters.a[b]",
        ),
        (format!("{{{to}, rules: [{{to: [{{operation: {{paths: ['/a/*/b']}}}}]}}]}}"), "{*}"),
        (
            "{targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}]}"
                .to_owned(),
            "istio-system",
        ),
    ] {
        let desk = Desk::with(&(mesh() + &policy("shop", "p", &spec))).all_good();
        let entry = desk.now.policies().next().unwrap();
        assert!(entry.warnings.iter().any(|it| it.contains(words)), "{spec}: {:?}", entry.warnings);
        assert!(entry.policy.is_none());
    }
    let plain =
        policy("shop", "p", &format!("{{{to}, rules: [{{to: [{{operation: {{paths: ['/a*']}}}}]}}]}}"));
    let desk = Desk::with(&(mesh() + &plain)).all_good();
    assert!(desk.now.policies().next().unwrap().warnings.is_empty());
}

#[test]
fn a_rejected_policy_denies_everyone_it_may_concern_until_a_good_one_comes() {
    let misspelt = "{rules: [{from: [{source: {namespace: [shop]}}]}]}";
    let nameless = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nspec: {rules: [\n";
    for (text, refused) in [
        (policy("shop", "p", misspelt), vec![A, B]),
        (policy("istio-system", "p", misspelt), vec![A, B, C]),
        (nameless.to_owned(), vec![A, B, C]),
        (peers("shop", "p", "", "{mtls: {mode: STRICTLY}}"), vec![A, B]),
        (policy("shop", "p", "{}").replace("security.istio.io/v1", "security.istio.io/v9"), vec![A, B]),
        (bound("v1", "Service", "shop"), vec![A, B]),
        (bound("v1", "Service", "shop").replace("use-waypoint", "else"), vec![]),
        (
            bound("v1", "Service", "shop").replace("istio.io/use-waypoint", r#""istio.io\/use-waypoint""#),
            vec![A, B],
        ),
        (
            bound("v1", "Service", "shop")
                .replace("istio.io/use-waypoint", r#""istio.io\u002fuse-waypoint""#),
            vec![A, B],
        ),
        (bound("networking.istio.io/v1", "ServiceEntry", "shop"), vec![A, B]),
        (bound("v1", "Namespace", "").replace("name: p", "name: bank"), vec![C]),
        (policy("shop", "p", "{}").replace("AuthorizationPolicy", "AuthorisationPolicy"), vec![A, B]),
    ] {
        let mut desk = Desk::with(&mesh());
        assert!(admitted(&desk, A));
        desk.write("policy.yaml", &text);
        for pod in [A, B, C] {
            let unknown = matches!(judge(&desk, pod, Some("web")), Err(Refusal::PolicyUnknown(_)));
            assert_eq!(unknown, refused.contains(&pod), "{pod:?} with {text}");
        }
        assert_eq!(desk.now.unknown_policies().len(), usize::from(!refused.is_empty()));
        desk.write("policy.yaml", &policy("shop", "p", "{rules: [{}]}"));
        assert!(admitted(&desk, A) && admitted(&desk, C), "still denied after {text}");
        assert!(desk.now.unknown_policies().is_empty());
    }
}

#[test]
fn a_good_statement_elsewhere_clears_a_rejected_one() {
    let mut desk = Desk::with(&(mesh() + &policy("shop", "p", "{rulez: []}")));
    assert!(!admitted(&desk, A));
    desk.write("fixed.yaml", &policy("shop", "p", "{rules: [{}]}"));
    assert!(admitted(&desk, A));
    desk.write("fixed.yaml", "");
    assert!(!admitted(&desk, A));
}

#[test]
fn a_broken_pod_denies_nobody() {
    let desk = Desk::with(&(mesh() + "---\napiVersion: v1\nkind: Pod\nmetadata: {name: 'X Y'}\n---\n{{{{\n"));
    assert_eq!(desk.now.rejected().len(), 2);
    assert!(admitted(&desk, A));
}

#[test]
fn strictness_is_inherited_from_mesh_to_namespace_to_workload_to_port() {
    let mode = |it: &str| format!("{{mtls: {{mode: {it}}}}}");
    let select = |mode: &str, ports: &str| {
        format!(
            "{{selector: {{matchLabels: {{app: a}}}}, mtls: {{mode: {mode}}}, portLevelMtls: {{{ports}}}}}"
        )
    };
    let root = |it: &str| peers("istio-system", "default", "", &mode(it));
    let shop = |it: &str| peers("shop", "default", "", &mode(it));
    let own = |it: &str, ports: &str| peers("shop", "own", "", &select(it, ports));
    let port = |mode: &str| format!("8080: {{mode: {mode}}}");
    for (text, a, b, c) in [
        (String::new(), false, false, false),
        (root("STRICT"), true, true, true),
        (shop("STRICT"), true, true, false),
        (root("STRICT") + &shop("PERMISSIVE"), false, false, true),
        (root("STRICT") + &shop("DISABLE"), false, false, true),
        (root("STRICT") + &shop("UNSET"), true, true, true),
        (shop("STRICT") + &own("PERMISSIVE", ""), false, true, false),
        (shop("STRICT") + &own("UNSET", ""), true, true, false),
        (own("PERMISSIVE", &port("STRICT")), true, false, false),
        (own("STRICT", &port("DISABLE")), false, false, false),
        (own("STRICT", &port("UNSET")), true, false, false),
        (shop("STRICT") + &own("UNSET", "9090: {mode: DISABLE}"), true, true, false),
    ] {
        let desk = Desk::with(&(mesh() + &text)).all_good();
        for (pod, strict) in [(A, a), (B, b), (C, c)] {
            let refused = matches!(judge(&desk, pod, None), Err(Refusal::PlaintextNotAllowed(_)));
            assert_eq!(refused, strict, "{pod:?} with {text}");
            assert!(judge(&desk, pod, Some("web")).is_ok());
        }
    }
}

#[test]
fn of_several_peer_authentications_the_oldest_then_the_first_by_name_wins() {
    let created = |year: u16| format!("  creationTimestamp: \"{year}-01-01T00:00:00Z\"\n");
    for (first, second, expected) in [
        (("x", 2026), ("z", 2025), MtlsMode::Permissive),
        (("x", 2025), ("z", 2026), MtlsMode::Strict),
        (("z", 2025), ("x", 2025), MtlsMode::Permissive),
        (("x", 2025), ("z", 2025), MtlsMode::Strict),
    ] {
        let text = peers("shop", first.0, &created(first.1), "{mtls: {mode: STRICT}}")
            + &peers("shop", second.0, &created(second.1), "{mtls: {mode: PERMISSIVE}}");
        let desk = Desk::with(&(mesh() + &text)).all_good();
        assert_eq!(desk.now.policy_for(&desk.pod("shop", "a")).peer_authentication.mode, expected);
    }
}

#[test]
fn the_policy_generation_moves_when_and_only_when_a_verdict_could() {
    let mut desk = Desk::with(&mesh());
    let mut before = desk.now.policy_generation();
    let mut moved = |desk: &Desk| {
        let moved = desk.now.policy_generation() != before;
        before = desk.now.policy_generation();
        moved
    };
    desk.write("pod.yaml", &pod("d", "10.0.0.4", &[("app", "d")]));
    assert!(!moved(&desk), "a new pod");
    desk.write("policy.yaml", &policy("shop", "p", "{selector: {matchLabels: {app: e}}, rules: [{}]}"));
    assert!(!moved(&desk), "a policy that picks nobody");
    desk.write("pod.yaml", &pod("d", "10.0.0.4", &[("app", "e")]));
    assert!(moved(&desk), "a pod that is picked now");
    desk.write("pod.yaml", &pod("d", "10.0.0.5", &[("app", "e")]));
    assert!(!moved(&desk), "a new address");
    desk.write("policy.yaml", &policy("shop", "p", "{selector: {matchLabels: {app: e}}, rules: []}"));
    assert!(moved(&desk), "other rules");
    desk.write("peers.yaml", &peers("istio-system", "default", "", "{mtls: {mode: STRICT}}"));
    assert!(moved(&desk), "strict");
    desk.write("peers.yaml", &peers("istio-system", "default", "", "{mtls: {mode: STRICT}} # same"));
    assert!(!moved(&desk), "the same again");
    desk.write("policy.yaml", &policy("shop", "p", "{rulez: []}"));
    assert!(moved(&desk), "unknown");
    desk.write("policy.yaml", "");
    assert!(moved(&desk), "known to be gone");
}

#[test]
fn workloads_with_equal_policies_share_one() {
    let text = policy("shop", "p", "{selector: {matchLabels: {x: x}}, rules: [{}]}");
    let desk = Desk::with(&(mesh() + &text)).all_good();
    let of = |name| desk.now.policy_for(&desk.pod("shop", name)).clone();
    assert!(std::sync::Arc::ptr_eq(&of("a"), &of("b")));
}
