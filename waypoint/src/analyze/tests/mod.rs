use std::collections::BTreeSet;

use serde_json::Value;

mod lines;
mod written;

use super::output::{Form, render};
use super::*;

/// A namespace in the mesh and behind a waypoint that is ready, with two services of one pod each. Nothing is wrong.
const SOUND: &str = "
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
metadata: {name: gate-1, namespace: shop, uid: g1, labels: {gateway.networking.k8s.io/gateway-name: gate}}
spec: {nodeName: n, serviceAccountName: gate}
status: {phase: Running, podIPs: [{ip: 10.0.0.9}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, uid: w1, labels: {app: web, version: v1}, annotations: {ebb.dev/netns: /run/netns/w}}
spec: {nodeName: n}
status: {phase: Running, podIPs: [{ip: 10.0.0.1}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web, namespace: shop}
spec: {host: web, subsets: [{name: v1, labels: {version: v1}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: shop}
spec: {hosts: [web], http: [{route: [{destination: {host: web, subset: v1}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web, namespace: shop}
spec: {targetRefs: [{kind: Service, group: '', name: web}], rules: [{}]}
---
";

fn found(text: &str) -> Vec<Finding> {
    checks::findings(&Manifests::of(vec![("all.yaml".into(), text.into())], MeshSettings::default()))
}

fn codes(text: &str) -> BTreeSet<&'static str> {
    found(text).iter().map(|it| it.code.id).collect()
}

#[test]
fn nothing_is_said_of_what_is_sound() {
    assert_eq!(found(SOUND), []);
}

#[test]
fn what_is_changed_for_the_worse_is_found() {
    let changed: &[(&str, &str, &[&str])] = &[
        (
            "name: gate, namespace: shop}\nspec",
            "name: gate, namespace: other}\nspec",
            &["EBB0001", "EBB0003", "EBB0021"],
        ),
        ("gatewayClassName: ebb-waypoint", "gatewayClassName: istio", &["EBB0001"]),
        (
            "protocol: HBONE}",
            "protocol: HBONE, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {x: y}}}}}",
            &["EBB0002"],
        ),
        ("gateway-name: gate}", "gateway-name: other}", &["EBB0003", "EBB0021"]),
        ("istio.io/use-waypoint: gate", "istio.io/use-waypoint: none", &["EBB0004"]),
        ("istio.io/dataplane-mode: ambient, ", "", &["EBB0010", "EBB0013"]),
        ("name: http, port: 80", "name: web, port: 80", &["IST0118"]),
        ("hosts: [web], http", "hosts: [wed], http", &["EBB0014"]),
        ("destination: {host: web, subset: v1}", "destination: {host: wed}", &["IST0101"]),
        ("destination: {host: web, subset: v1}", "destination: {host: web, subset: v2}", &["IST0101"]),
        (
            "destination: {host: web, subset: v1}",
            "destination: {host: web, port: {number: 81}}",
            &["IST0101"],
        ),
        ("labels: {version: v1}}]", "labels: {version: v2}}]", &["EBB0012"]),
        ("spec: {host: web, subsets", "spec: {host: wed, subsets", &["EBB0014", "IST0101"]),
        ("group: '', name: web}]", "group: '', name: wed}]", &["IST0101"]),
        ("spec: {hosts: [web]", "spec: {hosts: [web], gateways: [front]", &["EBB0015"]),
        ("subset: v1}}]}]", "subset: v1}, weight: 50}]}]", &["EBB0007"]),
        (
            "subset: v1}}]}]",
            "subset: v1}, weight: 1}, {destination: {host: web}, weight: 2}]}]",
            &["EBB0007"],
        ),
        ("http: [{route", "http: [{fault: {delay: {fixedDelay: 1s}}, route", &["EBB0006"]),
        ("http: [{route", "http: [{mirror: {host: wed}, route", &["IST0101"]),
        ("http: [{route", "http: [{route: [{destination: {host: web}}]}, {route", &["IST0130"]),
        (
            "spec: {host: web, subsets",
            "spec: {host: web, trafficPolicy: {loadBalancer: {simple: LEAST_CONN}}, subsets",
            &["IST0133"],
        ),
        ("http: [{route", "http: [{rout", &["IST0106"]),
    ];
    for (from, to, expected) in changed {
        assert_eq!(SOUND.matches(from).count(), 1, "{from}");
        let text = SOUND.replace(from, to);
        assert_eq!(codes(&text), expected.iter().copied().collect(), "{to}: {:#?}", found(&text));
    }
}

#[test]
fn what_is_added_for_the_worse_is_found() {
    let added: &[(&str, &[&str])] = &[
        (
            "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: more, namespace: shop}, \
             spec: {hosts: [web.shop.svc.cluster.local], http: [{route: [{destination: {host: web}}]}]}}",
            &["IST0109"],
        ),
        (
            "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: web, namespace: shop}, \
             spec: {hosts: [other], http: [{route: [{destination: {host: web}}]}]}}",
            &["EBB0011"],
        ),
        (
            "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: shop}, \
             spec: {selector: {matchLabels: {app: wed}}, rules: [{}]}}",
            &["IST0127"],
        ),
        (
            "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: shop}, \
             spec: {selector: {matchLabels: {app: web}}, rules: [{to: [{operation: {methods: [GET]}}]}]}}",
            &["EBB0005"],
        ),
        (
            "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: p, namespace: shop}, \
             spec: {selector: {matchLabels: {gateway.networking.k8s.io/gateway-name: gate}}, mtls: {mode: STRICT}}}",
            &["IST0166"],
        ),
        (
            "{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: p, namespace: shop}, \
             spec: {targetRefs: [{kind: Service, name: wed}]}}",
            &["IST0101"],
        ),
        (
            "{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: out, namespace: shop}, spec: \
             {hosts: [out.example], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS}}",
            &["IST0134"],
        ),
        (
            "{apiVersion: v1, kind: Service, metadata: {name: past, namespace: shop, labels: {istio.io/use-waypoint: none}}, \
             spec: {clusterIP: 10.96.0.2, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}}",
            &["EBB0010"],
        ),
        (
            "{apiVersion: networking.istio.io/v1alpha3, kind: EnvoyFilter, metadata: {name: f, namespace: shop}, spec: {}}",
            &["EBB0008"],
        ),
        (
            "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: shop}, spec: {}}",
            &["EBB0009"],
        ),
        (
            "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: again, namespace: shop}, \
             spec: {host: web, trafficPolicy: {tls: {mode: SIMPLE, insecureSkipVerify: true}, portLevelSettings: [{port: \
             {number: 80}, tls: {mode: SIMPLE, insecureSkipVerify: true}}]}}}",
            &["IST0128", "IST0129"],
        ),
        ("not: [a", &["IST0106"]),
    ];
    for (document, expected) in added {
        let text = format!("{SOUND}{document}\n");
        assert_eq!(codes(&text), expected.iter().copied().collect(), "{document}: {:#?}", found(&text));
    }
}

#[test]
fn every_code_is_found_by_some_test() {
    let source = [include_str!("mod.rs"), include_str!("lines.rs"), include_str!("written.rs")].concat();
    for code in finding::CODES {
        assert!(source.contains(&format!("\"{}\"", code.id)), "{} {}", code.id, code.name);
    }
}

#[test]
fn a_finding_has_file_line_and_remedy_in_every_form() {
    let text = SOUND.replace("hosts: [web], http", "hosts: [wed], http");
    let all = found(&text);
    let line = text.lines().position(|line| line.contains("hosts: [wed]")).unwrap() + 1;
    let findings: Vec<_> = all.iter().collect();
    let log = render(Form::Log, &findings, 1);
    let expected = format!("Warning [EBB0014] (VirtualService shop/web all.yaml:{line}) ");
    assert!(log.starts_with(&expected), "{log}");
    assert!(log.contains("\n    fix: "), "{log}");

    let json: Value = serde_json::from_str(&render(Form::Json, &findings, 1)).unwrap();
    assert_eq!(json[0]["code"], "EBB0014");
    assert_eq!((&json[0]["file"], &json[0]["line"]), (&"all.yaml".into(), &line.into()));

    let sarif: Value = serde_json::from_str(&render(Form::Sarif, &findings, 1)).unwrap();
    let result = &sarif["runs"][0]["results"][0];
    assert_eq!(result["level"], "warning");
    let place = &result["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "all.yaml");
    assert_eq!(place["region"]["startLine"], line);
    let rules = sarif["runs"][0]["tool"]["driver"]["rules"].as_array().unwrap();
    assert!(rules.iter().any(|rule| rule["id"] == result["ruleId"]));
}

#[test]
fn what_is_suppressed_is_that_code_of_those_objects() {
    let all = found(&SOUND.replace("hosts: [web], http", "hosts: [wed], http"));
    for (text, fits) in [
        ("EBB0014=VirtualService web.shop", true),
        ("EBB0014=VirtualService *.shop", true),
        ("EBB0014=* *", true),
        ("EBB0014=VirtualService w*b.sh*", true),
        ("EBB0014=VirtualService web.other", false),
        ("EBB0014=Service web.shop", false),
        ("IST0101=VirtualService web.shop", false),
    ] {
        assert_eq!(Suppressed::read(text).unwrap().fit(&all[0]), fits, "{text}");
    }
    for text in ["", "EBB0014", "EBB0014=VirtualService", "EBB9999=Service web.shop"] {
        assert!(Suppressed::read(text).is_err(), "{text}");
    }
}

#[test]
fn a_route_that_leads_nowhere_or_takes_the_place_of_another_is_told() {
    let route = |parent: &str, backend: &str| {
        format!(
            "{SOUND}apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: shop}}\n\
             spec: {{parentRefs: [{{{parent}}}], rules: [{{backendRefs: [{{{backend}}}]}}]}}\n"
        )
    };
    let web = "group: '', kind: Service, name: web";
    let asks = "[{filters: [{type: ExternalAuth, externalAuth: {protocol: GRPC, backendRef: {name: web, port: 80}, grpc: {}}}], backendRefs";
    for (text, expected) in [
        (route("name: gate", "name: web, port: 80").replace("[{backendRefs", asks), &["EBB0026"][..]),
        (route(web, "name: web, port: 80"), &["EBB0017"]),
        (route(web, "name: web, port: 81"), &["EBB0016", "EBB0017"]),
        (route(web, "name: nobody, port: 80"), &["EBB0016", "EBB0017"]),
        (route("group: '', kind: Service, name: nobody", "name: web, port: 80"), &["IST0101"]),
        (route("name: gate", "name: web, port: 80"), &[]),
        (route("name: other", "name: web, port: 80"), &["IST0101"]),
        (route(web, "name: web, port: 80").replace(", istio.io/use-waypoint: gate", ""), &["EBB0004"]),
    ] {
        let told = codes(&text);
        assert!(expected.iter().all(|it| told.contains(it)), "{expected:?} of {told:?}\n{text}");
        assert!(!expected.is_empty() || told.is_empty(), "{told:?}");
    }
}

#[test]
fn whom_policies_ask_and_what_limits_are_attached_to_has_to_be_there() {
    let mesh = |namespace: &str, service: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: {namespace}}}\ndata:\n  mesh: |\n    \
             extensionProviders:\n    - {{name: opa, envoyExtAuthzGrpc: {{service: {service}}}}}\n---\n"
        )
    };
    let there = "web.shop.svc.cluster.local, port: 80";
    let policy = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: ask, namespace: shop}, spec: \
                  {targetRefs: [{kind: Service, group: '', name: web}], action: CUSTOM, provider: {name: opa}, rules: [{}]}}\n---\n";
    let limit = |target: &str| {
        format!(
            "{{apiVersion: gateway.ebb.dev/v1alpha1, kind: RateLimit, metadata: {{name: l, namespace: shop}}, spec: \
             {{targetRefs: [{target}], limits: [{{requests: 1}}]}}}}\n---\n"
        )
    };
    for (added, expected) in [
        (mesh("istio-system", there) + policy, &[][..]),
        (policy.to_owned(), &["IST0101"]),
        (mesh("istio-system", "gone.shop.svc.cluster.local, port: 80"), &["IST0101"]),
        (mesh("istio-system", "web.shop.svc.cluster.local, port: 81"), &["IST0101"]),
        (mesh("shop", there), &["IST0133"]),
        (limit("{kind: Service, name: web}"), &[]),
        (limit("{kind: Service, name: wed}"), &["IST0101"]),
        (limit("{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}"), &["IST0101"]),
        (limit("{group: gateway.networking.k8s.io, kind: Gateway, name: gate}"), &[]),
        (limit("{group: networking.istio.io, kind: ServiceEntry, name: e}"), &["IST0101"]),
    ] {
        let told = codes(&format!("{SOUND}{added}"));
        assert_eq!(told, expected.iter().copied().collect(), "{added}");
    }
}

#[test]
fn a_backend_tls_policy_has_what_it_names_and_a_waypoint_that_speaks_its_tls() {
    let policy = |target: &str, ca: &str| {
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: BackendTLSPolicy, metadata: {{name: t, namespace: shop}}, spec: \
             {{targetRefs: [{{group: '', kind: Service, name: {target}}}], validation: {{hostname: a.b, {ca}}}}}}}\n---\n"
        )
    };
    let (system, map) =
        ("wellKnownCACertificates: System", "caCertificateRefs: [{group: '', kind: ConfigMap, name: none}]");
    let rule = "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: t, namespace: shop}, spec: {host: \
                web, trafficPolicy: {tls: {mode: SIMPLE}}}}\n---\n";
    for (added, expected) in [
        (policy("web", system), &[][..]),
        (policy("web", map), &["IST0101"]),
        (policy("wed", system), &["IST0101"]),
        (policy("web, sectionName: nine", system), &["IST0101"]),
        (policy("web", system) + rule, &["EBB0017"]),
        (policy("web", system) + &policy("web", system).replace("name: t", "name: u"), &["EBB0017"]),
    ] {
        let told = codes(&format!("{SOUND}{added}"));
        assert_eq!(told, expected.iter().copied().collect(), "{added}");
    }
    let unbound = SOUND.replace(", istio.io/use-waypoint: gate", "") + &policy("web", system);
    assert!(codes(&unbound).contains("EBB0004"));
}

#[test]
fn files_of_json_that_are_no_manifests_are_named_and_fail_nothing() {
    let files = [
        ("all.yaml", SOUND),
        ("tsconfig.json", "{\n  // A comment.\n  \"compilerOptions\": {\"strict\": true,},\n}\n"),
        ("node_modules/a/package.json", "{\"name\": \"a\", \"keywords\": [\"AuthorizationPolicy\"]}"),
        ("log.json", "{\"istio.io/use-waypoint\": 1}\n{\"a\": 2}\n"),
    ];
    let files = |many: usize| {
        let more = (0..many).map(|at| (format!("z{at}.json").into(), b"[]".to_vec()));
        let files = files.iter().map(|(name, text)| ((*name).into(), text.as_bytes().to_vec()));
        checks::findings(&Manifests::of(files.chain(more).collect(), MeshSettings::default()))
    };
    let found = files(0);
    assert!(found.iter().all(|it| it.code.id == "EBB0025" && it.code.level == Level::Info), "{found:#?}");
    let named: Vec<&str> = found.iter().map(|it| &*it.origin.file).collect();
    assert_eq!(named, ["log.json", "node_modules/a/package.json", "tsconfig.json"]);
    let many = files(40);
    assert_eq!(many.len(), 20);
    assert!(many.iter().any(|it| it.message.ends_with("; and 23 more files are not read")), "{many:#?}");
}

#[test]
fn a_policy_in_json_yields_to_the_same_in_yaml() {
    let policy = "{\"apiVersion\": \"security.istio.io/v1\", \"kind\": \"AuthorizationPolicy\", \"metadata\": {\"name\": \"web\", \
                  \"namespace\": \"shop\"}, \"spec\": {}}";
    let files = vec![("a.json".into(), policy.into()), ("b.yaml".into(), SOUND.into())];
    let found = checks::findings(&Manifests::of(files, MeshSettings::default()));
    let [twice] = &found[..] else { panic!("{found:#?}") };
    assert_eq!((twice.code.id, &*twice.origin.file), ("EBB0011", "a.json"));
}
