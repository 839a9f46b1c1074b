use super::{Desk, ask, name, service, virtual_service};

/// `spec` with these hosts and one route that answers everything, or what `matching` says; named after `name`.
fn spec(hosts: &str, name: &str, matching: &str) -> String {
    format!("hosts: [{hosts}]\nhttp:\n- name: {name}\n  directResponse: {{status: 200}}\n{matching}")
}

fn catch_all(object: &str, created: u32, hosts: &str) -> String {
    virtual_service(object, created, &spec(hosts, object.split_once('/').unwrap().1, ""))
}

fn prefixed(object: &str, created: u32, hosts: &str, prefix: &str) -> String {
    let name = object.split_once('/').unwrap().1;
    virtual_service(object, created, &spec(hosts, name, &format!("  match: [{{uri: {{prefix: {prefix}}}}}]")))
}

/// What the request falls under, with these VirtualServices.
fn found(virtual_services: &str, request: &str) -> String {
    let desk = Desk::with(&(service("shop", "reviews", &[80, 81]) + virtual_services));
    name(&ask(&desk.routes("reviews"), 80, request))
}

#[test]
fn a_virtual_service_applies_by_host_and_namespace() {
    for (object, hosts, applies) in [
        ("shop/v", "reviews", true),
        ("shop/v", "reviews.shop.svc.cluster.local", true),
        ("shop/v", "'*.shop.svc.cluster.local'", true),
        ("shop/v", "'*.cluster.local'", true),
        ("shop/v", "other, reviews", true),
        ("edge/v", "reviews.shop.svc.cluster.local", true),
        ("edge/v", "reviews", false),
        ("shop/v", "ratings", false),
        ("shop/v", "reviews.shop", false),
        ("shop/v", "'*.other.svc.cluster.local'", false),
        ("other/v", "reviews.shop.svc.cluster.local", false),
        ("other/v", "'*.cluster.local'", false),
        ("shop/v", "10.0.0.1", false),
    ] {
        let expected = if applies { "v" } else { "service" };
        assert_eq!(found(&catch_all(object, 0, hosts), "GET /"), expected, "{object} {hosts}");
    }
}

#[test]
fn gateways_and_export_to_say_where_it_is_in_force() {
    for (stated, applies) in [
        ("gateways: [mesh]", true),
        ("gateways: [mesh, ingress]", true),
        ("gateways: [ingress]", false),
        ("exportTo: ['*']", true),
        ("exportTo: ['.']", false),
        ("exportTo: [edge]", true),
        ("exportTo: [shop, other]", false),
    ] {
        let stated = format!("{stated}\n{}", spec("reviews", "v", ""));
        let expected = if applies { "v" } else { "service" };
        assert_eq!(found(&virtual_service("shop/v", 0, &stated), "GET /"), expected, "{stated}");
    }
    let own = format!("exportTo: ['.']\n{}", spec("reviews.shop.svc.cluster.local", "v", ""));
    assert_eq!(found(&virtual_service("edge/v", 0, &own), "GET /"), "v", "the waypoint's own namespace");
}

#[test]
fn the_closest_host_decides() {
    let exact = prefixed("shop/exact", 5, "reviews", "/a");
    let longer = prefixed("shop/longer", 3, "'*.shop.svc.cluster.local'", "/a");
    let shorter = catch_all("shop/shorter", 1, "'*.cluster.local'");
    let all = format!("{exact}{longer}{shorter}");
    assert_eq!(found(&all, "GET /a"), "exact");
    assert_eq!(found(&all, "GET /b"), "404", "what is named less closely does not apply");
    let both = format!("{longer}{shorter}");
    assert_eq!((found(&both, "GET /a"), found(&both, "GET /b")), ("longer".into(), "404".into()));
    assert_eq!(found(&shorter, "GET /b"), "shorter");
    let twice = prefixed("shop/twice", 5, "'*.cluster.local', reviews", "/a");
    assert_eq!(found(&format!("{twice}{longer}"), "GET /a"), "twice", "its closest host counts");
}

#[test]
fn several_for_one_host_follow_one_another_by_age_and_catch_alls_come_last() {
    let all = catch_all("shop/first", 1, "reviews")
        + &prefixed("shop/third", 3, "reviews", "/a")
        + &prefixed("edge/second", 2, "reviews.shop.svc.cluster.local", "/a/b")
        + &catch_all("shop/fourth", 4, "reviews");
    assert_eq!(found(&all, "GET /a/b"), "second");
    assert_eq!(found(&all, "GET /a"), "third");
    assert_eq!(found(&all, "GET /"), "first", "the oldest catch-all");
    let of_one_age = prefixed("shop/b", 1, "reviews", "/x")
        + &prefixed("edge/a", 1, "reviews.shop.svc.cluster.local", "/x");
    assert_eq!(found(&of_one_age, "GET /x"), "a", "names decide");
}

#[test]
fn what_a_virtual_service_states_after_its_catch_all_stays_out_of_reach() {
    let stated = "hosts: [reviews]\nhttp:\n\
                  - name: all\n  directResponse: {status: 200}\n\
                  - name: late\n  match: [{uri: {prefix: /a}}]\n  directResponse: {status: 200}";
    let older = virtual_service("shop/v", 1, stated);
    assert_eq!(found(&older, "GET /a"), "all");
    let other = prefixed("shop/other", 2, "reviews", "/b");
    assert_eq!(
        found(&(older.clone() + &other), "GET /a"),
        "all",
        "moved to the end, it takes nothing with it"
    );
    assert_eq!(found(&(older + &other), "GET /b"), "other");
}

#[test]
fn one_entry_of_several_may_take_everything() {
    let stated = "hosts: [reviews]\nhttp:\n\
                  - name: r\n  match: [{name: a, uri: {prefix: /a}}, {name: all, uri: {prefix: /}}, {name: late, uri: {exact: /}}]\n  \
                  directResponse: {status: 200}";
    let all = virtual_service("shop/v", 1, stated) + &prefixed("shop/w", 2, "reviews", "/b");
    assert_eq!(found(&all, "GET /a"), "r.a");
    assert_eq!(found(&all, "GET /b"), "w");
    assert_eq!(found(&all, "GET /"), "r.all");
}

#[test]
fn without_http_routes_requests_go_to_the_service_and_past_all_of_them_nowhere() {
    let tcp = "hosts: [reviews]\ntcp:\n- route: [{destination: {host: ratings}}]";
    assert_eq!(found(&virtual_service("shop/v", 0, tcp), "GET /"), "service");
    assert_eq!(found("", "GET /"), "service");
    assert_eq!(found(&prefixed("shop/v", 0, "reviews", "/a"), "GET /b"), "404");
}

#[test]
fn the_port_and_the_gateways_of_a_match_choose_when_it_is_compiled() {
    let stated = "hosts: [reviews]\nhttp:\n\
                  - name: r\n  match: [{name: eighty, port: 80}, {name: ingress, gateways: [ingress], uri: {prefix: /a}}, \
                  {name: mesh, gateways: [mesh], uri: {prefix: /b}}]\n  directResponse: {status: 200}";
    let text = service("shop", "reviews", &[80, 81]) + &virtual_service("shop/v", 1, stated);
    let routes = Desk::with(&(text.clone() + &prefixed("shop/w", 2, "reviews", "/c"))).routes("reviews");
    let on = |port, path: &str| name(&ask(&routes, port, &format!("GET {path}")));
    assert_eq!(
        [on(80, "/b"), on(80, "/c")],
        ["r.eighty", "w"],
        "on port 80 it takes everything, and so comes last"
    );
    assert_eq!([on(81, "/a"), on(81, "/b"), on(81, "/c")], ["404", "r.mesh", "w"]);
    assert_eq!(on(9999, "/b"), "r.mesh", "a port that nothing names");
    let only = "hosts: [reviews]\nhttp:\n- name: r\n  match: [{port: 80}]\n  directResponse: {status: 200}";
    let routes = Desk::with(&(service("shop", "reviews", &[80, 81]) + &virtual_service("shop/v", 1, only)))
        .routes("reviews");
    assert_eq!(name(&ask(&routes, 80, "GET /")), "r");
    assert_eq!(name(&ask(&routes, 81, "GET /")), "service", "there are no rules for this port");
}
