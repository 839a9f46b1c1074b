use super::{Desk, ask, service, virtual_service};
use crate::routes::Found;

/// Host, service, subset and the port when 9000 was called, of every destination that gets something.
fn destinations(route: &str) -> Vec<(String, String, u16)> {
    let spec = format!("hosts: [reviews]\nhttp:\n- route: [{route}]");
    let text = service("shop", "reviews", &[9000, 9001])
        + &service("shop", "ratings", &[80])
        + &service("other", "ratings", &[80, 81])
        + &virtual_service("shop/v", 0, &spec);
    let routes = Desk::with(&text).routes("reviews");
    let Found::Rule(rule) = ask(&routes, 9000, "GET /") else { panic!("no rule") };
    let found = rule.route.forwards().map(|it| {
        let service = it.target.service.as_ref().map_or("unknown".to_owned(), ToString::to_string);
        let subset = it.target.subset.as_deref().map(|it| format!(" {it}")).unwrap_or_default();
        (it.target.host.to_string(), service + &subset, it.target.port(9000))
    });
    found.collect()
}

#[test]
fn destinations_are_found_and_have_a_port() {
    let full = |name: &str| format!("{name}.svc.cluster.local");
    for (stated, host, expected, port) in [
        ("host: ratings", full("ratings.shop"), "shop/ratings", 80),
        ("host: ratings, subset: v2", full("ratings.shop"), "shop/ratings v2", 80),
        ("host: ratings, port: {number: 81}", full("ratings.shop"), "shop/ratings", 81),
        ("host: ratings.other.svc.cluster.local", full("ratings.other"), "other/ratings", 9000),
        (
            "host: ratings.other.svc.cluster.local, port: {number: 81}",
            full("ratings.other"),
            "other/ratings",
            81,
        ),
        ("host: ratings.other", "ratings.other".into(), "unknown", 9000),
        ("host: nobody", full("nobody.shop"), "unknown", 9000),
        ("host: example.com, port: {number: 443}", "example.com".into(), "unknown", 443),
    ] {
        let found = destinations(&format!("{{destination: {{{stated}}}}}"));
        assert_eq!(found, [(host, expected.to_owned(), port)], "{stated}");
    }
}

#[test]
fn destinations_without_weight_get_nothing_unless_there_is_only_one() {
    let hosts = |route: &str| -> Vec<String> {
        destinations(route).into_iter().map(|(host, ..)| host.split('.').next().unwrap().to_owned()).collect()
    };
    let destination = |host: &str, weight: &str| format!("{{destination: {{host: {host}}}{weight}}}");
    assert_eq!(hosts(&destination("a", "")), ["a"]);
    assert_eq!(hosts(&destination("a", ", weight: 0")), ["a"]);
    let three = [("a", ", weight: 0"), ("b", ", weight: 3"), ("c", "")]
        .map(|(host, weight)| destination(host, weight));
    assert_eq!(hosts(&three.join(", ")), ["b"]);
}
