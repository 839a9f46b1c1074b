use super::{Desk, rule_in, web};

/// A rule that shows itself by its limit of connections.
fn marked(namespace: &str, name: &str, host: &str, mark: u32, more: &str) -> String {
    let policy = format!("  trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: {mark}}}}}}}\n{more}");
    rule_in(namespace, name, host, &policy)
}

fn chosen(rules: &str) -> u32 {
    Desk::new(&(web(1) + rules)).web().policy().limits.connections
}

const FULL: &str = "web.shop.svc.cluster.local";
const NONE: u32 = u32::MAX;

#[test]
fn the_waypoint_s_namespace_beats_the_service_s_and_that_the_root() {
    let edge = marked("edge", "r", FULL, 1, "");
    let shop = marked("shop", "r", FULL, 2, "");
    let root = marked("istio-system", "r", FULL, 3, "");
    let other = marked("bank", "r", FULL, 4, "");
    assert_eq!(chosen(&format!("{other}{root}{shop}{edge}")), 1);
    assert_eq!(chosen(&format!("{other}{root}{shop}")), 2);
    assert_eq!(chosen(&format!("{other}{root}")), 3);
    assert_eq!(chosen(&other), NONE, "a third namespace has no say");
    let wide = marked("edge", "r", "*", 5, "");
    assert_eq!(chosen(&format!("{wide}{shop}")), 5, "a wildcard nearer by beats an exact host further off");
}

#[test]
fn an_exact_host_beats_a_wildcard_and_a_longer_one_a_shorter() {
    let all = marked("shop", "a", "*", 1, "");
    let domain = marked("shop", "b", "*.cluster.local", 2, "");
    let namespace = marked("shop", "c", "*.shop.svc.cluster.local", 3, "");
    let exact = marked("shop", "d", "web", 4, "");
    let elsewhere = marked("shop", "e", "*.bank.svc.cluster.local", 5, "");
    assert_eq!(chosen(&format!("{all}{domain}{namespace}{exact}{elsewhere}")), 4);
    assert_eq!(chosen(&format!("{all}{domain}{namespace}{elsewhere}")), 3);
    assert_eq!(chosen(&format!("{domain}{all}{elsewhere}")), 2);
    assert_eq!(chosen(&format!("{elsewhere}{all}")), 1);
    assert_eq!(chosen(&elsewhere), NONE);
}

#[test]
fn a_short_host_is_of_the_rule_s_own_namespace() {
    assert_eq!(chosen(&marked("shop", "r", "web", 1, "")), 1);
    assert_eq!(chosen(&marked("edge", "r", "web", 1, "")), NONE, "web.edge, which is another service");
    assert_eq!(chosen(&marked("edge", "r", "web.shop", 1, "")), NONE, "with a dot a name is taken as it is");
}

#[test]
fn a_rule_binds_those_it_is_exported_to() {
    let private =
        |namespace: &str, to: &str| marked(namespace, "r", FULL, 1, &format!("  exportTo: [\"{to}\"]\n"));
    assert_eq!(chosen(&private("shop", ".")), NONE);
    assert_eq!(chosen(&private("shop", "bank")), NONE);
    assert_eq!(chosen(&private("shop", "edge")), 1);
    assert_eq!(chosen(&private("shop", "*")), 1);
    assert_eq!(chosen(&private("edge", ".")), 1);
    assert_eq!(chosen(&private("edge", "bank")), 1, "in its own namespace a client sees every rule");
    let root = marked("istio-system", "r", FULL, 2, "");
    assert_eq!(
        chosen(&format!("{}{root}", private("shop", "."))),
        2,
        "what is not seen does not hide the root's"
    );
}

#[test]
fn several_rules_for_a_host_are_one_and_the_oldest_decides() {
    let aged = |name: &str, year: u32, spec: &str| {
        rule_in("shop", name, "web", spec).replace(
            "namespace: shop}",
            &format!("namespace: shop, creationTimestamp: \"{year}-01-01T00:00:00Z\"}}"),
        )
    };
    let pool = |mark: u32| format!("trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: {mark}}}}}}}");
    let subset = |name: &str, mark: u32| {
        format!("  subsets: [{{name: {name}, labels: {{version: v1}}, {}}}]\n", pool(mark))
    };
    let desk = Desk::new(
        &(web(1)
            + &aged("c", 2021, &format!("  {}\n{}", pool(1), subset("v1", 11)))
            + &aged("a", 2022, &format!("  {}\n{}", pool(2), subset("v2", 12)))
            + &aged("b", 2020, &subset("v1", 10))),
    );
    assert_eq!(desk.web().policy().limits.connections, 1, "the oldest states none");
    assert_eq!(desk.cluster("web", Some("v1")).policy().limits.connections, 10);
    assert_eq!(desk.cluster("web", Some("v2")).policy().limits.connections, 12);
    let names: Vec<String> = desk.web().policy().rules.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["shop/b", "shop/c", "shop/a"]);
}

#[test]
fn a_rule_with_a_selector_is_for_the_waypoints_it_selects() {
    let selecting = marked("edge", "a", FULL, 1, "  workloadSelector: {matchLabels: {role: waypoint}}\n");
    let foreign = marked("shop", "a", FULL, 2, "  workloadSelector: {matchLabels: {role: waypoint}}\n");
    let general = marked("edge", "b", FULL, 3, "");
    let own = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: waypoint, namespace: edge, labels: {role: waypoint}}\n\
               status: {phase: Running, podIP: 10.1.0.1}\n";
    assert_eq!(chosen(&format!("{selecting}{general}{own}")), 1);
    assert_eq!(chosen(&format!("{selecting}{general}")), 3, "the waypoint's own pod is not known");
    assert_eq!(chosen(&format!("{foreign}{own}")), NONE, "it selects in its own namespace");
}
