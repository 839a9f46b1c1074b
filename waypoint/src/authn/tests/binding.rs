use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use common::config::decode::yaml;
use common::config::names::Names;
use common::config::{Batch, ObjectName};
use common::snapshot::{Mesh, MeshSettings, Snapshot};

use super::super::refusal::Refusal;
use super::super::tables::{Bound, Tables};
use super::signer::signer;
use super::{Asked, NoKeyring, token};
use crate::destination::Destination;

/// The address that was called, which of a service says nothing.
const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 80);

fn services() -> String {
    let service = |namespace: &str, name: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{ports: [{{port: \
             80}}]}}\n"
        )
    };
    let entry = "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: out, namespace: shop}\nspec: \
                 {hosts: [out.example], ports: [{number: 80, name: http, protocol: HTTP}], resolution: NONE}\n";
    [service("shop", "web"), service("shop", "other"), service("bank", "web"), entry.to_owned()].concat()
}

/// A RequestAuthentication for tokens of `issuer`.
fn authentication(namespace: &str, name: &str, targets: &str, issuer: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: {name}, namespace: \
         {namespace}}}\nspec:\n  {targets}\n  jwtRules: [{{issuer: {issuer}, jwks: '{}'}}]\n",
        signer().jwks("k")
    )
}

fn mesh(text: &str) -> Arc<Snapshot> {
    let file: Arc<str> = "a.yaml".into();
    let decoded = yaml::decode(&file, text.as_bytes(), &mut Names::default());
    Mesh::new(MeshSettings::default()).apply(Batch {
        reread: vec![file],
        upserts: decoded.stated,
        rejected: decoded.rejected,
        ..Batch::default()
    })
}

fn tables() -> Arc<Tables> {
    Arc::new(Tables::new(ObjectName::new("shop", "wp")))
}

fn called(mesh: &Snapshot, namespace: &str, name: &str) -> Destination {
    Destination::Service { service: mesh.service(namespace, name).unwrap().clone(), port: 80 }
}

/// Which of the services take a token of `me`; the others take every request, and look at none.
fn bound(text: &str) -> Vec<&'static str> {
    let mesh = mesh(&(services() + text));
    let tables = tables().update(&mesh, &NoKeyring);
    let all = [
        ("shop", "web", "shop/web"),
        ("shop", "other", "shop/other"),
        ("bank", "web", "bank/web"),
        ("shop", "out.example", "out"),
    ];
    let takes = |namespace: &str, name: &str| match tables.of(&mesh, &called(&mesh, namespace, name), ANY) {
        Bound::Rules(rules) => {
            Asked::bearing(&token(serde_json::json!({}))).judge(&rules).unwrap().claims().is_some()
        }
        Bound::Unknown => panic!("{namespace}/{name} is unknown"),
    };
    all.iter().filter(|(namespace, name, _)| takes(namespace, name)).map(|(.., label)| *label).collect()
}

#[test]
fn what_a_target_names_is_bound_and_nothing_else() {
    let everything = vec!["shop/web", "shop/other", "bank/web", "out"];
    let gateway = "group: gateway.networking.k8s.io, kind: Gateway";
    let class = "group: gateway.networking.k8s.io, kind: GatewayClass";
    for (namespace, targets, expected) in [
        ("shop", "targetRefs: [{kind: Service, name: web}]".to_owned(), vec!["shop/web"]),
        ("shop", "targetRef: {group: core, kind: Service, name: web}".to_owned(), vec!["shop/web"]),
        ("bank", "targetRefs: [{kind: Service, name: web}]".to_owned(), vec!["bank/web"]),
        (
            "shop",
            "targetRefs: [{kind: Service, name: web}, {kind: Service, name: other}]".to_owned(),
            vec!["shop/web", "shop/other"],
        ),
        (
            "shop",
            "targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: out}]".to_owned(),
            vec!["out"],
        ),
        ("shop", "targetRefs: [{kind: Service, name: out.example}]".to_owned(), vec![]),
        (
            "shop",
            "targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: web}]".to_owned(),
            vec![],
        ),
        ("shop", format!("targetRefs: [{{{gateway}, name: wp}}]"), everything.clone()),
        ("shop", format!("targetRefs: [{{{gateway}, name: other}}]"), vec![]),
        ("bank", format!("targetRefs: [{{{gateway}, name: wp}}]"), vec![]),
        ("istio-system", format!("targetRefs: [{{{class}, name: istio-waypoint}}]"), everything),
        ("istio-system", format!("targetRefs: [{{{class}, name: istio}}]"), vec![]),
        ("shop", format!("targetRefs: [{{{class}, name: istio-waypoint}}]"), vec![]),
        // Waypoints never go by selectors, nor by there being none.
        ("shop", "selector: {matchLabels: {app: web}}".to_owned(), vec![]),
        ("shop", "selector: {}".to_owned(), vec![]),
    ] {
        let text = authentication(namespace, "a", &targets, "me");
        assert_eq!(bound(&text), expected, "{namespace}: {targets}");
    }
}

#[test]
fn the_rules_of_a_waypoint_and_of_a_service_hold_together() {
    let wide = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: wp}]";
    let text = services()
        + &authentication("shop", "wide", wide, "them")
        + &authentication("shop", "web", "targetRefs: [{kind: Service, name: web}]", "me");
    let mesh = mesh(&text);
    let tables = tables().update(&mesh, &NoKeyring);
    let judge = |name: &str, issuer: &str| {
        let Bound::Rules(rules) = tables.of(&mesh, &called(&mesh, "shop", name), ANY) else {
            panic!("{name} is unknown")
        };
        Asked::bearing(&token(serde_json::json!({ "iss": issuer }))).judge(&rules).map(drop)
    };
    assert_eq!((judge("web", "me"), judge("web", "them")), (Ok(()), Ok(())));
    assert_eq!((judge("other", "me"), judge("other", "them")), (Err(Refusal::UnknownIssuer), Ok(())));
}

#[test]
fn what_cannot_be_read_refuses_whatever_it_may_have_meant() {
    let broken = |namespace: &str| {
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: a, namespace: \
             {namespace}}}\nspec: {{jwtRulez: []}}\n"
        )
    };
    for (text, unknown) in [
        (broken("bank"), vec!["bank/web"]),
        // The waypoint's own namespace: it may have meant its Gateway.
        (broken("shop"), vec!["shop/web", "bank/web"]),
        (broken("istio-system"), vec!["shop/web", "bank/web"]),
        (broken("elsewhere"), vec![]),
        ("---\nkind: [security.istio.io\n".to_owned(), vec!["shop/web", "bank/web"]),
        ("---\napiVersion: security.istio.oi/v1\nkind: RequestAuthentication\nmetadata:\n  name: a\n  namespace: bank\n"
            .to_owned(), vec!["bank/web"]),
        ("---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a, namespace: bank}\nspec: {x: y}\n"
            .to_owned(), vec![]),
    ] {
        let mesh = mesh(&(services() + &text));
        let tables = tables().update(&mesh, &NoKeyring);
        let is_unknown =
            |namespace: &str, name: &str| matches!(tables.of(&mesh, &called(&mesh, namespace, name), ANY), Bound::Unknown);
        let mut found = Vec::new();
        for (namespace, name, label) in [("shop", "web", "shop/web"), ("bank", "web", "bank/web")] {
            if is_unknown(namespace, name) {
                found.push(label);
            }
        }
        assert_eq!(found, unknown, "{text}");
        let corrected = tables.update(&super::binding::mesh(&services()), &NoKeyring);
        assert!(matches!(corrected.of(&mesh, &called(&mesh, "bank", "web"), ANY), Bound::Rules(_)));
    }
}

#[test]
fn what_is_stated_as_it_was_stays_the_same_rules() {
    let text = services() + &authentication("shop", "a", "targetRefs: [{kind: Service, name: web}]", "me");
    let before = tables().update(&mesh(&text), &NoKeyring);
    let same = before.update(&mesh(&text), &NoKeyring);
    assert!(Arc::ptr_eq(&before, &same));
    let cache = Default::default();
    let judge = |tables: &Tables, mesh: &Snapshot| {
        let Bound::Rules(rules) = tables.of(mesh, &called(mesh, "shop", "web"), ANY) else {
            panic!("unknown")
        };
        Asked::bearing(&token(serde_json::json!({ "sub": "same" })))
            .judge_at(super::NOW, &rules, &cache)
            .map(drop)
    };
    assert_eq!(judge(&before, &mesh(&text)), Ok(()));
    let more =
        text.clone() + &authentication("shop", "b", "targetRefs: [{kind: Service, name: other}]", "me");
    let now = before.update(&mesh(&more), &NoKeyring);
    assert_eq!(judge(&now, &mesh(&more)), Ok(()));
    let gone = now.update(&mesh(&services()), &NoKeyring);
    let mesh = mesh(&services());
    let Bound::Rules(rules) = gone.of(&mesh, &called(&mesh, "shop", "web"), ANY) else { panic!("unknown") };
    assert!(rules.is_empty());
}
