use std::time::Duration;

use common::config::routing::HttpAction;

use super::{Desk, ask, name, service, virtual_service};
use crate::routes::{Found, Rule, ServiceRoutes};

/// A root that delegates, `root` below `spec.http[0]` beside the delegate, and a delegate with `own` below its route.
fn delegated(root: &str, own: &str) -> ServiceRoutes {
    let spec = format!(
        "hosts: [reviews]\nhttp:\n- name: root\n  delegate: {{name: d, namespace: team}}\n{}\n- name: rest\n  directResponse: {{status: 200}}",
        indented(root)
    );
    let delegate = format!("http:\n- name: own\n{}\n", indented(own));
    let text = service("shop", "reviews", &[80])
        + &service("team", "ratings", &[80])
        + &virtual_service("shop/v", 0, &spec)
        + &virtual_service("team/d", 0, &delegate);
    Desk::with(&text).routes("reviews")
}

fn indented(lines: &str) -> String {
    lines.lines().map(|line| format!("  {line}\n")).collect::<String>().trim_end().to_owned()
}

fn taken(routes: &ServiceRoutes, request: &str) -> Rule {
    match ask(routes, 80, request) {
        Found::Rule(rule) => rule.clone(),
        other => panic!("{other:?}"),
    }
}

const ANSWER: &str = "directResponse: {status: 200}";
const FORWARD: &str = "route: [{destination: {host: ratings}}]";

#[test]
fn a_delegate_decides_within_what_the_root_matches() {
    for (root, own, request, expected) in [
        ("", "", "GET /x", "root-own"),
        ("match: [{uri: {prefix: /a}}]", "", "GET /a/b", "root-own"),
        ("match: [{uri: {prefix: /a}}]", "", "GET /b", "rest"),
        ("", "match: [{uri: {prefix: /a}}]", "GET /a", "root-own"),
        ("match: [{uri: {prefix: /a}}]", "match: [{uri: {prefix: /a/b}}]", "GET /a/b/c", "root-own"),
        ("match: [{uri: {prefix: /a}}]", "match: [{uri: {prefix: /a/b}}]", "GET /a/c", "rest"),
        ("match: [{uri: {prefix: /a}}]", "match: [{uri: {exact: /a/b}}]", "GET /a/b", "root-own"),
        ("match: [{uri: {prefix: /a}}]", "match: [{method: {exact: PUT}}]", "PUT /a", "root-own"),
        ("match: [{uri: {prefix: /a}}]", "match: [{method: {exact: PUT}}]", "GET /a", "rest"),
        ("match: [{uri: {prefix: /a}}]", "match: [{method: {exact: PUT}}]", "PUT /b", "rest"),
        (
            "match: [{name: m, uri: {prefix: /a}}]",
            "match: [{name: k, uri: {exact: /a}}]",
            "GET /a",
            "root-own.m-k",
        ),
        (
            "match: [{uri: {prefix: /a}}, {uri: {prefix: /b}}]",
            "match: [{uri: {exact: /b/c}}]",
            "GET /b/c",
            "root-own",
        ),
        (
            "match: [{headers: {x: {prefix: a}}}]",
            "match: [{headers: {x: {exact: ab}, w: {}}}]",
            "GET /\nx: ab\nw: z",
            "root-own",
        ),
        ("match: [{headers: {x: {prefix: a}}}]", "match: [{headers: {w: {}}}]", "GET /\nx: ab", "rest"),
        ("match: [{withoutHeaders: {x: {}}}]", "match: [{withoutHeaders: {w: {}}}]", "GET /\nx: 1", "rest"),
        ("match: [{withoutHeaders: {x: {}}}]", "match: [{withoutHeaders: {w: {}}}]", "GET /\nw: 1", "rest"),
        ("match: [{withoutHeaders: {x: {}}}]", "match: [{withoutHeaders: {w: {}}}]", "GET /", "root-own"),
        ("match: [{port: 80}]", "match: [{uri: {prefix: /a}}]", "GET /a", "root-own"),
        ("match: [{port: 81}]", "match: [{uri: {prefix: /a}}]", "GET /a", "rest"),
    ] {
        let routes = delegated(root, &format!("{own}\n{ANSWER}"));
        assert_eq!(name(&ask(&routes, 80, request)), expected, "{root} | {own} of {request}");
    }
}

#[test]
fn a_delegated_match_that_reaches_beyond_the_root_leaves_the_route_out() {
    for (root, own, request) in [
        ("{uri: {prefix: /a/b}}", "{uri: {prefix: /a}}", "GET /a/b"),
        ("{uri: {exact: /a}}", "{uri: {prefix: /a}}", "GET /a"),
        ("{uri: {exact: /a}}", "{uri: {exact: /b}}", "GET /a"),
        ("{uri: {regex: /a}}", "{uri: {exact: /a}}", "GET /a"),
        ("{uri: {prefix: /a}}", "{uri: {regex: /a}}", "GET /a"),
        ("{uri: {prefix: /a}}", "{uri: {prefix: /a}, ignoreUriCase: true}", "GET /a"),
        ("{uri: {prefix: /a}}", "{uri: {exact: /a}}, {uri: {exact: /b}}", "GET /a"),
        ("{headers: {x: {exact: a}}}", "{headers: {x: {exact: b}}}", "GET /\nx: a"),
        ("{headers: {x: {}}}", "{headers: {x: {exact: b}}}", "GET /\nx: b"),
        ("{queryParams: {x: {exact: a}}}", "{queryParams: {x: {exact: b}}}", "GET /?x=b"),
        ("{port: 80}", "{port: 81}", "GET /"),
        ("{sourceNamespace: a}", "{sourceNamespace: b}", "GET /"),
    ] {
        let routes = delegated(&format!("match: [{root}]"), &format!("match: [{own}]\n{ANSWER}"));
        assert_eq!(name(&ask(&routes, 80, request)), "rest", "{root} | {own}");
    }
}

#[test]
fn what_a_delegate_does_not_state_is_the_roots() {
    let shared = "timeout: 3s\nretries: {attempts: 5}\nrewrite: {uri: /root}\nfault: {abort: {httpStatus: 500, percentage: {value: 1}}}\n\
                  mirror: {host: copy}\ncorsPolicy: {allowOrigins: [{exact: root}]}\nheaders: {request: {set: {x: root}}}";
    let inherits = taken(&delegated(shared, FORWARD), "GET /").route;
    assert_eq!(inherits.timeout(), Some(Duration::from_secs(3)));
    assert_eq!(inherits.retries().and_then(|it| it.attempts), Some(5));
    assert!(inherits.rewrite().is_some() && inherits.cors().is_some() && inherits.fault().abort.is_some());
    assert_eq!(inherits.headers().request.set.len(), 1);
    let mirrors: Vec<String> = inherits.mirrors().map(|(_, it)| it.host.to_string()).collect();
    assert_eq!(mirrors, ["copy.shop.svc.cluster.local"], "a short name is of the namespace of who wrote it");
    let own =
        "timeout: 4s\nretries: {attempts: 6}\nmirror: {host: copy}\nheaders: {response: {set: {x: own}}}";
    let states = taken(&delegated(shared, &format!("{FORWARD}\n{own}")), "GET /").route;
    assert_eq!(states.timeout(), Some(Duration::from_secs(4)));
    assert_eq!(states.retries().and_then(|it| it.attempts), Some(6));
    assert_eq!(states.headers().request.set.len(), 0);
    let mirrors: Vec<String> = states.mirrors().map(|(_, it)| it.host.to_string()).collect();
    assert_eq!(mirrors, ["copy.team.svc.cluster.local"]);
}

#[test]
fn destinations_of_a_delegate_are_of_its_own_namespace() {
    let rule = taken(&delegated("", FORWARD), "GET /");
    let hosts: Vec<String> = rule.route.forwards().map(|it| it.target.host.to_string()).collect();
    assert_eq!(hosts, ["ratings.team.svc.cluster.local"]);
    assert!(matches!(rule.route.action(), HttpAction::Forward(_)));
    assert_eq!(rule.route.stated_by().to_string(), "shop/v");
}

#[test]
fn a_delegate_that_is_absent_or_not_shown_leaves_its_requests_to_what_follows() {
    let root = virtual_service(
        "shop/v",
        0,
        "hosts: [reviews]\nhttp:\n- delegate: {name: d, namespace: team}\n- name: rest\n  directResponse: {status: 200}",
    );
    let answer = "http:\n- name: own\n  directResponse: {status: 200}";
    for (delegate, expected) in [
        (String::new(), "rest"),
        (virtual_service("team/d", 0, answer), "own"),
        (virtual_service("team/d", 0, &format!("exportTo: ['.']\n{answer}")), "rest"),
        (virtual_service("team/d", 0, &format!("exportTo: [shop]\n{answer}")), "own"),
        (virtual_service("team/d", 0, &format!("hosts: [other]\n{answer}")), "rest"),
    ] {
        let text = service("shop", "reviews", &[80]) + &root + &delegate;
        assert_eq!(name(&ask(&Desk::with(&text).routes("reviews"), 80, "GET /")), expected, "{delegate}");
    }
}
