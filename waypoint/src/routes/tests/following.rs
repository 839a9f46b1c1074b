use std::sync::Arc;

use common::config::ObjectName;
use common::snapshot::Snapshot;

use super::{Desk, service, view, virtual_service};
use crate::routes::{PortRoutes, Tables};

/// Everything that tables say, in words.
fn said(tables: &Tables) -> Vec<String> {
    let words = |port: u16, it: &PortRoutes| -> String {
        let rules = it.http.rules().iter().map(|rule| {
            let targets: Vec<_> = rule
                .route
                .leads_to()
                .map(|it| format!("{}:{}:{:?}", it.host, it.port(port), it.service))
                .collect();
            format!("{} {:?} {:?} {targets:?}", rule.name(), rule.stated(), rule.route.action())
        });
        rules.collect::<Vec<_>>().join("\n")
    };
    tables
        .iter()
        .map(|it| format!("{}\n80: {}\n81: {}", it.service, words(80, it.port(80)), words(81, it.port(81))))
        .collect()
}

fn forwarding(object: &str, hosts: &str, to: &str) -> String {
    virtual_service(
        object,
        1,
        &format!("hosts: [{hosts}]\nhttp:\n- name: {to}\n  route: [{{destination: {{host: {to}}}}}]"),
    )
}

fn delegating(object: &str, hosts: &str, to: &str) -> String {
    virtual_service(object, 1, &format!("hosts: [{hosts}]\nhttp:\n- delegate: {{name: {to}}}"))
}

fn delegate(object: &str, to: &str) -> String {
    virtual_service(object, 1, &format!("http:\n- name: {to}\n  route: [{{destination: {{host: {to}}}}}]"))
}

/// One change after another, and what each is about.
fn steps() -> Vec<(&'static str, &'static str, String)> {
    let of_mesh = |name: &str| service("shop", name, &[80]).replace("istio.io/use-waypoint: waypoint, ", "");
    vec![
        ("services", "s", service("shop", "a", &[80, 81]) + &service("shop", "b", &[80]) + &of_mesh("c")),
        ("a route of one service", "v", forwarding("shop/v", "a", "b")),
        ("another destination", "v", forwarding("shop/v", "a", "c")),
        ("another host", "v", forwarding("shop/v", "b", "a")),
        ("a pattern", "w", forwarding("shop/w", "'*.shop.svc.cluster.local'", "d")),
        ("its destination appears", "d", service("shop", "d", &[80])),
        ("and gets another port", "d", service("shop", "d", &[80, 81])),
        ("and goes", "d", String::new()),
        ("a delegate that is not there", "r", delegating("shop/r", "a", "x")),
        ("appears", "x", delegate("shop/x", "b")),
        ("leads elsewhere", "x", delegate("shop/x", "e")),
        ("to what appears", "e", service("shop", "e", &[82])),
        ("gets hosts and is none any more", "x", forwarding("shop/x", "e", "e")),
        ("goes", "x", String::new()),
        ("a waypoint for the third", "s", service("shop", "a", &[80]) + &service("shop", "c", &[80])),
        ("a root that stops delegating", "r", forwarding("shop/r", "a, c", "b")),
        ("no routes", "r", String::new()),
        ("no pattern", "w", String::new()),
        ("nothing", "v", String::new()),
    ]
}

#[test]
fn tables_that_follow_are_those_that_are_made_from_nothing() {
    let mut desk = Desk::new();
    let mut tables = Tables::new(view(), &Snapshot::default());
    for (what, file, text) in steps() {
        let before = desk.now.clone();
        let now = desk.write(&format!("{file}.yaml"), &text);
        tables = tables.update(&before, &now);
        assert_eq!(said(&tables), said(&Tables::new(view(), &now)), "after: {what}");
    }
    assert_eq!(said(&tables), [""; 0]);
}

#[test]
fn snapshots_may_be_skipped() {
    let mut desk = Desk::new();
    let snapshots: Vec<Arc<Snapshot>> =
        steps().iter().map(|(_, file, text)| desk.write(&format!("{file}.yaml"), text)).collect();
    for skip in 2..6 {
        let mut at = Arc::<Snapshot>::default();
        let mut tables = Tables::new(view(), &at);
        for next in snapshots.iter().skip(skip - 1).step_by(skip) {
            tables = tables.update(&at, next);
            at = next.clone();
            assert_eq!(said(&tables), said(&Tables::new(view(), &at)), "every {skip}th");
        }
    }
}

#[test]
fn what_a_change_does_not_concern_is_shared() {
    let mut desk = Desk::new();
    desk.write("s.yaml", &(service("shop", "a", &[80]) + &service("shop", "b", &[80])));
    let before = desk.write("v.yaml", &(forwarding("shop/a", "a", "b") + &forwarding("shop/b", "b", "c")));
    let tables = Tables::new(view(), &before);
    let now = desk.write("v.yaml", &(forwarding("shop/a", "a", "b") + &forwarding("shop/b", "b", "d")));
    let later = tables.update(&before, &now);
    let table = |tables: &Tables, name: &str| tables.of(&ObjectName::new("shop", name)).unwrap().clone();
    assert!(Arc::ptr_eq(&table(&tables, "a"), &table(&later, "a")));
    assert!(!Arc::ptr_eq(&table(&tables, "b"), &table(&later, "b")));
    assert!(tables.of(&ObjectName::new("shop", "c")).is_none());
}

#[test]
fn tables_are_of_the_services_the_waypoint_stands_for() {
    let other = service("shop", "b", &[80]).replace("use-waypoint: waypoint", "use-waypoint: another");
    let text = service("shop", "a", &[80]) + &other + &forwarding("shop/v", "a, b", "c");
    let tables = Tables::new(view(), &Desk::with(&text).now);
    let names: Vec<String> = tables.iter().map(|it| it.service.to_string()).collect();
    assert_eq!(names, ["shop/a"]);
}
