//! What is written and says nothing, or less than it seems to.

use super::*;

/// What there is to say when something is added, each as code, field and a part of the message.
fn said(added: &str) -> Vec<(&'static str, String, String)> {
    let before = found(SOUND);
    let after = found(&format!("{SOUND}{added}\n"));
    after.into_iter().filter(|it| !before.contains(it)).map(|it| (it.code.id, it.field, it.message)).collect()
}

/// What is added, the code of what is said of it, the field, and a part of the message.
const WORDS: &[(&str, &str, &str, &str)] = &[
    (
        "{apiVersion: v1, kind: Namespace, metadata: {name: n, labels: {istio.io/dataplane-mode: ambiant}}}",
        "EBB0020",
        "metadata.labels.istio.io/dataplane-mode",
        "did you mean ambient?",
    ),
    (
        "{apiVersion: v1, kind: Namespace, metadata: {name: n, labels: {istio.io/dataplane-mod: ambient}}}",
        "EBB0019",
        "metadata.labels.istio.io/dataplane-mod",
        "did you mean istio.io/dataplane-mode?",
    ),
    (
        "{apiVersion: v1, kind: Namespace, metadata: {name: n, labels: {istio.oi/use-waypoint: gate}}}",
        "EBB0019",
        "metadata.labels.istio.oi/use-waypoint",
        "did you mean istio.io/use-waypoint?",
    ),
    (
        "{apiVersion: v1, kind: Namespace, metadata: {name: n, annotations: {istio.io/use-waypoint: gate}}}",
        "IST0107",
        "metadata.annotations.istio.io/use-waypoint",
        "is a label",
    ),
    (
        "{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: g, namespace: n, labels: \
             {istio.io/waypoint-for: services}}, spec: {gatewayClassName: istio}}",
        "EBB0020",
        "metadata.labels.istio.io/waypoint-for",
        "did you mean service?",
    ),
    (
        "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: shop, labels: {istio.io/waypoint-for: all}}, spec: \
             {clusterIP: None}}",
        "IST0107",
        "metadata.labels.istio.io/waypoint-for",
        "is read of Gateway alone",
    ),
    (
        "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: shop, annotations: \
             {istio.io/dryrun: 'true'}}, spec: {targetRefs: [{kind: Service, group: '', name: web}], rules: [{}]}}",
        "IST0108",
        "metadata.annotations.istio.io/dryrun",
        "did you mean istio.io/dry-run?",
    ),
    (
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: d, namespace: shop}, spec: {template: {metadata: {labels: \
             {istio.io/dataplane-mode: non}}}}}",
        "EBB0020",
        "spec.template.metadata.labels.istio.io/dataplane-mode",
        "did you mean none?",
    ),
    (
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: d, namespace: shop, labels: {istio.io/dataplane-mode: \
             none}}}",
        "IST0107",
        "metadata.labels.istio.io/dataplane-mode",
        "spec.template.metadata.labels",
    ),
    ("{apiVersion: v1, kind: Servce, metadata: {name: s}}", "EBB0024", "kind", "did you mean Service?"),
];

#[test]
fn words_that_nobody_knows_are_told_with_those_that_may_be_meant() {
    for (added, code, field, message) in WORDS {
        let all = said(added);
        let is_it =
            |(id, at, says): &(&str, String, String)| *id == *code && at == field && says.contains(message);
        assert!(all.iter().any(is_it), "{added}\n{all:#?}");
    }
    for fine in [
        "{apiVersion: v1, kind: Namespace, metadata: {name: n, labels: {team: a, example.com/istio: b, sidecar.istio.io/inject: 'false', \
         topology.istio.io/network: n1, istio.io/rev: x}, annotations: {a.example/b: c, kubectl.kubernetes.io/x: y}}}",
        "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: shop, annotations: {ambient.istio.io/bypass-inbound-capture: 'true'}}}",
    ] {
        assert_eq!(said(fine), [], "{fine}");
    }
}

#[test]
fn fields_of_core_kinds_that_are_passed_over_are_told() {
    for (added, field, message) in [
        (
            "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: shop}, spec: {clusterIP: 10.96.0.8, port: [{port: 80}]}}",
            "spec.port",
            "did you mean ports?",
        ),
        (
            "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: shop}, spec: {ports: [{name: http, port: 80, targetport: \
             8080}]}}",
            "spec.ports[0].targetport",
            "did you mean targetPort?",
        ),
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: shop, label: {app: x}}, spec: {serviceAccountname: a}}",
            "metadata.label",
            "did you mean labels?",
        ),
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: shop}, spec: {containers: [{ports: [{container_port: 1, \
             containerPort: 1}]}]}}",
            "spec.containers[0].ports[0].container_port",
            "passed over",
        ),
    ] {
        let all = said(added);
        let is_it = |(id, at, says): &(&str, String, String)| {
            *id == "EBB0018" && at == field && says.contains(message)
        };
        assert!(all.iter().any(is_it), "{added}\n{all:#?}");
    }
}

/// Checks what is said of each; that Deployments change nothing is not asked for.
fn check(cases: &[(String, Option<(&str, &str)>)]) {
    for (added, expected) in cases {
        let mut all = said(added);
        all.retain(|(id, ..)| *id != "EBB0009");
        match expected {
            Some((code, field)) => {
                assert!(all.iter().any(|(id, at, _)| id == code && at == field), "{added}\n{all:#?}");
            }
            None => assert!(all.is_empty(), "{added}\n{all:#?}"),
        }
    }
}

#[test]
fn what_selects_or_serves_nobody_is_told() {
    let service = |selector: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: s, namespace: shop}}, spec: {{clusterIP: 10.96.0.9, selector: \
             {{{selector}}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}}}\n---\n"
        )
    };
    let makes = |labels: &str| {
        format!(
            "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: d, namespace: shop}}, spec: {{template: {{metadata: {{labels: \
             {{{labels}}}}}}}}}}}"
        )
    };
    let of_gateway = "gateway.networking.k8s.io/gateway-name";
    let field = format!("spec.template.metadata.labels.{of_gateway}");
    check(&[
        (service("app: gone"), Some(("IST0127", "spec.selector"))),
        (service("app: made") + &makes("app: made"), None),
        (makes(&format!("{of_gateway}: gone")), Some(("EBB0021", &field))),
        (makes(&format!("{of_gateway}: gate")), None),
    ]);
}

#[test]
fn tries_that_there_is_no_time_for_are_told() {
    let retried = |timeout: &str| {
        format!(
            "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: v, namespace: shop}}, spec: {{http: \
             [{{timeout: {timeout}, retries: {{attempts: 2, perTryTimeout: 2s}}, route: [{{destination: {{host: web}}}}]}}]}}}}"
        )
    };
    check(&[(retried("5s"), Some(("EBB0023", "spec.http[0].timeout"))), (retried("6s"), None)]);
}

#[test]
fn tokens_that_nobody_requires_and_policies_without_a_waypoint_are_told() {
    let entry = "{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: e, namespace: other}, spec: {hosts: \
                 [out.example], addresses: [198.51.100.1], ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, \
                 endpoints: [{address: 198.51.100.7}]}}\n---\n";
    let policy = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: other}, spec: {targetRefs: \
                  [{kind: ServiceEntry, group: networking.istio.io, name: e}], rules: [{}]}}";
    let tokens = "{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: t, namespace: shop}, spec: \
                  {targetRefs: [{kind: Service, group: '', name: web}], jwtRules: [{issuer: me, jwksUri: 'https://a/'}]}}\n---\n";
    let required = |target: &str| {
        format!(
            "{tokens}{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: r, namespace: shop}}, spec: \
             {{targetRefs: [{target}], rules: [{{from: [{{source: {{requestPrincipals: ['*']}}}}]}}]}}}}"
        )
    };
    check(&[
        (format!("{entry}{policy}"), Some(("EBB0004", "spec.targetRefs[0]"))),
        (tokens.to_owned(), Some(("EBB0022", "spec.jwtRules"))),
        (required("{kind: Service, group: '', name: web}"), None),
        (required("{kind: Gateway, group: gateway.networking.k8s.io, name: gate}"), None),
    ]);
}

#[test]
fn nothing_is_said_of_selectors_whose_pods_nobody_can_know() {
    let asked = |namespace: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: s, namespace: {namespace}}}, spec: {{clusterIP: 10.96.0.9, selector: \
             {{app: other}}}}}}\n---\n{{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {{name: s, namespace: \
             {namespace}}}, spec: {{selector: {{matchLabels: {{app: other}}}}, mtls: {{mode: STRICT}}}}}}\n---\n"
        )
    };
    let of = |kind: &str, namespace: &str| {
        format!("{{apiVersion: {kind}, metadata: {{name: k, namespace: {namespace}}}, spec: {{}}}}")
    };
    let makes = |anchored: &str, labels: &str| {
        format!(
            "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: d, namespace: shop}}, spec: {{selector: {{matchLabels: &l \
             {{{anchored}}}}}, template: {{metadata: {{labels: {labels}}}}}}}}}"
        )
    };
    let (kafka, budget) = ("kafka.strimzi.io/v1beta2, kind: Kafka", "policy/v1, kind: PodDisruptionBudget");
    for (added, told) in [
        (asked("shop"), 2),
        // Pods that are stated elsewhere say nothing of those of this namespace.
        (asked("data"), 0),
        (asked("shop") + &of(kafka, "shop"), 0),
        (asked("shop") + &of(kafka, "data"), 2),
        (asked("shop") + &of(budget, "shop"), 2),
        (asked("shop") + &of("v1, kind: Secret", "shop"), 2),
        (asked("shop") + &of("apps/v1, kind: Deployment", "shop"), 0),
        (asked("shop") + &makes("app: other", "*l"), 0),
        (asked("shop") + &makes("app: other", "{<<: *l, more: x}"), 0),
        (asked("shop") + &makes("app: more", "*l"), 2),
    ] {
        let said = said(&added);
        assert_eq!(said.iter().filter(|(code, ..)| *code == "IST0127").count(), told, "{added}: {said:#?}");
    }
}

#[test]
fn what_is_merged_into_a_mapping_is_no_unknown_field() {
    let merged = |field: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: s, namespace: shop, labels: &l {{{field}: None}}}}\nspec: {{<<: *l, \
             ports: [{{port: 80, name: http}}]}}\n"
        )
    };
    let unknown = |text: &str| said(text).into_iter().find(|(code, ..)| *code == "EBB0018").map(|it| it.1);
    assert_eq!(unknown(&merged("clusterIP")), None);
    assert_eq!(unknown(&merged("clusterIp")).as_deref(), Some("spec.clusterIp"));
}
