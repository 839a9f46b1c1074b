//! Routing manifests as operators write them, good and bad.
//!
//! Tables hold the part that matters, in YAML's flow style; `ROUTE` in them stands for a route to one host.

mod destination_rule;
mod destination_rule_faults;
mod tutorials;
mod virtual_service;
mod virtual_service_faults;

use std::sync::Arc;

use crate::config::decode::{Decoded, yaml};
use crate::config::destination::DestinationRule;
use crate::config::names::Names;
use crate::config::routing::{HttpRoute, VirtualService};
use crate::config::{Rejected, Resource};

/// A VirtualService `shop/web`.
fn virtual_service(spec: &str) -> String {
    let spec = spec.replace("ROUTE", "route: [{destination: {host: web}}]");
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: web\n  namespace: \
         shop\nspec: {spec}\n"
    )
}

/// A VirtualService with one HTTP route.
fn http(route: &str) -> String {
    virtual_service(&format!("{{hosts: [web], http: [{{{route}}}]}}"))
}

/// A DestinationRule `shop/web`.
fn destination_rule(spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata:\n  name: web\n  namespace: \
         shop\nspec: {spec}\n"
    )
}

/// A DestinationRule with a traffic policy.
fn policy(policy: &str) -> String {
    destination_rule(&format!("{{host: web, trafficPolicy: {{{policy}}}}}"))
}

fn read(text: &str) -> Decoded {
    yaml::decode(&"a.yaml".into(), text.as_bytes(), &mut Names::default())
}

/// The only resource of a text that nothing is wrong with.
fn resource(text: &str) -> Resource {
    let decoded = read(text);
    let rejected: Vec<String> = decoded.rejected.iter().map(ToString::to_string).collect();
    assert!(rejected.is_empty(), "{rejected:#?}\n{text}");
    assert_eq!(decoded.stated.len(), 1, "{text}");
    decoded.stated[0].resource.clone()
}

fn good_service(text: &str) -> Arc<VirtualService> {
    match resource(text) {
        Resource::VirtualService(it) => it,
        other => panic!("{other:?}"),
    }
}

/// The first HTTP route of a VirtualService that has one.
fn good_route(route: &str) -> HttpRoute {
    good_service(&http(route)).http[0].clone()
}

fn good_rule(text: &str) -> Arc<DestinationRule> {
    match resource(text) {
        Resource::DestinationRule(it) => it,
        other => panic!("{other:?}"),
    }
}

/// Fields and labels of what was noted.
fn notes(text: &str) -> Vec<(String, &'static str)> {
    let resource = resource(text);
    resource.notes().iter().map(|it| (it.field.to_string(), it.caveat.label())).collect()
}

/// Why the only document of a text was turned away.
fn refusal(text: &str) -> Rejected {
    let decoded = read(text);
    assert!(decoded.stated.is_empty(), "accepted:\n{text}\n{:#?}", decoded.stated);
    let [rejected] = &decoded.rejected[..] else { panic!("{:?}", decoded.rejected) };
    assert_eq!(rejected.subject.name.as_deref(), Some("web"), "{rejected}");
    assert_eq!(rejected.subject.namespace.as_deref(), Some("shop"), "{rejected}");
    assert!(!rejected.guards_access, "{rejected}");
    rejected.clone()
}

/// That each text is refused for a reason that holds these words, at this field.
fn assert_refused(cases: &[(&str, &str, &str)], text: impl Fn(&str) -> String, prefix: &str) {
    let mut wrong = Vec::new();
    for (part, field, reason) in cases {
        let decoded = read(&text(part));
        let [rejected] = &decoded.rejected[..] else {
            wrong.push(format!("{part}\n  accepted"));
            continue;
        };
        // A fault that the parser finds is named by the field alone here.
        let path = format!("{prefix}{field}");
        let at_field = *rejected.field == *path
            || rejected.field.strip_suffix(field).is_some_and(|it| it.is_empty() || it.ends_with('.'));
        if !at_field || !rejected.reason.contains(reason) || rejected.subject.key().is_none() {
            wrong.push(format!("{part}\n  {rejected}\n  expected {path} {reason}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_version_of_the_group_is_read_and_no_other() {
    let text = http("ROUTE");
    for version in ["v1", "v1beta1", "v1alpha3"] {
        let text = text.replace("io/v1", &format!("io/{version}"));
        assert_eq!(resource(&text).key().to_string(), "VirtualService shop/web");
        let text = policy("loadBalancer: {simple: RANDOM}").replace("io/v1", &format!("io/{version}"));
        assert_eq!(resource(&text).key().to_string(), "DestinationRule shop/web");
    }
    for (from, to, reason) in [
        ("io/v1", "io/v2", "expected networking.istio.io/v1"),
        ("networking.istio.io", "networking.istio.oi", "expected networking.istio.io/v1"),
        ("networking.istio.io", "security.istio.io", "expected networking.istio.io/v1"),
        ("kind: VirtualService", "kind: VirtualServices", "no kind of networking.istio.io"),
    ] {
        let rejected = refusal(&text.replace(from, to));
        assert!(rejected.reason.contains(reason) && &*rejected.field == "apiVersion", "{rejected}");
    }
}

#[test]
fn a_typo_is_refused_by_file_line_object_and_field() {
    let text = "# a comment\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: web\n  \
                namespace: shop\nspec:\n  hosts: [web]\n  http:\n  - match:\n    - schema:\n        exact: https\n    \
                route:\n    - destination:\n        host: web\n";
    let rejected = refusal(text);
    assert_eq!((&*rejected.origin.file, rejected.origin.line), ("a.yaml", 11), "{rejected}");
    assert_eq!(&*rejected.field, "spec.http[0].match[0].schema");
    assert!(rejected.reason.contains("unknown field") && rejected.reason.contains("scheme"), "{rejected}");
    let said = rejected.to_string();
    assert!(
        said.starts_with("a.yaml:11: VirtualService shop/web spec.http[0].match[0].schema rejected: "),
        "{said}"
    );
}

#[test]
fn a_bad_document_spoils_no_other_in_its_file() {
    let text = format!("{}---\n{}---\n{}", http("ROUTE"), http("x: y"), policy("tls: {mode: SIMPLE}"));
    let decoded = read(&text);
    assert_eq!((decoded.stated.len(), decoded.rejected.len()), (2, 1));
}
